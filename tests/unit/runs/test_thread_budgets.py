"""Budgets of threads: all runs of one keep to it together, those that wait for their turn, too."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from karma.billing.plans import PlanName
from karma.conversations.domain import ThreadKey, ThreadSpending
from karma.core.ids import ThreadId
from karma.models.budgets import Budget, BudgetExceeded, BudgetName, NamedBudget, Spent
from karma.models.domain import Usage
from karma.runs.domain import RunStatus
from karma.runs.modifications import Modifications
from tests.fakes.runs import caller
from tests.support.forks import forks
from tests.support.lost_runs import THREAD, Life
from tests.support.lost_runs import World as LostWorld
from tests.support.lost_runs import begin as begin_lost
from tests.support.run_world import World, user
from tests.unit.runs.test_budgets import DONE, TOKENS, again, budgeted, priced, question, resume
from tests.unit.runs.test_forking import name, points
from tests.unit.runs.test_turns import ask, execute, key, status

pytestmark = [pytest.mark.req("R-C-05"), pytest.mark.usefixtures("no_blocking_calls")]

T1 = ThreadKey(caller().user_id, ThreadId("t1"))


def allow(world: World | LostWorld, *, max_tokens: int | None = None, max_cost_micros: int | None = None) -> None:
    """Give the thread a budget, as its owner does."""
    thread = world.store.thread(T1 if isinstance(world, World) else THREAD)
    spending = replace(thread.spending, max_tokens=max_tokens, max_cost_micros=max_cost_micros)
    world.store.threads[thread.key] = replace(thread, spending=spending)


def spending(world: World) -> ThreadSpending:
    return world.store.thread(T1).spending


def begun(*turns: list[Any]) -> World:
    """Return a world whose thread has had a run of one call."""
    world = World(DONE, *turns)
    world.run(budgeted(user("hi", "u0"), run="r0"))
    return world


def test_what_runs_use_is_counted_whether_there_is_a_budget_or_not() -> None:
    world = begun(again(), DONE)
    world.run(budgeted(user("go", "u1"), run="r1"))
    assert spending(world) == ThreadSpending(tokens=3 * TOKENS, cost_micros=priced(world, 3))


def test_a_budget_that_comes_with_an_answer_counts_all_runs_of_its_chain_and_no_others() -> None:
    world = begun(*[again(n) for n in range(1, 9)])
    allow(world, max_tokens=3 * TOKENS + 500)
    asks = question(world.run(budgeted(user("go", "u1"), run="r1")))
    allow(world, max_tokens=5 * TOKENS + 500)
    asks = question(world.run(budgeted(run="r2", resume=resume(of=asks["id"]))))
    world.plan = PlanName.FREE
    allow(world, max_tokens=10**9)
    dear = Usage(30_000, 8_000)
    world.model.turns = [again(n, dear) for n in range(10, 19)]
    asks = question(world.run(budgeted(run="r3", resume=resume(of=asks["id"]))))
    assert asks["metadata"]["budget"] == "plan"
    world.plan = PlanName.PRO
    world.model.turns = [DONE]
    last = budgeted(run="r4", resume=resume(of=asks["id"]), budget={"max_tokens": 10**8})
    world.run(last)
    chain = [world.stored(budgeted(run=f"r{n}")).spent for n in (1, 2, 3)]
    (own,) = (each for each in world.stored(last).budgets if each.name is BudgetName.RUN)
    assert own.before == chain[0] + chain[1] + chain[2]


class TestAThreadWithABudget:
    def test_stops_the_run_whose_next_call_it_does_not_cover(self) -> None:
        world = begun(*[again(n) for n in range(1, 9)])
        allow(world, max_tokens=3 * TOKENS + 500)
        asks = question(world.run(budgeted(user("go", "u1"), run="r1")))
        assert len(world.model.requests) == 3
        assert asks["reason"] == "budget_exceeded"
        assert asks["metadata"] == {
            "budget": "thread",
            "max_tokens": 3 * TOKENS + 500,
            "max_cost_micros": None,
            "spent_tokens": 3 * TOKENS,
            "spent_cost_micros": priced(world, 3),
            "required_tokens": 8_639,
            "required_cost_micros": None,
        }
        assert spending(world).tokens == 3 * TOKENS

    def test_refuses_a_start_until_it_is_raised(self) -> None:
        world = begun(DONE)
        allow(world, max_cost_micros=priced(world, 1) + 10)
        with pytest.raises(BudgetExceeded) as refused:
            world.run(budgeted(user("go", "u1"), run="r1"))
        details = refused.value.details
        assert isinstance(details, dict)
        assert (details["budget"], details["left_cost_micros"]) == ("thread", 10)
        assert len(world.model.requests) == 1
        allow(world)
        assert world.run(budgeted(user("go", "u1"), run="r1"))[-1]["outcome"] == {"type": "success"}

    def test_lets_a_stopped_run_go_on_once_it_is_raised_and_counts_each_once(self) -> None:
        world = begun(*[again(n) for n in range(1, 9)])
        allow(world, max_tokens=3 * TOKENS + 500)
        world.run(budgeted(user("go", "u1"), run="r1", budget={"max_tokens": 100_000}))
        with pytest.raises(BudgetExceeded):
            world.run(budgeted(run="r2", resume=resume()))
        allow(world, max_tokens=40 * TOKENS)
        world.model.turns = [DONE]
        request = budgeted(run="r2", resume=resume())
        assert world.run(request)[-1]["outcome"] == {"type": "success"}
        mine, whole = world.stored(request).budgets
        assert mine == NamedBudget(
            name=BudgetName.RUN,
            budget=Budget(max_tokens=100_000),
            before=Spent(tokens=2 * TOKENS, cost_micros=priced(world, 2)),
        )
        assert (whole.name, whole.before.tokens) == (BudgetName.THREAD, 3 * TOKENS)
        assert spending(world).tokens == 4 * TOKENS

    def test_is_not_left_by_any_way_of_running(self) -> None:
        """Whatever runs come, their calls keep to what is left; a call takes what it may at the most."""
        for seed in range(20):
            rng = random.Random(seed)
            world = begun()
            most = rng.randint(2, 9) * TOKENS
            allow(world, max_tokens=most)
            for n in range(8):
                world.model.turns = [*[again(i) for i in range(rng.randint(0, 3))], DONE]
                resumes = bool(world.thread().interrupts) and rng.random() < 0.5
                more: Any = {"resume": resume(of=world.thread().interrupts[0])} if resumes else {}
                said = [] if resumes else [user("go", f"u{seed}-{n}")]
                try:
                    world.run(budgeted(*said, run=f"r{seed}-{n}", **more))
                except BudgetExceeded:
                    continue
            assert spending(world).tokens <= most, f"seed {seed}"


def test_a_run_that_waits_has_what_is_left_when_its_turn_comes() -> None:
    world = LostWorld()
    ask(world, "r1")
    ask(world, "r2")
    first = world.store.run(key("r1"))
    assert first is not None
    allow(world, max_tokens=10**9)
    execute(world)
    used = world.store.runs_by_key[key("r1")].spent
    (budget,) = world.store.runs_by_key[key("r2")].budgets
    assert (budget.name, budget.before) == (BudgetName.THREAD, used)
    assert world.store.thread(THREAD).spending.tokens == used.tokens + world.store.runs_by_key[key("r2")].spent.tokens


def test_a_run_that_waits_is_stopped_by_what_those_before_it_have_used() -> None:
    world = LostWorld()
    ask(world, "r1")
    ask(world, "r2")
    allow(world, max_tokens=601)
    execute(world)
    assert status(world, "r1") is RunStatus.FINISHED, "it began before there was a budget"
    assert status(world, "r2") is RunStatus.INTERRUPTED
    assert world.store.runs_by_key[key("r2")].spent == Spent()


def test_a_fork_has_a_thread_of_its_own_and_its_parent_s_budget_is_not_its() -> None:
    world = LostWorld()
    begin_lost(world, Life(None))
    allow(world, max_tokens=1)
    made = forks(world).fork(caller(), name(points(world)[-1]), Modifications(), key=None).run
    assert BudgetName.THREAD not in {each.name for each in made.budgets}
    with pytest.raises(BudgetExceeded):
        forks(world).restore_as_run(caller(), name(points(world)[-1]), Modifications(message="x"), key=None)
