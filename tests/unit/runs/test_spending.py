"""Runs within what their owner's plan allows a month: none begins or goes on without room for its next call."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Metric, period_of
from karma.billing.plans import PlanName
from karma.core.errors import Forbidden, QuotaExceeded, StorageUnavailable
from karma.core.ids import RunId
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.models.prices import cost, estimate
from karma.runs.domain import RunKey
from tests.fakes.runs import MemoryRuns, Step, caller, ended, text, tool
from tests.support.plans import limited
from tests.support.run_world import World, asked, user

pytestmark = pytest.mark.fault("F-19a")
ADA = caller().user_id
MODEL = "claude-test"
SPEND = 2_000_000
"""Limit of the free plan a month, in micro-dollars."""


def again(usage: Usage) -> list[Step]:
    """Return a turn that calls a tool, so that another one follows."""
    return [*tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE, usage)]


def free(*turns: Any, left: int = SPEND, store: MemoryRuns | None = None) -> World:
    world = World(*turns, store=store)
    world.plan = PlanName.FREE
    if left < SPEND:
        world.store.usage.extend(limited(ADA, Metric.MODEL_SPEND, SPEND - left))
    return world


def used(world: World, metric: Metric = Metric.MODEL_SPEND) -> int:
    return world.store.usage.taken.get((ADA, metric, period_of(metric, world.clock.now())), 0)


def price(world: World, *usages: Usage) -> int:
    return sum(cost(usage, Target(model=MODEL), world.clock.now()) for usage in usages)


def test_a_run_counts_as_what_its_calls_cost_and_shows_it() -> None:
    first, second = Usage(1_000, 50), Usage(2_000, 70, 900, 100)
    world = free(again(first), [*text("Done"), *ended(usage=second)])
    request = asked(user("hi"))
    world.run(request)
    assert used(world) == price(world, first, second) == world.stored(request).cost_micros
    assert used(world, Metric.RUNS) == 1


@pytest.mark.fault("F-19b")
def test_an_account_whose_address_is_not_verified_calls_no_model_and_leaves_nothing() -> None:
    world = free([*ended()])
    with pytest.raises(Forbidden) as refused:
        asyncio.run(world.service.start(replace(caller(), email_verified=False), asked(user("hi"))))
    assert refused.value.code == "EMAIL_NOT_VERIFIED"
    assert (world.store.usage.taken, world.store.runs_by_key) == ({}, {})


def test_the_last_run_of_the_month_passes_and_the_next_is_refused_before_anything_is_recorded() -> None:
    world = free([*ended()], [*ended()])
    world.store.usage.extend(limited(ADA, Metric.RUNS, 199))
    world.run(asked(user("a"), run="r1"))
    with pytest.raises(QuotaExceeded, match="200 runs a month") as refused:
        world.run(asked(user("b", "u2"), run="r2", thread="t2"))
    assert refused.value.details == {
        "limit": "runs_per_month",
        "plan": "free",
        "allowed": 200,
        "requested": 1,
        "resets_at": "2026-12-01T00:00:00.000Z",
    }
    assert list(world.store.runs_by_key) == [RunKey(ADA, RunId("r1"))]
    assert len(world.model.requests) == 1
    world.clock.at = datetime(2026, 12, 1, tzinfo=UTC)
    world.run(asked(user("b", "u2"), run="r2", thread="t2"))


def test_a_first_call_that_the_month_does_not_cover_is_refused() -> None:
    world = free(left=400_000)  # 8,192 tokens of the dearest model cost more
    with pytest.raises(QuotaExceeded, match=r"2\.00 USD of model calls"):
        world.run(asked(user("a")))
    assert not world.store.runs_by_key
    assert (used(world), used(world, Metric.RUNS)) == (SPEND - 400_000, 0)


def test_a_request_that_is_repeated_gets_its_answer_also_when_it_took_the_last_of_the_plan() -> None:
    world = free([*text("Done"), *ended()])
    world.store.usage.extend(limited(ADA, Metric.RUNS, 199))
    request = asked(user("a", "u1"), run="r1")
    world.run(request)
    frames = asyncio.run(world.go(request))
    assert frames.events[-1]["type"] == "RUN_FINISHED"
    assert used(world, Metric.RUNS) == 200


def test_a_run_whose_money_ends_in_the_middle_stops_before_the_call_that_it_does_not_cover() -> None:
    dear = Usage(30_000, 2_000)  # 0.40 USD of the dearest model
    world = free(*[again(dear)] * 10, left=1_000_000)
    request = asked(user("a"))
    events = world.run(request)
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "QUOTA_EXCEEDED")
    calls = len(world.model.requests)
    assert calls == 2
    spent = price(world, *[dear] * calls)
    assert used(world) == SPEND - 1_000_000 + spent <= SPEND
    stored = world.stored(request)
    assert (stored.error_code, stored.turns, stored.cost_micros) == ("QUOTA_EXCEEDED", calls + 1, spent)


def test_who_buys_more_in_the_middle_of_a_run_goes_on() -> None:
    dear = Usage(30_000, 2_000)
    world = free(left=1_000_000)
    world.model.turns = [again(dear), [lambda: setattr(world, "plan", PlanName.PRO), *again(dear)], [*ended()]]
    assert world.run(asked(user("a")))[-1]["type"] == "RUN_FINISHED"


@pytest.mark.parametrize(
    ("known", "counts"),
    [(Usage(), "nothing"), (Usage(1_000), "all its output"), (Usage(1_000, 7), "what it says")],
)
def test_a_call_that_fails_counts_as_far_as_its_answer_had_begun(known: Usage, counts: str) -> None:
    world = free([ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=known)])
    world.run(asked(user("a")))
    output = {"nothing": None, "all its output": 8192, "what it says": 7}[counts]
    assert used(world) == price(world, Usage(known.input_tokens, output))


def test_a_call_that_is_broken_off_counts_as_dear_as_it_may_be() -> None:
    world = free([*text("slow"), lambda: asyncio.Event().wait()])
    world.limits = type(world.limits)(run_timeout_s=0.05, reserve_s=0)
    request = asked(user("a"))
    world.run(request)
    bound = estimate(world.model.requests[0], world.clock.now())
    assert used(world) == bound == world.stored(request).cost_micros


def test_a_run_without_a_model_call_costs_nothing() -> None:
    world = free()
    world.run(asked({"id": "a1", "role": "assistant", "content": "Nothing to answer."}))
    assert (used(world), used(world, Metric.RUNS)) == (0, 1)


def test_a_run_that_crosses_into_the_next_month_is_counted_in_the_one_it_began_in() -> None:
    world = free()
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    world.clock.at = midnight - timedelta(minutes=1)
    first = [*again(Usage(1_000, 50)), lambda: setattr(world.clock, "at", midnight)]
    world.model.turns = [first, [*ended(usage=Usage(1_000, 50))]]
    world.run(asked(user("a")))
    assert used(world) == 0
    assert world.store.usage.taken[ADA, Metric.MODEL_SPEND, "2026-11"] == price(world, *[Usage(1_000, 50)] * 2)


def test_a_run_that_nobody_goes_on_with_keeps_what_it_reserved() -> None:
    world = free()

    async def begin() -> None:
        await world.service.start(caller(), asked(user("a"), run="r1"))

    asyncio.run(begin())
    taken = used(world)
    assert taken > 0
    world.clock.at = datetime(2026, 11, 21, 13, tzinfo=UTC)
    key = RunKey(ADA, RunId("r1"))
    assert world.inspector().look(key) is None
    assert (used(world), used(world, Metric.RUNS)) == (taken, 1)
    run = world.store.run(key)
    assert run is not None
    assert run.cost_micros is None


_USAGES = st.builds(Usage, st.integers(0, 60_000), st.integers(0, 8_192))


@settings(max_examples=60)
@given(
    runs=st.lists(st.lists(_USAGES, min_size=1, max_size=4), min_size=1, max_size=6),
    left=st.integers(1, SPEND),
    lost=st.sets(st.integers(0, 40), max_size=3),
)
def test_random_histories_of_runs_stay_within_the_plan_and_balance(
    runs: Sequence[Sequence[Usage]], left: int, lost: set[int]
) -> None:
    """Whatever runs use and wherever the store fails: what is taken is what they cost, and what open ones reserved."""
    calls = iter(range(10**6))
    store = MemoryRuns(
        fail=lambda name: StorageUnavailable("lost") if name == "start" and next(calls) in lost else None
    )
    world = free(left=left, store=store)
    for n, usages in enumerate(runs):
        world.model.turns = [*[again(usage) for usage in usages[:-1]], [*ended(usage=usages[-1])]]
        with suppress(QuotaExceeded, StorageUnavailable):
            asyncio.run(world.go(asked(user("a"), run=f"r{n}", thread=f"t{n}")))
    found = list(world.store.runs_by_key.values())
    costs = [run.cost_micros or 0 for run in found]
    assert used(world) == SPEND - left + sum(costs)
    assert used(world, Metric.RUNS) == len(found)
    assert all(run.finished_at for run in found)
