"""A run that is cancelled ends as cancelled, once, wherever its processes and the request are.

Requests come before any step of any of its processes: of one that executes it, dies or hands it over, of the next one,
and of none. From the request on the model and the tools answer no more, so that a process which went on would hang.
The steps are drawn from the number of the run, which SEED plays again; KILLS=300 plays as many runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.agents.domain import BUILT_IN_ID
from karma.billing.allowances import Metric
from karma.conversations.history import STOPPED
from karma.core.errors import NotFound, StorageUnavailable
from karma.core.ids import AgentId, RunId, UserId
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.domain import ENGINE_SCHEMA, LEASE, RunEnd, RunHasEnded, RunStatus
from karma.runs.plan import RunLimits
from karma.runs.wishes import MOVED_ON_REASON, Wish
from tests.fakes.runs import KeptFrames, caller, types
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Handle, Killed, Life, Teller, World, begin, cancel, go_on, live
from tests.support.paused_runs import Stuck
from tests.support.plans import allowance
from tests.support.run_world import asked, user

RUNS = int(os.environ.get("KILLS") or 12)
STEPS = 110


class Silent(Teller):
    """Says nothing more from the moment on at which its run was cancelled."""

    def __init__(self, life: Life, world: World, asked_at: list[int]) -> None:
        super().__init__(life)
        self._world = world
        self._asked_at = asked_at
        self.calls = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.calls += 1
        async for batch in super().stream(request):
            if self._asked_at:
                await asyncio.Event().wait()
            yield batch
            await asyncio.sleep(0)


class Scene:
    """A run, and a request to cancel it that comes at some step."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.world = World()
        self.asked_at: list[int] = []
        """Number of segments at the moment of the request."""
        self.models: list[tuple[bool, Silent]] = []

    def request(self) -> None:
        """Cancel the run; the request's process may die, and be repeated or not."""
        for life in (Life(self.dice.randint(1, 12), after=self.dice.random() < 0.5), Life(None)):
            with suppress(Killed, NotFound, RunHasEnded):
                cancel(self.world, life, reason="enough")
            if self.dice.random() < 0.5:
                break
        if self.world.store.wishes(KEY):
            self.asked_at.append(len(self.world.log))

    def life(self, *, is_met: bool) -> Life:
        dies = self.dice.random() < 0.6
        life = Life(self.dice.randint(1, STEPS) if dies else None, after=self.dice.random() < 0.5)
        return replace(life, meets=self.request, meets_at=self.dice.randint(1, STEPS)) if is_met else life

    def play(self) -> None:
        """Let processes die, and the request come at one of them or between them."""
        lives = self.dice.randint(1, 3)
        at = self.dice.randint(0, lives)
        for n in range(lives):
            life = self.life(is_met=n == at)
            model = Silent(life, self.world, self.asked_at)
            self.models.append((bool(self.asked_at), model))
            if n == 0:
                begin(self.world, life, model=model)
            else:
                self.world.clock.pass_by(LEASE + timedelta(seconds=1))
                executor = self.world.executor(life, model=model)
                live(lambda executor=executor: executor.go_on(KEY))  # type: ignore[misc]
        if not self.asked_at:
            self.request()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


