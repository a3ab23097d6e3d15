"""Calls of models that a pause or a hand-over gives up: they were paid for, also those that had said nothing yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

import pytest

from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.domain import RunStatus
from karma.runs.wishes import WishesChanged
from tests.support.lost_runs import KEY, Life, World, begin, live, pause, resume
from tests.support.paused_runs import Stuck, current, used, while_it_waits, without_a_pause
from tests.support.subagents import Delegating

TIMES = 5


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class Silent(Stuck):
    """Reads what it is asked, and says nothing."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.has_spoken.set()
        await asyncio.Event().wait()
        yield []


class SilentSubagent(Stuck):
    """As the world's model, but for subagents, which say nothing."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if request.system[0] != "lead":
            self.has_spoken.set()
            await asyncio.Event().wait()
        async for batch in self._world.teller(Life(None)).stream(request):
            yield batch


def goes_on(world: World, model: Stuck) -> None:
    """Resume the run, and pause it when its model was asked."""
    world.clock.pass_by(timedelta(milliseconds=5))
    resume(world)

    async def work() -> None:
        task = asyncio.ensure_future(world.executor(Life(None), model=model).go_on(KEY))
        await model.has_spoken.wait()
        pause(world)
        await asyncio.wait_for(task, 5)

    asyncio.run(work())
    assert current(world).status is RunStatus.PAUSED


def end(world: World) -> int:
    """Resume the run, let it end, and return what it has cost."""
    world.clock.pass_by(timedelta(milliseconds=5))
    resume(world)
    live(lambda: world.executor(Life(None)).go_on(KEY))
    assert current(world).status is RunStatus.FINISHED
    assert used(world) == cost(world)
    return cost(world)


def cost(world: World) -> int:
    """Return what the run has cost."""
    return current(world).cost_micros or 0


def test_each_that_was_paused_before_its_first_word_counts_with_what_it_has_read() -> None:
    world = World()
    while_it_waits(world, lambda: pause(world), model=Silent())
    for _ in range(TIMES):
        goes_on(world, Silent())
    read = (end(world) - cost(without_a_pause())) / (TIMES + 1)
    assert read > 1_000


def test_one_that_goes_on_in_another_process_at_once_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def resumed_first(*args: object, **kwargs: object) -> None:
        resume(world)
        raise WishesChanged

    monkeypatch.setattr(world.store, "pause", resumed_first)
    while_it_waits(world, lambda: pause(world), model=Silent())
    monkeypatch.undo()
    live(lambda: world.executor(Life(None)).go_on(KEY))
    assert current(world).status is RunStatus.FINISHED
    assert cost(world) > cost(without_a_pause())


def test_no_call_is_told_where_none_was_given_up() -> None:
    world = without_a_pause()
    told = b"".join(data for each in world.store.segments(KEY, after=0, limit=99) for data in each.events)
    assert b"stopped" not in told


def test_a_subagent_s_counts_for_it_and_for_the_run() -> None:
    plain = Delegating()
    begin(plain, Life(None))
    world = Delegating()
    while_it_waits(world, lambda: pause(world), model=SilentSubagent(world))
    for _ in range(TIMES):
        goes_on(world, SilentSubagent(world))
    more = end(world) - cost(plain)
    assert more > TIMES * 1_000
    by_agent = [sum(int(str(each["cost_micros"])) for each in current(of).delegated) for of in (world, plain)]
    assert by_agent[0] - by_agent[1] == more
