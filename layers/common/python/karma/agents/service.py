"""Use cases of the agent catalogue: create, list, read, replace, delete, and find the agent that a run names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from karma.agents.domain import (
    BUILT_IN_ID,
    MAX_NAME_CHARS,
    Agent,
    AgentChanged,
    AgentSpec,
    AgentSummary,
    built_in,
    folded,
    looks_like_id,
    summary,
)
from karma.core.clock import Clock
from karma.core.errors import (
    AlreadyExists,
    Forbidden,
    InvalidRequest,
    NotFound,
    StaleVersion,
    StorageThrottled,
    ValidationFailed,
)
from karma.core.ids import AgentId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.tools.domain import ON_REQUEST, wrong_approvals

if TYPE_CHECKING:
    from karma.agents.ports import Agents

MAX_OFFSET_ROWS = 1_000
"""Rows that pages by number reach at the most, and up to which the agents of a tag are counted."""

_MAX_SHOWN_ID_CHARS = 128
_MET: Final = (StorageThrottled, AgentChanged)
"""Errors of a write that met another one: on the counter, which all creations share, or on the agent itself."""


class AgentPage(Record, kw_only=True):
    """A page of the catalogue."""

    agents: tuple[AgentSummary, ...]
    total: int
    total_capped: bool
    next_after: AgentId | None
    """Id after which the next page starts; None at the end."""


class Catalogue:
    """The agents that runs can execute. The built-in one comes first, the others follow from the newest on."""

    def __init__(
        self,
        store: Agents,
        clock: Clock,
        *,
        models: Sequence[str],
        tools: Sequence[str],
        more_models: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Make a catalogue.

        Args:
            store: the stored agents.
            clock: source of creation and update times.
            models: ids of models that agents may name, the built-in agent's first.
            tools: names of all tools.
            more_models: reads further names of models from the configuration; called for names not in `models`.
        """
        self._store = store
        self._clock = clock
        self._models = tuple(dict.fromkeys(models))
        self._more_models = more_models
        self._tools = tuple(tools)
        self._built_in = built_in(model=self._models[0], tools=[each for each in self._tools if each not in ON_REQUEST])

    # Reading

    def get(self, agent_id: str) -> Agent:
        """Read one agent.

        Raises:
            NotFound: there is no agent of this id.
        """
        if agent_id == BUILT_IN_ID:
            return self._built_in
        agent = self._store.get(AgentId(agent_id)) if is_id(agent_id) else None
        if agent is None:
            raise _missing(agent_id)
        return agent

    def find(self, ref: str) -> Agent:
        """Read the agent that a run names by id or by name; "" is the built-in one, which costs no call.

        Raises:
            NotFound: no agent has this id or name.
        """
        agent_id = self.id_of(ref)
        if agent_id is None:
            raise _missing(ref)
        try:
            return self.get(agent_id)
        except NotFound:
            raise _missing(ref) from None

    def id_of(self, ref: str) -> AgentId | None:
        """Return the id for an id, even of a deleted agent, or for a name; None when no agent has the name."""
        if is_id(ref):
            return AgentId(ref)
        if not ref or folded(ref) == BUILT_IN_ID:
            return BUILT_IN_ID
        return self._store.holder(ref) if len(ref) <= MAX_NAME_CHARS else None

    def has_name(self, name: str) -> bool:
        """Tell whether an agent has exactly this name, letter case included."""
        try:
            return self.find(name).spec.name == name
        except NotFound:
            return False

    def list(self, *, limit: int, offset: int = 0, after: str = "", tag: str = "") -> AgentPage:
        """Return a page, by one query and, unless the first page has all agents, one call that counts.

        Raises:
            InvalidRequest: INVALID_PAGE: a page by number ends beyond 1,000 rows.
        """
        if offset + limit > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor` of /api/v1/agents",
                code="INVALID_PAGE",
            )
        fixed = [summary(self._built_in)] if not tag or tag in self._built_in.spec.tags else []
        head = [] if after else fixed
        # One row more than shown tells whether another page follows.
        wanted = offset + limit + 1 - len(head)
        behind = "" if after == BUILT_IN_ID else after
        rows = [*head, *self._store.page(tag=tag, after=behind, limit=wanted)]
        shown = rows[offset : offset + limit]
        more = len(rows) > offset + limit
        total, capped = len(rows), False
        if more or after:
            stored = self._store.count(tag=tag, most=MAX_OFFSET_ROWS)
            total = max(total, stored + len(fixed))
            capped = bool(tag) and stored >= MAX_OFFSET_ROWS
        return AgentPage(
            agents=tuple(shown),
            total=total,
            total_capped=capped,
            next_after=shown[-1].id if more and shown else None,
        )

    # Writing

    def create(self, spec: AgentSpec, *, idempotency_key: IdempotencyKey | None = None) -> Agent:
        """Store a new agent; a repeat with the same `idempotency_key` returns the agent of the first one.

        Raises:
            ValidationFailed: a model or tool does not exist, or the name looks like an id.
            SubagentRefused: an agent that it names may not be called by it.
            AlreadyExists: another agent has the name.
            Gone: the first request's agent was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another agent.
        """
        spec = self._checked(spec)
        now = self._clock.now()
        agent = Agent(id=AgentId(new_id()), spec=spec, created_at=now, updated_at=now, version=1)
        request = repeatable(idempotency_key, spec, at=now)
        try:
            repeat(lambda: self._store.create(agent, request=request), on=_MET)
        except AlreadyExists:
            made = self._store.made_by(request) if request else None
            if made is None:
                raise
            earlier = self._store.get(made)
            if earlier is None:
                raise no_longer(made) from None
            return earlier
        count("AgentCreated")
        logger.info("agent.created", agent_id=agent.id)
        return agent

    def replace(self, agent_id: str, spec: AgentSpec, *, version: int | None = None) -> Agent:
        """Replace an agent's configuration; an equal one changes nothing.

        Raises:
            NotFound: there is no agent of this id.
            Forbidden: the agent is built in.
            ValidationFailed: a model or tool does not exist, or the name looks like an id.
            SubagentRefused: an agent that it names may not be called by it.
            AlreadyExists: another agent has the name.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Agent:
            old = self._unchanged(agent_id, version)
            checked = self._checked(spec, own=old)
            if old.spec == checked:
                return old
            new = replace(old, spec=checked, updated_at=self._clock.now(), version=old.version + 1)
            self._store.replace(old, new)
            logger.info("agent.replaced", agent_id=old.id, version=new.version)
            return new

        return repeat(once, on=_MET)

    def delete(self, agent_id: str, *, version: int | None = None) -> None:
        """Delete an agent; its runs stay, and running ones go on.

        Raises:
            NotFound, Forbidden, StaleVersion: as in `replace`.
        """

        def once() -> None:
            agent = self._unchanged(agent_id, version)
            self._store.delete(agent)
            logger.info("agent.deleted", agent_id=agent.id)

        repeat(once, on=_MET)

    def _unchanged(self, agent_id: str, version: int | None) -> Agent:
        """Read an agent before a change; `version`, if given, must be the stored one."""
        agent = self.get(agent_id)
        if agent.id == BUILT_IN_ID:
            raise Forbidden("The built-in agent cannot be changed")
        if version is not None and agent.version != version:
            raise StaleVersion(f"Agent {agent.id} has version {agent.version}")
        return agent

    def _checked(self, spec: AgentSpec, *, own: Agent | None = None) -> AgentSpec:
        """Check the fields of a new agent, or of `own`; return them with the agents that it names by their ids."""
        if not spec.subagents:
            self._check(spec)
            return spec
        from karma.agents.subagents import complete  # runs' starts do without it

        self._check(replace(spec, approvals=()))
        spec = replace(spec, subagents=complete(spec, self, own=own, tools=self._tools))
        self._check(spec)
        return spec

    def _check(self, spec: AgentSpec) -> None:
        wrong: list[tuple[str, str]] = []
        if looks_like_id(spec.name):
            wrong.append(("name", "must not have the form of an id"))
        named = [("model", spec.model), ("config.compaction.model", spec.compaction.model)]
        for field, model in named:
            if model and model not in self._models and model not in (more := self._more_models()):
                wrong.append((field, f"must be one of {', '.join([*self._models, *more])}"))
        wrong += [
            (f"tools.{i}", f"must be one of {', '.join(self._tools)}")
            for i, tool in enumerate(spec.tools)
            if tool not in self._tools
        ]
        callable_ = {*spec.tools, *(each.name for each in spec.subagents)}
        found = wrong_approvals(spec.approvals, callable_, whose="the agent's")
        wrong += [(f"approvals.{each.place}", each.message) for each in found]
        if wrong:
            details = [{"field": field, "message": message, "type": "value_error"} for field, message in wrong]
            raise ValidationFailed("Request validation failed", details=details)
        if folded(spec.name) == BUILT_IN_ID:
            raise AlreadyExists("name: it is the built-in agent's")


def _missing(ref: str) -> NotFound:
    return NotFound(f"Agent '{ref[:_MAX_SHOWN_ID_CHARS]}' not found")
