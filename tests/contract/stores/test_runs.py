"""Runs, their logs and threads: one suite for the store in memory and for DynamoDB."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric
from karma.conversations.domain import MAX_ADDED_BYTES, History, Message, Thread, ThreadChanged, ThreadKey, ToolCall
from karma.conversations.items import messages_sk, thread_pk
from karma.conversations.state import State
from karma.conversations.stored import dump_messages
from karma.core.errors import QuotaExceeded
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.models.domain import Usage, Usages
from karma.runs.domain import Checkpoint, OwnershipLost, Progress, Run, RunEnd, RunExists, RunKey, RunStatus, Segment
from karma.runs.items import run_pk
from karma.runs.ports import Runs
from karma.runs.repository import RunRepository
from karma.runs.wishes import Wish
from tests.fakes.runs import MemoryRuns
from tests.support.accounts import open_account
from tests.support.plans import limited
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USER = UserId("01890000-0000-7000-8000-000000000001")
OTHER = UserId("01890000-0000-7000-8000-000000000002")
THREAD = ThreadKey(USER, ThreadId("t1"))


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def stored_runs(database: Database) -> RunRepository:
    for user_id in (USER, OTHER):
        open_account(user_id)
    return RunRepository()


def run(run_id: str = "r1", user: UserId = USER, at: datetime = NOW) -> Run:
    return Run(
        key=RunKey(user, RunId(run_id)),
        thread_id=THREAD.thread_id,
        status=RunStatus.RUNNING,
        model="m",
        created_at=at,
        input_query="hi",
        asked_hash="d1",
        answers=2,
        begins_at=3,
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


def begin(store: Runs, of: Run | None = None, *messages: Message) -> None:
    of = of or run()
    thread = store.thread(ThreadKey(of.key.user_id, of.thread_id))
    store.start(of, thread=thread, segment=segment(of=of), messages=messages)


END = RunEnd(status=RunStatus.FINISHED, at=NOW + timedelta(seconds=5), turns=2, usages=[{"inputTokens": 3}])
END = replace(END, response="Hello", stop_reason="max_tokens")


def test_a_started_run_is_the_active_one_and_reads_back(runs: Runs) -> None:
    first = said("hi")
    begin(runs, None, first)

    thread = runs.thread(THREAD)
    assert thread.active_run_id == "r1"
    assert thread.messages == (first,)
    assert thread.next_message == 1
    assert runs.run(run().key) == run()
    assert runs.tail(run().key) == segment()
    assert runs.owners(RunId("r1")) == [USER]
    assert runs.count(USER) == 1


def test_a_run_or_thread_that_does_not_exist_is_empty(runs: Runs) -> None:
    assert runs.thread(THREAD) == Thread(key=THREAD)
    assert runs.run(run().key) is None
    assert runs.tail(run().key) is None
    assert runs.segments(run().key, after=0, limit=10) == []
    assert runs.owners(RunId("r1")) == []
    assert runs.count(USER) == 0


def test_a_run_id_is_used_once_by_a_user(runs: Runs) -> None:
    begin(runs)
    elsewhere = replace(run(), thread_id=ThreadId("t2"))

    with pytest.raises(RunExists):
        begin(runs, elsewhere)
    begin(runs, run(user=OTHER))

    assert runs.thread(ThreadKey(USER, ThreadId("t2"))).version == 0
    assert sorted(runs.owners(RunId("r1"))) == [USER, OTHER]


def test_a_thread_that_changed_meanwhile_refuses_the_start(runs: Runs) -> None:
    seen = runs.thread(THREAD)
    begin(runs)
    second = run("r2")

    with pytest.raises(ThreadChanged):
        runs.start(second, thread=seen, segment=segment(of=second), messages=())
    with pytest.raises(ThreadChanged):
        runs.start(second, thread=runs.thread(THREAD), segment=segment(of=second), messages=())
    assert runs.run(second.key) is None


def test_segments_are_written_once_and_read_in_order(runs: Runs) -> None:
    begin(runs)
    for n in range(2, 13):
        runs.append(segment(n))

    assert [each.n for each in runs.segments(run().key, after=0, limit=100)] == list(range(1, 13))
    assert [each.n for each in runs.segments(run().key, after=9, limit=2)] == [10, 11]
    tail = runs.tail(run().key)
    assert tail is not None
    assert tail.n == 12


def test_another_writer_s_number_is_lost_and_one_s_own_is_a_repeat(runs: Runs) -> None:
    begin(runs)
    runs.append(segment(2))

    runs.append(segment(2))
    with pytest.raises(OwnershipLost):
        runs.append(segment(2, writer="w2"))
    with pytest.raises(OwnershipLost):
        runs.finish(segment(2, writer="w2", terminal=True), END, thread=THREAD)

    stored = runs.run(run().key)
    assert stored is not None
    assert stored.status is RunStatus.RUNNING


def test_a_run_keeps_what_it_was_started_with(runs: Runs) -> None:
    setup = os.urandom(800_000)  # of several items
    runs.start(run(), thread=runs.thread(THREAD), segment=segment(), messages=(), setup=setup)
    begin(runs, replace(run("r2", user=OTHER), thread_id=ThreadId("t2")))
    runs.append(segment(2))

    assert runs.setup(run().key) == setup
    assert runs.setup(RunKey(OTHER, RunId("r2"))) is None
    assert [each.n for each in runs.segments(run().key, after=0, limit=10)] == [1, 2]


def test_a_run_that_goes_on_from_a_point_begins_with_its_checkpoint_or_not_at_all(runs: Runs) -> None:
    point = Checkpoint(n=1, epoch=0, position=0, progress=Progress(messages=1), description="tried")
    begin(runs)
    other = run("r2")
    thread = runs.thread(THREAD)
    with pytest.raises(ThreadChanged):
        runs.start(other, thread=thread, segment=segment(of=other), messages=(), checkpoint=point)
    assert runs.last_checkpoint(other.key) is None
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    runs.start(other, thread=runs.thread(THREAD), segment=segment(of=other), messages=(), checkpoint=point)
    assert runs.last_checkpoint(other.key) == point


def test_a_restored_thread_goes_on_there_until_messages_are_added(runs: Runs) -> None:
    begin(runs, None, said("a"), said("b"), said("c"))
    busy = runs.thread(THREAD)
    with pytest.raises(ThreadChanged):
        runs.restore(busy, position=0, at=NOW)
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    free = runs.thread(THREAD)
    with pytest.raises(ThreadChanged):
        runs.restore(busy, position=0, at=NOW)
    runs.restore(free, position=0, at=NOW)
    restored = runs.thread(THREAD)
    assert (restored.latest, restored.messages, restored.state) == (0, free.messages, free.state)
    with pytest.raises(ThreadChanged):
        runs.restore(free, position=1, state=State({"never": 1}), at=NOW)
    runs.restore(restored, position=0, state=State({"page": 1}), at=NOW)
    restored = runs.thread(THREAD)
    assert (restored.latest, restored.state) == (0, State({"page": 1}))
    other = run("r2")
    runs.start(other, thread=restored, segment=segment(of=other), messages=(said("d"),), after=restored.latest)
    added = runs.thread(THREAD)
    assert (added.latest, added.path_to(added.latest)) == (3, [0, 3])


def test_the_newest_checkpoint_is_the_one_to_go_on_from(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    assert runs.last_checkpoint(run().key) is None
    usages = Usages({("anthropic", "m"): Usage(1, None, 2), ("openai", "n"): Usage(3, 4)})
    made = [
        Checkpoint(n=n, epoch=n, position=n, progress=Progress(turns=n, usages=usages, spent_micros=7 * n))
        for n in (9, 10, 11)
    ]
    for at, checkpoint in enumerate(made):
        history = History(THREAD, 1 + at, (said("x"),))
        runs.append(replace(segment(2 + at), shows=at), history=history, checkpoint=checkpoint)
        runs.append(replace(segment(2 + at), shows=at), history=history, checkpoint=checkpoint)  # its own repeat

    assert runs.last_checkpoint(run().key) == made[-1]
    assert [each.shows for each in runs.segments(run().key, after=1, limit=10)] == [0, 1, 2]
    assert runs.thread(THREAD).next_message == 4


def test_a_checkpoint_that_another_writer_was_before_is_not_there(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    runs.append(segment(2, writer="w2"))
    lost = Checkpoint(n=2, epoch=1, position=1, progress=Progress())

    with pytest.raises(OwnershipLost):
        runs.append(segment(2), history=History(THREAD, 1, (said("x"),)), checkpoint=lost)
    assert runs.last_checkpoint(run().key) is None


def test_more_spend_is_reserved_and_noted_at_a_run_that_is_running(runs: Runs) -> None:
    runs.start(replace(run(), reserved_micros=5), thread=runs.thread(THREAD), segment=segment(), messages=())
    runs.extend(run().key, limited(USER, Metric.MODEL_SPEND, 7))
    with pytest.raises(QuotaExceeded):
        runs.extend(run().key, limited(USER, Metric.MODEL_SPEND, 1_999_999))
    stored = runs.run(run().key)
    assert stored is not None
    assert stored.reserved_micros == 12
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    with pytest.raises(OwnershipLost):
        runs.extend(run().key, limited(USER, Metric.MODEL_SPEND, 7))


def test_messages_are_added_with_the_segment_or_not_at_all(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    call = Message(
        id="a",
        role="assistant",
        content="",
        tool_calls=(ToolCall("c", "f", "{}"),),
        blocks=({"type": "text", "text": "x"},),
        model="m",
    )
    result = Message(id="b", role="tool", content="no", tool_call_id="c", failed=True)

    runs.append(segment(2), history=History(THREAD, 1, (call, result)))
    with pytest.raises(OwnershipLost):
        runs.append(segment(2, writer="w2"), history=History(THREAD, 3, (said("lost"),)))

    assert runs.thread(THREAD).messages[1:] == (call, result)


def test_the_end_is_written_whole_and_frees_the_thread(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    answer = replace(said("hello"), role="assistant")

    runs.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))
    runs.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))

    stored = runs.run(run().key)
    assert stored is not None
    assert (stored.status, stored.turns, stored.usage) == (RunStatus.FINISHED, 2, {"inputTokens": 3})
    assert stored.finished_at == END.at
    thread = runs.thread(THREAD)
    assert thread.active_run_id is None
    assert len(thread.messages) == 2
    begin(runs, run("r2"))


@pytest.mark.fault("F-06c")
def test_a_wish_stands_beside_the_log_and_changes_nothing_in_it(runs: Runs) -> None:
    begin(runs)
    assert runs.wishes(run().key) == {}

    for reason, wish in (("", Wish.NEXT), ("", Wish.NEXT), ("first", Wish.CANCEL), ("second", Wish.CANCEL)):
        assert runs.wish(run().key, wish, at=NOW, reason=reason)

    assert runs.wishes(run().key) == {Wish.NEXT: "", Wish.CANCEL: "first"}
    assert runs.wishes(run("r2").key) == {}
    assert runs.segments(run().key, after=0, limit=9) == [segment()]
    assert runs.tail(run().key) == segment()


def test_a_wish_for_a_run_that_has_ended_or_never_began_is_not_kept(runs: Runs) -> None:
    begin(runs)
    end = replace(END, status=RunStatus.CANCELLED, cancel_reason="enough")
    runs.finish(segment(2, terminal=True), end, thread=THREAD)

    assert not runs.wish(run().key, Wish.CANCEL, at=NOW, reason="late")
    assert not runs.wish(run("r2").key, Wish.CANCEL, at=NOW)

    assert runs.wishes(run().key) == runs.wishes(run("r2").key) == {}
    stored = runs.run(run().key)
    assert stored is not None
    assert (stored.status, stored.cancel_reason) == (RunStatus.CANCELLED, "enough")


@pytest.mark.fault("F-02a")
def test_a_branch_follows_the_message_that_it_forks_from(runs: Runs) -> None:
    first, answer, anew, other = (said(text) for text in ("hi", "hello", "good day", "never mind"))
    begin(runs, None, first)
    runs.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,), 0))
    second, third = run("r2"), run("r3")

    runs.start(second, thread=runs.thread(THREAD), segment=segment(of=second), messages=(), after=0)
    end = replace(END, last_message=2)
    last = segment(2, of=second, terminal=True)
    runs.finish(last, end, thread=THREAD, history=History(THREAD, 2, (anew,), 0))
    runs.start(third, thread=runs.thread(THREAD), segment=segment(of=third), messages=(other,), after=-1)

    thread = runs.thread(THREAD)
    assert thread.messages == (first, answer, anew, other)
    assert dict(thread.forks) == {2: 0, 3: -1}
    assert [thread.path_to(n) for n in range(4)] == [[0], [0, 1], [0, 2], [3]]
    ended, going_on = runs.run(second.key), runs.run(third.key)
    assert ended is not None
    assert going_on is not None
    assert (ended.last_message, going_on.last_message) == (2, -1)


def test_a_large_conversation_is_stored_in_pieces(runs: Runs) -> None:
    many = [said("x" * 200_000) for _ in range(5)]

    begin(runs, None, *many)

    assert runs.thread(THREAD).messages == tuple(many)


@pytest.mark.req("R-K-38")
@pytest.mark.parametrize("size", [230_000, 1_000_000, MAX_ADDED_BYTES - 1_000])
def test_an_answer_larger_than_an_item_is_kept_whole(runs: Runs, size: int) -> None:
    question, words = said("hi"), "deltas! " * (size // 8)
    begin(runs, None, question)
    answer = Message(
        id="a", role="assistant", content=words, blocks=({"type": "text", "text": words},), model="claude-test"
    )
    assert len(dump_messages([answer])) <= MAX_ADDED_BYTES

    runs.finish(segment(2, terminal=True), END, thread=THREAD, history=History(THREAD, 1, (answer,)))
    second = run("r2")
    begin(runs, second, said("and then?"))

    thread = runs.thread(THREAD)
    assert thread.messages[:2] == (question, answer)
    assert thread.next_message == 3


def test_half_of_a_write_is_never_read(database: Database) -> None:
    store = stored_runs(database)
    begin(store, None, *[said("x" * 250_000) for _ in range(3)])
    key = {"pk": {"S": thread_pk(THREAD)}, "sk": {"S": messages_sk(0, part=1)}}
    database.client.delete_item(TableName=database.tables["agents"], Key=key)

    with pytest.raises(ThreadChanged):
        store.thread(THREAD)


def test_runs_are_listed_newest_first_by_pages(runs: Runs) -> None:
    for i in range(5):
        begin(runs, replace(run(f"r{i}", at=NOW + timedelta(seconds=i)), thread_id=ThreadId(f"t{i}")))
    begin(runs, run("other", user=OTHER))

    first = runs.runs(USER, limit=3, start=None)
    second = runs.runs(USER, limit=3, start=first.last)

    assert [each.key.run_id for each in (*first.runs, *second.runs)] == ["r4", "r3", "r2", "r1", "r0"]
    assert runs.count(USER) == 5


def test_runs_of_an_agent_are_listed_newest_first_by_pages(runs: Runs) -> None:
    one, two = AgentId("karma"), AgentId("01890000-0000-7000-8000-0000000000aa")
    for i in range(6):
        of = replace(run(f"r{i}", at=NOW + timedelta(seconds=i)), thread_id=ThreadId(f"t{i}"))
        begin(runs, replace(of, agent_id=one if i % 2 else two, agent_version=i + 1))
    begin(runs, replace(run("other", user=OTHER), agent_id=one, agent_version=1))
    begin(runs, replace(run("older"), thread_id=ThreadId("t9")))

    first = runs.runs(USER, limit=2, start=None, agent_id=one)
    second = runs.runs(USER, limit=2, start=first.last, agent_id=one)

    found = [*first.runs, *second.runs]
    assert [(each.key.run_id, each.agent_id, each.agent_version) for each in found] == [
        ("r5", one, 6),
        ("r3", one, 4),
        ("r1", one, 2),
    ]
    assert len(runs.runs(USER, limit=9, start=None).runs) == 7
    assert [runs.count_of_agent(USER, one, most=most) for most in (2, 9)] == [2, 3]
    assert runs.count_of_agent(USER, AgentId("nobody"), most=9) == 0


def test_a_run_from_before_there_were_agents_still_reads(runs: Runs, store: Store) -> None:
    begin(runs)
    if not store.in_memory:
        item = store.database.get("agents", run_pk(run().key), "HEAD")
        assert item
        assert not {"agent_id", "agent_version"} & set(item)

    stored = runs.run(run().key)

    assert stored is not None
    assert (stored.agent_id, stored.agent_version) == (None, None)
    assert runs.runs(USER, limit=9, start=None).runs == [stored]


def test_a_run_is_read_whole(runs: Runs) -> None:
    setup = os.urandom(800_000)
    runs.start(run(), thread=runs.thread(THREAD), segment=segment(), messages=(), setup=setup)
    large = (b'{"type":"CUSTOM","name":"x","value":"' + b"a" * 300_000 + b'"}',)
    for n in range(2, 6):  # together more than one answer of the database has
        runs.append(replace(segment(n), events=large))
    runs.wish(run().key, Wish.PAUSE, at=NOW)

    found = runs.whole(run().key)

    assert found is not None
    assert (found.run, found.setup) == (runs.run(run().key), setup)
    assert found.log == runs.segments(run().key, after=0, limit=1) + [
        each for n in range(1, 5) for each in runs.segments(run().key, after=n, limit=1)
    ]
    assert runs.whole(RunKey(OTHER, run().key.run_id)) is None
