"""The catalogue of agents: one suite for the store in memory and for DynamoDB."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.agents.domain import Agent, AgentChanged, AgentSpec, MultitaskStrategy, summary
from karma.agents.ports import Agents
from karma.agents.repository import AgentRepository
from karma.core.errors import AlreadyExists
from karma.core.ids import AgentId
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.models.domain import Compaction, ReasoningEffort
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry, ToolApproval
from tests.fakes.agents import MemoryAgents
from tests.support.requests import asked
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def agents(store: Store) -> Agents:
    if store.in_memory:
        return MemoryAgents()
    return AgentRepository()


def agent(number: int = 1, name: str = "", **more: Any) -> Agent:
    spec = AgentSpec(name=name or f"agent {number}", model="m", system_prompt="Be brief.", **more)
    return Agent(
        id=AgentId(f"01890000-0000-7000-8000-{number:012d}"), spec=spec, created_at=NOW, updated_at=NOW, version=1
    )


def changed(old: Agent, **fields: Any) -> Agent:
    spec = replace(old.spec, **fields)
    return replace(old, spec=spec, updated_at=old.updated_at + timedelta(seconds=1), version=old.version + 1)


def test_an_agent_reads_back_whole(agents: Agents) -> None:
    one = agent(
        description="Line one\nline two",
        tools=("a", "b"),
        approvals=(
            ToolApproval(tool="a", rule=ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.x > 1", expires_in_s=60)),
            ToolApproval(tool="b", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS, on_expiry=OnExpiry.REFUSE)),
        ),
        tags=("x", "y#z"),
        memory="m1",
        knowledge="k1",
        max_steps=3,
        temperature=0.25,
        reasoning=ReasoningEffort.XHIGH,
        compaction=Compaction(enabled=False, at_percent=55, model="cheap"),
        multitask_strategy=MultitaskStrategy.ENQUEUE,
    )
    agents.create(one, request=asked("t"))

    assert agents.get(one.id) == one
    assert agents.page(tag="", after="", limit=5) == [summary(one)]
    assert agents.holder("AGENT 1") == one.id


def test_an_agent_that_does_not_exist_is_not_found(agents: Agents) -> None:
    assert agents.get(agent().id) is None
    assert agents.holder("agent 1") is None
    assert agents.page(tag="", after="", limit=5) == []
    assert (agents.count(tag="", most=9), agents.count(tag="x", most=9)) == (0, 0)


@pytest.mark.parametrize("name", ["scout", "Scout", "SCOUT", "ſcout"])  # noqa: RUF001  a long s, on purpose
def test_a_name_is_one_agent_s(agents: Agents, name: str) -> None:
    agents.create(agent(1, "scout"), request=None)

    with pytest.raises(AlreadyExists):
        agents.create(agent(2, name, tags=("x",)), request=None)

    assert agents.get(agent(2).id) is None
    assert agents.page(tag="x", after="", limit=5) == []
    assert agents.count(tag="", most=9) == 1


def test_lists_go_from_the_newest_on_by_tag_and_behind_an_id(agents: Agents) -> None:
    made = [agent(n, tags=("even",) if n % 2 == 0 else ("odd",)) for n in range(1, 8)]
    for each in made:
        agents.create(each, request=None)

    def numbers(tag: str = "", after: str = "", limit: int = 10) -> list[int]:
        return [int(row.name.removeprefix("agent ")) for row in agents.page(tag=tag, after=after, limit=limit)]

    assert numbers() == [7, 6, 5, 4, 3, 2, 1]
    assert numbers(limit=3) == [7, 6, 5]
    assert numbers(after=made[4].id, limit=2) == [4, 3]
    assert numbers(tag="even") == [6, 4, 2]
    assert numbers(tag="even", after=made[5].id) == [4, 2]
    assert numbers(tag="eve") == []
    assert (agents.count(tag="", most=2), agents.count(tag="odd", most=9), agents.count(tag="odd", most=2)) == (7, 4, 2)


def test_a_replacement_shows_everywhere(agents: Agents) -> None:
    old = agent(tags=("kept", "gone"))
    agents.create(old, request=asked("t"))
    new = changed(old, name="renamed", tags=("kept", "added"), description="new")

    agents.replace(old, new)
    newest = changed(new, tags=("kept", "added"), description="newest")
    agents.replace(new, newest)

    assert agents.get(old.id) == newest
    for tag in ("", "kept", "added"):
        assert agents.page(tag=tag, after="", limit=5) == [summary(newest)]
    assert agents.page(tag="gone", after="", limit=5) == []
    assert agents.holder("agent 1") is None
    assert agents.holder("renamed") == old.id
    assert agents.count(tag="", most=9) == 1


def test_a_name_stays_its_agent_s_while_only_its_letter_case_changes(agents: Agents) -> None:
    old = agent(name="scout")
    agents.create(old, request=None)

    agents.replace(old, changed(old, name="Scout"))

    assert agents.holder("scout") == old.id


def test_a_request_makes_one_agent_whatever_it_is_named_by_then(agents: Agents) -> None:
    first = agent(1)
    assert agents.made_by(asked()) is None
    agents.create(first, request=asked())
    agents.replace(first, changed(first, name="renamed"))

    with pytest.raises(AlreadyExists):
        agents.create(agent(2), request=asked())

    assert agents.made_by(asked()) == first.id
    assert agents.get(agent(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        agents.made_by(asked("k", "another agent"))
    day_after = asked("k", "another agent", at=NOW + RETENTION)
    assert agents.made_by(day_after) is None
    agents.create(agent(3), request=day_after)
    assert agents.made_by(day_after) == agent(3).id


def test_a_taken_name_refuses_the_replacement(agents: Agents) -> None:
    one, two = agent(1), agent(2)
    agents.create(one, request=None)
    agents.create(two, request=None)

    with pytest.raises(AlreadyExists):
        agents.replace(two, changed(two, name="Agent 1", tags=("x",)))

    assert agents.get(two.id) == two
    assert agents.page(tag="x", after="", limit=5) == []


def test_a_stale_version_changes_and_deletes_nothing(agents: Agents) -> None:
    old = agent(tags=("x",))
    agents.create(old, request=None)
    new = changed(old, description="new")
    agents.replace(old, new)

    with pytest.raises(AgentChanged):
        agents.replace(old, changed(old, name="other", description="late"))
    with pytest.raises(AgentChanged):
        agents.delete(old)

    assert agents.get(old.id) == new
    assert agents.holder("other") is None
    assert agents.count(tag="", most=9) == 1


def test_a_deleted_agent_leaves_its_name_and_no_row(agents: Agents) -> None:
    old = agent(tags=("x", "y"))
    agents.create(old, request=None)

    agents.delete(old)
    with pytest.raises(AgentChanged):
        agents.delete(old)
    agents.create(agent(2, "agent 1"), request=None)

    assert agents.get(old.id) is None
    assert [row.id for row in agents.page(tag="", after="", limit=5)] == [agent(2).id]
    assert agents.page(tag="x", after="", limit=5) == []
    assert agents.count(tag="", most=9) == 1


def test_nothing_but_the_counter_is_left_of_a_deleted_agent(database: Database) -> None:
    dynamo = AgentRepository()
    old = agent(tags=tuple(f"t{n}" for n in range(10)))
    dynamo.create(old, request=None)
    new = changed(old, name="renamed", tags=tuple(f"u{n}" for n in range(10)))
    dynamo.replace(old, new)
    dynamo.delete(new)

    items = database.items("agents")
    assert [(item["sk"]["S"], item["value"]["N"]) for item in items] == [("COUNTER#agents", "0")]
