"""Checks and completes the list of agents that an agent may call, before it is stored.

What other agents call may change at the same moment, and afterwards: who executes a run looks at it again
(karma.runs.subagents.lineage), so that no circle and no depth beyond `MAX_DEPTH` is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from karma.agents.domain import MAX_DEPTH, MAX_DESCRIPTION_CHARS, Agent, AgentSpec, Subagent, folded
from karma.core.errors import NotFound, ValidationFailed
from karma.core.ids import AgentId

_NOT_SAFE: Final = re.compile(r"[^a-z0-9]+")
_MAX_NAME_CHARS: Final = 64


class Agents(Protocol):
    """Finds agents: the catalogue."""

    def get(self, agent_id: str) -> Agent:
        """Read an agent by its id, or raise NotFound."""

    def find(self, ref: str) -> Agent:
        """Read an agent by its id or name, or raise NotFound."""


class SubagentRefused(ValidationFailed):
    """An agent may not call another one as it is asked for; its code says why, and its details name the field."""

    def __init__(self, code: str, field: str, message: str) -> None:
        detail = {"field": field, "message": message, "type": "value_error"}
        super().__init__(f"{field}: {message}", code=code, details=[detail])


def complete(spec: AgentSpec, agents: Agents, *, own: Agent | None, tools: Sequence[str]) -> tuple[Subagent, ...]:
    """Return an agent's subagents by their ids, with a name and a description each.

    One read for each agent that can be reached from it. `own` is the stored agent; None: it is new.

    Raises:
        SubagentRefused: one does not exist, is the agent itself, leads back to it, reaches too deep, or its name is
            taken.
    """
    found: list[Subagent] = []
    names: dict[str, str] = {}
    known: dict[str, Agent] = {}
    for i, each in enumerate(spec.subagents):
        at = f"subagents.{i}"
        agent = _find(each.agent_id, spec, agents, own=own, at=f"{at}.agent_id")
        known[agent.id] = agent
        _require_no_way_back(agent, agents, known, own=own, at=f"{at}.agent_id")
        name = each.name or call_name(agent.spec.name)
        _require_free(name, names, tools, at=f"{at}.name")
        names[name] = at
        told = each.description or agent.spec.description or f"Asks the agent {agent.spec.name}"
        found.append(Subagent(agent_id=agent.id, name=name, description=told[:MAX_DESCRIPTION_CHARS]))
    return tuple(found)


def call_name(agent_name: str) -> str:
    """Return the name under which a model calls an agent that was given no other."""
    safe = _NOT_SAFE.sub("_", folded(agent_name)).strip("_")[:_MAX_NAME_CHARS].rstrip("_")
    return safe if safe[:1].isalpha() else f"agent_{safe}".rstrip("_")[:_MAX_NAME_CHARS]


def _find(ref: str, spec: AgentSpec, agents: Agents, *, own: Agent | None, at: str) -> Agent:
    itself = SubagentRefused("SUBAGENT_IS_ITSELF", at, "must be another agent")
    if own is None and folded(ref) == folded(spec.name):
        raise itself
    try:
        agent = agents.find(ref)
    except NotFound:
        raise SubagentRefused("SUBAGENT_NOT_FOUND", at, "must be the id or the name of an agent") from None
    if own is not None and agent.id == own.id:
        raise itself
    return agent


def _require_no_way_back(first: Agent, agents: Agents, known: dict[str, Agent], *, own: Agent | None, at: str) -> None:
    """Look at all that can be reached from a subagent, level by level."""
    level: Collection[AgentId] = {first.id}
    for _ in range(MAX_DEPTH):
        below: set[AgentId] = set()
        for agent_id in level:
            if agent_id not in known:
                try:
                    known[agent_id] = agents.get(agent_id)
                except NotFound:
                    continue  # deleted since: its calls fail
            below |= {each.agent_id for each in known[agent_id].spec.subagents}
        if own is not None and own.id in below:
            raise SubagentRefused("SUBAGENT_CYCLE", at, "must not lead back to this agent")
        if not below:
            return
        level = below
    raise SubagentRefused("SUBAGENTS_TOO_DEEP", at, f"must reach at most {MAX_DEPTH} levels of agents")


def _require_free(name: str, names: Collection[str], tools: Sequence[str], *, at: str) -> None:
    if name in names:
        raise SubagentRefused("SUBAGENT_NAME_TAKEN", at, f"must not be that of another subagent: '{name}'")
    if name in tools:
        raise SubagentRefused("SUBAGENT_NAME_TAKEN", at, f"must not be that of a tool: '{name}'")
    if "__" in name:
        raise SubagentRefused("SUBAGENT_NAME_TAKEN", at, "must not have '__', as tools of MCP servers have")
