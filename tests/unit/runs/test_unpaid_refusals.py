"""Refusing what an agent asks needs no call of a model: a run without one gives calls their results, and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.billing.allowances import Metric, day_of, period_of
from karma.billing.plans import PlanName
from karma.core.errors import QuotaExceeded
from karma.models.budgets import Budget, BudgetExceeded
from karma.runs.domain import Run, RunStatus
from karma.runs.interrupts import Interrupt
from tests.fakes.agents import catalogue
from tests.support.lost_runs import Life
from tests.support.run_world import spec, user
from tests.support.talks import USER, Talk

TOOLS = ("again", "look", "ask")
WITH_BUDGET = {"budget": Budget(max_tokens=50)}


@pytest.fixture(autouse=True)
def _runs_that_listen_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class Broke(Talk):
    """A talk whose model has asked for approvals, and of which no further call is paid for."""

    def __init__(self, *plan: tuple[str, str], of: str = "agent") -> None:
        super().__init__(plan or [("again", "ask")])
        self.given_agents = agents = catalogue(tools=TOOLS)
        self.agent = agents.create(spec(tools=TOOLS)).id
        self.first = self.request(user("move it"), strategy=None, agent=self.agent)
        self.execute()
        now, usage = self.clock.now(), self.store.usage
        if of == "agent":
            agents.replace(self.agent, spec(tools=TOOLS, **WITH_BUDGET), version=None)
        elif of == "agent_per_day":
            agents.replace(self.agent, spec(tools=TOOLS, day_cost_micros=10), version=None)
            usage.days[USER, day_of(now), self.agent] = 10**9
        elif of == "account_per_day":
            self.day_cost_micros = 10
            usage.account_days[USER, day_of(now)] = 10**9
        else:
            self.plan_name = PlanName.FREE
            usage.taken[USER, Metric.MODEL_SPEND, period_of(Metric.MODEL_SPEND, now)] = 10**15
        self.counted = self.counts()

    def counts(self) -> list[dict[Any, int]]:
        """Return all that is counted of models."""
        usage = self.store.usage
        taken = {key: value for key, value in usage.taken.items() if Metric.RUNS not in key}
        return [
            taken,
            *({key: value for key, value in days.items() if value} for days in (usage.days, usage.account_days)),
        ]

    def answer(self, questions: Sequence[Interrupt], *statuses: object) -> Run:
        resume: list[dict[str, Any]] = []
        for question, status in zip(questions, statuses, strict=True):
            if status == "cancelled":
                resume.append({"interruptId": question.id, "status": "cancelled"})
                continue
            if status:
                self.approved.add(question.awaited.id)
            resume.append({"interruptId": question.id, "status": "resolved", "payload": {"approved": status}})
        return self.request(strategy=None, resume=resume)

    def now(self, run: Run) -> Run:
        found = self.store.run(run.key)
        assert found is not None
        return found

    def assert_unpaid(self, run: Run, status: RunStatus = RunStatus.FINISHED) -> None:
        ended = self.now(run)
        assert (ended.status, ended.turns, ended.cost_micros, ended.reserved_micros) == (status, 0, 0, 0)
        assert ended.stop_reason == ""
        assert self.counts() == self.counted
        assert self.calls == len(self.results()) + len(self.open())
        assert self.made == {}


@pytest.mark.parametrize("of", ["agent", "agent_per_day", "account_per_day", "plan"])
@pytest.mark.parametrize("how", ["cancelled", False])
def test_its_call_is_refused_and_nothing_is_counted(how: object, of: str) -> None:
    talk = Broke(of=of)
    questions = talk.open()
    with pytest.raises(QuotaExceeded):
        talk.answer(questions, True)
    assert talk.open() == questions
    run = talk.answer(questions, how)
    talk.execute()
    talk.assert_unpaid(run)
    assert [call_id for call_id, _ in talk.results()] == ["c1"]
    assert talk.open() == []
    talk.names += 1
    assert talk.answer(questions, how).key == run.key, "the same again is the same run"
    assert talk.active() == []


def test_of_several_questions_those_that_are_refused_are_and_the_others_stay_open() -> None:
    talk = Broke(("again", "ask"), ("look", "ask"))
    one, other = talk.open()
    for mixed in ((True, "cancelled"), ("cancelled", True)):
        with pytest.raises(BudgetExceeded):
            talk.answer([one, other], *mixed)
    assert talk.open() == [one, other], "what would be made is told to nobody, so none is answered"
    run = talk.answer([other], "cancelled")
    talk.execute()
    talk.assert_unpaid(run, RunStatus.INTERRUPTED)
    assert talk.open() == [one]
    last = talk.answer([one], False)
    talk.execute()
    talk.assert_unpaid(last)
    assert sorted(call_id for call_id, _ in talk.results()) == ["c1", "c2"]


def test_beside_something_new_the_model_is_to_answer_that() -> None:
    talk = Broke(of="plan")
    (question,) = talk.open()
    with pytest.raises(QuotaExceeded):
        talk.request(user("and?"), strategy=None, resume=[{"interruptId": question.id, "status": "cancelled"}])
    assert talk.open() == [question]


def test_the_model_reads_the_results_once_it_is_paid_for_and_whoever_waits_has_its_turn() -> None:
    talk = Broke()
    assert talk.given_agents is not None
    behind = talk.request(user("never mind"), strategy=MultitaskStrategy.ENQUEUE, agent="karma")
    run = talk.answer(talk.open(), "cancelled")
    assert talk.status(behind) is RunStatus.QUEUED
    talk.execute()
    assert [talk.status(each) for each in (run, behind)] == [RunStatus.FINISHED] * 2
    assert (talk.now(run).turns, talk.now(behind).turns) == (0, 1)
    assert [each.role for each in talk.branch()] == ["user", "assistant", "tool", "user", "assistant"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", range(1, 16))
def test_whichever_process_dies_over_it(steps: int, after: bool) -> None:
    talk = Broke()
    run = talk.answer(talk.open(), "cancelled")
    talk.execute(iter([Life(steps, after=after), *[Life(None)] * 20]).__next__)
    talk.settle()
    talk.assert_unpaid(run)
    assert [call_id for call_id, _ in talk.results()] == ["c1"]


def test_a_plan_that_has_no_room_for_another_run_refuses_it_still() -> None:
    talk = Broke()
    now = talk.clock.now()
    talk.plan_name = PlanName.FREE
    talk.store.usage.taken[USER, Metric.RUNS, period_of(Metric.RUNS, now)] = 10**6
    with pytest.raises(QuotaExceeded, match="run"):
        talk.answer(talk.open(), "cancelled")
