"""Questions of runs and their answers: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.conversations.domain import ThreadChanged
from karma.core.ids import RunId, ThreadId
from karma.runs.domain import OwnershipLost, RunEnd, RunKey, RunStatus
from karma.runs.interrupts import NOBODY, Answered, AnswerStatus, Interrupt, InterruptAnswer
from karma.runs.ports import Expiring, Runs
from tests.contexts.runs import question
from tests.contract.stores.test_runs import NOW, OTHER, THREAD, USER, begin, run, said, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.stores import Store

ASKED = (question(run()), question(run(), 2))


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def finish(store: Runs, run_id: str = "r1", *, asks: tuple[Interrupt, ...] = (), how: RunStatus | None = None) -> None:
    end = RunEnd(status=how or (RunStatus.INTERRUPTED if asks else RunStatus.FINISHED), at=NOW, interrupts=asks)
    store.finish(segment(2, of=run(run_id), terminal=True), end, thread=THREAD)


def answer(store: Runs, *asked: Interrupt, by: str, left: tuple[Interrupt, ...] = ()) -> None:
    given = InterruptAnswer(status=AnswerStatus.RESOLVED, payload={"approved": True}, by=RunId(by), at=NOW)
    answers = [Answered(interrupt=each, answer=given) for each in asked]
    thread = store.thread(THREAD)
    store.start(run(by), thread=thread, segment=segment(of=run(by)), messages=(said("hi"),), answers=answers, left=left)


def read(store: Runs, *ids: str) -> dict[str, Interrupt]:
    return store.interrupts(USER, ids or ("r1/1", "r1/2"))


def test_the_questions_of_a_run_are_stored_with_its_end_once(runs: Runs) -> None:
    begin(runs)
    assert read(runs) == {}
    finish(runs, asks=ASKED)
    finish(runs, asks=ASKED)  # its own repeat

    assert read(runs) == {"r1/1": ASKED[0], "r1/2": ASKED[1]}
    assert runs.thread(THREAD).interrupts == ("r1/1", "r1/2")
    found = runs.run(run().key)
    assert found is not None
    assert (found.status, found.interrupt_ids) == (RunStatus.INTERRUPTED, ("r1/1", "r1/2"))


def test_no_other_id_and_no_other_account_has_them(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=ASKED)
    assert read(runs, "r1/3", "r1/01", "r2/1", "r1", "/1", "r1/", "r1/-1", "x" * 100) == {}
    assert runs.interrupts(OTHER, ["r1/1"]) == {}


def test_an_answer_counts_once_and_the_thread_keeps_what_is_left_open(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=ASKED)
    answer(runs, ASKED[0], by="r2", left=ASKED[1:])

    first, second = read(runs)["r1/1"], read(runs)["r1/2"]
    assert first.answer is not None
    assert (first.answer.by, first.answer.payload, first.answer.at) == ("r2", {"approved": True}, NOW)
    assert replace(first, answer=None) == ASKED[0]
    assert second.answer is None
    assert runs.thread(THREAD).interrupts == ("r1/2",)
    finish(runs, "r2")
    assert runs.thread(THREAD).interrupts == ()
    for late in (ASKED[0], replace(ASKED[0], answer=replace(first.answer, by=RunId("r9")))):
        with pytest.raises(ThreadChanged):
            answer(runs, late, by="r3")
        assert runs.run(RunKey(USER, RunId("r3"))) is None
    answer(runs, first, by="r4")  # its run was lost
    assert (again := read(runs)["r1/1"].answer) is not None
    assert again.by == "r4"


def test_a_run_that_lists_a_question_again_leaves_it_as_it_is(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=ASKED)
    answer(runs, ASKED[0], by="r2", left=ASKED[1:])
    finish(runs, "r2", asks=ASKED[1:])
    assert read(runs)["r1/2"] == ASKED[1]
    assert runs.thread(THREAD).interrupts == ("r1/2",)


@pytest.mark.parametrize("how", [RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_run_that_breaks_off_leaves_open_what_was(runs: Runs, how: RunStatus) -> None:
    begin(runs)
    finish(runs, asks=ASKED)
    answer(runs, ASKED[0], by="r2", left=ASKED[1:])
    finish(runs, "r2", how=how)
    assert runs.thread(THREAD).interrupts == ("r1/2",)


@pytest.mark.fault("F-32aa")
@pytest.mark.parametrize("how", [RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.FINISHED])
@pytest.mark.parametrize("lapses", [False, True])
def test_the_end_of_a_run_cancels_what_it_passes_over(runs: Runs, how: RunStatus, *, lapses: bool) -> None:
    asked = (*ASKED, replace(question(run(), 3), expires_at=LATER_ONE.expires_at))
    begin(runs)
    finish(runs, asks=asked)
    answer(runs, asked[0], by="r2", left=asked[1:])
    if lapses:
        assert runs.lapse(asked[1], at=NOW)
    cancelled = InterruptAnswer(status=AnswerStatus.CANCELLED, by=RunId("r2"), at=NOW)
    over = (Answered(interrupt=asked[1], answer=cancelled),)
    ends_by_itself = how is RunStatus.FINISHED
    end = RunEnd(
        status=how,
        at=NOW,
        interrupts=asked[2:] if ends_by_itself else (),
        passed_over=over,
        still_open=None if ends_by_itself else (asked[2].id,),
    )
    for _ in range(2):  # and its own repeat
        runs.finish(segment(2, of=run("r2"), terminal=True), end, thread=THREAD)
    found = read(runs, *(each.id for each in asked))
    assert [each.answer and each.answer.by for each in found.values()] == ["r2", "r2", None]
    assert found["r1/2"].answer == cancelled
    assert (found["r1/2"].lapsed_at is not None) is lapses
    assert not found["r1/2"].has_lapsed
    assert runs.thread(THREAD).interrupts == ("r1/3",)
    assert expiring(runs, before=timedelta(days=9)) == [3]
    assert not runs.lapse(asked[1], at=NOW)


@pytest.mark.fault("F-32aa")
def test_a_run_that_another_one_has_ended_cancels_nothing(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=ASKED)
    answer(runs, ASKED[0], by="r2", left=ASKED[1:])
    finish(runs, "r2", asks=ASKED[1:])
    cancelled = InterruptAnswer(status=AnswerStatus.CANCELLED, by=RunId("r2"), at=NOW)
    over = (Answered(interrupt=ASKED[1], answer=cancelled),)
    end = RunEnd(status=RunStatus.CANCELLED, at=NOW, passed_over=over, still_open=())
    with pytest.raises(OwnershipLost):
        runs.finish(replace(segment(2, of=run("r2"), terminal=True), writer="w2"), end, thread=THREAD)
    assert read(runs)["r1/2"].answer is None
    assert runs.thread(THREAD).interrupts == ("r1/2",)


def test_a_thread_without_a_question_has_none_in_the_next_run(runs: Runs) -> None:
    begin(runs)
    finish(runs)
    assert runs.thread(THREAD).interrupts == ()
    begin(runs, replace(run("r2"), thread_id=ThreadId("t1")), said("more"))
    assert runs.thread(THREAD).interrupts == ()


def expiring(store: Runs, *, before: timedelta = timedelta(days=2), limit: int = 9) -> list[int]:
    """Return the numbers of this module's questions that are listed; other tests may share the table."""
    listed = store.expiring(NOW + before, limit=limit)
    return [n for key, n, _ in listed.questions if key == run().key]


