"""Runs that wait for their turn in a thread: one suite for the store in memory and for DynamoDB."""

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.billing.allowances import Metric
from karma.conversations.domain import Message, ThreadChanged, ThreadKey
from karma.core.errors import QuotaExceeded
from karma.core.ids import ThreadId
from karma.runs.domain import OwnershipLost, Run, RunExists, RunStatus, Segment
from karma.runs.interrupts import Answered, AnswerStatus, InterruptAnswer
from karma.runs.ports import Runs
from karma.runs.wishes import Needs
from tests.contexts.runs import question
from tests.contract.stores.test_runs import END, NOW, THREAD, begin, run, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.plans import limited
from tests.support.stores import Store

OTHER = ThreadKey(THREAD.user_id, ThreadId("other"))
LATER = NOW + timedelta(seconds=5)
SAID = (Message(id="m2", role="user", content="later"),)


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def queue(store: Runs, name: str) -> Run:
    waits = replace(run(name), status=RunStatus.QUEUED)
    first = Segment(key=waits.key, n=1, writer="w", epoch=0, lease_until=NOW, events=(b"{}",))
    store.start(waits, thread=store.thread(THREAD), segment=first, messages=SAID, setup=b"s")
    return waits


def end(store: Runs, name: str = "r1", *, n: int = 2, was: RunStatus = RunStatus.RUNNING) -> None:
    last = replace(segment(n, terminal=True), key=run(name).key)
    status = RunStatus.CANCELLED if was is RunStatus.QUEUED else RunStatus.FINISHED
    store.finish(last, replace(END, was=was, status=status), thread=THREAD)


def begun(store: Runs, waits: Run) -> Run:
    size = store.thread(THREAD).next_message
    return replace(waits, status=RunStatus.RUNNING, follows=size - 1, answers=size, begins_at=size + 1)


def test_they_stand_in_order_and_have_no_message_in_the_thread(runs: Runs) -> None:
    begin(runs)
    before = runs.thread(THREAD).messages
    queue(runs, "r2")
    queue(runs, "r3")
    assert runs.turns(THREAD)[:2] == ("r1", ("r2", "r3"))
    assert runs.thread(THREAD).queue == ("r2", "r3")
    assert runs.thread(THREAD).messages == before
    found = runs.run(run("r2").key)
    assert found is not None
    assert found.status is RunStatus.QUEUED


def test_one_is_put_on_condition_that_the_thread_is_as_it_was_read(runs: Runs) -> None:
    begin(runs)
    thread = runs.thread(THREAD)
    queue(runs, "r2")
    waits = replace(run("r3"), status=RunStatus.QUEUED)
    with pytest.raises(ThreadChanged):
        runs.start(waits, thread=thread, segment=replace(segment(1), key=waits.key), messages=(), setup=b"s")
    assert runs.turns(THREAD).queue == ("r2",)
    assert runs.run(waits.key) is None


def test_one_whose_turn_comes_has_the_thread_and_its_messages(runs: Runs) -> None:
    begin(runs)
    waits = queue(runs, "r2")
    queue(runs, "r3")
    with pytest.raises(ThreadChanged):
        runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, at=LATER)
    end(runs)
    runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, at=LATER)

    assert runs.turns(THREAD)[:2] == ("r2", ("r3",))
    assert runs.thread(THREAD).messages[-1:] == SAID
    found = runs.run(waits.key)
    assert found is not None
    assert found.status is RunStatus.RUNNING
    assert (found.follows + 1, found.answers, found.begins_at) == (
        runs.thread(THREAD).latest,
        runs.thread(THREAD).latest,
        runs.thread(THREAD).next_message,
    )


def test_the_turn_answers_questions_with_it_or_not_at_all(runs: Runs) -> None:
    begin(runs)
    waits = queue(runs, "r2")
    asked = [question(run("r1"), n) for n in (1, 2)]
    how = replace(END, status=RunStatus.INTERRUPTED, interrupts=tuple(asked))
    runs.finish(replace(segment(2, terminal=True), key=run("r1").key), how, thread=THREAD)
    answer = InterruptAnswer(status=AnswerStatus.CANCELLED, by=waits.key.run_id, at=LATER)
    passed_over = [Answered(interrupt=asked[0], answer=answer)]
    stale = [Answered(interrupt=replace(asked[0], answer=answer), answer=answer)]

    with pytest.raises(ThreadChanged):
        runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, answers=stale, left=asked[1:], at=LATER)
    assert runs.turns(THREAD)[:2] == (None, ("r2",))
    assert set(runs.thread(THREAD).interrupts) == {each.id for each in asked}

    runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, answers=passed_over, left=asked[1:], at=LATER)
    found = runs.interrupts(THREAD.user_id, [each.id for each in asked])
    assert [found[each.id].answer for each in asked] == [answer, None]
    assert runs.thread(THREAD).interrupts == (asked[1].id,)


