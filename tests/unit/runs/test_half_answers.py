"""Half an answer does not outlive its run: whoever ends a run in the middle of one withdraws it.

Each end meets each beginning of an answer (a text, a call, thoughts). Whoever reads the log then has what the thread
has, but for the ends that are named here, with which the words stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product

import pytest

from karma.core.errors import StorageUnavailable
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    StopReason,
    TextDelta,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.domain import LEASE, RunErrorCode, RunFailed
from karma.runs.plan import RunLimits
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from tests.fakes.runs import KeptFrames
from tests.support.agui import verify
from tests.support.half_answers import HALVES, LOST, Half, Then, lost_while_it_says
from tests.support.lost_runs import KEY, THREAD, Life, World, begin, go_on, screen

SAYS_WHY = {RunErrorCode.MODEL_REFUSED}
"""The words of a model that declines stay, since they are all that is said."""


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log.FLUSH_AFTER_S", 0.0)
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


def broken_by(failure: BaseException) -> Then:
    async def then() -> Sequence[ModelEvent]:
        raise failure

    return then


def ended_by(stop: StopReason, *more: ModelEvent) -> Then:
    async def then() -> Sequence[ModelEvent]:
        return (*more, TurnEnded(stop, Usage(1, 1), ()))

    return then


async def for_ever() -> Sequence[ModelEvent]:
    await asyncio.Event().wait()
    return ()


def half_said(half: str, then: Then, *, limits: RunLimits | None = None) -> World:
    """Return a world whose run has half a second answer, and what its client was sent of it."""
    world, life = World(thinks=True), Life(None)
    sink = KeptFrames()
    begin(world, life, sink, model=Half(world, life, half, then), **({"limits": limits} if limits else {}))
    if world.log[-1].terminal:
        assert screen(sink.events) == screen(world.shown()), "who is sent the events has what the log has"
    return world


def extra(world: World) -> int:
    """Return how many messages clients are shown at a run's end that its thread does not have."""
    events = world.shown()
    verify(events)
    kept = [each.id for each in world.store.thread(THREAD).messages if each.role != "user"]
    last = max((at for at, event in enumerate(events) if event["type"] == "MESSAGES_SNAPSHOT"), default=-1)
    thoughts = [event["messageId"] for event in events if event["type"] == "REASONING_MESSAGE_START"]
    since = [event["messageId"] for event in events[last + 1 :] if event["type"] == "REASONING_MESSAGE_START"]
    shown = [each["id"] for each in screen(events) if each["id"] not in thoughts]
    assert shown[: len(kept)] == kept
    return len(shown) - len(kept) + sum(each.rpartition("-reasoning-")[0] not in kept for each in since)


IN_ITS_PROCESS: dict[str, Then] = {
    **{f"fails with {code}": broken_by(RunFailed(code)) for code in RunErrorCode if code is not RunErrorCode.CANCELLED},
    **{f"its model fails with {code}": broken_by(ModelFailed(code, usage=Usage())) for code in ModelErrorCode},
    "the database is away for a call": broken_by(StorageUnavailable("")),
    "a bug": broken_by(ValueError("a bug")),
    "too long for the model": ended_by(StopReason.CONTEXT_FULL),
    "a call is cut off": ended_by(
        StopReason.MAX_TOKENS, ToolBegun("toolu_x", "again"), ToolEnded("toolu_x", '{"word":"x"}')
    ),
}


CUT_TWICE = ("a call is cut off", "a call")
"""One call of an answer is enough."""


@pytest.mark.fault("F-06i")
@pytest.mark.parametrize(("way", "half"), [each for each in product(IN_ITS_PROCESS, HALVES) if each != CUT_TWICE])
def test_a_run_that_fails_withdraws_what_it_had_begun_to_say(way: str, half: str) -> None:
    world = half_said(half, IN_ITS_PROCESS[way])
    run = world.store.run(KEY)
    assert run is not None
    assert run.error_code, run.status
    assert extra(world) == (RunErrorCode(run.error_code) in SAYS_WHY), run.error_code


@pytest.mark.fault("F-06i")
def test_a_run_whose_time_is_over_withdraws_it() -> None:
    world = half_said("a text", for_ever, limits=RunLimits(run_timeout_s=0.2, reserve_s=0))
    run = world.store.run(KEY)
    assert run is not None
    assert (run.error_code, extra(world)) == ("DEADLINE_EXCEEDED", 0)


@pytest.mark.fault("F-06i")
@pytest.mark.parametrize("call", ["append", "finish", "thread"])
def test_a_failure_of_the_store_meanwhile_does_not_keep_it(call: str) -> None:
    failures: list[Exception] = []

    async def then() -> Sequence[ModelEvent]:
        failures.append(ValueError("refused") if call in {"append", "finish"} else StorageUnavailable(""))
        if call == "finish":  # with the whole answer, which is then not kept
            return (TurnEnded(StopReason.END, Usage(1, 1), ()),)
        if call == "append":  # in the background, of which the run hears with a later piece
            return tuple(TextDelta("answer") for _ in range(500))
        raise RunFailed(RunErrorCode.INTERNAL)

    world, life = World(thinks=True), Life(None)
    world.store.fail = lambda name: failures.pop() if name == call and failures else None
    begin(world, life, KeptFrames(), model=Half(world, life, "a text", then))
    run = world.store.run(KEY)
    assert run is not None
    assert not failures
    assert (run.error_code, extra(world)) == ("INTERNAL", 0)


@pytest.mark.fault("F-06i")
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("way", LOST)
def test_a_lost_run_ends_without_what_it_had_begun_to_say(way: str, half: str) -> None:
    world = lost_while_it_says(half)
    end, kept = LOST[way]
    end(world)
    run = world.store.run(KEY)
    assert run is not None
    assert (run.error_code == "OWNER_LOST") == (kept == 0)
    assert [segment.n for segment in world.log] == list(range(1, len(world.log) + 1))
    assert extra(world) == kept


@pytest.mark.fault("F-06i")
def test_whoever_loses_the_end_writes_nothing_of_it() -> None:
    world = lost_while_it_says("a text")
    world.clock.pass_by(LEASE + GIVE_UP_AFTER)
    tail = world.store.tail(KEY)
    real, begun = world.store.finish, list[int]()

    def beaten(*args: object, **kwargs: object) -> None:
        if not begun:
            begun.append(1)
            go_on(world, Life(None))
        real(*args, **kwargs)  # type: ignore[arg-type]

    world.store.finish = beaten  # type: ignore[method-assign]
    Inspector(world.store, world.executions, world.clock).look(KEY)
    assert tail is not None
    assert begun
    run = world.store.run(KEY)
    assert run is not None
    assert not run.error_code
    assert extra(world) == 0
