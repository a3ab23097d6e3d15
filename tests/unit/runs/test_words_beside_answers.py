"""Words said beside the answers to some of several questions, and words said after them: nothing waits for ever."""

from __future__ import annotations

import itertools

import pytest

from karma.conversations.history import awaited_calls
from karma.runs.domain import RunStatus
from karma.runs.interrupts import Interrupt
from tests.support.asking_talks import Asking
from tests.support.lost_runs import THREAD

QUESTIONS = 6
"""Two subagents ask twice each, beside two calls of the run's own agent."""
ANSWERED = [*itertools.combinations(range(QUESTIONS), 1), *itertools.combinations(range(QUESTIONS), 2)]


def asked() -> tuple[Asking, list[Interrupt]]:
    talk = Asking([("scout", "x"), ("scout", "y"), ("look", "ask"), ("again", "ask")], (), ())
    said(talk, "go")
    questions = talk.open()
    assert (len(questions), sum(each.inside is not None for each in questions)) == (QUESTIONS, 4)
    return talk, questions


def said(talk: Asking, text: str) -> RunStatus:
    """Say something as a client does that sends what is new; return how its run ended."""
    run = talk.request({"id": f"said-{text}", "role": "user", "content": text}, strategy=None, agent="brief")
    talk.execute()
    return talk.status(run)


@pytest.mark.fault("F-32db")
@pytest.mark.parametrize("answered", ANSWERED, ids=lambda at: "-".join(map(str, at)))
def test_later_words_pass_over_what_is_still_asked(answered: tuple[int, ...]) -> None:
    talk, questions = asked()
    talk.answer(*(questions[at] for at in answered), beside="and do this")
    talk.execute()
    assert said(talk, "more") is RunStatus.FINISHED
    thread = talk.store.thread(THREAD)
    assert thread.interrupts == ()
    assert not [each for each in talk.store.interrupts_by_id.values() if each.answer is None]
    results = [each.tool_call_id for each in talk.branch() if each.role == "tool"]
    assert sorted(results) == ["c1", "c2", "c3", "c4"], "one result a call"
    assert not awaited_calls(talk.branch())
    talk.verify()


@pytest.mark.fault("F-32db")
def test_what_is_still_asked_can_be_answered_behind_the_words() -> None:
    talk, questions = asked()
    talk.answer(questions[2], beside="and do this")
    talk.execute()
    while questions := talk.open():
        talk.answer(questions[0])
        talk.execute()
    assert [str(run.status) for run in talk.store.runs_by_key.values()][-1] == "finished"
    talk.verify()
