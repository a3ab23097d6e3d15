"""A killed process's stream and place of a run are free once somebody else has seen to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.core.leases import Lease
from karma.identity.limits import OPEN_STREAMS
from karma.runs.domain import LEASE, RunPause, RunStatus
from karma.runs.pause_events import run_paused
from karma.runs.places import LEAST
from karma.runs.watchdog import Inspector, Watch, attend
from karma.runs.wishes import Wish
from tests.fakes.runs import KeptFrames, RememberedWatchdog, caller
from tests.support.lost_runs import KEY, Life, World, cancel, live, pause
from tests.support.run_world import asked, user
from tests.support.seeds import dice
from tests.unit.runs.test_background import begin_in_background

USER = KEY.user_id
ENQUEUES: dict[str, Any] = {"forwardedProps": {"multitask_strategy": "enqueue"}}


def stream(world: World, life: Life, *, again: bool = False) -> Lease:
    """Begin a run as the stream's function does, in a process that may die; return the lease of its stream."""
    now = world.clock.now()
    lease = world.store.leases.take(OPEN_STREAMS, USER, now=now, until=now + OPEN_STREAMS.longest, token="the stream")
    request = asked(user("go", "u1"), run="r1")
    service = world.service(life)

    async def work() -> None:
        try:
            started = await service.start(caller(), request, stream=lease.token)
            await started.execute(KeptFrames())
        finally:
            if not life.is_dead:
                life.before()
                world.store.leases.give_back(lease)

    live(work)
    return lease


def streams(world: World) -> int:
    return world.store.leases.held(OPEN_STREAMS, USER, world.clock.now())


def places(world: World) -> int:
    return world.store.leases.held(LEAST, USER, world.clock.now())


def look(world: World, life: Life | None = None) -> None:
    """Let the watchdog look at the run until it asks for no other look, and do what it asks for."""
    inspector = Inspector(world.store, world.executions, world.clock)
    watch: Watch | None = Watch(KEY, 0)
    while watch is not None:
        again = RememberedWatchdog()
        attend(inspector, again, watch)
        while world.executions.requested:
            world.executions.requested.pop()
            assert live(lambda: world.executor(life or Life(None)).go_on(KEY)), "it finds a place"
        watch = Watch(KEY, again.chains[0]) if again.armed else None
        world.clock.pass_by(again.armed[0][1] if again.armed else timedelta())


def taken_over(world: World) -> None:
    assert live(lambda: world.executor(Life(None)).go_on(KEY))


def moved_on(world: World) -> None:
    Inspector(world.store, world.executions, world.clock).is_over(KEY)


WAYS: dict[str, Callable[[World], object]] = {
    "the watchdog": look,
    "a take-over": taken_over,
    "the next message": moved_on,
    "a cancel": cancel,
    "a pause": pause,
}


@pytest.mark.fault("F-22b")
@pytest.mark.parametrize("way", list(WAYS))
def test_the_stream_of_a_process_that_died_is_free_after(way: str) -> None:
    after = dice(way).random() < 0.5
    for step in range(1, 200):
        world, life = World(), Life(step, after=after)
        stream(world, life)
        if not life.is_dead:
            assert streams(world) == 0
            return
        assert streams(world) == 1, step
        world.clock.pass_by(LEASE + timedelta(seconds=15))
        if world.log and not world.log[-1].terminal:
            WAYS[way](world)
        else:  # it never began, or has ended: nobody can tell it from one whose client reads slowly
            look(world)
            assert streams(world) == 1, step
            world.clock.pass_by(OPEN_STREAMS.longest)
        assert streams(world) == 0, step


@pytest.mark.parametrize("again_after", [False, True])
def test_whoever_dies_taking_over_leaves_no_place_and_a_stream_for_its_time_at_the_most(again_after: bool) -> None:
    """Two deaths, the second at any call of the process that takes the run over: the next looks find all of it."""
    at = dice("the first death").randint(8, 20)
    for step in range(1, 200):
        world, second = World(), Life(step, after=again_after)
        world.leases_are_steps = True
        stream(world, Life(at))
        world.clock.pass_by(LEASE + timedelta(seconds=15))
        if not live(lambda life=second, world=world: world.executor(life).go_on(KEY)):  # type: ignore[misc]
            raise AssertionError("no place")
        if not second.is_dead:
            assert (streams(world), places(world)) == (0, 0)
            return
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        look(world)
        assert places(world) == 0, step
        assert world.log[-1].terminal
        world.clock.pass_by(OPEN_STREAMS.longest)  # it died before it closed what it had found lost
        assert streams(world) == 0, step


