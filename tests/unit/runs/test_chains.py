"""Runs that go on after questions have one budget and one number of steps together, and do not go on for ever."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import tests.support.talks as talks
from karma.agents.domain import MultitaskStrategy
from karma.models.budgets import Budget, BudgetExceeded, BudgetName, Spent
from karma.runs.chains import MAX_UNATTENDED, NO_CHAIN, chain_of
from karma.runs.domain import Run, RunErrorCode, RunStatus
from karma.runs.expiry import Expiry
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from tests.fakes.agents import catalogue
from tests.support.lost_runs import Life, live
from tests.support.run_world import spec, user
from tests.support.talks import Talk

TOOLS = ("again", "look", "ask")


@pytest.fixture(autouse=True)
def _runs_that_listen_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    rule = ApprovalRule(
        policy=ApprovalPolicy.WHEN, when="args.word == 'ask'", expires_in_s=60, on_expiry=OnExpiry.REFUSE
    )
    monkeypatch.setattr(talks, "RULE", rule)


class Insistent(Talk):
    """A talk whose model asks for the same again, whatever it is told."""

    def __init__(self, **agent: Any) -> None:
        super().__init__(plan=lambda: [("again", "ask")])
        agents = catalogue(tools=TOOLS)
        self.agent = agents.create(spec(tools=TOOLS, **agent)).id
        self.given_agents = agents

    def begin(self, **more: Any) -> Run:
        run = self.request(user("move it"), strategy=None, agent=self.agent, **more)
        self.execute()
        return run

    def expire(self) -> None:
        """Let a minute go by in which nobody answers."""
        self.clock.pass_by(timedelta(seconds=61))
        deals = Expiry(
            store=self.store, runs=self.background(Life(None)), caller_by_now=lambda it: it, clock=self.clock
        )

        async def work() -> None:
            for key, n, _ in self.store.expiring(self.clock.now(), limit=9).questions:
                await deals.expire(key, n)

        live(work)
        self.execute()

    def refuse(self) -> Run:
        (question,) = self.open()
        answer = {"interruptId": question.id, "status": "resolved", "payload": {"approved": False}}
        return self.ended(self.request(strategy=None, resume=[answer]))

    def cancel(self) -> Run:
        (question,) = self.open()
        return self.ended(self.request(strategy=None, resume=[{"interruptId": question.id, "status": "cancelled"}]))

    def agree(self) -> Run:
        return self.ended(self.approve(self.open()))

    def nobody(self) -> Run:
        self.expire()
        return list(self.store.runs_by_key.values())[-1]

    def ended(self, run: Run) -> Run:
        self.execute()
        return self.now(run)

    def now(self, run: Run) -> Run:
        found = self.store.run(run.key)
        assert found is not None
        return found


GOING_ON = ["agree", "refuse", "cancel", "nobody"]


@pytest.mark.parametrize("second", GOING_ON)
@pytest.mark.parametrize("first", GOING_ON)
def test_what_was_used_counts_along_the_chain(first: str, second: str) -> None:
    talk = Insistent(budget=Budget(max_cost_micros=10**6), max_steps=9)
    runs = [talk.now(talk.begin())]
    for how in (first, second):
        before = runs[-1]
        runs.append(getattr(talk, how)())
        (held,) = [each for each in runs[-1].budgets if each.name is BudgetName.AGENT]
        used = [each.spent for each in runs[:-1]]
        assert held.before == sum(used, Spent())
        assert runs[-1].steps_before == before.steps_before + before.steps
        assert runs[-1].parent_run_id == before.key.run_id


@pytest.mark.parametrize("how", GOING_ON)
def test_a_budget_ends_the_chain_as_one_run(how: str) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        Insistent(budget=Budget(max_tokens=1)).begin()
    details: Any = caught.value.details
    talk = Insistent(budget=Budget(max_tokens=details["required_tokens"] + 5))
    talk.begin()
    # The second call has its bound, too, but not what the first has used.
    if how == "nobody":
        talk.nobody()
        assert [each.has_lapsed for each in talk.open()] == [True]
    else:
        with suppress(BudgetExceeded):
            getattr(talk, how)()
    assert talk.calls == 1


def test_a_request_that_says_something_new_and_resolves_nothing_begins_anew() -> None:
    talk = Insistent(budget=Budget(max_cost_micros=10**6))
    talk.begin()
    (question,) = talk.open()
    answer = {"interruptId": question.id, "status": "cancelled"}
    run = talk.ended(talk.request(user("never mind"), strategy=None, resume=[answer]))
    assert [each.before for each in run.budgets] == [Spent()]
    assert run.steps_before == 0


def test_an_answer_gives_no_steps_anew_but_one_for_what_its_call_said() -> None:
    talk = Insistent(max_steps=2)
    talk.begin()
    second = talk.agree()
    third = talk.agree()
    assert [second.steps_before, third.steps_before] == [1, 2]
    talk._next = lambda: [("look", "x")]
    fourth = talk.agree()
    assert (fourth.turns, fourth.error_code) == (1, RunErrorCode.MAX_TURNS)


def test_a_run_of_the_queue_has_what_its_agent_allows_at_its_turn() -> None:
    talk = Insistent()
    talk.begin()
    second = talk.request(user("and then"), strategy=MultitaskStrategy.ENQUEUE, agent=talk.agent)
    talk._next = lambda: ()
    talk.agree()
    assert talk.now(second).status is RunStatus.FINISHED
    talk._next = lambda: [("again", "ask")]
    talk.begin()
    third = talk.request(user("and then"), strategy=MultitaskStrategy.ENQUEUE, agent=talk.agent)
    (question,) = talk.open()
    talk.clock.pass_by(timedelta(seconds=5))
    talk.request(strategy=None, resume=[{"interruptId": question.id, "status": "cancelled"}])
    assert talk.given_agents is not None
    talk.given_agents.replace(talk.agent, spec(tools=TOOLS, budget=Budget(max_tokens=1)), version=None)
    talk._next = lambda: ()
    talk.execute()
    stopped = talk.now(third)
    assert (stopped.status, stopped.spent.tokens) == (RunStatus.INTERRUPTED, 0)


def test_with_nobody_there_it_goes_on_a_few_times_and_rests() -> None:
    talk = Insistent()
    first = talk.begin()
    for _ in range(12):
        talk.expire()
    runs = list(talk.store.runs_by_key.values())
    assert [each.unattended for each in runs] == list(range(MAX_UNATTENDED + 1))
    assert [each.has_lapsed for each in talk.open()] == [True]
    assert talk.calls == MAX_UNATTENDED + 1
    assert first.unattended == 0
    # Its user is there again: what nobody answers then is refused anew.
    talk.request(user("go on"), strategy=MultitaskStrategy.ENQUEUE, agent=talk.agent)
    talk.execute()
    assert talk.nobody().unattended == 1


def test_an_answer_that_is_given_again_counts_what_its_lost_run_has_used() -> None:
    talk = Insistent(budget=Budget(max_cost_micros=10**6))
    first = talk.now(talk.begin())
    (question,) = talk.open()
    lost = talk.now(talk.approve([question]))
    failed = replace(lost, status=RunStatus.FAILED, finished_at=talk.clock.now(), turns=3, steps=1, cost_micros=77)
    talk.store.runs_by_key[lost.key] = failed
    found = chain_of(talk.store, talk.store.thread(question.thread), {question.id: first}, [lost.key.run_id])
    assert (found.steps, found.spent.cost_micros) == (2, first.spent.cost_micros + 77)
    assert chain_of(talk.store, talk.store.thread(question.thread), {}, []) == NO_CHAIN