@pytest.mark.req("R-A-18")
@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_its_processes_and_the_request_are_a_run_ends_once_and_as_it_was_asked(nth: int, seed: int) -> None:
    scene = Scene(random.Random(seed))
    scene.play()
    world = scene.world
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    if world.store.run(KEY) is None:
        return
    with suppress(RunHasEnded):
        cancel(world, reason="again")
    go_on(world, Life(None))  # a late message of the queue

    run = world.store.run(KEY)
    assert run is not None
    assert run.status in {RunStatus.CANCELLED, RunStatus.FINISHED, RunStatus.INTERRUPTED}
    log = world.log
    assert [segment.n for segment in log] == list(range(1, len(log) + 1))
    assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    shown = world.shown()
    verify(shown)
    ends = [event for event in shown if event["type"] in {"RUN_FINISHED", "RUN_ERROR"}]
    assert len(ends) == 1
    if run.status is RunStatus.CANCELLED:
        assert ends[0]["outcome"] == {"type": "cancelled"}
        assert "result" not in ends[0]
        assert (run.error_code, run.cancel_reason) in {("", "enough"), ("", "again")}
    assert set(world.effects.values()) <= {1}
    # Each call of ours that is kept has one result, and the thread is free.
    thread = world.store.thread(THREAD)
    assert thread.active_run_id is None
    results = [each.tool_call_id for each in thread.messages if each.role == "tool"]
    asked_about = [each.awaited.id for each in world.store.interrupts_by_id.values()]
    assert sorted([*results, *asked_about]) == sorted(call.id for each in thread.messages for call in each.tool_calls)
    assert run.last_message == thread.next_message - 1
    # What was reserved is counted at the most, and all of it where nobody knows what was spent.
    (used,) = [
        each.used
        for each in world.store.usage.read(allowance(KEY.user_id, at=world.clock.now()))
        if each.metric is Metric.MODEL_SPEND
    ]
    assert used == (run.reserved_micros if run.cost_micros is None else run.cost_micros)
    # No process that began after the request has called the model.
    assert [model.calls for began_later, model in scene.models if began_later] == [
        0 for began_later, _ in scene.models if began_later
    ]


def cancel_while_it_waits(world: World, *, version: str | None = "1.0", model: Any = None) -> KeptFrames:
    """Cancel a run whose model is silent, while its process executes it."""
    frames, model = KeptFrames(), model or Stuck()
    request = asked(user("go", "u1"), run="r1", protocolVersion=version)

    async def work() -> None:
        service = world.service(Life(None), model=model)
        task = (await service.start(caller(), request)).execute(frames)
        await model.has_spoken.wait()
        assert cancel(world, reason="enough").status is RunStatus.RUNNING
        await asyncio.wait_for(task, 5)

    asyncio.run(work())
    return frames


