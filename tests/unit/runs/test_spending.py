"""Runs within what their owner's plan allows a month: none begins or goes on without room for its next call."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Metric, Reservation, period_of
from karma.billing.plans import PlanName
from karma.core.errors import Forbidden, QuotaExceeded, StorageUnavailable
from karma.core.ids import RunId
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.models.prices import cost, stopped_usage
from karma.runs.domain import Run, RunKey, RunStatus
from karma.runs.spending import tokens_of
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
    world = free([*text("Done"), *ended()])
    with pytest.raises(Forbidden) as refused:
        asyncio.run(world.service.start(replace(caller(), email_verified=False), asked(user("hi"))))
    assert refused.value.code == "EMAIL_NOT_VERIFIED"
    assert (world.store.usage.taken, world.store.runs_by_key) == ({}, {})


def test_the_last_run_of_the_month_passes_and_the_next_is_refused_before_anything_is_recorded() -> None:
    world = free([*text("Done"), *ended()], [*text("Done"), *ended()])
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


def reserved(world: World, thread: str) -> int:
    """Run one turn in a thread, and return what the run has reserved in all."""
    request = asked(user("a", f"u-{thread}"), run=f"r-{thread}", thread=thread)
    world.run(request)
    assert world.stored(request).status is RunStatus.FINISHED
    return int(world.stored(request).reserved_micros)


def test_a_run_that_may_ask_again_reserves_a_second_call_where_that_is_little_of_the_plan() -> None:
    class Extending(MemoryRuns):
        def extend(self, key: RunKey, reservation: Reservation) -> None:
            raise AssertionError(reservation)

    small, large = (
        free([*text("Done"), *ended()]),
        World(*[again(Usage(10, 5))] * 8, [*text("Done"), *ended()], store=Extending()),
    )
    one = reserved(small, "t1")
    assert reserved(large, "t1") == 2 * one
    assert 0 < used(large) < one
    without = World([*text("Done"), *ended()])
    without.tools = []
    assert reserved(without, "t1") <= one


def test_a_run_begins_with_room_for_one_call_also_where_two_were_little() -> None:
    world = World([*text("Done"), *ended()], [*text("Done"), *ended()])
    world.plan = PlanName.TEAM
    two = reserved(world, "t1")
    others = replace(limited(ADA, Metric.MODEL_SPEND, 0), amount=100 * SPEND - two * 3 // 4, allowed=None)
    world.store.usage.extend(others)
    assert reserved(world, "t2") == two // 2


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
    (question,) = events[-1]["outcome"]["interrupts"]
    assert (question["reason"], question["metadata"]["budget"]) == ("budget_exceeded", "plan")
    calls = len(world.model.requests)
    assert calls == 2
    spent = price(world, *[dear] * calls)
    assert used(world) == SPEND - 1_000_000 + spent <= SPEND
    stored = world.stored(request)
    assert (stored.status, stored.turns, stored.cost_micros) == (RunStatus.INTERRUPTED, calls, spent)


def test_a_client_from_before_1_0_is_told_of_an_error_when_the_money_ends() -> None:
    world = free(*[again(Usage(30_000, 2_000))] * 10, left=1_000_000)
    events = world.run(asked(user("a"), protocolVersion=None))
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "QUOTA_EXCEEDED")


def test_who_buys_more_in_the_middle_of_a_run_goes_on() -> None:
    dear = Usage(30_000, 2_000)
    world = free(left=1_000_000)
    world.model.turns = [
        again(dear),
        [lambda: setattr(world, "plan", PlanName.PRO), *again(dear)],
        [*text("Done"), *ended()],
    ]
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


def test_a_call_that_is_stopped_counts_what_it_has_said() -> None:
    world = free([*text("slow"), lambda: asyncio.Event().wait()])
    world.limits = type(world.limits)(run_timeout_s=0.05, reserve_s=0)
    request = asked(user("a"))
    world.run(request)
    said = stopped_usage(world.model.requests[0], len("slow"))
    assert used(world) == price(world, said) == world.stored(request).cost_micros
    assert world.stored(request).spent.tokens == tokens_of(said)


def test_a_run_without_a_model_call_costs_nothing() -> None:
    world = free()
    world.run(asked({"id": "a1", "role": "assistant", "content": "Nothing to answer."}))
    assert (used(world), used(world, Metric.RUNS)) == (0, 1)


def test_a_run_that_crosses_into_the_next_month_is_counted_in_the_one_it_began_in() -> None:
    world = free()
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    world.clock.at = midnight - timedelta(minutes=1)
    first = [*again(Usage(1_000, 50)), lambda: setattr(world.clock, "at", midnight)]
    world.model.turns = [first, [*text("Done"), *ended(usage=Usage(1_000, 50))]]
    world.run(asked(user("a")))
    assert used(world) == 0
    assert world.store.usage.taken[ADA, Metric.MODEL_SPEND, "2026-11"] == price(world, *[Usage(1_000, 50)] * 2)


def test_a_run_that_nobody_goes_on_with_counts_the_call_that_its_process_may_have_made() -> None:
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
    assert run.cost_micros == taken


class Unanswered(MemoryRuns):
    """Stores extensions, and gives no answer to those that are `lost` by their number."""

    def __init__(self, lost: Collection[int], fail: Callable[[str], Exception | None] = lambda _: None) -> None:
        super().__init__(fail)
        self.lost = lost
        self.extensions = 0
        self.goes_away = self.is_away = False
        """Away no run can be read."""

    def extend(self, key: RunKey, reservation: Reservation) -> None:
        super().extend(key, reservation)
        self.extensions += 1
        if self.extensions in self.lost:
            self.is_away = self.goes_away
            raise StorageUnavailable("the answer was lost")

    def run(self, key: RunKey) -> Run | None:
        if self.is_away:
            raise StorageUnavailable("away")
        return super().run(key)


@pytest.mark.parametrize("number", [1, 2])
def test_what_was_reserved_without_an_answer_is_given_back_at_the_end(number: int) -> None:
    store = Unanswered({number})
    world = World(*[again(Usage(60_000, 8_000))] * 12, [*text("Done"), *ended()], store=store)
    request = asked(user("a"))
    world.run(request)
    run = world.stored(request)
    assert (store.extensions, run.error_code) == (number, "STORAGE_UNAVAILABLE")
    assert used(world) == run.cost_micros
    assert run.reserved_micros > run.cost_micros


def test_a_run_of_which_nobody_can_read_what_it_has_reserved_is_left_to_another_process() -> None:
    store = Unanswered({1})
    world = World(*[again(Usage(60_000, 8_000))] * 12, [*text("Done"), *ended()], store=store)
    request, store.goes_away = asked(user("a")), True
    frames = asyncio.run(world.go(request))
    assert not {"RUN_ERROR", "RUN_FINISHED"} & {event["type"] for event in frames.events}
    store.is_away = False
    assert (store.extensions, world.stored(request).status) == (1, RunStatus.RUNNING)


_USAGES = st.builds(Usage, st.integers(0, 60_000), st.integers(0, 8_192))


@settings(max_examples=60)
@given(
    runs=st.lists(st.lists(_USAGES, min_size=1, max_size=4), min_size=1, max_size=6),
    left=st.integers(1, SPEND),
    lost=st.sets(st.integers(0, 40), max_size=3),
    unanswered=st.sets(st.integers(1, 8), max_size=3),
)
def test_random_histories_of_runs_stay_within_the_plan_and_balance(
    runs: Sequence[Sequence[Usage]], left: int, lost: set[int], unanswered: set[int]
) -> None:
    """Whatever runs use and wherever the store fails: what is taken is what they cost, and what open ones reserved."""
    calls = iter(range(10**6))
    store = Unanswered(
        unanswered,
        fail=lambda name: StorageUnavailable("lost") if name == "start" and next(calls) in lost else None,
    )
    world = free(left=left, store=store)
    for n, usages in enumerate(runs):
        world.model.turns = [*[again(usage) for usage in usages[:-1]], [*text("Done"), *ended(usage=usages[-1])]]
        with suppress(QuotaExceeded, StorageUnavailable):
            asyncio.run(world.go(asked(user("a"), run=f"r{n}", thread=f"t{n}")))
    found = list(world.store.runs_by_key.values())
    costs = [run.cost_micros or 0 for run in found]
    assert used(world) == SPEND - left + sum(costs)
    assert used(world, Metric.RUNS) == len(found)
    assert all(run.finished_at for run in found)
