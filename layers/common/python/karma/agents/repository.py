"""The agent catalogue in the table `agents`; access patterns are in docs/adr/0010-agent-catalogue.md.

| item | pk | sk |
|---|---|---|
| agent | AGENT#<id> | HEAD |
| agent that has a name | AGENTNAME#<name, folded> | HEAD |
| fields that lists show | AGENTS | AGENT#<id> |
| the same, for each of its tags | AGENTS#TAG#<tag> | AGENT#<id> |
| number of agents | AGENTS | COUNTER#agents |
| agent made for an Idempotency-Key | AGENTS | REQUEST#<token> |

Ids sort by time, so a list read backwards begins with the newest. All items of an agent are written in one transaction,
under the version lock of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.agents.domain import (
    Agent,
    AgentChanged,
    AgentSpec,
    AgentSummary,
    MultitaskStrategy,
    Subagent,
    folded,
)
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import count, get, query_by_id
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists
from karma.core.ids import AgentId
from karma.core.requests import RepeatableRequest
from karma.models.budgets import UNLIMITED, dump_budget, load_budget
from karma.models.domain import COMPACTED_BY_DEFAULT, ReasoningEffort, dump_compaction, load_compaction
from karma.tools.domain import ToolApproval, dump_rule, load_rule

HEAD: Final = "HEAD"
CATALOGUE_PK: Final = "AGENTS"
_ROW: Final = "AGENT#"
_MAX_KEY_BYTES: Final = 2_000


def agent_key(agent_id: AgentId) -> Key:
    """Return the key of an agent."""
    return Key(f"{_ROW}{agent_id}", HEAD)


def name_key(name: str) -> Key:
    """Return the key of the item that makes a name unique.

    A hundred characters may fold to thousands of bytes, and a key has 2,048: a longer name stands in it by its hash.
    """
    one = folded(name).encode()
    return Key(f"AGENTNAME#{one.decode() if len(one) <= _MAX_KEY_BYTES else sha256(one).hexdigest()}", HEAD)


def list_pk(tag: str) -> str:
    """Return the partition of the agents with a tag; of all agents for ""."""
    return f"{CATALOGUE_PK}#TAG#{tag}" if tag else CATALOGUE_PK


def row_key(agent_id: str, tag: str) -> Key:
    """Return the key of an agent's row in the list of a tag, or of all agents for ""."""
    return Key(list_pk(tag), f"{_ROW}{agent_id}")