class TestARunThatExecutes:
    def test_is_cancelled_by_its_process_which_closes_the_model_s_connection(self) -> None:
        world, model = World(), Stuck()

        frames = cancel_while_it_waits(world, model=model)

        verify(frames.events)
        assert types(frames.events)[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
        assert frames.events[-1]["outcome"] == {"type": "cancelled"}
        assert model.closed
        run = cancel(world)
        assert (run.status, run.cancel_reason, run.error_code) == (RunStatus.CANCELLED, "enough", "")
        assert run.cost_micros, "what the model was asked for is not counted"
        assert [m.role for m in world.store.thread(THREAD).messages] == ["user"]

    def test_ends_with_an_error_for_a_client_that_would_take_cancelled_for_success(self) -> None:
        world = World()
        frames = cancel_while_it_waits(world, version=None)
        assert (frames.events[-1]["type"], frames.events[-1]["code"]) == ("RUN_ERROR", "CANCELLED")
        assert cancel(world).status is RunStatus.CANCELLED

    def test_stops_within_a_second_of_the_request_and_within_50_ms_of_its_process_seeing_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.5)
        took = [self.times_of_a_cancel(monkeypatch)]
        while (took[-1][0] > 1 or took[-1][1] > 0.05) and len(took) < 5:  # on a machine that does other things, too
            took.append(self.times_of_a_cancel(monkeypatch))
        assert took[-1][0] <= 1
        assert took[-1][1] <= 0.05

    def times_of_a_cancel(self, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
        """Return the seconds from the request to the write of the end, and those from the moment it was seen."""
        world = World()
        seen: list[float] = []
        ended: list[float] = []
        wishes, finish = world.store.wishes, world.store.finish

        def read(key: Any) -> Any:
            found = wishes(key)
            if found:
                seen.append(time.monotonic())
            return found

        def written(*args: Any, **kwargs: Any) -> None:
            ended.append(time.monotonic())
            finish(*args, **kwargs)

        monkeypatch.setattr(world.store, "wishes", read)
        monkeypatch.setattr(world.store, "finish", written)
        began = time.monotonic()
        cancel_while_it_waits(world)
        return ended[0] - began, ended[0] - seen[0]

    def test_whose_log_another_process_ended_tells_its_client_that_end(self) -> None:
        """Its process was only slow: the lease was over when the request came."""
        world, frames, model = World(), KeptFrames(), Stuck()

        async def work() -> None:
            service = world.service(Life(None), model=model)
            task = (await service.start(caller(), asked(user("go", "u1"), run="r1"))).execute(frames)
            await model.has_spoken.wait()
            world.clock.pass_by(LEASE + timedelta(seconds=1))
            assert cancel(world).status is RunStatus.CANCELLED
            await asyncio.wait_for(task, 5)

        asyncio.run(work())
        verify(frames.events)
        assert frames.events[-1]["outcome"] == {"type": "cancelled"}


class TestARunOfNoProcess:
    @pytest.mark.parametrize("steps", range(3, STEPS, 4))
    def test_is_ended_by_the_request_itself(self, steps: int) -> None:
        world = World()
        begin(world, Life(steps))
        if world.store.run(KEY) is None or world.log[-1].terminal:
            return
        made = sum(world.effects.values())
        assert cancel(world, reason="first").status is RunStatus.RUNNING, "its lease is valid"
        world.clock.pass_by(LEASE + timedelta(seconds=1))

        run = cancel(world, reason="second")

        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, "first")
        verify(world.shown())
        assert world.shown()[-1]["outcome"] == {"type": "cancelled"}
        assert sum(world.effects.values()) == made

    def test_gives_each_call_that_was_left_open_a_result(self) -> None:
        world = World()

        def stop_before_results(name: str) -> Exception | None:
            thread = world.store.threads.get(THREAD)
            calls = thread is not None and any(m.tool_calls for m in thread.messages)
            return StorageUnavailable("") if calls and name in {"append", "finish"} else None

        world.store.fail = stop_before_results
        begin(world, Life(None))
        world.store.fail = lambda _: None
        assert [m.role for m in world.store.thread(THREAD).messages] == ["user", "assistant"]
        world.clock.pass_by(timedelta(minutes=1))

        run = cancel(world)

        thread = world.store.thread(THREAD)
        assert [(m.role, m.failed) for m in thread.messages][2:] == [("tool", True)] * 2
        assert {str(m.content) for m in thread.messages[2:]} == {STOPPED}
        assert run.last_message == 3
        assert run.turns == 1
        told = [event for event in world.shown() if event["type"] == "TOOL_CALL_RESULT"]
        assert [event["toolCallId"] for event in told] == [call.id for call in thread.messages[1].tool_calls]
        verify(world.shown())

    def test_that_was_handed_over_is_ended_and_the_next_process_leaves_it_alone(self) -> None:
        world, limits = World(), RunLimits(reserve_s=0)
        deadline = world.clock.now() + timedelta(seconds=0.1)
        begin(world, Life(None), model=Stuck(), limits=limits, deadline=deadline)
        world.clock.pass_by(timedelta(milliseconds=1))

        assert cancel(world).status is RunStatus.CANCELLED
        model = Stuck()
        assert not asyncio.run(world.executor(Life(None), model=model).go_on(KEY))
        assert not model.closed

    def test_is_not_gone_on_with_when_its_process_dies_before_it_heard(self) -> None:
        world = World()
        begin(world, Life(12))
        cancel(world, reason="enough")
        effects = dict(world.effects)
        go_on(world, Life(None))
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, "enough")
        assert world.effects == effects

    def test_of_a_newer_release_is_left_to_it(self) -> None:
        world = World()
        begin(world, Life(12))
        world.store.runs_by_key[KEY] = replace(world.store.runs_by_key[KEY], engine_schema=ENGINE_SCHEMA + 1)
        world.clock.pass_by(timedelta(minutes=1))
        assert cancel(world).status is RunStatus.RUNNING
        assert world.store.wishes(KEY) == {Wish.CANCEL: ""}

    @pytest.mark.threads
    def test_that_two_requests_and_a_process_want_ends_once(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        life = Life(None)
        handle = Handle(world.store, life)

        async def all_at_once() -> None:
            control = world.control(life)
            cancels = [asyncio.to_thread(control.cancel, KEY.user_id, KEY.run_id, reason=str(n)) for n in range(3)]
            await asyncio.gather(*cancels, world.executor(Life(None)).go_on(KEY))

        live(all_at_once)
        assert [each.terminal for each in handle.segments(KEY, after=0, limit=10**6)].count(True) == 1
        verify(world.shown())


class TestARunThatHasEnded:
    def test_as_cancelled_stays_so_with_its_first_reason(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        first, log = cancel(world, reason="first"), world.log
        assert cancel(world, reason="second") == first
        assert world.log == log

    @pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED])
    def test_otherwise_is_told_and_nothing_is_written(self, status: RunStatus) -> None:
        world = World()
        begin(world, Life(12))
        tail = world.log[-1]
        how = RunEnd(status=status, at=world.clock.now())
        world.store.finish(replace(tail, n=tail.n + 1, terminal=True), how, thread=THREAD)
        log = world.log
        with pytest.raises(RunHasEnded) as caught:
            cancel(world)
        assert caught.value.code == "RUN_ENDED"
        assert caught.value.details == {"run_id": "r1", "status": status.value}
        assert world.log == log
        assert world.store.wishes(KEY) == {}

    def test_because_its_client_went_on_says_so(self) -> None:
        world = World()
        begin(world, Life(12))
        world.store.wish(KEY, Wish.MOVED_ON, at=world.clock.now())
        go_on(world, Life(None))
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.cancel_reason, run.error_code) == (RunStatus.CANCELLED, MOVED_ON_REASON, "")


