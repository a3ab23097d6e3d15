"""Subagents' parts of their agents' days: nothing stays taken for a call that was not made, however it ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from karma.billing.allowances import Reservation
from karma.core.errors import StorageUnavailable
from karma.core.ids import AgentId, RunId
from karma.models.budgets import Spent
from karma.models.domain import Target
from karma.models.ports import ModelRequest
from karma.runs.domain import RunKey, RunStatus
from karma.runs.plan import RunLimits
from karma.runs.reservations import agent_day as day_of_agent
from karma.runs.reservations import first_reservations
from karma.runs.spending import Spending
from karma.runs.subagents.day import AgentDay
from karma.runs.subagents.steps import Definition
from tests.fakes.runs import KeptFrames, MemoryRuns, SetClock, caller, ended, text
from tests.support.plans import NOW, allowance, allowances
from tests.support.run_world import user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_stopped_subagents import go, in_day
from tests.unit.runs.test_subagents import asks, lead

pytestmark = pytest.mark.req("R-C-05")
ADA, SCOUT = caller().user_id, AgentId("scout")


class Days(MemoryRuns):
    """Calls `then` with the number of the take behind each that was stored, before it is answered."""

    def __init__(self, then: Callable[[int], object]) -> None:
        super().__init__()
        self.then = then
        self.takes = 0

    def take(self, reservation: Reservation, *, token: str | None = None) -> None:
        self.takes += 1
        super().take(reservation, token=token)
        self.then(self.takes)


def lost(number: int) -> None:
    raise StorageUnavailable(f"the answer to {number} was lost")


def day_of(store: MemoryRuns) -> AgentDay:
    """Return the day of a subagent whose agent has a limit."""
    clock = SetClock(NOW)
    _, reserved = first_reservations(allowance(ADA), None, day_of_agent(AgentId("lead"), NOW, ()))
    spending = Spending(RunKey(ADA, RunId("r1")), reserved, allowances=allowances(), store=store, clock=clock)
    scout = Definition(
        agent_id=SCOUT,
        version=1,
        name="scout",
        call_id="c1",
        parent="",
        path=(AgentId("lead"), SCOUT),
        system="",
        target=Target(model="claude-test"),
        max_tokens=1_000,
        max_turns=1,
        day_cost_micros=10**9,
    )
    return AgentDay(spending, store, clock, user_id=ADA, of=scout)


def call() -> ModelRequest:
    return ModelRequest(target=Target(model="claude-test"), system=("look",), messages=(), tools=(), max_tokens=1_000)


def taken(store: MemoryRuns) -> int:
    return sum(store.usage.days.values())


def end(store: MemoryRuns, day: AgentDay) -> None:
    """End the run of a subagent that has spent nothing."""
    of_day = day.counted(Spent())
    assert of_day is not None
    store.settle(of_day)


@pytest.mark.threads
@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_taken_while_the_run_is_cancelled_is_given_back_at_its_end(is_lost: bool) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def then(number: int) -> None:
        if number == 1:
            has_begun.set()
            assert may_end.wait(5)
            if is_lost:
                lost(number)

    store = Days(then)
    day = day_of(store)

    async def cancelled() -> None:
        taking = asyncio.create_task(day.reserve(call()))
        await asyncio.to_thread(has_begun.wait, 5)
        taking.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with suppress(asyncio.CancelledError, StorageUnavailable):
            await taking
        await day.settle()

    asyncio.run(cancelled())
    assert taken(store) > 0
    end(store, day)
    assert taken(store) == 0


def test_what_was_refused_behind_a_lost_answer_is_not_given_back() -> None:
    class Refusing(Days):
        def take(self, reservation: Reservation, *, token: str | None = None) -> None:
            self.takes += 1
            if self.takes == 1:
                lost(1)
            raise reservation.days[0].refusal(reservation.amount, taken=10**9)

    store = Refusing(lost)
    day = day_of(store)

    async def asked() -> None:
        with pytest.raises(StorageUnavailable):
            await day.reserve(call())
        await day.settle()
        await day.settle()

    asyncio.run(asked())
    assert store.takes == 2
    end(store, day)
    assert taken(store) == 0


def test_what_has_no_answer_yet_is_not_given_back() -> None:
    store = Days(lost)
    day = day_of(store)

    async def asked() -> None:
        for ask in (day.reserve(call()), day.settle()):
            with pytest.raises(StorageUnavailable):
                await ask
        before = taken(store)
        await day.give_back()
        assert taken(store) == before > 0, "nobody knows of what"
        store.then = lambda _: None
        await day.give_back()

    asyncio.run(asked())
    assert taken(store) == 0


def scouting(store: MemoryRuns) -> tuple[SubagentWorld, str]:
    """Return a world whose run asks a scout that answers without an end, and the id of its agent, which has a limit."""
    world = SubagentWorld(store=store)
    scout = world.agent("scout", day_cost_micros=10**9)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()])
    world.script("scout", [*text("half"), lambda: asyncio.Event().wait()])
    return world, scout.id


def test_a_run_that_ends_with_a_lost_answer_asks_again_and_gives_back() -> None:
    store = Days(lambda number: lost(number) if number == 1 else None)
    world, scout = scouting(store)
    assert go(world, lead(user("go", "u1"))) is RunStatus.FAILED
    assert (store.takes, in_day(world, scout)) == (2, 0)


def test_a_run_that_is_handed_over_gives_back_what_its_calls_have_taken() -> None:
    store = Days(lambda _: None)
    world, scout = scouting(store)
    world.limits = RunLimits(reserve_s=0)

    async def handed_over() -> None:
        request, deadline = lead(user("go", "u1")), world.clock.now() + timedelta(seconds=0.5)
        started = await world.service.start(caller(), request, deadline=deadline)
        await started.execute(KeptFrames())

    asyncio.run(handed_over())
    assert world.stored(lead(user("go"))).status is RunStatus.RUNNING
    assert world.executions.requested
    assert (store.takes, in_day(world, scout)) == (1, 0)
