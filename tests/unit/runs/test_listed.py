"""Lists of runs by status: whatever the page, each run once; and the events of one run by number."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import InvalidRequest
from karma.core.ids import AgentId, RunId, UserId
from karma.models.ports import StopReason
from karma.runs import chat_log, reading
from karma.runs.answers import agio_run_view, statuses_of
from karma.runs.chat import Chat
from karma.runs.chat_log import ChatLog, LoggedChatEvent
from karma.runs.domain import RunKey, RunStatus
from karma.runs.reading import MAX_LOOKED_AT, RunReader
from karma.runs.step_answers import agio_event_view
from karma.tools.domain import ApprovalPolicy, ApprovalRule
from tests.fakes.runs import KeptFrames, MemoryRuns, SetClock, ended, text, tool
from tests.support.cut_runs import CutRun
from tests.support.lost_runs import KEY, Life, World, begin
from tests.support.run_world import ECHO, asked, user
from tests.support.run_world import World as RunWorld

ADA, KARMA = UserId("u-ada"), AgentId("karma")


def listed(statuses: list[RunStatus]) -> tuple[MemoryRuns, list[tuple[str, RunStatus]]]:
    """Return a store whose list is of runs in these states, newest first, and the list."""
    world = World()
    begin(world, Life(None))
    like = world.store.run(KEY)
    assert like is not None
    store = MemoryRuns()
    for n, status in enumerate(statuses):
        key = RunKey(ADA, RunId(f"r{n:04d}"))
        at = like.created_at - timedelta(seconds=n // 2)
        run = replace(like, key=key, status=status, created_at=at, agent_id=KARMA if n % 2 else None)
        store.runs_by_key[key] = run
    newest = store.runs(ADA, limit=len(statuses) + 1, start=None).runs
    return store, [(run.key.run_id, run.status) for run in newest]


@pytest.mark.req("R-A-15")
@given(
    st.lists(st.sampled_from(RunStatus), max_size=40),
    st.sampled_from(RunStatus),
    st.integers(1, 10),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_pages_by_status_hold_each_run_of_it_once(
    statuses: list[RunStatus], wanted: RunStatus, limit: int, at_once: int, reads: int
) -> None:
    store, whole = listed(statuses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_AT_ONCE", at_once)
        patch.setattr(reading, "MAX_LOOKED_AT", at_once * reads)
        found: list[str] = []
        start = None
        while True:
            page = RunReader(store).page(ADA, limit=limit, start=start, statuses={wanted})
            assert len(page.runs) <= limit
            found += [run.key.run_id for run in page.runs]
            start = page.last
            if start is None:
                break
    assert found == [run_id for run_id, status in whole if status is wanted]


def test_a_page_looks_at_so_many_runs_and_goes_on_behind_them() -> None:
    store, _ = listed([RunStatus.FINISHED] * (MAX_LOOKED_AT + 5) + [RunStatus.FAILED])
    reader = RunReader(store)
    page = reader.page(ADA, limit=5, statuses={RunStatus.FAILED})
    assert (page.runs, page.last is not None) == ([], True)
    rest = reader.page(ADA, limit=5, start=page.last, statuses={RunStatus.FAILED})
    assert ([run.key.run_id for run in rest.runs], rest.last) == (["r1005"], None)
    assert reader.numbered(ADA, offset=0, limit=5, statuses={RunStatus.FAILED}) == ([], 0)


@pytest.mark.req("R-A-15")
@given(st.lists(st.sampled_from(RunStatus), max_size=30), st.integers(0, 12), st.integers(1, 10))
def test_agio_s_status_is_the_one_that_it_shows(statuses: list[RunStatus], offset: int, limit: int) -> None:
    store, _ = listed(statuses)
    shown = [agio_run_view(run) for run in store.runs(ADA, limit=99, start=None).runs]
    for status in ("running", "paused", "completed", "interrupted", "cancelled", "failed"):
        of_it = [each["id"] for each in shown if each["status"] == status]
        page = RunReader(store).numbered(ADA, offset=offset, limit=limit, statuses=statuses_of(status))
        assert [run.key.run_id for run in page.runs] == of_it[offset : offset + limit]
        assert page.total == len(of_it)
    assert statuses_of(None) == frozenset()


@pytest.mark.req("R-A-17")
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_events_by_number_are_those_of_the_chat(limit: int) -> None:
    world, sink = World(), KeptFrames()
    begin(world, Life(None), sink)
    run = world.store.run(KEY)
    assert run is not None
    found: list[LoggedChatEvent] = []
    while True:
        page = ChatLog(world.store).page(run, offset=len(found), limit=limit)
        assert page.is_whole
        if not page.events:
            break
        found += page.events
    assert len(found) == page.total
    chat = Chat(SetClock())
    told = [event for each in sink.events for event in chat.take(each)]
    assert [each.event.name for each in found if each.event.name != "content_delta"] == [
        each.name for each in told if each.name != "content_delta"
    ]
    assert "".join(str(each.event.data["content"]) for each in found if each.event.name == "content_delta") == (
        chat.response
    )
    times = [agio_event_view(each)["timestamp"] for each in found]
    assert times == sorted(times)
    assert found[0].at == run.created_at
    assert found[-1].at == run.finished_at


@pytest.mark.req("R-A-17")
def test_events_of_runs_that_were_taken_over_end_with_the_thread_s_answer(seed: int) -> None:
    for nth in range(20):
        history = CutRun(random.Random(f"{seed} {nth}"))
        run = history.world.store.run(KEY)
        if run is None:
            continue
        page = ChatLog(history.world.store).page(run, offset=0, limit=1_000)
        names = [each.event.name for each in page.events]
        assert names[0] == "run_started", nth
        assert page.is_whole
        if run.finished_at is not None:
            assert names[-1] in {"run_completed", "error"}, nth


def test_pages_behind_what_is_read_are_refused_and_the_total_says_that_there_is_more() -> None:
    world = World()
    begin(world, Life(None))
    run = world.store.run(KEY)
    assert run is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_log, "_AT_ONCE", 2)
        patch.setattr(chat_log, "MAX_READS", 2)
        page = ChatLog(world.store).page(run, offset=0, limit=100)
        assert (page.is_whole, page.total) == (False, len(page.events))
        with pytest.raises(InvalidRequest) as refused:
            ChatLog(world.store).page(run, offset=page.total, limit=1)
    assert refused.value.code == "INVALID_PAGE"


@pytest.mark.fault("F-29u")
def test_a_call_that_was_approved_is_told_with_its_name() -> None:
    world = RunWorld([*tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("Done."), *ended()])
    world.tools = [replace(ECHO, approval=ApprovalRule(policy=ApprovalPolicy.ALWAYS))]
    asks = world.run(asked(user("go")))
    (question,) = asks[-1]["outcome"]["interrupts"]
    answer = {"interruptId": question["id"], "status": "resolved", "payload": {"approved": True}}
    request = asked(resume=[answer])

    world.run(request)

    page = ChatLog(world.store).page(world.stored(request), offset=0, limit=100)
    begun, done = (each.event for each in page.events if each.event.name.startswith("tool_call"))
    assert begun == ("tool_call_started", {"tool": "echo", "args": {"word": "a"}})
    assert (done.name, done.data["tool"]) == ("tool_call_completed", "echo")


@pytest.mark.fault("F-29u")
def test_a_call_of_the_conversation_as_it_is_shown_is_told_with_its_name() -> None:
    function = {"name": "echo", "arguments": "null"}
    said = {"id": "m1", "role": "assistant", "toolCalls": [{"id": "c1", "type": "function", "function": function}]}
    chat = Chat(SetClock())
    assert list(chat.take({"type": "MESSAGES_SNAPSHOT", "messages": [{"id": "u1", "role": "user"}, said]})) == []
    assert list(chat.take({"type": "TOOL_CALL_RESULT", "toolCallId": "c1", "content": "a"})) == [
        ("tool_call_started", {"tool": "echo", "args": {}}),
        ("tool_call_completed", {"tool": "echo", "result": "a"}),
    ]
