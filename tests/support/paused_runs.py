"""Runs that are paused, and what was counted for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import timedelta
from typing import Any

from karma.billing.allowances import Metric
from karma.models.ports import ModelEvent, ModelRequest, TextDelta
from karma.runs.domain import Run, RunStatus
from tests.fakes.runs import KeptFrames, caller
from tests.support.lost_runs import KEY, Life, Teller, World, begin, pause
from tests.support.plans import allowance
from tests.support.run_world import asked, user


def current(world: World) -> Run:
    run = world.store.run(KEY)
    assert run is not None
    return run


def without_a_pause() -> World:
    world = World()
    begin(world, Life(None))
    return world


def used(world: World) -> int:
    (found,) = [
        each.used
        for each in world.store.usage.read(allowance(KEY.user_id, at=world.clock.now()))
        if each.metric is Metric.MODEL_SPEND
    ]
    return found


class Stuck(Teller):
    """Says something, and then nothing."""

    def __init__(self) -> None:
        super().__init__(Life(None))
        self.closed = False
        self.has_spoken = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        try:
            yield [TextDelta("well ")]
            self.has_spoken.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


def while_it_waits(world: World, do: Callable[[], Any], *, model: Stuck | None = None) -> KeptFrames:
    """Begin a run whose model is silent, do something, and wait until its process has stopped."""
    frames, model = KeptFrames(), model or Stuck()
    agent: dict[str, Any] = {"forwardedProps": {"agent_id": world.agent}} if world.agent else {}
    request = asked(user("go", "u1"), run="r1", **agent)

    async def work() -> None:
        service = world.service(Life(None), model=model)
        task = (await service.start(caller(), request)).execute(frames)
        await model.has_spoken.wait()
        do()
        await asyncio.wait_for(task, 5)

    asyncio.run(work())
    return frames


def paused(world: World) -> World:
    while_it_waits(world, lambda: pause(world))
    assert current(world).status is RunStatus.PAUSED
    world.clock.pass_by(timedelta(milliseconds=1))
    return world