def test_one_that_was_read_before_another_change_is_not_given_its_turn(runs: Runs) -> None:
    begin(runs)
    waits = queue(runs, "r2")
    end(runs)
    thread = runs.thread(THREAD)
    queue(runs, "r3")
    with pytest.raises(ThreadChanged):
        runs.take_turn(begun(runs, waits), thread, SAID, at=LATER)
    assert runs.turns(THREAD)[:2] == (None, ("r2", "r3"))


def test_one_that_is_cancelled_leaves_the_active_run_alone_and_the_queue_with_the_next(runs: Runs) -> None:
    begin(runs)
    gone, waits = queue(runs, "r2"), queue(runs, "r3")
    end(runs, "r2", was=RunStatus.QUEUED)
    assert runs.turns(THREAD)[:2] == ("r1", ("r2", "r3"))
    end(runs)
    with pytest.raises(OwnershipLost):
        runs.take_turn(begun(runs, gone), runs.thread(THREAD), SAID, at=LATER)
    runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, at=LATER)
    assert runs.turns(THREAD)[:2] == ("r3", ())


def test_one_whose_turn_has_come_is_not_cancelled_as_one_that_waits(runs: Runs) -> None:
    begin(runs)
    waits = queue(runs, "r2")
    end(runs)
    runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, at=LATER)
    with pytest.raises(OwnershipLost):
        end(runs, "r2", was=RunStatus.QUEUED)
    assert runs.turns(THREAD)[:2] == ("r2", ())


def test_an_absent_thread_has_nobody_s_turn(runs: Runs) -> None:
    assert runs.turns(ThreadKey(THREAD.user_id, THREAD.thread_id))[:2] == (None, ())


def test_a_run_makes_way_while_it_is_active_until_another_begins(runs: Runs) -> None:
    begin(runs)
    waits = queue(runs, "r2")
    assert not runs.make_way(THREAD, waits.key.run_id, at=NOW)
    assert not runs.make_way(ThreadKey(THREAD.user_id, ThreadId("none")), waits.key.run_id, at=NOW)
    before = runs.thread(THREAD)
    assert before.making_way is None
    assert runs.make_way(THREAD, run().key.run_id, at=NOW)
    assert runs.make_way(THREAD, run().key.run_id, at=LATER)
    thread = runs.thread(THREAD)
    assert thread.making_way == (run().key.run_id, LATER)
    assert thread.version > before.version, "who has read it before is to read it again"
    end(runs)
    assert not runs.make_way(THREAD, run().key.run_id, at=LATER)
    assert runs.thread(THREAD).making_way == (run().key.run_id, LATER)
    queue(runs, "r3")
    assert runs.thread(THREAD).making_way is not None, "to wait is not to begin"
    runs.take_turn(begun(runs, waits), runs.thread(THREAD), SAID, at=LATER)
    assert runs.thread(THREAD).making_way is None


def test_a_run_that_begins_in_the_place_of_another_has_nothing_make_way(runs: Runs) -> None:
    begin(runs)
    runs.make_way(THREAD, run().key.run_id, at=NOW)
    end(runs)
    new = run("r2")
    runs.start(new, thread=runs.thread(THREAD), segment=replace(segment(1), key=new.key), messages=SAID, setup=b"s")
    assert runs.thread(THREAD).making_way is None


def test_no_run_makes_way_for_one_that_could_not_begin_and_nothing_is_taken_for_one_that_could(runs: Runs) -> None:
    room = limited(THREAD.user_id, Metric.MODEL_SPEND, 1_500_000)
    first = replace(run(), reserved_micros=1_500_000)
    runs.start(first, thread=runs.thread(THREAD), segment=segment(), messages=SAID, reservations=[room])
    picture = {"type": "image", "source": {"type": "file", "value": "a1"}}
    shown = (Message(id="m3", role="user", content=(picture,)),)
    needed = Needs(
        run=run("r2").key, messages=shown, reservations=[limited(THREAD.user_id, Metric.MODEL_SPEND, 400_000)]
    )
    before = runs.thread(THREAD)
    for _ in range(2):
        assert runs.make_way(THREAD, first.key.run_id, at=NOW, needs=needed), "what it needs is not taken"
    assert not runs.make_way(THREAD, run("r9").key.run_id, at=NOW, needs=needed)
    noted = runs.thread(THREAD)
    assert noted.version > before.version
    with pytest.raises(QuotaExceeded):
        runs.make_way(THREAD, first.key.run_id, at=LATER, needs=replace(needed, reservations=[room]))
    with pytest.raises(RunExists):
        runs.make_way(THREAD, first.key.run_id, at=LATER, needs=replace(needed, run=first.key, reservations=[room]))
    assert runs.thread(THREAD) == noted

    named = replace(needed, attachments={"a1": 5})
    runs.start(
        run("r2"),
        thread=runs.thread(OTHER),
        segment=replace(segment(), key=run("r2").key),
        messages=shown,
        attachments=named.attachments,
    )
    with pytest.raises(ThreadChanged):
        runs.make_way(THREAD, first.key.run_id, at=LATER, needs=replace(named, run=run("r3").key))
    assert runs.thread(THREAD) == noted
