"""No account holds more processes that execute runs than its share, whatever dies, and no run that waits is lost."""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from karma.core.ids import RunId, UserId
from karma.core.leases import Lease
from karma.runs.domain import LEASE, Run, RunKey, RunStatus
from karma.runs.places import LEAST, PLACES, SHORT_WORK, NoPlace, Places
from karma.runs.watchdog import BEGIN_WITHIN, GIVE_UP_AFTER, Inspector
from tests.fakes.leases import MemoryLeases
from tests.fakes.runs import RequestedExecutions, SetClock
from tests.support.lost_runs import KEY, Life, World, cancel, live, pause
from tests.unit.runs.test_background import begin_in_background, execute_what_is_asked_for

USER = KEY.user_id


def places(world: World, *, workers: int = 50, plan: str = "free") -> Places:
    return Places(world.store.leases, world.clock, plan_of=lambda _: plan, executions=world.executions, workers=workers)


def other(world: World, name: str) -> Run:
    run = world.store.run(KEY)
    assert run is not None
    return replace(run, key=RunKey(USER, RunId(name)))


def fill(world: World) -> None:
    for name in ("x", "y"):
        places(world).take(other(world, name), epoch=1, until=None)


class TestTheShare:
    @pytest.mark.parametrize(("plan", "workers"), [*((each, 50) for each in PLACES), ("enterprise", 2), ("free", 5)])
    def test_is_the_plan_s_and_less_than_half(self, plan: str, workers: int) -> None:
        world = World()
        begin_in_background(world)
        given, taken = places(world, plan=plan, workers=workers), 0
        with suppress(NoPlace):
            while True:
                given.take(other(world, f"r{taken}"), epoch=1, until=None)
                taken += 1
        assert taken == min(PLACES[plan], max(1, (workers - 1) // 2))

    def test_of_short_work_is_its_own(self) -> None:
        world = World()
        begin_in_background(world)
        fill(world)
        given = places(world)
        with given.short_work(USER), given.short_work(USER), pytest.raises(NoPlace), given.short_work(USER):
            pass
        assert world.store.leases.held(SHORT_WORK, USER, world.clock.now()) == 0


class TestARunThatWaits:
    def test_is_executed_when_a_place_is_given_back(self) -> None:
        world = World()
        begin_in_background(world)
        held = [places(world).take(other(world, name), epoch=1, until=None) for name in ("x", "y")]
        assert not execute_what_is_asked_for(world)
        assert not world.executions.requested
        places(world).leave(held[0])
        assert list(world.executions.woken) == [KEY]
        execute_what_is_asked_for(world)
        assert world.log[-1].terminal
        assert world.store.leases.held(LEAST, USER, world.clock.now()) == 1

    def test_is_not_taken_for_lost(self) -> None:
        world = World()
        begin_in_background(world)
        self.wait(world, BEGIN_WITHIN * 3)

    def test_is_not_taken_for_lost_when_it_was_at_work(self) -> None:
        world = World()
        begin_in_background(world)
        life = Life(12)
        live(lambda: world.executor(life).go_on(KEY))
        assert life.is_dead
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        world.executions.requested.clear()
        self.wait(world, GIVE_UP_AFTER * 4)

    def wait(self, world: World, long: timedelta) -> None:
        inspector = Inspector(world.store, world.executions, world.clock)
        until, looks = world.clock.now() + long, 0
        while world.clock.now() < until:
            world.store.leases = world.store.leases if looks else MemoryLeases()
            fill(world) if not looks else None
            again_in = inspector.look(KEY)
            assert again_in is not None
            for name in ("x", "y"):  # they go on for ever
                places(world).take(other(world, name), epoch=looks + 2, until=None)
            while world.executions.requested:
                world.executions.requested.pop()
                assert not live(lambda: world.executor(Life(None)).go_on(KEY))
            looks += 1
            world.clock.pass_by(min(again_in, timedelta(minutes=15)))
        assert looks < 40
        world.store.leases = MemoryLeases()
        live(lambda: world.executor(Life(None)).go_on(KEY))
        run = world.store.run(KEY)
        assert run is not None
        assert run.status is RunStatus.FINISHED

    def test_can_be_paused_and_cancelled(self) -> None:
        for control, status in ((pause, RunStatus.PAUSED), (cancel, RunStatus.CANCELLED)):
            world = World()
            begin_in_background(world)
            fill(world)
            assert not execute_what_is_asked_for(world)
            control(world, Life(None))
            run = world.store.run(KEY)
            assert run is not None
            assert run.status is status

    def test_that_is_not_to_be_executed_any_more_lets_the_next_one_go_first(self) -> None:
        world = World()
        begin_in_background(world)
        held = places(world).take(other(world, "x"), epoch=1, until=None)
        places(world).take(other(world, "y"), epoch=1, until=None)
        for name in ("a", "b"):
            with pytest.raises(NoPlace):
                places(world).take(other(world, name), epoch=1, until=None)
        places(world).leave(held)
        ((key, name),) = world.executions.woken.items()
        places(world).pass_over(key, name)
        assert [each.run_id for each in world.executions.woken] == ["a", "b"]


@pytest.mark.parametrize("after", [False, True])
def test_no_death_holds_a_place_longer_than_a_process_can_live(after: bool) -> None:
    for step in range(1, 200):
        world = World()
        world.leases_are_steps = True
        begin_in_background(world)
        life = Life(step, after=after)
        live(lambda life=life, world=world: world.executor(life).go_on(KEY))  # type: ignore[misc]
        if not life.is_dead:
            return
        assert world.store.leases.held(LEAST, USER, world.clock.now()) <= 1
        world.clock.pass_by(LEASE * 2)
        live(lambda world=world: world.executor(Life(None)).go_on(KEY))  # type: ignore[misc]
        held = world.store.leases.held(LEAST, USER, world.clock.now())
        assert held == 0 or world.log[-1].epoch == 1, step  # of one that has ended, the watchdog frees it
        world.clock.pass_by(LEAST.longest)
        assert world.store.leases.held(LEAST, USER, world.clock.now()) == 0, step


@dataclass
class Fleet:
    """Processes that execute runs of many accounts, by ticks of a second; a message takes one tick."""

    workers: int
    clock: SetClock = field(default_factory=SetClock)
    leases: MemoryLeases = field(default_factory=MemoryLeases)
    executions: RequestedExecutions = field(default_factory=RequestedExecutions)
    queue: deque[RunKey] = field(default_factory=deque)
    began: dict[RunKey, int] = field(default_factory=dict)
    handled: int = 0


@pytest.mark.parametrize("doubled", [False, True])
def test_an_honest_run_begins_at_once_beside_two_hundred_of_one_account(seed: int, doubled: bool) -> None:
    chance, world, fleet = random.Random(seed), World(), Fleet(50)
    begin_in_background(world)
    like = world.store.run(KEY)
    assert like is not None
    given = Places(
        fleet.leases, fleet.clock, plan_of=lambda _: "free", executions=fleet.executions, workers=fleet.workers
    )
    hostile = [RunKey(UserId("evil"), RunId(f"e{each:03d}")) for each in range(200)]
    honest = {RunKey(UserId(f"u{each}"), RunId(f"h{each}")): chance.randrange(60) for each in range(30)}
    runs = {
        key: replace(like, key=key, created_at=like.created_at + timedelta(seconds=at))
        for at, key in enumerate([*hostile, *honest])
    }
    fleet.queue.extend(hostile * (2 if doubled else 1))
    busy: list[tuple[int, Lease]] = []
    ends: list[bool] = []
    for tick in range(3_000):
        fleet.queue.extend(key for key, at in honest.items() if at == tick)
        for end, lease in [each for each in busy if each[0] <= tick]:
            busy.remove((end, lease))
            if not ends:
                ends = chance.sample([True] * 9 + [False], 10)
            if ends.pop():  # else its process died: one of ten, so that no dice leave a place to the dead for the hour
                given.leave(lease)
        fleet.queue.extend(fleet.executions.requested)
        fleet.executions.requested.clear()
        if tick % 300 == 299:  # the watchdogs'
            fleet.queue.extend(key for key in runs if key not in fleet.began and key not in honest)
        for _ in range(min(len(fleet.queue), fleet.workers - len(busy))):
            key = fleet.queue.popleft()
            fleet.handled += 1
            if key in fleet.began:
                given.pass_over(key, fleet.executions.woken.get(key, ""))
                continue
            try:
                lease = given.take(runs[key], epoch=1, until=None)
            except NoPlace:
                continue
            fleet.began[key] = tick
            busy.append((tick + (20 if key in hostile else 3), lease))
        assert len([each for each, lease in busy if lease.holder == "evil"]) <= PLACES["free"]
        fleet.clock.pass_by(timedelta(seconds=1))
    assert max(fleet.began[key] - at for key, at in honest.items()) <= 10
    assert sum(key in fleet.began for key in hostile) > 20
    assert fleet.handled < 200 * 16
