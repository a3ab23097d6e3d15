"""Runs that end in the middle of an answer: what is said of it, and who ends a run whose process is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

from karma.models.ports import ModelEvent, ModelRequest, ReasoningDelta, TextDelta, ToolArguments, ToolBegun
from karma.runs.domain import LEASE, MAX_PAUSE, MAX_TAKE_OVERS
from karma.runs.ending import end_expired
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from tests.fakes.runs import KeptFrames
from tests.support.lost_runs import KEY, Killed, Life, Teller, World, begin, cancel, go_on, live, pause

HALVES: dict[str, Sequence[ModelEvent]] = {
    "a text": [TextDelta("Half an ")],
    "a call": [ToolBegun("toolu_01A09q90qw90lq917835", "again"), ToolArguments("toolu_01A09q90qw90lq917835", '{"wo')],
    "thoughts": [ReasoningDelta("Let me ")],
}


Then = Callable[[], Awaitable[Sequence[ModelEvent]]]
"""The way of a model behind half an answer: it fails, or returns the rest."""


class Half(Teller):
    """Says half an answer, waits until the log has it, and does what it is told."""

    def __init__(self, world: World, life: Life, half: str, then: Then) -> None:
        super().__init__(life)
        self._world, self._half, self._then = world, half, then

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if not any(message.role == "assistant" for message in request.messages):
            for batch in self._answer(0):
                yield batch
            return
        before = len(self._world.log)
        yield HALVES[self._half]
        while len(self._world.log) == before:  # noqa: ASYNC110  a thread writes it
            await asyncio.sleep(0.001)
        for event in await self._then():
            yield [event]
            await asyncio.sleep(0.001)


def killed(world: World, life: Life, half: str) -> Half:
    async def die() -> Sequence[ModelEvent]:
        life.is_dead = True
        raise Killed

    return Half(world, life, half, die)


def is_given_up(world: World) -> None:
    world.clock.pass_by(LEASE + GIVE_UP_AFTER)
    assert Inspector(world.store, world.executions, world.clock).look(KEY) is None


def has_moved_on(world: World) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    assert Inspector(world.store, world.executions, world.clock).is_over(KEY)


def ends_every_process(world: World) -> None:
    for _ in range(MAX_TAKE_OVERS + 1):
        world.clock.pass_by(LEASE + timedelta(minutes=16))
        life = Life(None)
        live(partial(world.executor(life, model=killed(world, life, "a text")).go_on, KEY))


def is_a_day_old(world: World) -> None:
    world.clock.pass_by(timedelta(days=1))
    go_on(world, Life(None))


def is_cancelled(world: World) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    cancel(world)


def is_replaced(world: World) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    assert Inspector(world.store, world.executions, world.clock).is_over(KEY, is_cancelled=True)


def is_paused_for_too_long(world: World) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    run = pause(world)
    world.clock.pass_by(MAX_PAUSE + timedelta(seconds=1))
    assert end_expired(world.store, run, world.clock.now())


LOST: dict[str, tuple[Callable[[World], None], int]] = {
    "nobody goes on with it": (is_given_up, 0),
    "its client has moved on": (has_moved_on, 0),
    "it ends every process": (ends_every_process, 0),
    "it is a day old": (is_a_day_old, 0),
    "it is cancelled": (is_cancelled, 1),
    "another takes its place": (is_replaced, 1),
    "it was paused for too long": (is_paused_for_too_long, 1),
}
"""Ends of runs whose process is lost, with the messages that clients keep of its answer: who cancels sees it stop."""


def lost_while_it_says(half: str) -> World:
    """Return a world whose run has said one answer and half of another, and whose process is lost."""
    world, life = World(thinks=True), Life(None)
    begin(world, life, KeptFrames(), model=killed(world, life, half))
    assert not world.log[-1].terminal
    return world
