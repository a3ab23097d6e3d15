"""A paused run holds nothing of a day that it has not spent, and goes on with what its agent allows by then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import orjson
import pytest

from karma.core.ids import AgentId
from karma.models.budgets import UNLIMITED, Budget, BudgetName, NamedBudget, Spent
from karma.runs.answers import run_view
from karma.runs.budgets import answer_schema
from karma.runs.control import RunControl
from karma.runs.domain import RunStatus
from karma.runs.wishes import Wish
from tests.fakes.agents import catalogue
from tests.fakes.runs import RememberedWatchdog, RequestedExecutions, ended, text
from tests.support.lost_runs import KEY, TOOLS, Life, World, go_on, pause
from tests.support.lost_runs import resume as pause_over
from tests.support.paused_runs import Stuck, current, used, while_it_waits, without_a_pause
from tests.support.plans import allowances
from tests.support.run_services import executor
from tests.support.run_world import spec, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_budgets import stopped
from tests.unit.runs.test_stopped_subagents import go, wishing
from tests.unit.runs.test_subagents import DONE, asks, lead, quickly, results  # noqa: F401  a fixture


def waiting(**limits: Any) -> World:
    """Return a world with a paused run whose agent has these limits."""
    world = World()
    world.given_agents = catalogue(tools=TOOLS)
    world.agent = world.given_agents.create(spec(tools=TOOLS, **limits)).id
    while_it_waits(world, partial(pause, world))
    assert current(world).status is RunStatus.PAUSED
    world.clock.pass_by(timedelta(milliseconds=1))
    return world


@pytest.mark.usefixtures("quickly")
class TestAPausedRun:
    def test_shows_what_it_has_used_of_its_budgets(self) -> None:
        world = waiting(budget=Budget(max_tokens=50_000))
        run = current(world)
        (shown,) = run_view(run)["budgets"]
        assert 0 < (shown["spent_tokens"] or 0) == run.spent.tokens
        assert shown["spent_cost_micros"] == run.cost_micros

    def test_holds_nothing_of_plan_and_day_that_it_has_not_spent(self) -> None:
        world = waiting(day_cost_micros=10**9)
        run = current(world)
        assert 0 < (run.cost_micros or 0) == run.reserved_micros == used(world)
        today = world.store.usage.read_day(run.key.user_id, world.clock.now())
        assert today.by_agent == {run.agent_id: run.cost_micros}

    def test_reserves_anew_when_it_goes_on_and_asks_where_the_day_has_no_room(self) -> None:
        for limit, status in ((10**9, RunStatus.FINISHED), (100, RunStatus.INTERRUPTED)):
            world = waiting(day_cost_micros=10**9)
            assert world.given_agents is not None
            changed = spec(tools=TOOLS, day_cost_micros=limit)
            world.given_agents.replace(AgentId(str(world.agent)), changed, version=None)
            pause_over(world)
            go_on(world, Life(None))
            run = current(world)
            assert run.status is status
            assert used(world) == run.cost_micros

    def test_shows_the_budget_of_its_agent_that_it_is_resumed_with(self) -> None:
        world = waiting(budget=Budget(max_tokens=50_000))
        assert world.given_agents is not None
        lower = spec(tools=TOOLS, budget=Budget(max_tokens=1_000))
        world.given_agents.replace(AgentId(str(world.agent)), lower, version=None)
        assert [each["max_tokens"] for each in run_view(current(world))["budgets"]] == [50_000]
        pause_over(world)
        assert [each["max_tokens"] for each in run_view(current(world))["budgets"]] == [1_000]

    def test_that_cannot_go_on_has_made_the_call_that_was_stopped(self) -> None:
        world = waiting(budget=Budget(max_tokens=50_000))
        assert world.given_agents is not None
        lower = spec(tools=TOOLS, budget=Budget(max_tokens=10))
        world.given_agents.replace(AgentId(str(world.agent)), lower, version=None)
        assert current(world).turns == 1
        pause_over(world)
        go_on(world, Life(None))
        run = current(world)
        assert (run.status, run.turns, run.stop_reason) == (RunStatus.INTERRUPTED, 1, "")
        assert run.spent.tokens

    def test_counts_each_call_that_was_stopped_and_no_step_of_its_agent_for_it(self) -> None:
        steps = current(without_a_pause()).turns
        world = waiting(max_steps=steps)
        for _ in range(2):
            pause_over(world)
            model = Stuck()

            async def pausing(model: Stuck = model) -> None:
                task = asyncio.ensure_future(world.executor(Life(None), model=model).go_on(KEY))
                await model.has_spoken.wait()
                pause(world)
                await asyncio.wait_for(task, 5)

            asyncio.run(pausing())
            world.clock.pass_by(timedelta(milliseconds=1))
        assert current(world).turns == 3
        pause_over(world)
        go_on(world, Life(None))
        run = current(world)
        assert (run.status, run.turns) == (RunStatus.FINISHED, 3 + steps)


@pytest.mark.usefixtures("quickly")
def test_a_subagent_goes_on_with_what_its_agent_allows_by_then() -> None:
    world = SubagentWorld()
    scout = world.agent("scout", budget=Budget(max_tokens=50_000))
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()], DONE)
    world.script("scout", [*text("half"), wishing(world, Wish.PAUSE)])
    request = lead(user("go", "u1"))
    assert go(world, request) is RunStatus.PAUSED
    lower = spec(name="scout", system_prompt="scout", budget=Budget(max_tokens=10))
    world.agents.replace(AgentId(scout.id), lower, version=None)
    executions, watchdog = RequestedExecutions(), RememberedWatchdog()
    control = RunControl(world.store, executions=executions, watchdog=watchdog, clock=world.clock, agents=world.agents)
    key = world.stored(request).key
    control.resume(*key)
    world.clock.pass_by(timedelta(seconds=1))
    process = executor(
        store=world.store,
        executions=executions,
        model=world.model,
        tools=world.tools,
        library=world.library,
        allowances=allowances(clock=world.clock),
        clock=world.clock,
        limits=world.limits,
        agents=world.agents,
    )
    asyncio.run(process.go_on(key))
    ((content, _),) = results(world)
    assert orjson.loads(content)["code"] == "BUDGET_EXCEEDED"
    assert [each["turns"] for each in world.stored(request).delegated] == [1]


class TestAQuestion:
    def test_follows_the_calls_that_were_made_and_no_other_counts_as_a_turn(self) -> None:
        world, _ = stopped(turns=2)
        (run,) = world.store.runs_by_key.values()
        assert (run.turns, len(world.model.requests)) == (2, 2)

    @pytest.mark.parametrize("name", BudgetName)
    def test_offers_a_budget_only_where_the_answer_raises_it(self, name: BudgetName) -> None:
        offered: Any = answer_schema(name)["properties"]
        assert set(offered) == ({"max_tokens", "max_cost_micros"} if name is BudgetName.RUN else set())


def test_a_budget_that_limits_nothing_is_not_shown() -> None:
    run = current(waiting())
    carrying = NamedBudget(name=BudgetName.RUN, budget=UNLIMITED, before=Spent(tokens=7))
    assert run_view(replace(run, budgets=(carrying,)))["budgets"] == []
