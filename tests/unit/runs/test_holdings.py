"""The place of a run whose process was killed is free once somebody else has seen to it."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from karma.runs.domain import LEASE
from karma.runs.places import LEAST
from karma.runs.watchdog import Inspector, Watch, attend
from tests.fakes.runs import RememberedWatchdog
from tests.support.lost_runs import KEY, Life, World, begin, live
from tests.support.seeds import dice
from tests.unit.runs.test_background import begin_in_background


def places(world: World) -> int:
    return world.store.leases.held(LEAST, KEY.user_id, world.clock.now())


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


@pytest.mark.parametrize("again_after", [False, True])
def test_whoever_dies_taking_over_leaves_no_place(again_after: bool) -> None:
    """Two deaths, the second at any call of the process that takes the run over: the next looks find all of it."""
    at = dice("the first death").randint(8, 20)
    for step in range(1, 200):
        world, second = World(), Life(step, after=again_after)
        world.leases_are_steps = True
        begin(world, Life(at))
        world.clock.pass_by(LEASE + timedelta(seconds=15))
        if not live(lambda life=second, world=world: world.executor(life).go_on(KEY)):  # type: ignore[misc]
            raise AssertionError("no place")
        if not second.is_dead:
            assert places(world) == 0
            return
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        look(world)
        assert places(world) == 0, step
        assert world.log[-1].terminal


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
