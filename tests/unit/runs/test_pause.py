"""A run that is paused waits and goes on as if nothing had been, wherever its processes and requests are.

Requests to pause and to resume come before any step of any of its processes, and between them; the processes of runs
and those of requests die at any call. The steps are drawn from the number of the run, which SEED plays again;
KILLS=300 plays as many runs.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.errors import StorageUnavailable
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.domain import LEASE, MAX_TAKE_OVERS, RunHasEnded, RunStatus
from karma.runs.wishes import Wish
from tests.fakes.runs import types
from tests.support.agui import verify
from tests.support.lost_runs import (
    KEY,
    THREAD,
    Killed,
    Life,
    Teller,
    World,
    begin,
    cancel,
    go_on,
    live,
    pause,
    resume,
    screen,
)
from tests.support.paused_runs import Stuck, current, paused, used, while_it_waits, without_a_pause

RUNS = int(os.environ.get("KILLS") or 12)
STEPS = 110


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class Held(Teller):
    """Says nothing more while its run is to be paused."""

    def __init__(self, life: Life, world: World) -> None:
        super().__init__(life)
        self._world = world

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        async for batch in super().stream(request):
            while Wish.PAUSE in self._world.store.wishes(KEY):  # noqa: ASYNC110  a wish is not told of by an event
                await asyncio.sleep(0)
            yield batch
            await asyncio.sleep(0)


class Scene:
    """A run with requests to pause and resume it, and processes of both that die."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.world = World()
        self.deaths = 0

    def request(self) -> None:
        make = self.dice.choice([pause, pause, resume])
        dies = self.dice.random() < 0.3
        life = Life(self.dice.randint(1, 12) if dies else None, after=self.dice.random() < 0.5)
        with suppress(Killed, RunHasEnded):
            if self.world.store.run(KEY) is not None:
                make(self.world, life)

    def life(self) -> Life:
        dies = self.deaths < MAX_TAKE_OVERS - 1 and self.dice.random() < 0.5
        self.deaths += dies
        life = Life(self.dice.randint(1, STEPS) if dies else None, after=self.dice.random() < 0.5)
        return replace(life, meets=self.request, meets_at=self.dice.randint(1, STEPS))

    def go_on(self, life: Life) -> None:
        world = self.world
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        was_paused, before = current(world).status is RunStatus.PAUSED, world.log
        meets, life.meets = life.meets, None if was_paused else life.meets
        live(lambda: world.executor(life, model=Held(life, world)).go_on(KEY))
        assert not was_paused or world.log == before, "a paused run went on"
        if was_paused and meets is not None:
            meets()

    def play(self) -> None:
        life = self.life()
        begin(self.world, life, model=Held(life, self.world))
        if self.world.store.run(KEY) is None:
            return
        for _ in range(self.dice.randint(1, 5)):
            if self.dice.random() < 0.5:
                self.request()
            self.go_on(self.life())
        for _ in range(3):
            with suppress(RunHasEnded):
                resume(self.world)
            self.go_on(Life(None))