@pytest.mark.parametrize("after", [False, True])
def test_the_place_of_a_process_that_died_is_its_run_s_also_before_the_claim(after: bool) -> None:
    for step in range(1, 200):
        world, life = World(), Life(step, after=after)
        world.leases_are_steps = True
        begin_in_background(world)
        world.executions.requested.clear()
        live(lambda life=life, world=world: world.executor(life).go_on(KEY))  # type: ignore[misc]
        if not life.is_dead:
            return
        assert places(world) <= 1
        world.clock.pass_by(LEASE + timedelta(seconds=15))
        most = []
        if not world.log[-1].terminal:
            live(lambda world=world: world.executor(Life(None)).go_on(KEY))  # type: ignore[misc]
            most.append(places(world))
        look(world)
        assert (places(world), world.log[-1].terminal) == (0, True), step
        assert not any(most), step


class TestALateProcess:
    def test_that_gives_its_stream_back_frees_nobody_else_s(self) -> None:
        world = World()
        lease = stream(world, Life(12))
        world.clock.pass_by(LEASE + timedelta(seconds=15))
        look(world)
        now = world.clock.now()
        for name in range(OPEN_STREAMS.places):
            world.store.leases.take(OPEN_STREAMS, USER, now=now, until=now + timedelta(minutes=5), token=f"{name}")
        world.store.leases.give_back(lease)
        assert streams(world) == OPEN_STREAMS.places

    def test_that_meets_another_in_its_run_s_place_leaves_it_that(self) -> None:
        """One message comes twice: both processes take the one place, and the one that claims the run keeps it."""
        held: list[int] = []
        for step in range(1, 40):
            world, late = World(), Life(None)
            begin_in_background(world)
            world.executions.requested.clear()
            early = Life(14)  # it has claimed the run, and works on it until it is killed
            world.leases_are_steps = True
            late.meets_at = step
            late.meets = lambda world=world, early=early: _first(world, early)
            live(lambda world=world, late=late: world.executor(late).go_on(KEY))  # type: ignore[misc]
            held.append(places(world) if not world.log[-1].terminal else 1)
        assert set(held) == {1}


def _first(world: World, life: Life) -> None:
    """Let another process go on with the run, beside the loop of this one."""
    other = threading.Thread(target=lambda: live(lambda: world.executor(life).go_on(KEY)))
    other.start()
    other.join()


class TestALivingStream:
    """It counts for as long as it is open, whatever becomes of the run: ten are ten."""

    def start(self, world: World, *, run: str, wishes_pause: bool = False, executes: bool = False) -> None:
        now = world.clock.now()
        world.store.leases.take(OPEN_STREAMS, USER, now=now, until=now + OPEN_STREAMS.longest, token="the stream")
        request = asked(user("go", "u1") if run == "r1" else user("more", "u2"), run=run, **ENQUEUES)

        async def work() -> None:
            started = await world.service(Life(None)).start(caller(), request, stream="the stream")
            if wishes_pause:
                now, tail = world.clock.now(), world.log[-1]
                world.store.wish(KEY, Wish.PAUSE, at=now)
                world.store.pause(replace(tail, n=tail.n + 1, events=(run_paused(KEY.run_id).data,)), RunPause(at=now))
            elif executes:
                await started.execute(KeptFrames())

        live(work)

    def test_that_follows_the_run_of_an_equal_request_is_not_closed(self) -> None:
        for way in WAYS.values():
            world = World()
            begin_in_background(world, request=asked(user("go", "u1"), run="r1", **ENQUEUES))
            self.start(world, run="r1")
            world.clock.pass_by(LEASE + timedelta(seconds=15))
            way(world)
            assert streams(world) == 1

    @pytest.mark.parametrize("ends", ["is cancelled", "is executed"])
    def test_that_waits_for_its_run_s_turn_is_not_closed(self, ends: str) -> None:
        world, waits = World(), KEY._replace(run_id=RunId("r2"))
        begin_in_background(world, request=asked(user("go", "u1"), run="r1", **ENQUEUES))
        self.start(world, run="r2")
        run = world.store.run(waits)
        assert run is not None
        assert run.status is RunStatus.QUEUED
        if ends == "is cancelled":
            world.control(Life(None)).cancel(USER, waits.run_id)
        else:
            for key in (KEY, waits):
                world.executions.requested.clear()
                live(lambda key=key: world.executor(Life(None)).go_on(key))  # type: ignore[misc]
        Inspector(world.store, world.executions, world.clock).look(waits, chain=0)
        run = world.store.run(waits)
        assert run is not None
        assert run.status in {RunStatus.CANCELLED, RunStatus.FINISHED}
        assert streams(world) == 1

    @pytest.mark.parametrize("wishes_pause", [False, True])
    def test_whose_client_reads_slowly_is_not_closed_when_its_run_has_ended_or_is_paused(
        self, wishes_pause: bool
    ) -> None:
        world = World()
        self.start(world, run="r1", wishes_pause=wishes_pause, executes=True)
        run = world.store.run(KEY)
        assert run is not None
        assert run.status is (RunStatus.PAUSED if wishes_pause else RunStatus.FINISHED)
        inspector = Inspector(world.store, world.executions, world.clock)
        inspector.look(KEY, chain=0)
        if wishes_pause:
            cancel(world)
            inspector.look(KEY, chain=0)
        assert streams(world) == 1
