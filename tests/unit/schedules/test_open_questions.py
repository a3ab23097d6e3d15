"""A schedule's run that waits for its user: the next fire neither passes its question over, nor forgets it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import ThreadKey, ToolCall
from karma.core.ids import RunId, ThreadId
from karma.runs.domain import Run, RunKey, RunStatus
from karma.runs.interrupts import AnswerStatus, Interrupt, InterruptAnswer, Reason
from karma.runs.turns import give_turn, place_of, wait_of
from karma.schedules.domain import Overlap
from tests.fakes.runs import caller
from tests.unit.schedules.test_firing import HOUR, Scheduled

IN_A_THREAD = {"message": "go", "thread_id": "t1"}
THREAD = ThreadKey(caller().user_id, ThreadId("t1"))


class Asking(Scheduled):
    """A schedule whose last run has asked its user."""

    def ask(self) -> Interrupt:
        store = self.world.store
        key = RunKey(self.shown.user_id, self.shown.last_run_id or RunId(""))
        run = store.runs_by_key[key]
        question = Interrupt(
            key=key,
            n=1,
            thread_id=run.thread_id,
            call=ToolCall("c1", "move", "{}"),
            made_by=key.run_id,
            reason=Reason.TOOL_CALL,
            message="May it?",
            response_schema={},
            expires_at=self.now + timedelta(days=7),
        )
        self.end(RunStatus.INTERRUPTED)
        store.runs_by_key[key] = replace(store.runs_by_key[key], interrupt_ids=(question.id,))
        thread = ThreadKey(key.user_id, run.thread_id)
        store.threads[thread] = replace(store.threads[thread], interrupts=(question.id,))
        store.interrupts_by_id[question.id] = question
        return question

    def answer(self, question: Interrupt, status: RunStatus, **more: Any) -> Run:
        """Let a run go on with the answer, and be as it is said."""
        store = self.world.store
        by = RunId("r-answer")
        given = InterruptAnswer(status=AnswerStatus.RESOLVED, by=by, at=self.now)
        store.interrupts_by_id[question.id] = replace(question, answer=given)
        thread = question.thread
        store.threads[thread] = replace(store.threads[thread], interrupts=())
        run = replace(store.runs_by_key[question.key], key=RunKey(thread.user_id, by), status=status, interrupt_ids=())
        store.runs_by_key[run.key] = replace(run, **more)
        return store.runs_by_key[run.key]

    def next(self) -> str:
        self.world.clock.pass_by(HOUR)
        return self.fire()


@pytest.fixture
def scheduled() -> Asking:
    return Asking()


@pytest.mark.parametrize("run", [None, IN_A_THREAD])
def test_its_question_is_left_open_by_the_next_fire(scheduled: Asking, run: dict[str, Any] | None) -> None:
    scheduled.add(run=run)
    scheduled.fire()
    question = scheduled.ask()
    assert [scheduled.next(), scheduled.next()] == ["skipped", "skipped"]
    assert scheduled.world.store.interrupts_by_id[question.id].answer is None
    assert scheduled.shown.open_run_ids == (question.key.run_id,)


def test_the_run_that_goes_on_with_the_answer_is_watched_on(scheduled: Asking) -> None:
    scheduled.add()
    scheduled.fire()
    by = scheduled.answer(scheduled.ask(), RunStatus.RUNNING)
    assert scheduled.next() == "skipped"
    assert scheduled.shown.open_run_ids == (by.key.run_id,)
    scheduled.world.store.runs_by_key[by.key] = replace(by, status=RunStatus.FAILED)
    assert scheduled.next() == "started"
    assert scheduled.shown.failures == 1, "its failure is the schedule's"


def test_a_question_that_its_user_passed_over_holds_nothing_up(scheduled: Asking) -> None:
    scheduled.add()
    scheduled.fire()
    scheduled.answer(scheduled.ask(), RunStatus.RUNNING, schedule_id="")
    assert scheduled.next() == "started"


def test_one_that_nobody_can_answer_any_more_holds_nothing_up(scheduled: Asking) -> None:
    scheduled.add(run=IN_A_THREAD)
    scheduled.fire()
    scheduled.ask()
    scheduled.world.clock.pass_by(timedelta(days=7))
    scheduled.store.replace(scheduled.shown, replace(scheduled.shown, next_fire_at=scheduled.now, version=2))
    assert scheduled.fire() == "started"


def test_a_question_of_the_thread_s_user_is_not_passed_over_either(scheduled: Asking) -> None:
    scheduled.add(run=IN_A_THREAD)
    scheduled.fire()
    scheduled.ask()
    [made] = scheduled.store.schedules.values()
    scheduled.store.schedules[made.id] = replace(made, open_run_ids=())
    assert scheduled.next() == "skipped"


def test_beside_it_those_that_may_run_side_by_side_begin(scheduled: Asking) -> None:
    scheduled.add(overlap=Overlap.ALLOW)
    scheduled.fire()
    scheduled.ask()
    assert scheduled.next() == "started"


def test_in_a_queue_the_fire_waits_and_the_answer_goes_before_it(scheduled: Asking) -> None:
    scheduled.add(run=IN_A_THREAD, overlap=Overlap.QUEUE)
    scheduled.fire()
    question = scheduled.ask()
    assert scheduled.next() == "started"
    store, key = scheduled.world.store, RunKey(scheduled.shown.user_id, scheduled.shown.last_run_id or RunId(""))
    waits = store.run(key)
    assert waits is not None
    assert waits.status is RunStatus.QUEUED
    assert not wait_of(store, waits, now=scheduled.now).is_turn
    assert give_turn(store, waits, own=(), at=scheduled.now) is None
    thread = store.thread(THREAD)
    assert not place_of(store, thread, MultitaskStrategy.REJECT, answers=True).waits

    scheduled.answer(question, RunStatus.FINISHED)
    assert wait_of(store, waits, now=scheduled.now).is_turn
    begun = give_turn(store, waits, own=(), at=scheduled.now)
    assert begun is not None
    assert begun.status is RunStatus.RUNNING
