"""A run that no process executes is paused by the request itself; one that is paused waits for a request, or a week."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from karma.models.ports import ModelEvent, ModelRequest, ReasoningDelta
from karma.runs.domain import (
    LEASE,
    MAX_PAUSE,
    MAX_TAKE_OVERS,
    PAUSE_EXPIRED_REASON,
    Run,
    RunHasEnded,
    RunStatus,
    ThreadBusy,
)
from karma.runs.plan import RunLimits
from karma.runs.sweeps import end_expired_pauses
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector, Watch, attend
from karma.runs.wishes import MOVED_ON_REASON
from tests.fakes.runs import KeptFrames, caller
from tests.support.agui import verify
from tests.support.lost_runs import (
    KEY,
    THREAD,
    Killed,
    Life,
    World,
    begin,
    cancel,
    go_on,
    live,
    pause,
    resume,
)
from tests.support.paused_runs import Stuck, current, paused, used, while_it_waits, without_a_pause
from tests.support.run_world import asked, user

STEPS = 110


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class TestARunOfNoProcess:
    @pytest.mark.parametrize("steps", range(5, STEPS, 9))
    def test_is_paused_by_the_request_itself_and_goes_on_later(self, steps: int) -> None:
        world = World()
        begin(world, Life(steps))
        if world.store.run(KEY) is None or world.log[-1].terminal:
            return
        world.clock.pass_by(LEASE + timedelta(seconds=1))

        run = pause(world)
        assert run.status is RunStatus.PAUSED
        assert pause(world) == run
        log = world.log
        go_on(world, Life(None))
        assert world.log == log, "a paused run went on"

        resume(world)
        go_on(world, Life(None))
        assert [each[0] for each in world.told()] == [each[0] for each in without_a_pause().told()]
        verify(world.shown())

    def test_that_was_handed_over_is_paused(self) -> None:
        world, limits = World(), RunLimits(reserve_s=0)
        deadline = world.clock.now() + timedelta(seconds=0.1)
        begin(world, Life(None), model=Stuck(), limits=limits, deadline=deadline)
        world.clock.pass_by(timedelta(milliseconds=1))
        assert pause(world).status is RunStatus.PAUSED

    def test_is_ended_by_who_pauses_it_when_it_is_to_be_cancelled(self) -> None:
        world = World()
        begin(world, Life(12))
        cancel(world, reason="enough")
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        with pytest.raises(RunHasEnded):
            pause(world)
        assert (current(world).status, current(world).cancel_reason) == (RunStatus.CANCELLED, "enough")

    @pytest.mark.threads
    def test_that_a_request_and_a_process_want_is_one_s(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(LEASE + timedelta(seconds=1))

        async def all_at_once() -> None:
            control = world.control(Life(None))
            pauses = [asyncio.to_thread(control.pause, KEY.user_id, KEY.run_id) for _ in range(3)]
            await asyncio.gather(*pauses, world.executor(Life(None)).go_on(KEY), return_exceptions=True)

        live(all_at_once)
        run = current(world)
        assert run.status in {RunStatus.PAUSED, RunStatus.FINISHED}
        verify(world.shown(), complete=run.status is RunStatus.FINISHED)


class TestAPausedRun:
    def test_ends_when_it_is_cancelled_and_counts_what_it_has_cost(self) -> None:
        world = paused(World())
        spent = current(world).cost_micros
        run = cancel(world, reason="enough")
        assert (run.status, run.cancel_reason, run.cost_micros) == (RunStatus.CANCELLED, "enough", spent)
        assert used(world) == spent
        assert run.paused_at is None
        assert world.shown()[-1]["outcome"] == {"type": "cancelled"}
        verify(world.shown())
        assert world.store.thread(THREAD).active_run_id is None

    def test_is_inspected_no_more_until_it_is_resumed(self) -> None:
        world = paused(World())
        inspector = Inspector(world.store, world.executions, world.clock)
        world.clock.pass_by(LEASE + GIVE_UP_AFTER)
        attend(inspector, world.watchdog, Watch(KEY, 0))
        assert (world.watchdog.armed, world.executions.requested) == ([], [])
        assert not inspector.has_ended(KEY)
        assert current(world).status is RunStatus.PAUSED

        resume(world)

        ((_, _),), (chain,) = world.watchdog.armed, world.watchdog.chains
        assert chain == current(world).resumed_epoch > 0
        attend(inspector, world.watchdog, Watch(KEY, 0))
        assert world.watchdog.chains == [chain], "a message of the earlier chain begins another one"
        world.clock.pass_by(timedelta(milliseconds=1))
        attend(inspector, world.watchdog, Watch(KEY, chain))
        assert world.watchdog.chains == [chain, chain]

    def test_may_be_paused_more_often_than_processes_may_be_lost(self) -> None:
        world = paused(World())
        for _ in range(MAX_TAKE_OVERS + 2):
            resume(world)
            begin_again = Stuck()

            async def work(model: Stuck = begin_again) -> None:
                world.clock.pass_by(timedelta(milliseconds=1))
                task = asyncio.create_task(world.executor(Life(None), model=model).go_on(KEY))
                await model.has_spoken.wait()
                pause(world)
                await asyncio.wait_for(task, 5)

            asyncio.run(work())
            assert current(world).status is RunStatus.PAUSED
        resume(world)
        world.clock.pass_by(timedelta(milliseconds=1))
        live(lambda: world.executor(Life(None)).go_on(KEY))
        assert world.told() == without_a_pause().told()

    def test_does_not_use_up_its_time(self) -> None:
        world = paused(World())
        world.clock.pass_by(timedelta(days=6))
        resume(world)
        assert current(world).paused_ms == 6 * 24 * 3600 * 1000 + 1
        go_on(world, Life(None))
        assert current(world).status is RunStatus.FINISHED

    def test_that_runs_for_a_day_beside_its_pauses_is_ended(self) -> None:
        world = paused(World())
        world.clock.pass_by(timedelta(days=6))
        resume(world)
        world.clock.pass_by(timedelta(days=1))
        go_on(world, Life(None))
        assert current(world).error_code == "OWNER_LOST"

    @pytest.mark.threads
    def test_that_is_resumed_twice_or_by_two_goes_on_once(self) -> None:
        world = paused(World())

        async def all_at_once() -> None:
            control = world.control(Life(None))
            await asyncio.gather(*(asyncio.to_thread(control.resume, KEY.user_id, KEY.run_id) for _ in range(4)))

        asyncio.run(all_at_once())
        resume(world)
        resumed = [event for event in world.shown() if event.get("name") == "karma.run_resumed"]
        assert len(resumed) == 1
        assert KEY in world.executions.requested

    def test_whose_resuming_request_died_goes_on_when_it_is_repeated(self) -> None:
        for steps in range(1, 12):
            for after in (False, True):
                world = paused(World())
                with suppress(Killed):
                    resume(world, Life(steps, after=after))
                is_watched = bool(world.watchdog.armed)
                assert is_watched or current(world).status is RunStatus.PAUSED, "it could be forgotten"
                world.clock.pass_by(timedelta(milliseconds=1))
                resume(world)
                assert current(world).status is RunStatus.RUNNING
                assert world.executions.requested
                world.clock.pass_by(timedelta(milliseconds=1))
                live(lambda world=world: world.executor(Life(None)).go_on(KEY))  # type: ignore[misc]
                assert current(world).status is RunStatus.FINISHED

    def test_is_cancelled_after_a_week_by_who_touches_it(self) -> None:
        world = paused(World())
        world.clock.pass_by(MAX_PAUSE)
        with pytest.raises(RunHasEnded):
            resume(world)
        run = current(world)
        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, PAUSE_EXPIRED_REASON)

    def test_is_cancelled_after_a_week_by_the_sweep(self) -> None:
        world = paused(World())
        world.clock.pass_by(MAX_PAUSE - timedelta(seconds=1))
        assert end_expired_pauses(world.store, world.clock) == 0
        world.clock.pass_by(timedelta(seconds=2))
        assert end_expired_pauses(world.store, world.clock) == 1
        assert current(world).status is RunStatus.CANCELLED
        assert end_expired_pauses(world.store, world.clock) == 0

    def test_keeps_its_thread_busy_for_others_and_ends_when_its_client_moved_on(self) -> None:
        world = paused(World())
        with pytest.raises(ThreadBusy) as busy:
            asyncio.run(world.service(Life(None)).start(caller(), asked(user("other", "u9"), run="r2")))
        assert busy.value.details == {"run_id": "r1"}
        assert current(world).status is RunStatus.PAUSED

        moved_on = asked(user("go", "u1"), user("rather this", "u2"), run="r3")
        asyncio.run(world.service(Life(None)).start(caller(), moved_on))
        run = current(world)
        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, MOVED_ON_REASON)
        assert world.store.thread(THREAD).active_run_id == "r3"

    def test_tells_who_asks_the_same_again_what_there_is_and_that_it_is_paused(self) -> None:
        world = paused(World())
        frames = KeptFrames()

        async def again() -> None:
            service = world.service(Life(None))
            started = await service.start(caller(), asked(user("go", "u1"), run="r1"))
            await asyncio.wait_for(started.execute(frames), 5)

        asyncio.run(again())
        assert frames.events[-1]["name"] == "karma.run_paused"


class TestARunThatHasEnded:
    @pytest.mark.parametrize("ask", [pause, resume])
    def test_is_neither_paused_nor_resumed(self, ask: Callable[[World], Run]) -> None:
        world = without_a_pause()
        log = world.log
        with pytest.raises(RunHasEnded):
            ask(world)
        assert world.log == log
        assert world.store.wishes(KEY) == {}

    def test_that_was_never_paused_is_resumed_without_effect(self) -> None:
        world = World()
        begin(world, Life(12))
        log = world.log
        assert resume(world).status is RunStatus.RUNNING
        assert world.log == log
        assert world.executions.requested == []


class Thinking(Stuck):
    """Thinks, and then nothing; what it thinks is for nobody's eyes."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        yield [ReasoningDelta("hm " * 1_000)]
        async for batch in super().stream(request):
            yield batch


def test_thoughts_that_nobody_was_shown_count_in_a_run_that_was_paused_in_their_middle() -> None:
    spent: list[int] = []
    for model in (Stuck(), Thinking()):
        world = World()
        frames = while_it_waits(world, lambda world=world: pause(world), model=model)  # type: ignore[misc]
        assert "hm " not in frames.data.decode()  # with its blank: an id of the stream may hold the letters
        resume(world)
        world.clock.pass_by(timedelta(seconds=1))
        live(lambda world=world: world.executor(Life(None)).go_on(KEY))  # type: ignore[misc]
        run = world.store.run(KEY)
        assert run is not None
        assert run.usage is not None
        spent.append(int(str(run.usage["outputTokens"])))
    # A byte a token.
    assert spent[1] - spent[0] == 3_000
