"""A thread has one run at a time: who waits, who stops it, and what a request finds that comes meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, Thread, ThreadChanged, ThreadKey
from karma.core.ids import RunId
from karma.models.ports import StopReason
from karma.runs.domain import CLIENT_LEFT_REASON, LEASE, Run, RunKey, RunStatus, ThreadBusy
from karma.runs.requests import parse_run_input
from karma.runs.watchdog import GIVE_UP_AFTER
from karma.runs.wishes import MOVED_ON_REASON, Wish
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    caller,
    ended,
    text,
    tool,
)
from tests.support.agui import verify
from tests.support.run_world import World, asked, user

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


class TestOneRunAThread:
    def test_a_thread_that_was_named_here_is_not_looked_up(self) -> None:
        calls: list[str] = []
        world = World([*text("ok"), *ended()], [*text("ok"), *ended()], store=MemoryRuns(calls.append))

        unnamed = parse_run_input(orjson.dumps({"messages": [user("hi")], "protocolVersion": "1.0"}))
        world.run(unnamed)
        assert "thread" not in calls

        world.run(asked(user("more"), thread=unnamed.thread_id))
        assert calls.count("thread") == 1
        assert [m.content for m in world.model.requests[1].messages] == ["hi", "ok", "more"]

    def test_a_second_run_is_refused_while_the_first_is_alive(self) -> None:
        world = World()

        async def go() -> None:
            await world.service.start(caller(), asked(user("a"), run="r1"))
            await world.service.start(caller(), asked(user("b"), run="r2"))

        with pytest.raises(Exception, match="active run") as caught:
            asyncio.run(go())

        assert caught.value.details == {"run_id": "r1"}  # type: ignore[attr-defined]
        assert caught.value.code == "THREAD_BUSY"  # type: ignore[attr-defined]

    @pytest.mark.fault("F-06c")
    @pytest.mark.parametrize("version", ["1.0", None])
    @pytest.mark.parametrize(
        "then",
        [
            [user("a", "u1"), {"id": "half", "role": "assistant", "content": "Hel"}, user("b", "u2")],
            [user("changed", "u1")],
        ],
        ids=["goes on", "edits"],
    )
    def test_a_client_that_stopped_goes_on(
        self, then: list[dict[str, Any]], version: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.01)
        monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.01)
        world = World([*text("Hel"), lambda: asyncio.Event().wait()], [*text("ok"), *ended()])
        first = asked(user("a", "u1"), run="r1", protocolVersion=version)

        async def go() -> tuple[KeptFrames, KeptFrames]:
            left = KeptFrames()
            running = (await world.service.start(caller(), first)).execute(left)
            answer = await world.go(asked(*then, run="r2"))
            await running
            return left, answer

        left, answer = asyncio.run(go())

        verify(left.events)
        verify(answer.events)
        assert world.stored(first).status is RunStatus.CANCELLED
        if version:
            assert left.events[-1]["outcome"] == {"type": "cancelled"}
        else:
            assert left.events[-1]["code"] == "CANCELLED"
        assert answer.events[-1]["outcome"] == {"type": "success"}
        words = [message["content"] for message in then if message["role"] == "user"]
        assert [m.content for m in world.model.requests[1].messages] == words

    @pytest.mark.fault("F-02g")
    @pytest.mark.parametrize("at_once", [True, False])
    def test_the_same_messages_under_another_run_id_are_answered_once_while_their_run_goes_on(
        self, *, at_once: bool
    ) -> None:
        go_on = asyncio.Event()
        world = World([*text("Hel"), go_on.wait, *ended()], [*text("anew"), *ended()])

        async def go() -> tuple[KeptFrames, KeptFrames]:
            frames = KeptFrames(), KeptFrames()

            async def click(n: int) -> asyncio.Task[None]:
                started = await world.service.start(caller(), asked(user("move it", "u1"), run=f"r{n}"))
                return started.execute(frames[n])

            tasks = list(await asyncio.gather(click(0), click(1))) if at_once else [await click(0), await click(1)]
            go_on.set()
            await asyncio.gather(*tasks)
            return frames

        one, other = asyncio.run(go())

        assert len(world.model.requests) == 1
        assert one.events == other.events
        assert one.events[-1]["outcome"] == {"type": "success"}
        assert world.thread().next_message == 2

        world.run(asked(user("move it", "u1"), run="r2"))
        assert [m.content for m in world.model.requests[1].messages] == ["move it"]

    @pytest.mark.fault("F-02g")
    @pytest.mark.parametrize("words", [["move it"], ["move", "it"], ["move", "it", "now"]])
    def test_new_words_alone_that_are_sent_again_without_ids_are_answered_once(self, words: list[str]) -> None:
        go_on = asyncio.Event()
        world = World([*text("Hi"), *ended()], [*text("Hel"), go_on.wait, *ended()])
        world.run(asked(user("hi", "u0")))

        async def go() -> None:
            tasks = []
            for n in range(2):
                sent = [{"role": "user", "content": each} for each in words]
                started = await world.service.start(caller(), asked(*sent, run=f"r{n}"))
                tasks.append(started.execute(KeptFrames()))
            go_on.set()
            await asyncio.gather(*tasks)

        asyncio.run(go())

        assert len(world.model.requests) == 2
        assert [m.content for m in world.thread().messages if m.role == "user"] == ["hi", *words]

    @pytest.mark.fault("F-06c")
    @pytest.mark.parametrize("is_lost", [True, False])
    def test_who_sends_only_what_is_new_waits_for_a_client_that_listens(
        self, is_lost: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.01)
        heard = asyncio.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        def note(name: str) -> None:
            if name == "wishes":
                loops[0].call_soon_threadsafe(heard.set)

        store = MemoryRuns(note)
        go_on = asyncio.Event()
        world = World([*text("Hel"), go_on.wait, *ended()], store=store)
        first = asked(user("a", "u1"), run="r1")

        async def go() -> None:
            loops.append(asyncio.get_running_loop())
            running = (await world.service.start(caller(), first)).execute(KeptFrames(is_lost=is_lost))
            with pytest.raises(ThreadBusy):
                await world.service.start(caller(), asked(user("b", "u2"), run="r2"))
            for _ in range(3):  # the first may have begun before the wish, and a later one waits for what came of it
                heard.clear()
                hearing = asyncio.ensure_future(heard.wait())
                await asyncio.wait([running, hearing], timeout=5, return_when=asyncio.FIRST_COMPLETED)
                hearing.cancel()
            if not is_lost:
                go_on.set()
            await asyncio.wait_for(running, 5)

        asyncio.run(go())

        assert world.stored(first).status is (RunStatus.CANCELLED if is_lost else RunStatus.FINISHED)

    def test_who_comes_next_waits_for_a_lost_run_that_another_process_goes_on_with(self) -> None:
        world = World()

        async def go() -> None:
            await world.service.start(caller(), asked(user("a", "u1"), run="r1"))
            world.clock.pass_by(timedelta(minutes=5))
            with pytest.raises(ThreadBusy):
                await world.go(asked(user("b", "u2"), run="r2"))

        asyncio.run(go())
        assert world.executions.requested == [RunKey(caller().user_id, RunId("r1"))]

    def test_a_run_that_nobody_went_on_with_is_ended_by_who_comes_next(self) -> None:
        world = World([*text("ok"), *ended()])

        async def go() -> KeptFrames:
            await world.service.start(caller(), asked(user("a", "u1"), run="r1"))
            world.clock.pass_by(LEASE + GIVE_UP_AFTER)
            return await world.go(asked(user("b", "u2"), run="r2"))

        events = asyncio.run(go()).events

        assert events[-1]["type"] == "RUN_FINISHED"
        dead = world.store.run(RunKey(caller().user_id, RunId("r1")))
        assert dead is not None
        assert dead.error_code == "OWNER_LOST"

    @pytest.mark.fault("F-25d")
    def test_who_always_comes_second_is_told_who_was_first(self) -> None:
        class Overtaken(MemoryRuns):
            """Store in which another run begins and ends between each reading of a thread and the write after it."""

            begun = 0

            def start(self, run: Run, *, thread: Thread, **_: Any) -> None:
                self.begun += 1
                active = RunId("first") if self.begun == 3 else None
                self.threads[thread.key] = replace(thread, version=self.begun, active_run_id=active)
                raise ThreadChanged

        world = World(store=Overtaken())

        with pytest.raises(ThreadBusy) as busy:
            asyncio.run(world.service.start(caller(), asked(user("b"))))

        assert (busy.value.code, busy.value.details) == ("THREAD_BUSY", {"run_id": "first"})
        assert busy.value.headers["Retry-After"] == "5"

    @pytest.mark.fault("F-25a")
    def test_a_conversation_is_read_beside_the_event_loop(self) -> None:
        readers: set[int] = set()

        class Watched(tuple[Message, ...]):
            __slots__ = ()

            def __iter__(self) -> Iterator[Message]:
                readers.add(threading.get_ident())
                return super().__iter__()

        class Store(MemoryRuns):
            def thread(self, key: ThreadKey) -> Thread:
                said = Watched([Message(id="m1", role="user", content="a")])
                return Thread(key=key, messages=said, next_message=1, version=1)

        with pytest.raises(ThreadChanged):
            asyncio.run(World(store=Store()).service.start(caller(), asked(user("b"))))

        assert readers
        assert threading.get_ident() not in readers

    @pytest.mark.fault("F-25a")
    @pytest.mark.parametrize(
        "reader",
        [
            "asking.merge",
            "recording.opening",
            "recording.model_request",
            "recording.recognise",
            "recording.is_repeat",
            "engine.repair",
            "engine.model_request",
            "repeats.snapshots_of",
        ],
    )
    def test_each_reader_of_a_conversation_is_called_beside_the_event_loop(
        self, reader: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, name = reader.split(".")
        module = import_module(f"karma.runs.{place}")
        read = getattr(module, name)
        callers: set[int] = set()

        def watched(*args: Any, **more: Any) -> Any:
            callers.add(threading.get_ident())
            return read(*args, **more)

        monkeypatch.setattr(module, name, watched)
        calls = [*tool("c1", "echo", '{"word":"yes"}'), *ended(StopReason.TOOL_USE)]
        world = World(calls, [*text("ok"), *ended()])
        for _ in range(2):  # begun, and its answer asked for once more
            asyncio.run(world.go(asked(user("a", "u1"), run="r1")))

        assert callers
        assert threading.get_ident() not in callers

    def test_a_run_id_is_used_once(self) -> None:
        world = World([*text("ok"), *ended()])
        world.run(asked(user("a"), run="r1"))

        with pytest.raises(Exception, match="exists already"):
            asyncio.run(world.go(asked(user("b"), run="r1", thread="another")))

    def test_users_may_choose_the_same_ids(self) -> None:
        world = World([*text("ok"), *ended()], [*text("ok"), *ended()])
        world.run(asked(user("a"), run="r1"))

        async def go() -> KeptFrames:
            frames = KeptFrames()
            other = caller(user_id="01890000-0000-7000-8000-000000000002")
            await (await world.service.start(other, asked(user("b"), run="r1"))).execute(frames)
            return frames

        assert asyncio.run(go()).events[-1]["type"] == "RUN_FINISHED"
        assert [m.content for m in world.model.requests[1].messages] == ["b"]


class TestARequestThatInterrupts:
    def test_cancels_the_active_run_keeps_its_whole_turns_and_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
        monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
        calls = [*text("I look."), *tool("c1", "echo", '{"word":"yes"}'), *ended(StopReason.TOOL_USE)]
        world = World(calls, [*text("Hel"), lambda: asyncio.Event().wait()], [*text("ok"), *ended()])
        first = asked(user("a", "u1"), run="r1")

        async def go() -> tuple[KeptFrames, KeptFrames]:
            left = KeptFrames()
            running = (await world.service.start(caller(), first)).execute(left)
            while len(world.model.requests) < 2:  # noqa: ASYNC110  the model does not tell
                await asyncio.sleep(0)
            other = asked(user("b", "u2"), run="r2", forwardedProps={"multitask_strategy": "interrupt"})
            answer = await world.go(other)
            await asyncio.wait_for(running, 5)
            return left, answer

        left, answer = asyncio.run(go())

        assert left.events[-1]["outcome"] == {"type": "cancelled"}
        assert answer.events[-1]["outcome"] == {"type": "success"}
        assert world.stored(first).cancel_reason == MOVED_ON_REASON
        assert [(m.role, m.content) for m in world.thread().messages] == [
            ("user", "a"),
            ("assistant", "I look."),
            ("tool", '{"said":"yes","to":"Ada"}'),
            ("user", "b"),
            ("assistant", "ok"),
        ]

    @pytest.mark.parametrize("nth", range(int(os.environ.get("INTERLEAVINGS") or 12)))
    def test_of_which_two_come_at_once_leaves_one_run_or_none_and_each_ends_once(
        self, nth: int, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        dice = random.Random(seed)
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
        monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
        monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.001)
        silent = [*text("Hel"), lambda: asyncio.Event().wait()]
        world = World(silent, silent, silent, silent)
        frames: list[KeptFrames] = []
        tasks: list[asyncio.Task[None]] = []

        async def ask(run: str, *, after: int) -> None:
            for _ in range(after):
                await asyncio.sleep(0)
            props = {"multitask_strategy": "interrupt"}
            request = asked(user(run, f"u-{run}"), run=run, forwardedProps=props)
            try:
                started = await world.service.start(caller(), request)
            except (ThreadBusy, ThreadChanged):
                return  # the other one was faster each time, and says so
            frames.append(KeptFrames())
            tasks.append(started.execute(frames[-1]))

        async def go() -> None:
            await ask("r0", after=0)
            await asyncio.gather(*(ask(f"r{n}", after=dice.randint(0, 40)) for n in (1, 2)))
            active = world.thread().active_run_id
            key = RunKey(caller().user_id, RunId(active or "r0"))
            world.store.wish(key, Wish.CANCEL, at=world.clock.now())
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

        asyncio.run(go())

        assert world.thread().active_run_id is None
        runs = list(world.store.runs_by_key.values())
        assert len(runs) >= 2
        assert {run.status for run in runs} == {RunStatus.CANCELLED}
        for each in frames:
            verify(each.events)
            assert each.events[-1]["outcome"] == {"type": "cancelled"}
        for run in runs:
            log = world.store.segments(run.key, after=0, limit=10**6)
            assert [segment.terminal for segment in log].count(True) == 1


class TestARunWhoseClientLeaves:
    @pytest.mark.parametrize("ends", [True, False])
    def test_is_cancelled_only_where_it_was_to_end_with_it(
        self, *, ends: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
        go_on = asyncio.Event()
        calls: list[str] = []
        world = World([*text("Hel"), go_on.wait, *ended()], store=MemoryRuns(calls.append))
        request = asked(user("a", "u1"), run="r1", forwardedProps={"on_disconnect": "cancel" if ends else "continue"})

        async def go() -> None:
            frames = KeptFrames()
            running = (await world.service.start(caller(), request)).execute(frames)
            while calls.count("wishes") < 3:  # noqa: ASYNC110  its client is there, and the run goes on
                await asyncio.sleep(0)
            assert not running.done()
            frames.is_lost = True
            if not ends:
                go_on.set()
            await asyncio.wait_for(running, 5)

        asyncio.run(go())

        run = world.stored(request)
        assert run.status is (RunStatus.CANCELLED if ends else RunStatus.FINISHED)
        assert run.cancel_reason == (CLIENT_LEFT_REASON if ends else "")
