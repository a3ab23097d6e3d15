"""One suite for both stores: the fake is only trusted because it passes here."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.agents.domain import (
    MAX_ADDED_BYTES,
    History,
    Message,
    OwnershipLost,
    Run,
    RunEnd,
    RunExists,
    RunKey,
    RunStatus,
    Segment,
    Thread,
    ThreadChanged,
    ThreadKey,
    ToolCall,
)
from karma.agents.ports import RunStore
from karma.agents.repository import AgentsItem, DynamoRunStore, messages_sk, run_pk, thread_pk
from karma.agents.stored import dump_messages
from karma.core.dynamo.items import bind
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from tests.fakes.agents import MemoryRunStore
from tests.support.accounts import open_account

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USER = UserId("01890000-0000-7000-8000-000000000001")
OTHER = UserId("01890000-0000-7000-8000-000000000002")
THREAD = ThreadKey(USER, ThreadId("t1"))


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> RunStore:
    if request.param == "memory":
        return MemoryRunStore()
    stack = request.getfixturevalue("stack")
    stack.use("runs")
    bind(AgentsItem, stack.tables["agents"])
    for user_id in (USER, OTHER):
        open_account(stack.tables["identity"], user_id)
    return DynamoRunStore()


def run(run_id: str = "r1", user: UserId = USER, at: datetime = NOW) -> Run:
    return Run(
        key=RunKey(user, RunId(run_id)),
        thread_id=THREAD.thread_id,
        status=RunStatus.RUNNING,
        model="m",
        created_at=at,
    )


def segment(n: int = 1, *, of: Run | None = None, writer: str = "w1", terminal: bool = False) -> Segment:
    return Segment(
        key=(of or run()).key,
        n=n,
        writer=writer,
        epoch=1,
        lease_until=NOW + timedelta(seconds=30),
        events=(b'{"type":"A"}', b'{"type":"B"}'),
        terminal=terminal,
    )


def said(text: str, **more: Any) -> Message:
    return Message(id=new_id(), role="user", content=text, **more)


def begin(store: RunStore, of: Run | None = None, *messages: Message) -> None:
    of = of or run()
    thread = store.thread(ThreadKey(of.key.user_id, of.thread_id))
    store.start(of, thread=thread, segment=segment(of=of), messages=messages)


END = RunEnd(status=RunStatus.FINISHED, at=NOW + timedelta(seconds=5), turns=2, usage={"inputTokens": 3})


def test_a_started_run_is_the_active_one_and_reads_back(store: RunStore) -> None:
    first = said("hi")
    begin(store, None, first)

    thread = store.thread(THREAD)
    assert thread.active_run_id == "r1"
    assert thread.messages == (first,)
    assert thread.next_message == 1
    assert store.run(run().key) == run()
    assert store.tail(run().key) == segment()
    assert store.owners(RunId("r1")) == [USER]
    assert store.count(USER) == 1


def test_what_does_not_exist_is_empty(store: RunStore) -> None:
    assert store.thread(THREAD) == Thread(key=THREAD)
    assert store.run(run().key) is None
    assert store.tail(run().key) is None
    assert store.segments(run().key, after=0, limit=10) == []
    assert store.owners(RunId("r1")) == []
    assert store.count(USER) == 0


def test_a_run_id_is_used_once_by_a_user(store: RunStore) -> None:
    begin(store)
    elsewhere = replace(run(), thread_id=ThreadId("t2"))

    with pytest.raises(RunExists):
        begin(store, elsewhere)
    begin(store, run(user=OTHER))

    assert store.thread(ThreadKey(USER, ThreadId("t2"))).version == 0
    assert sorted(store.owners(RunId("r1"))) == [USER, OTHER]


def test_a_thread_that_changed_meanwhile_refuses_the_start(store: RunStore) -> None:
    seen = store.thread(THREAD)
    begin(store)
    second = run("r2")

    with pytest.raises(ThreadChanged):
        store.start(second, thread=seen, segment=segment(of=second), messages=())
    with pytest.raises(ThreadChanged):
        store.start(second, thread=store.thread(THREAD), segment=segment(of=second), messages=())
    assert store.run(second.key) is None


def test_segments_are_written_once_and_read_in_order(store: RunStore) -> None:
    begin(store)
    for n in range(2, 13):
        store.append(segment(n))

    assert [each.n for each in store.segments(run().key, after=0, limit=100)] == list(range(1, 13))
    assert [each.n for each in store.segments(run().key, after=9, limit=2)] == [10, 11]
    tail = store.tail(run().key)
    assert tail is not None
    assert tail.n == 12


def test_another_writer_s_number_is_lost_and_one_s_own_is_a_repeat(store: RunStore) -> None:
    begin(store)
    store.append(segment(2))

    store.append(segment(2))
    with pytest.raises(OwnershipLost):
        store.append(segment(2, writer="w2"))
    with pytest.raises(OwnershipLost):
        store.finish(segment(2, writer="w2", terminal=True), END, thread=THREAD)

    stored = store.run(run().key)
    assert stored is not None
    assert stored.status is RunStatus.RUNNING


def test_messages_are_added_with_the_segment_or_not_at_all(store: RunStore) -> None:
    begin(store, None, said("hi"))
    call = Message(
        id="a",
        role="assistant",
        content="",
        tool_calls=(ToolCall("c", "f", "{}"),),
        blocks=({"type": "text", "text": "x"},),
        model="m",
    )
    result = Message(id="b", role="tool", content="no", tool_call_id="c", failed=True)

    store.append(segment(2), history=History(THREAD, 1, (call, result)))
    with pytest.raises(OwnershipLost):
        store.append(segment(2, writer="w2"), history=History(THREAD, 3, (said("lost"),)))

    assert store.thread(THREAD).messages[1:] == (call, result)


def test_the_end_is_written_whole_and_frees_the_thread(store: RunStore) -> None:
    begin(store, None, said("hi"))
    answer = replace(said("hello"), role="assistant")

    store.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))
    store.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))

    stored = store.run(run().key)
    assert stored is not None
    assert (stored.status, stored.turns, stored.usage) == (RunStatus.FINISHED, 2, {"inputTokens": 3})
    assert stored.finished_at == END.at
    thread = store.thread(THREAD)
    assert thread.active_run_id is None
    assert len(thread.messages) == 2
    begin(store, run("r2"))


def test_a_large_conversation_is_stored_in_pieces(store: RunStore) -> None:
    many = [said("x" * 200_000) for _ in range(5)]

    begin(store, None, *many)

    assert store.thread(THREAD).messages == tuple(many)


@pytest.mark.req("R-K-38")
@pytest.mark.parametrize("size", [230_000, 1_000_000, MAX_ADDED_BYTES - 1_000])
def test_an_answer_larger_than_an_item_is_kept_whole(store: RunStore, size: int) -> None:
    question, words = said("hi"), "deltas! " * (size // 8)
    begin(store, None, question)
    answer = Message(
        id="a", role="assistant", content=words, blocks=({"type": "text", "text": words},), model="claude-test"
    )
    assert len(dump_messages([answer])) <= MAX_ADDED_BYTES

    store.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))
    second = run("r2")
    begin(store, second, said("and then?"))

    thread = store.thread(THREAD)
    assert thread.messages[:2] == (question, answer)
    assert thread.next_message == 3


@pytest.mark.parametrize("store", ["dynamodb"], indirect=True)  # what is in memory has no parts
def test_half_of_a_write_is_never_read(store: RunStore, request: pytest.FixtureRequest) -> None:
    begin(store, None, *[said("x" * 250_000) for _ in range(3)])
    stack = request.getfixturevalue("stack")
    key = {"pk": {"S": thread_pk(THREAD)}, "sk": {"S": messages_sk(0, part=1)}}
    stack.aws("dynamodb").delete_item(TableName=stack.tables["agents"], Key=key)

    with pytest.raises(ThreadChanged):
        store.thread(THREAD)


def test_runs_are_listed_newest_first_by_pages(store: RunStore) -> None:
    for i in range(5):
        begin(store, replace(run(f"r{i}", at=NOW + timedelta(seconds=i)), thread_id=ThreadId(f"t{i}")))
    begin(store, run("other", user=OTHER))

    first = store.runs(USER, limit=3, start=None)
    second = store.runs(USER, limit=3, start=first.last)

    assert [each.key.run_id for each in (*first.runs, *second.runs)] == ["r4", "r3", "r2", "r1", "r0"]
    assert store.count(USER) == 5


def test_runs_of_an_agent_are_listed_newest_first_by_pages(store: RunStore) -> None:
    one, two = AgentId("karma"), AgentId("01890000-0000-7000-8000-0000000000aa")
    for i in range(6):
        of = replace(run(f"r{i}", at=NOW + timedelta(seconds=i)), thread_id=ThreadId(f"t{i}"))
        begin(store, replace(of, agent_id=one if i % 2 else two, agent_version=i + 1))
    begin(store, replace(run("other", user=OTHER), agent_id=one, agent_version=1))
    begin(store, replace(run("older"), thread_id=ThreadId("t9")))

    first = store.runs(USER, limit=2, start=None, agent_id=one)
    second = store.runs(USER, limit=2, start=first.last, agent_id=one)

    found = [*first.runs, *second.runs]
    assert [(each.key.run_id, each.agent_id, each.agent_version) for each in found] == [
        ("r5", one, 6),
        ("r3", one, 4),
        ("r1", one, 2),
    ]
    assert len(store.runs(USER, limit=9, start=None).runs) == 7
    assert [store.count_of_agent(USER, one, most=most) for most in (2, 9)] == [2, 3]
    assert store.count_of_agent(USER, AgentId("nobody"), most=9) == 0


def test_a_run_from_before_there_were_agents_still_reads(store: RunStore, request: pytest.FixtureRequest) -> None:
    begin(store)
    if isinstance(store, DynamoRunStore):
        stack = request.getfixturevalue("stack")
        item = stack.aws("dynamodb").get_item(
            TableName=stack.tables["agents"], Key={"pk": {"S": run_pk(run().key)}, "sk": {"S": "HEAD"}}
        )["Item"]
        assert not {"agent_id", "agent_version"} & set(item)

    stored = store.run(run().key)

    assert stored is not None
    assert (stored.agent_id, stored.agent_version) == (None, None)
    assert store.runs(USER, limit=9, start=None).runs == [stored]