@pytest.mark.req("R-A-18")
@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_requests_and_deaths_are_a_run_goes_on_as_if_nothing_had_been(nth: int, seed: int) -> None:
    scene, expected = Scene(random.Random(seed)), without_a_pause()
    scene.play()
    world = scene.world
    if world.store.run(KEY) is None:
        assert world.effects == Counter()
        return
    run, log, shown = current(world), world.log, world.shown()
    is_asked = run.status is RunStatus.INTERRUPTED  # the process that called `ask` was lost
    assert (run.status, run.paused_at) == (RunStatus.INTERRUPTED if is_asked else RunStatus.FINISHED, None)
    assert [segment.n for segment in log] == list(range(1, len(log) + 1))
    assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    assert [segment.epoch for segment in log] == sorted(segment.epoch for segment in log)
    verify(shown)
    thread = world.store.thread(THREAD)
    assert [each["id"] for each in screen(shown)] == [m.id for m in thread.messages if m.role != "user"]
    assert set(world.effects.values()) <= {1}
    names = [each[0] for each in world.told()]
    assert names == [each[0] for each in expected.told()][: len(names) if is_asked else None]
    told = [event.get("name") for event in shown if event["type"] == "CUSTOM"]
    assert told == ["karma.run_paused", "karma.run_resumed"] * (len(told) // 2)
    assert used(world) == run.cost_micros
    assert run.cost_micros is not None
    if is_asked:
        (question,) = shown[-1]["outcome"]["interrupts"]
        assert (question["reason"], question["metadata"]["toolName"]) == ("karma:unknown_outcome", "ask")
    else:
        assert run.cost_micros >= (current(expected).cost_micros or 0)


class TestARunThatExecutes:
    def test_is_paused_by_its_process_and_tells_its_client(self) -> None:
        world, model, answers = World(), Stuck(), []

        frames = while_it_waits(world, lambda: answers.append(pause(world)), model=model)

        assert [run.status for run in answers] == [RunStatus.RUNNING], "its process was not done yet"
        assert types(frames.events)[-2:] == ["TEXT_MESSAGE_END", "CUSTOM"]
        assert frames.events[-1]["name"] == "karma.run_paused"
        assert frames.events[-1]["value"] == {"runId": "r1", "stopped": ["r1"]}
        verify(frames.events, complete=False)
        assert model.closed
        run = current(world)
        assert (run.status, run.paused_at, run.turns) == (RunStatus.PAUSED, world.clock.now(), 1)
        assert run.cost_micros, "what it has cost until now is not shown"
        assert world.store.wishes(KEY) == {}
        assert world.store.thread(THREAD).active_run_id == KEY.run_id
        assert pause(world) == run
        assert world.executions.requested == []

    def test_that_is_resumed_goes_on_and_its_half_answer_is_withdrawn(self) -> None:
        world = paused(World())
        log = world.log
        resumed = resume(world)
        assert (resumed.status, resumed.paused_at) == (RunStatus.RUNNING, None)
        assert world.executions.requested == [KEY]
        world.clock.pass_by(timedelta(milliseconds=1))
        live(lambda: world.executor(Life(None)).go_on(KEY))

        assert world.told() == without_a_pause().told()
        assert "well " not in str(screen(world.shown()))
        assert [event.get("name") for event in world.shown(after=log[-1].n) if event["type"] == "CUSTOM"] == [
            "karma.run_resumed"
        ]
        verify(world.shown())
        run = current(world)
        assert run.cost_micros == used(world)
        assert (run.cost_micros or 0) > (current(without_a_pause()).cost_micros or 0), "the lost answer is not counted"

    def test_lets_its_tools_finish_and_calls_none_of_them_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World()

        async def wait_for_the_wish() -> None:
            pause(world)
            for _ in range(50):  # the process has heard of it, and waits
                await asyncio.sleep(0.001)

        tools = world.tools(Life(None))

        async def slow(arguments: Any, context: Any) -> object:
            await wait_for_the_wish()
            return await tools[0].run(arguments, context)

        monkeypatch.setattr(world, "tools", lambda _: [replace(tools[0], run=slow), *tools[1:]])
        begin(world, Life(None))

        assert current(world).status is RunStatus.PAUSED
        assert [m.role for m in world.store.thread(THREAD).messages] == ["user", "assistant", "tool", "tool"]
        effects = dict(world.effects)
        assert effects
        monkeypatch.setattr(world, "tools", lambda _: tools)
        resume(world)
        world.clock.pass_by(timedelta(milliseconds=1))
        live(lambda: world.executor(Life(None)).go_on(KEY))
        assert world.told() == without_a_pause().told()
        assert set(world.effects.values()) == {1}

    def test_that_is_resumed_before_its_process_was_done_goes_on_elsewhere(self) -> None:
        world = World()
        seen = world.store.pause

        def resumed_first(*args: Any, **kwargs: Any) -> None:
            resume(world)
            seen(*args, **kwargs)

        world.store.pause = resumed_first  # type: ignore[method-assign]
        while_it_waits(world, lambda: pause(world))
        world.store.pause = seen  # type: ignore[method-assign]

        assert current(world).status is RunStatus.RUNNING
        assert world.executions.requested == [KEY]
        world.clock.pass_by(timedelta(milliseconds=1))
        live(lambda: world.executor(Life(None)).go_on(KEY))
        assert world.told() == without_a_pause().told()

    def test_that_is_cancelled_while_it_is_being_paused_is_cancelled(self) -> None:
        world = World()
        seen = world.store.pause

        def cancelled_first(*args: Any, **kwargs: Any) -> None:
            assert cancel(world, reason="enough").status is RunStatus.RUNNING
            seen(*args, **kwargs)

        world.store.pause = cancelled_first  # type: ignore[method-assign]
        frames = while_it_waits(world, lambda: pause(world))

        assert (current(world).status, current(world).cancel_reason) == (RunStatus.CANCELLED, "enough")
        assert frames.events[-1]["outcome"] == {"type": "cancelled"}
        verify(frames.events)

    def test_whose_pause_cannot_be_written_is_paused_by_who_takes_it_over(self) -> None:
        world = World()
        world.store.fail = lambda name: StorageUnavailable("") if name == "pause" else None
        pauses = pytest.MonkeyPatch()
        pauses.setattr("karma.runs.log._RETRY_PAUSES_S", ())
        try:
            while_it_waits(world, lambda: pause(world))
        finally:
            pauses.undo()
        world.store.fail = lambda _: None
        assert current(world).status is RunStatus.RUNNING

        go_on(world, Life(None))

        assert current(world).status is RunStatus.PAUSED
        assert world.store.wishes(KEY) == {}
