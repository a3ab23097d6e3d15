"""Budgets of runs: no call of a model is made that they do not cover, and a stopped run goes on once they are."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Metric, period_of
from karma.billing.plans import PlanName
from karma.conversations.domain import Message
from karma.core.errors import AppError, ValidationFailed
from karma.models.budgets import (
    MIN_ANSWER_TOKENS,
    Budget,
    BudgetExceeded,
    BudgetName,
    NamedBudget,
    Spent,
    afford,
)
from karma.models.domain import ModelErrorCode, Price, Rates, Target, Usage
from karma.models.ports import ModelFailed, ModelRequest, StopReason
from karma.models.prices import cost, estimate, input_tokens
from karma.runs.answers import interrupt_view, run_view
from karma.runs.domain import LEASE, RunKey, RunStatus
from karma.runs.interrupts import InterruptAnswered
from karma.runs.requests import RunInput
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.support.lost_runs import KEY, Life, live
from tests.support.lost_runs import World as LostWorld
from tests.support.run_world import World, asked, spec, user

pytestmark = [pytest.mark.req("R-C-05"), pytest.mark.usefixtures("no_blocking_calls")]

USED = Usage(2_000, 500)
TOKENS = 2_500
DONE = [*text("Done."), *ended(usage=USED)]


def again(n: int = 1, usage: Usage = USED) -> list[Any]:
    """Script a turn that calls a tool, so that another one follows."""
    return [*tool(f"c{n}", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE, usage)]


def budgeted(*messages: dict[str, Any], budget: dict[str, Any] | None = None, **more: Any) -> RunInput:
    props = {**({"budget": budget} if budget else {}), **more.pop("props", {})}
    return asked(*messages, forwardedProps=props, **more)


def resume(payload: Any = None, *, status: str = "resolved", of: str = "r1/1") -> list[dict[str, Any]]:
    return [{"interruptId": of, "status": status, **({} if payload is None else {"payload": payload})}]


def spend(world: World) -> int:
    now = world.clock.now()
    return world.store.usage.taken.get((caller().user_id, Metric.MODEL_SPEND, period_of(Metric.MODEL_SPEND, now)), 0)


def priced(world: World, calls: int) -> int:
    return calls * cost(USED, Target(model="claude-test"), world.clock.now())


def question(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert events[-1]["type"] == "RUN_FINISHED"
    (found,) = events[-1]["outcome"]["interrupts"]
    return dict(found)


def stopped(*, turns: int = 2, budget: dict[str, Any] | None = None) -> tuple[World, list[dict[str, Any]]]:
    """Run until a budget for some turns, but not for the next one, is used up."""
    world = World(*[again(n) for n in range(1, 9)])
    most = budget or {"max_tokens": TOKENS * turns + 500}
    return world, world.run(budgeted(user("go", "u1"), run="r1", budget=most))


class TestARunWithABudget:
    def test_stops_before_the_call_that_it_does_not_cover(self) -> None:
        world, events = stopped()
        assert len(world.model.requests) == 2
        asks = question(events)
        assert (asks["id"], asks["reason"], "toolCallId" in asks) == ("r1/1", "budget_exceeded", False)
        assert asks["metadata"] == {
            "budget": "run",
            "max_tokens": 5_500,
            "max_cost_micros": None,
            "spent_tokens": 5_000,
            "spent_cost_micros": priced(world, 2),
            "required_tokens": 6_068,
            "required_cost_micros": None,
        }
        (run,) = world.store.runs_by_key.values()
        assert (run.status, run.interrupt_ids, run.cost_micros) == (RunStatus.INTERRUPTED, ("r1/1",), priced(world, 2))
        assert spend(world) == priced(world, 2), "what was reserved is corrected"
        assert world.thread().active_run_id is None

    def test_shows_what_it_may_spend_and_has(self) -> None:
        world, _ = stopped()
        (run,) = world.store.runs_by_key.values()
        shown = {
            "budget": "run",
            "max_tokens": 5_500,
            "max_cost_micros": None,
            "spent_tokens": 5_000,
            "spent_cost_micros": priced(world, 2),
        }
        assert run_view(run)["budgets"] == [shown]
        (asks,) = world.store.interrupts_by_id.values()
        view = interrupt_view(asks, now=world.clock.now())
        needed = {"required_tokens": 6_068, "required_cost_micros": None}
        assert (view["tool_call_id"], view["tool_name"], view["budget"]) == (None, None, shown | needed)

    def test_gives_the_answer_the_tokens_that_are_left(self) -> None:
        world = World(DONE)
        world.run(budgeted(user("go", "u1"), run="r1", budget={"max_tokens": 3_000}))
        (request,) = world.model.requests
        assert request.max_tokens == 3_000 - input_tokens(request) < world.limits.max_tokens

    def test_is_refused_at_its_start_when_it_does_not_cover_the_first_call(self) -> None:
        world = World(DONE)
        with pytest.raises(BudgetExceeded) as refused:
            world.run(budgeted(user("go", "u1"), run="r1", budget={"max_cost_micros": 10}))
        assert (refused.value.status, refused.value.code) == (402, "BUDGET_EXCEEDED")
        assert refused.value.details == {
            "budget": "run",
            "max_tokens": None,
            "max_cost_micros": 10,
            "spent_tokens": 0,
            "spent_cost_micros": 0,
            "required_tokens": None,
            "required_cost_micros": 19_475,
            "left_tokens": None,
            "left_cost_micros": 10,
        }
        assert (world.store.runs_by_key, spend(world), world.model.requests) == ({}, 0, [])

    def test_withdraws_a_call_that_its_last_tokens_cut_off(self) -> None:
        cut = [*tool("c1", "echo", '{"wo'), *ended(StopReason.MAX_TOKENS, Usage(400, 2_000))]
        world = World(cut)
        events = world.run(budgeted(user("go", "u1"), run="r1", budget={"max_tokens": 3_000}))
        assert question(events)["metadata"]["spent_tokens"] == 2_400
        assert [message.role for message in world.thread().messages] == ["user"]

    def test_tells_a_client_from_before_1_0_of_an_error(self) -> None:
        world = World(*[again(n) for n in range(1, 4)])
        request = budgeted(user("go", "u1"), run="r1", budget={"max_tokens": 3_000}, protocolVersion=None)
        events = world.run(request)
        assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "BUDGET_EXCEEDED")
        assert world.stored(request).status is RunStatus.FAILED

    def test_keeps_to_what_its_agent_allows_each_run_if_that_is_less(self) -> None:
        world = World(*[again(n) for n in range(1, 9)])
        agent = world.agents.create(spec(tools=("echo",), budget=Budget(max_tokens=3_000)))
        request = budgeted(user("go"), run="r1", budget={"max_tokens": 9_000}, props={"agent_id": agent.id})
        assert question(world.run(request))["metadata"]["budget"] == "agent"
        assert len(world.model.requests) == 1

    def test_counts_a_broken_answer_with_all_that_it_may_have_had(self) -> None:
        cut = ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(400), is_transient=True)
        world = World([*text("He"), cut], DONE)
        events = world.run(budgeted(user("go", "u1"), run="r1", budget={"max_tokens": 9_600}))
        broken, last = world.model.requests
        assert broken.max_tokens == world.limits.max_tokens
        assert last.max_tokens == 9_600 - 400 - broken.max_tokens - input_tokens(last)
        assert events[-1]["outcome"] == {"type": "success"}

    def test_without_one_nothing_changes(self) -> None:
        world = World(again(), DONE)
        request = asked(user("go", "u1"), run="r1")
        assert world.run(request)[-1]["outcome"] == {"type": "success"}
        assert world.stored(request).budgets == ()
        assert [each.max_tokens for each in world.model.requests] == [world.limits.max_tokens] * 2

    @pytest.mark.parametrize(
        ("budget", "field"),
        [
            ([], "budget"),
            ({"max_tokens": 0}, "budget.max_tokens"),
            ({"max_tokens": True}, "budget.max_tokens"),
            ({"max_tokens": 1.5}, "budget.max_tokens"),
            ({"max_cost_micros": 10**12 + 1}, "budget.max_cost_micros"),
            ({"dollars": 1}, "budget.dollars"),
        ],
    )
    def test_is_refused_where_it_is_none(self, budget: Any, field: str) -> None:
        with pytest.raises(ValidationFailed) as refused:
            asked(user("go"), forwardedProps={"budget": budget})
        assert [each["field"] for each in refused.value.details or []] == [f"forwardedProps.{field}"]  # type: ignore[index]


class TestAnAnswer:
    def test_that_raises_the_budget_lets_the_run_go_on_where_it_was_stopped(self) -> None:
        world, _ = stopped()
        world.model.turns = [DONE]
        request = budgeted(run="r2", resume=resume({"max_tokens": 9_000}))
        events = world.run(request)
        assert events[-1]["outcome"] == {"type": "success"}
        assert [message.role for message in world.model.requests[-1].messages][-1] == "tool"
        (budget,) = world.stored(request).budgets
        assert budget == NamedBudget(
            name=BudgetName.RUN,
            budget=Budget(max_tokens=9_000),
            before=Spent(tokens=5_000, cost_micros=priced(world, 2)),
        )
        assert world.thread().interrupts == ()

    def test_counts_what_was_spent_before(self) -> None:
        world, _ = stopped()
        events = world.run(budgeted(run="r2", resume=resume({"max_tokens": 8_500})))
        assert len(world.model.requests) == 3
        assert question(events)["metadata"]["spent_tokens"] == 7_500
        assert question(events)["id"] == "r2/1"

    @pytest.mark.parametrize("payload", [None, {}, {"max_tokens": 5_500}, {"max_cost_micros": 10**9}])
    def test_that_does_not_raise_it_is_refused_and_leaves_the_question_open(self, payload: Any) -> None:
        world, _ = stopped()
        with pytest.raises(BudgetExceeded) as refused:
            world.run(budgeted(run="r2", resume=resume(payload)))
        details = refused.value.details
        assert isinstance(details, dict)
        assert (details["budget"], details["left_tokens"]) == ("run", 500)
        assert world.thread().interrupts == ("r1/1",)
        assert len(world.model.requests) == 2

    def test_may_leave_it_to_the_request_to_say_the_new_one(self) -> None:
        world, _ = stopped()
        world.model.turns = [DONE]
        events = world.run(budgeted(run="r2", resume=resume(), budget={"max_tokens": 9_000}))
        assert events[-1]["outcome"] == {"type": "success"}

    def test_to_an_agents_budget_needs_that_one_raised(self) -> None:
        world = World(*[again(n) for n in range(1, 4)])
        agent = world.agents.create(spec(tools=("echo",), budget=Budget(max_tokens=3_000)))
        props = {"agent_id": agent.id}
        world.run(budgeted(user("go"), run="r1", props=props))
        with pytest.raises(BudgetExceeded):
            world.run(budgeted(run="r2", resume=resume(), props=props))
        for payload in ({"max_tokens": 10**6}, {"max_cost_micros": 10**6}, {"else": 1}):
            with pytest.raises(ValidationFailed) as refused:
                world.run(budgeted(run="r2", resume=resume(payload), props=props))
            assert f"resume.0.payload.{next(iter(payload))}" in str(refused.value.details)
            assert "config.budget" in str(refused.value.details)
        world.agents.replace(agent.id, spec(tools=("echo",), budget=Budget(max_tokens=9_000)), version=None)
        world.model.turns = [DONE]
        assert world.run(budgeted(run="r2", resume=resume(), props=props))[-1]["outcome"] == {"type": "success"}

    def test_is_refused_when_it_is_no_budget(self) -> None:
        world, _ = stopped()
        with pytest.raises(ValidationFailed) as refused:
            world.run(budgeted(run="r2", resume=resume({"max_tokens": "many"})))
        assert "resume.0.payload.max_tokens" in str(refused.value.details)

    def test_given_twice_begins_one_run_and_another_one_is_refused(self) -> None:
        world, _ = stopped()
        world.model.turns = [DONE]
        world.run(budgeted(run="r2", resume=resume({"max_tokens": 9_000})))
        asyncio.run(world.go(budgeted(run="r3", resume=resume({"max_tokens": 9_000}))))
        assert len(world.store.runs_by_key) == 2
        with pytest.raises(InterruptAnswered):
            world.run(budgeted(run="r4", resume=resume({"max_tokens": 9_001})))

    def test_given_again_after_its_run_failed_counts_what_that_run_spent(self) -> None:
        world, _ = stopped()
        world.model.turns = [again(5), [*text("No"), *ended(StopReason.REFUSED, USED)]]
        world.run(budgeted(run="r2", resume=resume({"max_tokens": 12_000})))
        world.model.turns = [DONE]
        request = budgeted(run="r3", resume=resume({"max_tokens": 12_000}))
        world.run(request)
        (budget,) = world.stored(request).budgets
        assert budget.before.tokens == 10_000

    def test_that_cancels_ends_without_a_call(self) -> None:
        world, _ = stopped()
        request = budgeted(run="r2", resume=resume(status="cancelled"))
        events = world.run(request)
        assert events[-1]["outcome"] == {"type": "success"}
        assert (len(world.model.requests), world.thread().interrupts) == (2, ())
        assert (world.stored(request).cost_micros, spend(world)) == (0, priced(world, 2))

    def test_is_not_needed_by_a_new_message_which_has_its_own_budget(self) -> None:
        world, _ = stopped()
        world.model.turns = [DONE]
        events = world.run(budgeted(user("leave it", "u2"), run="r2", budget={"max_tokens": 5_500}))
        assert events[-1]["outcome"] == {"type": "success"}
        assert world.thread().interrupts == ()

    def test_that_is_missing_from_a_repeated_request_leaves_the_question_open(self) -> None:
        world, _ = stopped()
        events = world.run(budgeted(user("go", "u1"), run="r2"))
        assert question(events)["id"] == "r1/1"
        assert (len(world.model.requests), world.thread().interrupts) == (2, ("r1/1",))

    def test_that_comes_too_late_is_refused_and_can_be_cancelled(self) -> None:
        world, _ = stopped()
        world.clock.pass_by(timedelta(days=8))
        with pytest.raises(AppError) as refused:
            world.run(budgeted(run="r2", resume=resume({"max_tokens": 9_000})))
        assert refused.value.code == "INTERRUPT_EXPIRED"
        world.run(budgeted(run="r2", resume=resume(status="cancelled")))
        assert world.thread().interrupts == ()


def execute(world: LostWorld, life: Life, request: RunInput) -> None:
    """Begin a run as a stream does, or answer it; who dies in it is followed by others until the run has ended."""

    async def work() -> None:
        await (await world.service(life).start(caller(), request)).execute(KeptFrames())

    live(work)
    key = RunKey(KEY.user_id, request.run_id)
    while (run := world.store.run(key)) is not None and run.status is RunStatus.RUNNING:
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        live(lambda: world.executor(Life(None)).go_on(key))


@pytest.mark.parametrize("budget", [1_300, 1_800])
@pytest.mark.parametrize("after", [False, True])
def test_wherever_its_process_dies_a_run_keeps_to_its_budget_and_its_reservation_is_corrected(
    budget: int, after: bool
) -> None:
    stops: set[RunStatus] = set()
    for step in range(1, 70, 3):
        world = LostWorld()
        execute(world, Life(step, after), budgeted(user("go", "u1"), run="r1", budget={"max_tokens": budget}))
        run = world.store.run(KEY)
        if run is None:
            assert world.store.usage.taken == {}
            continue
        stops.add(run.status)
        checkpoint = world.store.last_checkpoint(KEY)
        assert (checkpoint.progress.spent_tokens if checkpoint else 0) or run.status is RunStatus.INTERRUPTED
        assert run.spent.tokens <= budget
        counted = [amount for (_, metric, _), amount in world.store.usage.taken.items() if metric is Metric.MODEL_SPEND]
        assert counted == [run.cost_micros]
    assert RunStatus.INTERRUPTED in stops


class TestThePlan:
    def test_that_does_not_cover_a_call_asks_and_a_larger_one_lets_the_run_go_on(self) -> None:
        dear = Usage(30_000, 8_000)
        world = World(*[again(n, dear) for n in range(1, 9)])
        world.plan = PlanName.FREE
        events = world.run(asked(user("go", "u1"), run="r1"))
        assert question(events)["metadata"]["budget"] == "plan"
        with pytest.raises(AppError) as refused:
            world.run(asked(run="r2", resume=resume()))
        assert refused.value.code == "QUOTA_EXCEEDED"
        world.plan = PlanName.PRO
        world.model.turns = [DONE]
        assert world.run(asked(run="r2", resume=resume()))[-1]["outcome"] == {"type": "success"}


def _request(chars: int, max_tokens: int, *targets: Target) -> ModelRequest:
    return ModelRequest(
        target=targets[0],
        fallbacks=targets[1:],
        system=("Be brief.",),
        messages=(Message(id="m", role="user", content="x" * chars),),
        tools=(),
        max_tokens=max_tokens,
    )


RATES = st.builds(
    Rates,
    input=st.integers(0, 50_000_000),
    output=st.integers(0, 50_000_000),
    cache_write=st.integers(0, 50_000_000),
    cache_read=st.integers(0, 1_000_000),
)


@settings(max_examples=200)
@given(st.integers(0, 5_000), st.integers(1, 9_000), st.lists(RATES, min_size=1, max_size=3), st.data())
def test_a_call_that_is_made_never_costs_more_than_is_left(
    chars: int, max_tokens: int, rates: list[Rates], data: st.DataObject
) -> None:
    world = World()
    now = world.clock.now()
    targets = [Target(model=f"m{i}", prices=(Price(since=now, rates=each),)) for i, each in enumerate(rates)]
    request = _request(chars, max_tokens, *targets)
    budget = Budget(
        max_tokens=data.draw(st.none() | st.integers(1, 20_000)),
        max_cost_micros=data.draw(st.none() | st.integers(1, 600_000)),
    )
    spent = Spent(tokens=data.draw(st.integers(0, 10_000)), cost_micros=data.draw(st.integers(0, 300_000)))
    named = NamedBudget(name=BudgetName.RUN, budget=budget)
    try:
        made, by = afford(request, [named], spent, now)
    except BudgetExceeded:
        least = _request(chars, min(MIN_ANSWER_TOKENS, max_tokens), *targets)
        left = None if budget.max_cost_micros is None else budget.max_cost_micros - spent.cost_micros
        too_dear = left is not None and estimate(least, now) > left
        tokens = spent.tokens + input_tokens(least) + least.max_tokens
        assert too_dear or (budget.max_tokens is not None and tokens > budget.max_tokens)
        return
    assert (by is None) == (made == request)
    if budget.max_cost_micros is not None:
        assert spent.cost_micros + estimate(made, now) <= budget.max_cost_micros
    if budget.max_tokens is not None:
        assert spent.tokens + input_tokens(made) + made.max_tokens <= budget.max_tokens


def test_the_price_of_the_calls_moment_counts_also_when_it_changes_in_the_middle_of_a_run() -> None:
    world = World()
    now = world.clock.now()
    cheap = Rates(input=1_000_000, output=1_000_000, cache_write=1_000_000, cache_read=0)
    dear = Rates(input=10_000_000, output=10_000_000, cache_write=10_000_000, cache_read=0)
    prices = (Price(since=now - timedelta(days=1), rates=cheap), Price(since=now + timedelta(hours=1), rates=dear))
    target = Target(model="m", prices=prices)
    named = [NamedBudget(name=BudgetName.RUN, budget=Budget(max_cost_micros=4_000))]
    request = _request(100, 8_192, target)
    before, _ = afford(request, named, Spent(), now)
    with pytest.raises(BudgetExceeded):
        afford(request, named, Spent(), now + timedelta(hours=1))
    assert estimate(before, now) <= 4_000 < estimate(before, now + timedelta(hours=1))
