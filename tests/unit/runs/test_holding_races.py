"""Nobody frees the place of a run that a living process has: not who is slow, reads an old tail or loses a write."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from agent_stream import execution, services
from karma.core.errors import StorageThrottled
from karma.core.ids import RunId
from karma.models.domain import ModelNotConfigured, Target
from karma.runs.domain import LEASE, OwnershipLost, RunKey, RunStatus
from karma.runs.holdings import free_place
from karma.runs.places import LEAST, NoPlace
from karma.runs.watchdog import Inspector
from tests.support.lost_runs import KEY, Handle, Life, Teller, World, cancel, live, pause, resume
from tests.unit.runs.test_background import begin_in_background
from tests.unit.runs.test_places import other
from tests.unit.runs.test_places import places as places_of

AT_WORK = 14
"""Step of a process at which it has claimed its run and works on it: one that dies then looks alive for its lease."""


def places(world: World) -> int:
    return world.store.leases.held(LEAST, KEY.user_id, world.clock.now())


def execute(world: World, life: Life) -> None:
    live(lambda: world.executor(life).go_on(KEY))


def inspector(world: World, life: Life) -> Inspector:
    return Inspector(Handle(world.store, life), Handle(world.executions, life), world.clock)


OTHERS: dict[str, Callable[[World, Life], object]] = {
    "a take-over": execute,
    "a pause": pause,
    "a cancel": cancel,
    "the next message": lambda world, life: inspector(world, life).is_over(KEY),
}


def is_claimed(world: World) -> None:
    """Let a process claim the run that has read the wishes before there were any."""
    wished = world.store.wished.pop(KEY, {})
    execute(world, Life(AT_WORK))
    world.store.wished[KEY].update(wished)


def goes_on(world: World) -> None:
    """Let the process go on that had the run before, and was only slow."""
    tail, lease_until = world.log[-1], world.clock.now() + LEASE
    if tail.epoch == 1:
        with suppress(OwnershipLost):
            world.store.append(replace(tail, n=tail.n + 1, events=(), shows=None, lease_until=lease_until))


def begun() -> World:
    world = World()
    begin_in_background(world)
    world.executions.requested.clear()
    world.leases_are_steps = True
    return world


def slow() -> World:
    world = begun()
    execute(world, Life(AT_WORK))
    assert world.log[-1].epoch == 1
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    return world


@pytest.mark.fault("F-22b")
@pytest.mark.parametrize("way", list(OTHERS))
@pytest.mark.parametrize(("world_of", "meeting"), [(begun, is_claimed), (slow, goes_on)], ids=["claimed", "slow"])
def test_no_interleaving_frees_the_place_of_a_living_run_or_keeps_that_of_another(
    world_of: Callable[[], World], meeting: Callable[[World], None], way: str
) -> None:
    kept = 0
    for step in range(1, 200):
        world, life = world_of(), Life(None)
        life.meets_at = step
        # Beside the loop of this process.
        life.meets = lambda world=world: _beside(lambda: meeting(world))
        OTHERS[way](world, life)
        if life.steps < step:
            assert kept, "no step came between"
            return
        run, tail = world.store.run(KEY), world.log[-1]
        assert run is not None
        if run.status is RunStatus.RUNNING:
            assert not tail.is_expired(world.clock.now())
            assert places(world) == 1, step
            kept += 1
            claim = next(each for each in world.log if each.epoch == tail.epoch)
            _returns(world, term=claim.epoch)
            assert places(world) == 0, "its own return frees it"
        else:
            assert places(world) == 0, step


def test_a_run_that_is_resumed_has_its_place_whoever_comes_late_with_the_pause() -> None:
    """The watchdog has read that the run is paused; it is resumed, and executed, before it frees its place."""
    for step in range(1, 20):
        world, life = slow(), Life(None)
        pause(world)
        world.executions.requested.clear()

        def resumed(world: World = world) -> None:
            resume(world)
            execute(world, Life(AT_WORK))

        life.meets_at, life.meets = step, lambda resumed=resumed: _beside(resumed)
        inspector(world, life).look(KEY, chain=0)
        if life.steps < step:
            return
        assert places(world) == 1, step


def test_a_process_whose_database_fails_leaves_the_place_to_another_that_has_the_run() -> None:
    for step in range(1, 40):
        world, life = begun(), Life(None)
        life.meets_at, met = step, list[bool]()

        def fails(world: World = world, met: list[bool] = met) -> None:
            met.append(len(world.log) > 1)
            _beside(lambda: is_claimed(world))
            raise StorageThrottled("busy")

        life.meets = fails
        with suppress(StorageThrottled):
            execute(world, life)
        if met[0]:
            assert step > 5, "it has claimed the run itself"
            return
        assert places(world) == 1, step


def _returns(world: World, *, term: int) -> None:
    leases = world.store.leases
    for lease in leases.of(LEAST, KEY.user_id):
        if lease.token.startswith(f"{term}#"):
            leases.give_back(lease)


def _beside(work: Callable[[], object]) -> None:
    process = threading.Thread(target=work)
    process.start()
    process.join()


class _Keyless(Teller):
    def prepare(self, target: Target) -> None:
        raise ModelNotConfigured("its key was taken away")


def test_a_run_whose_turn_has_come_and_that_cannot_be_executed_lets_the_next_one_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = slow()
    free_place(world.store, world.executions, world.log[-1], at=world.clock.now())
    for name in ("x", "y"):
        places_of(world).take(other(world, name), epoch=1, until=None)
    for name in ("r1", "s"):
        with pytest.raises(NoPlace):
            places_of(world).take(other(world, name), epoch=9, until=None)
    of_another = replace(world.log[0], key=RunKey(KEY.user_id, RunId("y")))
    free_place(world.store, world.executions, of_another, at=world.clock.now())
    ((key, name),) = world.executions.woken.items()
    assert key == KEY
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(execution, "loop", lambda: loop)
    monkeypatch.setattr(services, "clock", lambda: world.clock)
    monkeypatch.setattr(services, "places", lambda: places_of(world))
    monkeypatch.setattr(services, "executor", lambda: world.executor(Life(None), model=_Keyless(Life(None))))
    body = json.dumps({"user_id": KEY.user_id, "run_id": KEY.run_id, "waited_as": name, "sent_on": True})
    context: Any = SimpleNamespace(aws_request_id="q", get_remaining_time_in_millis=lambda: 60_000)
    answer = execution.lambda_handler({"Records": [{"messageId": "m", "body": body}]}, context)
    loop.close()
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m"}]}, "it comes again"
    assert [each.run_id for each in world.executions.woken] == ["r1", "s"]