@pytest.mark.parametrize(
    "whose", [lambda: (UserId("other"), KEY.run_id), lambda: (KEY.user_id, RunId("a#b"))], ids=["another's", "no id"]
)
def test_a_run_that_the_caller_does_not_have_is_not_found(whose: Callable[[], tuple[UserId, RunId]]) -> None:
    world = World()
    begin(world, Life(12))
    with pytest.raises(NotFound):
        world.control(Life(None)).cancel(*whose())
    assert world.store.wishes(KEY) == {}


class TestAllRunsOfAnAgent:
    def test_end_whatever_becomes_of_the_request_and_of_their_processes(self) -> None:
        """The request dies at any call, and is repeated."""
        for steps in range(1, 30, 2):
            world = World()
            begin(world, Life(12))
            world.clock.pass_by(LEASE + timedelta(seconds=1))
            for life in (Life(steps), Life(None)):
                with suppress(Killed):
                    world.control(life).stop_agent(KEY.user_id, BUILT_IN_ID, reason="all")
            run = world.store.run(KEY)
            assert run is not None
            assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, "all")
            assert [each.terminal for each in world.log].count(True) == 1

    def test_are_those_of_the_caller_and_the_agent_that_have_not_ended(self) -> None:
        world = World()
        begin(world, Life(12))
        control = world.control(Life(None))
        assert control.stop_agent(UserId("other"), BUILT_IN_ID) == ((), (), [])
        assert control.stop_agent(KEY.user_id, AgentId("another")) == ((), (), [])
        assert [run.key for run in control.stop_agent(KEY.user_id, BUILT_IN_ID).runs] == [KEY]
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        assert [run.status for run in control.stop_agent(KEY.user_id, BUILT_IN_ID).runs] == [RunStatus.CANCELLED]
        assert control.stop_agent(KEY.user_id, BUILT_IN_ID) == ((), (), [])
