"""Budgets, days and figures know the work of subagents, also what they do once one of them was stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from karma.billing.answers import today_view
from karma.metrics.domain import ALL_RUNS, NOTHING, Figures, cells_of
from karma.models.budgets import BudgetExceeded, Spent
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed
from karma.models.prices import cost, stopped_usage
from karma.runs.domain import Run, RunStatus
from karma.runs.wishes import Wish
from tests.fakes.runs import ended, text
from tests.support.run_world import user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_stopped_subagents import go, wishing
from tests.unit.runs.test_subagents import DONE, asks, lead, questions, quickly, results, says  # noqa: F401

pytestmark = [pytest.mark.req("R-C-05"), pytest.mark.usefixtures("no_blocking_calls")]

LONG, SHORT = "look " * 1_600, "look"
USED = Usage(3_000, 1_000)


def two_scouts(budget: dict[str, int] | None = None, **props: Any) -> tuple[SubagentWorld, list[dict[str, Any]]]:
    """Let a run's budget stop the first of two scouts at once; the second one has room, and answers."""
    world = SubagentWorld()
    world.agent("scout", tools=("echo",))
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout", LONG), *asks("scout", SHORT, "c2"), *ended(usage=USED)], DONE)
    world.script("scout", [*says("one"), *ended(usage=USED)], [*text("It is there."), *ended()])
    return world, world.run(lead(user("go", "u1"), props={"budget": budget or {"max_tokens": 12_000}, **props}))


class TestTheQuestionOfABudget:
    def test_tells_what_the_run_had_used_at_its_end_and_the_next_one_begins_with_that(self) -> None:
        world, events = two_scouts()
        (question,) = questions(events)
        run = stored(world, "r1")
        told = question["metadata"]
        assert run.spent.tokens > 8_000, "the second scout went on after the first had met the budget"
        assert Spent(tokens=told["spent_tokens"], cost_micros=told["spent_cost_micros"]) == run.spent
        world.script("scout", DONE)
        world.run(lead(run="r2", resume={question["id"]: {"max_tokens": 100_000}}))
        assert [failed for _, failed in results(world)] == [False, False]
        assert [each.before for each in stored(world, "r2").budgets] == [run.spent]

    def test_cannot_be_answered_with_less_than_the_run_had_used(self) -> None:
        world, events = two_scouts()
        (question,) = questions(events)
        with pytest.raises(BudgetExceeded) as refused:  # it would be enough for what the first scout has seen
            world.run(lead(run="r2", resume={question["id"]: {"max_tokens": 14_000}}))
        assert refused.value.used == stored(world, "r1").spent


def test_an_agents_day_that_stops_a_subagent_is_named_in_its_result() -> None:
    world = SubagentWorld()
    world.agent("scout", day_cost_micros=1)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()], DONE)
    events = world.run(lead(user("go", "u1")))
    ((content, _),) = results(world)
    told = orjson.loads(content)
    assert told["error"].startswith("The budget of the agent for a day does not cover the next call of the model")
    assert (told["error"].endswith("and 1 are left"), told["code"]) == (True, "BUDGET_EXCEEDED")
    (error,) = (each for each in events if each["type"] == "SUBAGENT_ERROR")
    assert error["message"] == told["error"]


def of_agents(run: Run) -> tuple[Figures, Figures]:
    """Return the figures of all agents of a run together, and those of all runs."""
    cells = {cell.series: figures for cell, figures in cells_of(run)}
    agents = [figures for series, figures in cells.items() if series.user_id and series.agent_id]
    return sum(agents, NOTHING), cells[ALL_RUNS]


class TestFigures:
    @pytest.mark.parametrize("breaks", [False, True])
    def test_of_agents_add_up_to_those_of_their_run(self, breaks: bool) -> None:
        world = SubagentWorld()
        scout = world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended(usage=Usage(900, 90, 300))], DONE)
        half = [[*text("half"), ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, is_transient=True, usage=Usage(70, 7))]]
        world.script("scout", *(half if breaks else []), [*says("one"), *ended(usage=Usage(400, 40, 200))], DONE)
        world.run(lead(user("go", "u1")))
        run = stored(world, "r1")
        agents, whole = of_agents(run)
        assert agents == whole
        theirs = {cell.series.agent_id: each for cell, each in cells_of(run) if cell.series.user_id}[scout.id]
        assert theirs.input_tokens > 400
        assert theirs.cached_tokens == 200
        assert theirs.tokens > theirs.input_tokens + 40

    @pytest.mark.usefixtures("quickly")
    @pytest.mark.parametrize("limit", [None, 10**9])
    def test_have_a_subagent_s_call_that_is_cancelled_with_what_it_had_said(self, limit: int | None) -> None:
        world = SubagentWorld()
        scout = world.agent("scout", day_cost_micros=limit)
        leader = world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *asks("scout", call_id="c2"), *ended()], DONE)
        world.script("scout", [*text("half"), asyncio.Event().wait], [*text("half"), wishing(world, Wish.CANCEL)])
        assert go(world, lead(user("go", "u1"))) is RunStatus.CANCELLED
        run = stored(world, "r1")
        (used,) = run.delegated
        asked = world.models.by_agent["scout"]
        now, half = world.clock.now(), len("half")
        said = sum(cost(stopped_usage(each, half), each.target, now) for each in asked)
        assert (len(asked), used["cost_micros"]) == (2, said)
        assert 0 < said < (run.cost_micros or 0)
        today = world.store.usage.read_day(run.key.user_id, world.clock.now())
        assert today.by_agent == {leader.id: run.cost_micros, scout.id: said}
        assert today.delegated == {scout.id: said}
        agents, whole = of_agents(run)
        assert agents == whole

    def test_of_a_day_tell_what_shares_have_twice(self) -> None:
        world = SubagentWorld()
        for name, *called in (("digger",), ("scout", "digger"), ("lead", "scout", "digger")):
            world.agent(name, *called, day_cost_micros=10**9)
        world.script("lead", [*asks("scout"), *asks("digger", call_id="c2"), *ended()], DONE)
        world.script("scout", [*asks("digger"), *ended()], DONE)
        world.script("digger", DONE, DONE)
        world.run(lead(user("go", "u1")))
        shown = today_view(world.store.usage.read_day(stored(world, "r1").key.user_id, world.clock.now()))
        whole = [each["cost_micros"] for each in shown["agents"]]
        twice = [each["delegated_cost_micros"] for each in shown["agents"]]
        assert sum(whole) - sum(twice) == shown["cost_micros"] == stored(world, "r1").cost_micros
        assert sorted(each > 0 for each in twice) == [False, True, True]


def stored(world: SubagentWorld, run: str) -> Run:
    found: Run = world.stored(lead(user("go"), run=run))
    return found
