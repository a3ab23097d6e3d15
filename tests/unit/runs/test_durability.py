"""Runs are stored before they are shown: the log before the wire, large answers, and writes that fail."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest

from karma.conversations.domain import MAX_ADDED_BYTES
from karma.core.clock import monotonic
from karma.core.errors import RateLimited, StorageUnavailable
from karma.models.ports import StopReason, TextDelta, ToolArguments, ToolBegun
from karma.runs.domain import OwnershipLost, RunStatus
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    Step,
    caller,
    ended,
    text,
    tool,
    types,
)
from tests.support.agui import verify
from tests.support.run_world import World, asked, merged, user

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


def tells_no_end(events: list[dict[str, Any]]) -> None:
    """Check a stream that ends as one whose run goes on in another process does."""
    verify(events, complete=False)
    assert not {"RUN_FINISHED", "RUN_ERROR"} & set(types(events))


class TestWhatIsDurableWhen:
    def test_the_watchdog_is_armed_before_the_run_is_recorded(self) -> None:
        world = World(store=MemoryRuns(lambda name: StorageUnavailable("") if name == "start" else None))
        request = asked(user("hi"))

        with pytest.raises(StorageUnavailable):
            asyncio.run(world.go(request))

        assert [key.run_id for key, _ in world.watchdog.armed] == [request.run_id]
        assert world.stored(request) is None

    def test_a_run_is_stored_once_it_is_admitted_and_read_for_before(self) -> None:
        reading = threading.Event()
        world = World(
            [*text("x"), *ended()], store=MemoryRuns(lambda name: reading.set() if name == "thread" else None)
        )
        request = asked(user("hi"))
        stored: list[object] = []

        async def admitted() -> None:
            await asyncio.to_thread(reading.wait, 10)
            stored.append(world.stored(request))

        async def go() -> None:
            started = await world.service.start(caller(), request, admission=admitted)
            await started.execute(KeptFrames())
            await world.model.close()

        asyncio.run(go())
        assert reading.is_set()
        assert stored == [None]
        assert world.stored(request) is not None

    def test_a_run_that_is_not_admitted_stores_nothing_and_arms_nothing(self) -> None:
        world = World()
        request = asked(user("hi"))

        async def refused() -> None:
            raise RateLimited("Too many open streams", retry_after_s=1, limit="open_streams")

        async def go() -> None:
            await world.service.start(caller(), request, admission=refused)

        with pytest.raises(RateLimited):
            asyncio.run(go())
        assert (world.stored(request), world.watchdog.armed) == (None, [])

    @pytest.mark.parametrize(("call_id", "first"), [("c1", ["TOOL_CALL_START"]), ("toolu_01A09q90qw90lq917835", [])])
    def test_structure_is_committed_before_it_is_sent(self, call_id: str, first: list[str]) -> None:
        """All but the start of a call whose id is nobody else's: nobody makes anything of it before its end."""
        world = World([*tool(call_id, "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("x"), *ended()])
        request = asked(user("hi"))
        seen: list[str] = []

        class Checking(KeptFrames):
            def write(self, data: bytes) -> None:
                log = {event for segment in world.log(request) for event in segment.events}
                for block in data.split(b"\n\n"):
                    event = block.rpartition(b"data: ")[2]
                    kind = orjson.loads(event)["type"] if event.startswith(b"{") else ""
                    if kind in {"TOOL_CALL_START", "TOOL_CALL_ARGS"} - set(first):
                        continue
                    if kind.startswith(("RUN_", "STATE_", "TOOL_CALL_")):
                        assert event in log, f"{kind} was sent before it was committed"
                        seen.append(kind)

        async def go() -> None:
            await (await world.service.start(caller(), request)).execute(Checking())

        asyncio.run(go())
        assert seen == [
            "RUN_STARTED",
            "STATE_SNAPSHOT",
            *first,
            "TOOL_CALL_END",
            "TOOL_CALL_RESULT",
            "RUN_FINISHED",
        ]

    def test_a_position_is_sent_only_when_the_client_has_exactly_the_log_so_far(self) -> None:
        deltas = [[TextDelta(f"{i} " * 400)] for i in range(40)]  # beyond what waits for its commit
        world = World(
            [*deltas, *tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("Done"), *ended()]
        )
        request = asked(user("hi"))
        frames = asyncio.run(world.go(request))
        log = world.log(request)
        assert 4 < len(log) < 20
        assert all(segment.events for segment in log)
        assert all(sum(map(len, segment.events)) <= 16_000 for segment in log)

        received: list[dict[str, Any]] = []
        positions = 0
        for block in frames.data.split(b"\n\n"):
            lines = block.split(b"\n")
            received += [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
            for line in lines:
                if line.startswith(b"id: "):
                    n = int(line[4:])
                    positions += 1
                    upto = [orjson.loads(data) for s in log if s.n <= n for data in s.events]
                    assert merged(received) == merged(upto)
        assert positions >= 4
        assert [segment.n for segment in log] == list(range(1, len(log) + 1))

    def test_a_run_that_was_taken_away_stops_and_tells_no_end(self) -> None:
        store = MemoryRuns(lambda name: OwnershipLost() if name == "append" else None)
        world = World([*text("a"), *tool("c1", "echo", "{}"), *ended()], store=store)

        events = asyncio.run(world.go(asked(user("hi")))).events

        tells_no_end(events)

    @pytest.mark.parametrize("failure", [OwnershipLost(), StorageUnavailable("")], ids=["taken away", "gone"])
    def test_a_silent_run_that_can_write_no_more_leaves_its_model_at_its_next_renewal(
        self, failure: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._RENEW_AFTER_S", 0.005)
        monkeypatch.setattr("karma.runs.log._RETRY_PAUSES_S", ())
        store = MemoryRuns(lambda name: failure if name in {"append", "finish"} else None)
        world = World([lambda: asyncio.Event().wait()], store=store)

        events = asyncio.run(asyncio.wait_for(world.go(asked(user("hi"))), 5)).events

        tells_no_end(events)

    def test_a_database_that_stays_away_ends_the_stream_and_leaves_the_run_to_the_watchdog(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma.runs.log._RETRY_PAUSES_S", (0.0,))
        down = MemoryRuns(lambda name: StorageUnavailable("") if name in {"append", "finish"} else None)
        world = World([*text("a"), *tool("c1", "echo", "{}"), *ended()], store=down)
        request = asked(user("hi"))

        events = asyncio.run(world.go(request)).events

        tells_no_end(events)
        assert world.stored(request).status is RunStatus.RUNNING

    def test_a_silent_run_renews_its_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.log._RENEW_AFTER_S", 0.005)
        enough = asyncio.Event()
        appended: list[str] = []
        loops: list[asyncio.AbstractEventLoop] = []

        def note(name: str) -> None:
            appended.append(name)
            if appended.count("append") == 3:
                loops[0].call_soon_threadsafe(enough.set)

        world = World([lambda: asyncio.wait_for(enough.wait(), 5), *text("x"), *ended()], store=MemoryRuns(note))
        request = asked(user("hi"))

        async def go() -> KeptFrames:
            loops.append(asyncio.get_running_loop())
            return await world.go(request)

        asyncio.run(go())

        assert sum(not segment.events for segment in world.log(request)) >= 3


class TestLargeAnswers:
    def test_ten_thousand_deltas_are_few_full_segments_on_a_slow_store(self) -> None:
        slow = threading.Event()

        def take_a_while(name: str) -> None:
            if name == "append":
                slow.wait(0.002)

        batches = [[TextDelta(f"{i:019d} abc") for i in range(at, at + 32)] for at in range(0, 10_000, 32)]
        steps = [step for batch in batches for step in (batch, lambda: asyncio.sleep(0))]
        world = World([*steps, *ended()], store=MemoryRuns(take_a_while))
        request = asked(user("hi"))

        events = world.run(request)

        log = world.log(request)
        size = sum(len(data) for segment in log for data in segment.events)
        assert events[-1]["type"] == "RUN_FINISHED"
        assert size > 230_000
        assert len(log) <= 4 + size / 8_000
        assert all(segment.events for segment in log)

    @pytest.mark.parametrize("character", ["a", "\u0001", "\u4e2d", "\U0001f600"])
    def test_a_segment_holds_at_most_16_kb_whatever_the_characters(self, character: str) -> None:
        world = World([*text(character * 50_000), *ended()])
        request = asked(user("hi"))

        world.run(request)

        assert all(sum(len(data) + 1 for data in segment.events) <= 16_001 for segment in world.log(request))
        assert world.thread().messages[1].content == character * 50_000

    def test_slow_text_is_committed_by_time_and_not_by_delta(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.log.FLUSH_AFTER_S", 0.1)
        paced = [step for i in range(40) for step in ([TextDelta(f"{i} ")], lambda: asyncio.sleep(0.01))]
        world = World([*paced, *ended()])
        request = asked(user("hi"))
        began = monotonic()

        world.run(request)

        assert len(world.log(request)) <= 3 + (monotonic() - began) / 0.1

    def test_an_answer_beyond_what_can_be_kept_stops_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.turn.MAX_ADDED_BYTES", 1_000)
        went_on: list[int] = []
        world = World([*text(*["x" * 400] * 3), lambda: went_on.append(1), *ended()])
        request = asked(user("hi"))

        events = world.run(request)

        assert types(events)[-3:] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "RUN_ERROR"]
        assert events[-1]["code"] == "ANSWER_TOO_LARGE"
        assert not went_on
        assert [m.role for m in world.thread().messages] == ["user"]
        assert world.stored(request).error_code == "ANSWER_TOO_LARGE"
        assert world.thread().active_run_id is None

    @pytest.mark.fault("F-33h")
    @pytest.mark.parametrize(("said", "written"), [(0, 501), (400, 301), (0, 5_000)])
    def test_arguments_stop_it_once_they_cannot_be_stored_with_their_blocks(
        self, monkeypatch: pytest.MonkeyPatch, said: int, written: int
    ) -> None:
        monkeypatch.setattr("karma.runs.turn.MAX_ADDED_BYTES", 1_000)
        went_on: list[int] = []
        begun: list[Step] = [[ToolBegun("c", "echo")], [ToolArguments("c", '{"word":"' + "x" * (written - 9))]]
        world = World(
            [*text(*["y" * said] * bool(said)), *begun, lambda: went_on.append(1), *ended(StopReason.TOOL_USE)]
        )

        events = world.run(asked(user("hi")))

        assert events[-1]["code"] == "ANSWER_TOO_LARGE"
        assert not went_on, "nobody pays for more of what cannot be kept"

    @pytest.mark.fault("F-33h")
    def test_arguments_that_can_be_stored_are_made(self) -> None:
        word = "x" * (MAX_ADDED_BYTES // 2 - 2_000)
        call = {"type": "tool_use", "id": "c", "name": "echo", "input": {"word": word}}
        made = [*tool("c", "echo", orjson.dumps({"word": word}).decode()), *ended(StopReason.TOOL_USE, None, call)]
        world = World(made, [*text("Done."), *ended()])

        assert world.run(asked(user("hi")))[-1]["type"] == "RUN_FINISHED"

    def test_what_the_model_thinks_counts_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.plan.MAX_ADDED_BYTES", 1_000)
        thought = {"type": "thinking", "thinking": "x" * 2_000, "signature": "s"}

        events = World([*text("short"), *ended(StopReason.END, None, thought)]).run(asked(user("hi")))

        assert events[-1]["code"] == "ANSWER_TOO_LARGE"

    def test_many_results_are_stored_in_several_writes(self) -> None:
        calls = [step for i in range(40) for step in tool(f"c{i}", "echo", '{"word":"a"}')]
        world = World([*calls, *ended(StopReason.TOOL_USE)], [*text("Done."), *ended()])

        events = world.run(asked(user("hi")))

        assert types(events).count("TOOL_CALL_RESULT") == 40
        assert [m.tool_call_id for m in world.model.requests[1].messages[2:]] == [f"c{i}" for i in range(40)]
        assert world.thread().next_message == 43


class TestWritesThatFailUnexpectedly:
    """Not the database's absence and not another writer: something that a repeat would not cure."""

    def test_the_run_ends_and_its_log_lacks_nothing_that_was_sent(self) -> None:
        failures = [ValueError("too large")]
        store = MemoryRuns(lambda name: failures.pop() if name == "finish" and failures else None)
        world = World([*text("all ", "of ", "this"), *ended()], store=store)
        request = asked(user("hi"))

        events = world.run(request)

        assert types(events)[-3:] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "RUN_ERROR"]
        assert events[-1]["code"] == "INTERNAL"
        assert world.stored(request).status is RunStatus.FAILED
        assert [m.role for m in world.thread().messages] == ["user"]

    def test_one_in_the_background_reaches_the_run(self) -> None:
        failures = [ValueError("broken")]

        def fail(name: str) -> Exception | None:
            return failures.pop() if name == "append" and failures else None

        deltas = [step for _ in range(400) for step in ([TextDelta("x" * 100)], lambda: asyncio.sleep(0.001))]
        world = World([*deltas, *ended()], store=MemoryRuns(fail))
        request = asked(user("hi"))

        events = world.run(request)

        assert events[-1]["code"] == "INTERNAL"
        assert sum(len(event.get("delta", "")) for event in events) < 40_000
        assert len(world.log(request)) <= 6

    def test_when_no_end_can_be_written_the_client_is_told_none_and_the_watchdog_has_the_rest(self) -> None:
        world = World(
            [*text("hi"), *ended()], store=MemoryRuns(lambda name: ValueError() if name == "finish" else None)
        )
        request = asked(user("hi"))

        events = asyncio.run(world.go(request)).events

        tells_no_end(events)
        assert world.stored(request).status is RunStatus.RUNNING