class AgentsItem(Item):
    """Base of the catalogue's items."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class _Described:
    """Attributes of every item that shows an agent."""

    agent_id = UnicodeAttribute()
    name = UnicodeAttribute()
    description = UnicodeAttribute()
    model = UnicodeAttribute()
    tools = JSONAttribute()
    tags = JSONAttribute()


class AgentItem(_Described, AgentsItem, discriminator="agent"):
    """An agent."""

    system_prompt = UnicodeAttribute()
    memory = UnicodeAttribute(null=True)
    knowledge = UnicodeAttribute(null=True)
    subagents = JSONAttribute(null=True)
    """Id, name of the tool and description of each; absent: there are none."""
    approvals = JSONAttribute(null=True)
    max_steps = NumberAttribute()
    temperature = NumberAttribute()
    reasoning = UnicodeAttribute(null=True)
    compaction = JSONAttribute(null=True)
    """As `dump_compaction` makes it; absent: as agents have it that say nothing of it."""
    multitask_strategy = UnicodeAttribute(default=MultitaskStrategy.REJECT.value)
    budget = JSONAttribute(null=True)
    """As `dump_budget` makes it; absent: there is none."""
    day_cost_micros = NumberAttribute(null=True)


class AgentRowItem(_Described, AgentsItem, discriminator="agent_row"):
    """An agent in a list."""

    agent_version = NumberAttribute()


class AgentNameItem(AgentsItem, discriminator="agent_name"):
    """Maps a name to its agent, and makes the name unique."""

    agent_id = UnicodeAttribute()


class AgentRequestItem(RequestAttributes, AgentsItem, discriminator="agent_request"):
    """Record of the agent that a request with an Idempotency-Key created."""


class AgentCounterItem(AgentsItem, discriminator="agent_counter"):
    """Number of stored agents."""

    value = NumberAttribute(default=0)


class AgentRepository:
    """Agents over DynamoDB."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """See Agents; one Get."""
        item = get(AgentItem, agent_key(agent_id), consistent=True)
        return _agent(item) if item else None

    def holder(self, name: str) -> AgentId | None:
        """See Agents; one Get."""
        item = get(AgentNameItem, name_key(name), consistent=True)
        return AgentId(item.agent_id) if item else None

    def made_by(self, request: RepeatableRequest) -> AgentId | None:
        """See Agents; one Get."""
        made = noted(AgentRequestItem, request_key(CATALOGUE_PK, request), request)
        return AgentId(made) if made else None

    def create(self, agent: Agent, *, request: RepeatableRequest | None) -> None:
        """See Agents; one transaction of 4 items, one a tag, and one for a key."""
        tx = Transaction()
        if request is not None:
            note_request(tx, AgentRequestItem(*request_key(CATALOGUE_PK, request)), request, agent.id)
        tx.put(_item(agent))
        _take_name(tx, agent)
        for tag in ("", *agent.spec.tags):
            tx.put(_row(agent, tag))
        _count(tx, 1)
        tx.commit()

    def replace(self, old: Agent, new: Agent) -> None:
        """See Agents; one transaction of 2 items, one a tag, and two more for another name."""
        tx = Transaction()
        item = _item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        if name_key(old.spec.name) != name_key(new.spec.name):
            _free_name(tx, old)
            _take_name(tx, new)
        before, after = {"", *old.spec.tags}, {"", *new.spec.tags}
        shown = _shown(new)
        for tag in sorted(before & after):
            row = AgentRowItem(*row_key(new.id, tag))
            tx.update(row, [getattr(AgentRowItem, name).set(value) for name, value in shown.items()])
        for tag in sorted(after - before):
            tx.put(_row(new, tag))
        for tag in sorted(before - after):
            tx.delete(AgentRowItem(*row_key(new.id, tag)))
        tx.commit()

    def delete(self, agent: Agent) -> None:
        """See Agents; one transaction of 4 items and one a tag."""
        tx = Transaction()
        item = AgentItem(*agent_key(agent.id))
        item.version = agent.version
        tx.delete(item, locked=True, on_fail=_changed(agent))
        _free_name(tx, agent)
        for tag in ("", *agent.spec.tags):
            tx.delete(AgentRowItem(*row_key(agent.id, tag)))
        _count(tx, -1)
        tx.commit()

    def page(self, *, tag: str, after: str, limit: int) -> list[AgentSummary]:
        """See Agents; one Query a megabyte, eventually consistent."""
        return query_by_id(AgentRowItem, row_key("", tag), after, _summary, limit=limit)

    def count(self, *, tag: str, most: int) -> int:
        """See Agents; one Get, or with a tag one Query."""
        if tag:
            return count(AgentsItem, list_pk(tag), AgentsItem.sk.startswith(_ROW), most=most)
        item = get(AgentCounterItem, Key(CATALOGUE_PK, "COUNTER#agents"))
        return int(item.value) if item else 0


def _take_name(tx: Transaction, agent: Agent) -> None:
    unique = AgentNameItem(
        *name_key(agent.spec.name),
        agent_id=agent.id,
        created_at=iso(agent.updated_at),
        updated_at=iso(agent.updated_at),
    )
    tx.put(unique, on_fail=AlreadyExists("name: another agent has it"))


def _free_name(tx: Transaction, agent: Agent) -> None:
    unique = AgentNameItem(*name_key(agent.spec.name))
    tx.delete(unique, AgentNameItem.agent_id == agent.id, on_fail=_changed(agent))


def _count(tx: Transaction, change: int) -> None:
    tx.upsert(AgentCounterItem(CATALOGUE_PK, "COUNTER#agents"), [AgentCounterItem.value.add(change)])


def _changed(agent: Agent) -> AgentChanged:
    return AgentChanged(f"Agent {agent.id} was changed by another request; read it again")


def _described(agent: Agent) -> Mapping[str, Any]:
    spec = agent.spec
    return {
        "agent_id": agent.id,
        "name": spec.name,
        "description": spec.description,
        "model": spec.model,
        "tools": list(spec.tools),
        "tags": list(spec.tags),
        "created_at": iso(agent.created_at),
        "updated_at": iso(agent.updated_at),
    }


def _shown(agent: Agent) -> Mapping[str, Any]:
    return {**_described(agent), "agent_version": agent.version}


def _row(agent: Agent, tag: str) -> AgentRowItem:
    return AgentRowItem(*row_key(agent.id, tag), **_shown(agent))


def _item(agent: Agent) -> AgentItem:
    spec = agent.spec
    return AgentItem(
        *agent_key(agent.id),
        **_described(agent),
        system_prompt=spec.system_prompt,
        subagents=[[each.agent_id, each.name, each.description] for each in spec.subagents] or None,
        approvals=[{"tool": each.tool, **dump_rule(each.rule)} for each in spec.approvals] or None,
        memory=spec.memory,
        knowledge=spec.knowledge,
        max_steps=spec.max_steps,
        temperature=spec.temperature,
        reasoning=spec.reasoning.value if spec.reasoning else None,
        compaction=dump_compaction(spec.compaction) if spec.compaction != COMPACTED_BY_DEFAULT else None,
        multitask_strategy=spec.multitask_strategy.value,
        day_cost_micros=spec.day_cost_micros,
        budget=dump_budget(spec.budget) if spec.budget.is_set else None,
    )


def _agent(item: AgentItem) -> Agent:
    return Agent(
        id=AgentId(item.agent_id),
        spec=AgentSpec(
            name=item.name,
            model=item.model,
            system_prompt=item.system_prompt,
            description=item.description,
            tools=tuple(item.tools),
            subagents=tuple(
                Subagent(agent_id=AgentId(agent_id), name=name, description=description)
                for agent_id, name, description in item.subagents or ()
            ),
            approvals=tuple(ToolApproval(tool=each["tool"], rule=load_rule(each)) for each in item.approvals or ()),
            tags=tuple(item.tags),
            memory=item.memory,
            knowledge=item.knowledge,
            max_steps=int(item.max_steps),
            temperature=float(item.temperature),
            reasoning=ReasoningEffort(item.reasoning) if item.reasoning else None,
            compaction=load_compaction(item.compaction) if item.compaction else COMPACTED_BY_DEFAULT,
            multitask_strategy=MultitaskStrategy(item.multitask_strategy),
            day_cost_micros=int(item.day_cost_micros) if item.day_cost_micros else None,
            budget=load_budget(item.budget) if item.budget else UNLIMITED,
        ),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )


def _summary(item: AgentRowItem) -> AgentSummary:
    return AgentSummary(
        id=AgentId(item.agent_id),
        name=item.name,
        description=item.description,
        model=item.model,
        tools=tuple(item.tools),
        tags=tuple(item.tags),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.agent_version),
    )
