"""Subagents that stop in the middle of a call: nobody waits for them, and nothing stays taken that was not used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from karma.conversations.history import STOPPED
from karma.models.domain import Usage
from karma.models.ports import StopReason
from karma.models.prices import stopped_usage
from karma.runs.domain import RunStatus
from karma.runs.requests import RunInput
from karma.runs.spending import tokens_of
from karma.runs.wishes import Wish
from karma.tools.toolbox import ToolContext
from tests.fakes.runs import ended, text, tool
from tests.support.run_world import ECHO, Echo, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_subagents import ALWAYS, DONE, asks, lead, quickly, results, says  # noqa: F401  a fixture

TIGHT = {"budget": {"max_tokens": 12_000}}
"""Room for one call and what it may answer, not for two side by side."""


def in_day(world: SubagentWorld, agent: str) -> int:
    """Return what is counted of an agent's day."""
    return sum(micros for (_, _, counted), micros in world.store.usage.days.items() if counted == agent)


def go(world: SubagentWorld, request: RunInput) -> RunStatus:
    """Run to the end, of which nobody may wait for long."""
    asyncio.run(asyncio.wait_for(world.go(request), 5))
    status: RunStatus = world.stored(request).status
    return status


def wishing(world: SubagentWorld, wish: Wish) -> Callable[[], object]:
    """Return a step of a model at which somebody wishes something, and behind which nothing comes."""

    async def stuck() -> None:
        world.store.wish(world.stored(lead(user("go"))).key, wish, at=world.clock.now())
        await asyncio.Event().wait()

    return stuck


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("wish", "status"), [(Wish.PAUSE, RunStatus.PAUSED), (Wish.CANCEL, RunStatus.CANCELLED)])
def test_one_that_waits_for_another_s_call_stops_with_it(wish: Wish, status: RunStatus) -> None:
    world = SubagentWorld()
    world.agent("scout")
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *asks("scout", call_id="c2"), *ended()])
    world.script("scout", [*text("half"), wishing(world, wish)], DONE)
    assert go(world, lead(user("go", "u1"), props=TIGHT)) is status


def test_one_that_waits_goes_on_when_the_other_breaks() -> None:
    world = SubagentWorld()
    world.agent("scout")
    world.agent("lead", "scout")

    async def broken() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a bug")

    world.script("lead", [*asks("scout"), *asks("scout", call_id="c2"), *ended()], DONE)
    world.script("scout", [*text("half"), broken], DONE)
    budget = {"budget": {"max_tokens": 22_000}}
    assert go(world, lead(user("go", "u1"), props=budget)) is RunStatus.FINISHED
    assert sorted(failed for _, failed in results(world)) == [False, True]
    (used,) = world.stored(lead(user("go"))).delegated
    first = stopped_usage(world.models.by_agent["scout"][0], len("half"))
    assert used["tokens"] == tokens_of(first) + 15


@pytest.mark.usefixtures("quickly")
def test_one_that_is_paused_keeps_nothing_of_its_agent_s_day() -> None:
    world = SubagentWorld()
    scout = world.agent("scout", day_cost_micros=10**9)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()])
    world.script("scout", [*text("half"), wishing(world, Wish.PAUSE)])
    assert go(world, lead(user("go", "u1"))) is RunStatus.PAUSED
    assert in_day(world, scout.id) == 0


def test_one_whose_call_is_not_made_keeps_nothing_of_its_agent_s_day() -> None:
    world = SubagentWorld()
    scout = world.agent("scout", day_cost_micros=10**9)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout", "x" * 3_000), *ended()])
    assert go(world, lead(user("go", "u1"), props={"budget": {"max_tokens": 1_500}})) is RunStatus.INTERRUPTED
    assert in_day(world, scout.id) == 0


def test_an_answer_that_the_run_s_budget_cut_off_counts_in_its_agent_s_day() -> None:
    world = SubagentWorld()
    scout = world.agent("scout", tools=("echo",), day_cost_micros=10**9)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()])
    world.script("scout", [*tool("c1", "echo", '{"word": "h'), *ended(StopReason.MAX_TOKENS, Usage(10, 500))])
    assert go(world, lead(user("go", "u1"), props={"budget": {"max_tokens": 1_500}})) is RunStatus.INTERRUPTED
    (used,) = world.stored(lead(user("go"))).delegated
    assert (used["agent_id"], used["tokens"]) == (scout.id, 510)
    assert in_day(world, scout.id) == used["cost_micros"] > 0


def test_an_agent_s_day_that_is_over_costs_the_run_nothing() -> None:
    world = SubagentWorld()
    scout = world.agent("scout", day_cost_micros=1)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *asks("scout", call_id="c2"), *ended()], DONE)
    assert go(world, lead(user("go", "u1"), props=TIGHT)) is RunStatus.FINISHED
    assert [failed for _, failed in results(world)] == [True, True]
    assert in_day(world, scout.id) == 0
    assert world.stored(lead(user("go"))).usage["totalTokens"] == 30


def test_one_that_asks_in_a_run_that_is_cancelled_meanwhile_has_no_result_but_that() -> None:
    world = SubagentWorld()

    async def hang(_: Echo, __: ToolContext) -> object:
        for _n in range(20):  # the subagent asks in the meantime
            await asyncio.sleep(0.01)
        world.store.wish(world.stored(lead(user("go"))).key, Wish.CANCEL, at=world.clock.now())
        return await asyncio.Event().wait()

    world.tools = [replace(ECHO, run=hang, timeout_s=5)]
    world.agent("scout", tools=("echo",), approvals=ALWAYS)
    world.agent("lead", "scout", tools=("echo",))
    world.script("lead", [*asks("scout"), *says("hang", "c2"), *ended()])
    world.script("scout", [*says("hi", "s1"), *ended()])
    assert go(world, lead(user("go", "u1"))) is RunStatus.CANCELLED
    assert [(STOPPED in content, failed) for content, failed in results(world)] == [(True, True)] * 2