SOONER = replace(question(run()), expires_at=NOW + timedelta(hours=1))
LATER_ONE = replace(question(run(), 2), expires_at=NOW + timedelta(hours=2))


def test_questions_that_wait_are_listed_by_the_moment_until_which_they_may(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=(replace(LATER_ONE, n=1), replace(SOONER, n=2)))
    assert expiring(runs) == [2, 1]
    assert expiring(runs, limit=1) == [2]
    assert expiring(runs, before=timedelta(minutes=90)) == [2]
    assert expiring(runs, before=timedelta(minutes=30)) == []


def test_one_that_is_put_off_is_listed_later_and_else_as_it_was(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=(SOONER, LATER_ONE))
    runs.put_off(run().key, 1, until=NOW + timedelta(hours=3))
    assert expiring(runs) == [2, 1]
    assert read(runs) == {"r1/1": SOONER, "r1/2": LATER_ONE}
    answer(runs, SOONER, by="r2", left=(LATER_ONE,))
    for key, n in ((run().key, 1), (run().key, 3), (run("r9").key, 1)):
        runs.put_off(key, n, until=NOW)
    assert expiring(runs) == [2]
    assert "r1/3" not in read(runs, "r1/3")


def test_each_page_goes_on_behind_the_last_and_tells_how_often_each_was_put_off(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=(SOONER, LATER_ONE))
    for hours in (3, 4):
        runs.put_off(run().key, 1, until=NOW + timedelta(hours=hours))
    found: list[Expiring] = []
    start: dict[str, str] | None = None
    while True:
        page = runs.expiring(NOW + timedelta(days=2), limit=1, start=start)
        assert len(page.questions) <= 1
        found += [each for each in page.questions if each.key == run().key]
        if page.last is None:
            break
        start = page.last
    assert found == [Expiring(run().key, 2, 0), Expiring(run().key, 1, 2)]


def test_one_that_lapses_does_so_once_and_a_later_run_takes_it_up(runs: Runs) -> None:
    begin(runs)
    finish(runs, asks=(SOONER, LATER_ONE))
    assert runs.lapse(SOONER, at=NOW) is True
    assert runs.lapse(SOONER, at=NOW + timedelta(hours=1)) is False
    assert runs.lapse(replace(SOONER, n=3), at=NOW) is False
    assert expiring(runs) == [2]

    lapsed = read(runs)["r1/1"]
    assert lapsed.answer == InterruptAnswer(status=AnswerStatus.CANCELLED, by=NOBODY, at=NOW)
    assert (lapsed.has_lapsed, lapsed.is_open, lapsed.is_expired(NOW)) == (True, True, True)
    with pytest.raises(ThreadChanged):
        answer(runs, SOONER, by="r2")  # which read it before
    assert (lapsed.lapsed_at, lapsed.is_past) == (NOW, True)
    took = InterruptAnswer(status=AnswerStatus.CANCELLED, by=RunId("r3"), at=NOW)
    taken_by(runs, Answered(interrupt=lapsed, answer=took), left=(LATER_ONE,))
    taken = taken_up(runs)
    assert (taken.answer, taken.has_lapsed, taken.lapsed_at, taken.is_past) == (took, False, NOW, True)
    assert runs.lapse(taken_up(runs), at=NOW) is False


def taken_by(store: Runs, answered: Answered, *, left: tuple[Interrupt, ...]) -> None:
    by, thread = run(answered.answer.by), store.thread(THREAD)
    store.start(by, thread=thread, segment=segment(of=by), messages=(said("hi"),), answers=[answered], left=left)


def taken_up(store: Runs) -> Interrupt:
    return read(store)["r1/1"]
