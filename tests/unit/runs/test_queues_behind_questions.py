"""A run of the queue waits for the answer to what a run before it has asked, and passes over nothing silently."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.core.clock import iso
from karma.runs.domain import RunStatus, ThreadBusy
from karma.runs.interrupts import AnswerStatus, Interrupt, InterruptAnswered, InterruptExpired
from karma.runs.turns import MAX_QUEUE, MAX_QUEUED, QueueFull
from karma.runs.watchdog import Inspector
from tests.support.lost_runs import Life, live
from tests.support.talks import FRONTEND, USER, Scripted, Talk


@pytest.fixture(autouse=True)
def _runs_that_listen_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


def assert_withdrawn(talk: Talk, questions: Sequence[Interrupt], then: str, **more: str) -> None:
    """An answer to questions that the kill switch has withdrawn is refused as one that is too late."""
    before = list(talk.store.runs_by_key)
    said = f"its agent was stopped or its conversation went back; .*{then}"
    with pytest.raises(InterruptExpired, match=said) as caught:
        talk.approve(questions)
    assert caught.value.details == {
        "interrupt_id": questions[0].id,
        "expires_at": iso(questions[0].expires_at),
        **more,
    }
    assert list(talk.store.runs_by_key) == before


class TestItsTurn:
    def test_waits_for_the_answer_to_what_the_run_before_it_asked(self) -> None:
        talk = Talk([("again", "ask")])
        first = talk.say("move it")
        second, third = talk.say("and then"), talk.say("never mind")
        talk.execute()
        for _ in range(3):
            talk.clock.pass_by(MAX_QUEUED)
            talk.settle()

        assert [talk.status(run) for run in (first, second, third)] == ["interrupted", "queued", "queued"]
        (question,) = talk.open()
        assert question.answer is None
        by = talk.approve([question])
        talk.execute()

        assert {talk.status(run) for run in (by, second, third)} == {RunStatus.FINISHED}
        assert talk.results() == [("c1", talk.made["c1"])]
        assert [each.content for each in talk.branch() if each.role == "user"] == ["move it", "and then", "never mind"]

    def test_has_a_whole_hour_behind_a_process_that_died_when_the_answer_was_carried_out(self) -> None:
        talk = Talk([("again", "ask")])
        talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        talk.clock.pass_by(timedelta(days=3))
        by = talk.approve(talk.open())
        talk.executions.requested.clear()  # the process died before it asked for one
        assert talk.look(second) is not None
        talk.settle()
        assert [talk.status(run) for run in (by, second)] == [RunStatus.FINISHED, RunStatus.FINISHED]

    def test_waits_as_long_as_the_run_before_it_is_paused_and_the_rest_of_its_hour_after_that(self) -> None:
        talk = Talk()
        first, second = talk.say("move it"), talk.say("and then")
        talk.clock.pass_by(timedelta(minutes=20))
        talk.control(Life(None)).pause(USER, first.key.run_id)
        for _ in range(9):
            talk.clock.pass_by(MAX_QUEUED)
            assert talk.look(second) is not None
        talk.control(Life(None)).resume(USER, first.key.run_id)
        talk.clock.pass_by(timedelta(minutes=39))
        assert talk.look(second) is not None
        assert talk.status(second) is RunStatus.QUEUED
        talk.clock.pass_by(timedelta(minutes=2))
        assert talk.look(second) is None
        assert talk.status(second) is RunStatus.CANCELLED

    @pytest.mark.parametrize("steps", range(1, 16))
    def test_is_not_given_up_where_its_own_process_dies_after_days(self, steps: int) -> None:
        talk = Talk([("again", "ask")])
        talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        talk.clock.pass_by(timedelta(days=3))
        talk.approve(talk.open())
        key = talk.executions.requested.pop(0)
        live(partial(talk.executor(Life(None), model=Scripted(Life(None), talk)).go_on, key))
        talk.execute(iter([Life(steps), *[Life(None)] * 9]).__next__)
        talk.settle()
        assert talk.status(second) is RunStatus.FINISHED

    def test_comes_when_nobody_has_answered_in_time_and_tells_the_model(self) -> None:
        talk = Talk([("again", "ask")])
        first = talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        (question,) = talk.open()
        delay = talk.look(second)
        assert delay is not None
        assert delay < timedelta(minutes=1), "it is looked at soon, and ever more rarely"
        talk.clock.pass_by(question.expires_at - talk.clock.now() - timedelta(seconds=10))
        assert talk.look(second) == timedelta(seconds=15)
        talk.clock.pass_by(timedelta(seconds=15))
        talk.look(second)
        talk.execute()
        assert [talk.status(run) for run in (first, second)] == [RunStatus.INTERRUPTED, RunStatus.FINISHED]
        assert "Nobody approved this call until" in talk.results()[0][1]
        assert talk.made == {}

    def test_is_not_brought_forward_by_a_message_that_comes_when_the_question_is_open(self) -> None:
        talk = Talk([("again", "ask")])
        talk.say("move it")
        talk.execute()
        assert talk.say("and then").status is RunStatus.QUEUED
        assert talk.open()[0].answer is None
        with pytest.raises(ThreadBusy) as caught:
            talk.say("now", MultitaskStrategy.REJECT)
        assert caught.value.details == {"run_id": "r2"}

    def test_is_brought_forward_by_no_cancel_of_the_run_before_it_in_the_queue(self) -> None:
        talk = Talk([("again", "ask")])
        talk.say("move it")
        second, third = talk.say("and then"), talk.say("never mind")
        talk.execute()
        talk.control(Life(None)).cancel(USER, second.key.run_id)
        talk.execute()
        assert talk.status(third) is RunStatus.QUEUED
        assert talk.open()[0].answer is None
        talk.control(Life(None)).cancel(USER, third.key.run_id)
        assert talk.active() == []

    def test_is_passed_by_one_that_interrupts_and_so_passes_over_what_was_asked(self) -> None:
        talk = Talk([("again", "ask")])
        first = talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        third = talk.say("stop", MultitaskStrategy.INTERRUPT)
        talk.execute()
        assert [talk.status(run) for run in (second, third)] == [RunStatus.FINISHED, RunStatus.FINISHED]
        question = next(iter(talk.store.interrupts(USER, [f"{first.key.run_id}/1"]).values()))
        assert question.answer is not None
        assert (question.answer.status, question.answer.by) == (AnswerStatus.CANCELLED, third.key.run_id)
        assert "went on without answering" in talk.results()[0][1]
        with pytest.raises(InterruptAnswered):
            talk.approve([question])

    def test_lets_results_of_the_clients_calls_go_first_beside_which_something_is_asked(self) -> None:
        talk = Talk([("again", "ask"), (FRONTEND, "x")])
        talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        assert talk.status(second) is RunStatus.QUEUED, "what is asked is not even shown yet"
        third = talk.give("c2")
        talk.execute()
        assert [talk.status(run) for run in (second, third)] == [RunStatus.QUEUED, RunStatus.INTERRUPTED]
        talk.approve(talk.open())
        talk.execute()
        assert talk.status(second) is RunStatus.FINISHED
        assert dict(talk.results()) == {**talk.made, **talk.answered}

    def test_is_full_with_a_number_of_them_as_behind_a_run(self) -> None:
        talk = Talk([("again", "ask")])
        talk.say("move it")
        talk.execute()
        for _ in range(MAX_QUEUE):
            assert talk.say("more").status is RunStatus.QUEUED
        with pytest.raises(QueueFull):
            talk.say("more")
        talk.approve(talk.open())
        talk.execute()
        assert talk.active() == []

    def test_is_over_with_its_agent(self) -> None:
        talk = Talk([("again", "ask")])
        first = talk.say("move it")
        second = talk.say("and then")
        talk.execute()
        assert first.agent_id is not None
        talk.control(Life(None)).stop_agent(USER, first.agent_id)
        assert talk.status(second) is RunStatus.CANCELLED
        questions = talk.open()
        assert [each.has_lapsed for each in questions] == [True]
        third = talk.say("go on")
        assert_withdrawn(talk, questions, "has gone on", run_id=third.key.run_id)
        talk.execute()
        assert talk.status(third) is RunStatus.FINISHED
        assert_withdrawn(talk, questions, "has gone on", run_id=third.key.run_id)

    def test_comes_where_the_question_of_another_agent_is_withdrawn(self) -> None:
        talk = Talk([("again", "ask")])
        talk.strategy = MultitaskStrategy.REJECT
        first = talk.say("move it")
        second = talk.say("and then", agent="brief")
        talk.execute()
        assert first.agent_id is not None
        assert talk.status(second) is RunStatus.QUEUED
        questions = talk.open()
        talk.control(Life(None)).stop_agent(USER, first.agent_id)
        assert_withdrawn(talk, questions, "cancel it")
        talk.executions.requested, asked_for = [], talk.executions.requested
        assert Inspector(talk.store, talk.executions, talk.clock).look(second.key) is not None
        assert_withdrawn(talk, questions, "cancel it")
        talk.executions.requested += asked_for
        talk.execute()
        assert talk.status(second) is RunStatus.FINISHED
        assert talk.made == {}
        assert_withdrawn(talk, questions, "has gone on", run_id=second.key.run_id)
        talk.clock.pass_by(timedelta(days=8))
        assert_withdrawn(talk, questions, "has gone on", run_id=second.key.run_id)

    @pytest.mark.parametrize("steps", range(1, 40, 2))
    def test_no_question_is_lost_whichever_process_dies(self, steps: int) -> None:
        talk = Talk(plan=lambda: () if talk.store.interrupts_by_id else [("again", "ask")])
        talk.say("move it")
        second = talk.say("and then")
        talk.execute(iter([Life(steps), *[Life(None)] * 20]).__next__)
        talk.settle()
        (question,) = talk.open()
        assert (question.answer, talk.status(second)) == (None, RunStatus.QUEUED)
        talk.approve([question])
        talk.execute(iter([Life(steps), *[Life(None)] * 20]).__next__)
        talk.settle()
        for each in talk.open():  # of a call whose process died with it
            talk.approve([each])
            talk.settle()
        assert talk.status(second) is RunStatus.FINISHED
        assert [call_id for call_id, _ in talk.results()] == [question.awaited.id]
