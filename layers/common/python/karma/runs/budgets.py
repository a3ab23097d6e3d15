"""Budgets of runs: which ones a run has, what is asked when one stops it, and what an answer makes of that.

A run that was stopped and those that go on with it have one budget: what they have used counts together.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from karma.agents.domain import AgentSpec
from karma.conversations.domain import NOTHING_SPENT, Json, ThreadSpending
from karma.core.errors import ValidationFailed
from karma.core.records import Record
from karma.models.budgets import (
    LIMITS,
    UNLIMITED,
    Budget,
    BudgetExceeded,
    BudgetName,
    NamedBudget,
    Spent,
    problems_of_budget,
)
from karma.runs.domain import ERROR_MESSAGES, Run, RunErrorCode
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.plan import RunPlan
from karma.runs.spending import Spending
from karma.tools.domain import DEFAULT_WAIT_S

BUDGET_SCHEMA: Final[Json] = {
    "type": "object",
    "description": "The run's budget from here on, with what it has used before; what is left out stays as it was",
    "properties": {name: {"type": "integer", "minimum": 1, "maximum": most} for name, most in LIMITS.items()},
    "additionalProperties": False,
}


_RAISED_BY: Final = {
    BudgetName.THREAD: "`PATCH /threads/{name}` with a larger `budget`",
    BudgetName.AGENT: "a larger `config.budget` of the agent",
    BudgetName.AGENT_DAY: "a larger `config.max_cost_micros_per_day` of the agent, or the next day (UTC)",
    BudgetName.ACCOUNT_DAY: "a larger one of the account (`PUT /usage/budget`), or the next day (UTC)",
    BudgetName.PLAN: "a larger plan, or the next month (UTC)",
}
"""Help where no answer raises a budget."""


def answer_schema(name: BudgetName) -> Json:
    """Return the schema of the payload that answers the question about a budget: only the run's own is raised by it."""
    if name is BudgetName.RUN:
        return BUDGET_SCHEMA
    told = f"Nothing: the run goes on once this budget covers its next call, by {_RAISED_BY[name]}"
    return {"type": "object", "description": told, "properties": {}, "additionalProperties": False}


class Continued(Record, kw_only=True):
    """Use and limits with which a run starts that goes on for a stopped one."""

    asked: Budget
    """The budget of the requests for the earlier ones, as it was raised."""
    spent: Spent
    """Use by the earlier ones."""
    is_raised: bool = False
    """The answer said what is asked; else the request that goes on may say it, too."""
    counts_anyway: bool = False
    """Use is counted on where nothing limits it: a budget has stopped the chain before."""


def budgets_of(
    asked: Budget,
    agent: AgentSpec,
    continued: Continued | None,
    spending: ThreadSpending,
    day_cost_micros: int | None = None,
) -> tuple[NamedBudget, ...]:
    """Return the budgets of a run: its request's, its thread's, and what its agent allows each run and a day.

    `day_cost_micros` is the limit that its owner has set for a day; None: there is none.
    """
    before = continued.spent if continued else Spent()
    if continued is not None and (continued.is_raised or not asked.is_set):
        asked = continued.asked
    named = [(BudgetName.RUN, asked), (BudgetName.AGENT, agent.budget)]
    found = [NamedBudget(name=name, budget=each, before=before) for name, each in named if each.is_set]
    if continued is not None and continued.counts_anyway and not found:
        # Whoever sets a budget with the next answer sets it for all of the chain.
        found = [NamedBudget(name=BudgetName.RUN, budget=UNLIMITED, before=before)]
    found += of_thread(spending)
    # What other runs of the day use is counted where it is reserved.
    days = [(BudgetName.AGENT_DAY, agent.day_cost_micros), (BudgetName.ACCOUNT_DAY, day_cost_micros)]
    found += [
        NamedBudget(name=name, budget=Budget(max_cost_micros=most), is_counted=False)
        for name, most in days
        if most is not None
    ]
    return tuple(found)


def of_thread(spending: ThreadSpending) -> list[NamedBudget]:
    """Return the budget that a thread gives its next run, with what those before have used; [] for none."""
    budget = Budget(max_tokens=spending.max_tokens, max_cost_micros=spending.max_cost_micros)
    before = Spent(tokens=spending.tokens, cost_micros=spending.cost_micros)
    return [NamedBudget(name=BudgetName.THREAD, budget=budget, before=before)] if budget.is_set else []


def at_its_turn(run: Run, spending: ThreadSpending) -> tuple[NamedBudget, ...]:
    """Return the budgets of a run that has waited for its turn: its thread's is that of now, the others stay."""
    others = [each for each in run.budgets if each.name is not BudgetName.THREAD]
    return (*others, *of_thread(spending))


def of_agent_now(run: Run, agent: AgentSpec) -> tuple[NamedBudget, ...]:
    """Return the budgets of a run that was paused and goes on: its agent's are those of now, the others stay."""
    own = {BudgetName.AGENT, BudgetName.AGENT_DAY}
    now = budgets_of(UNLIMITED, agent, Continued(asked=UNLIMITED, spent=used_before(run)), NOTHING_SPENT)
    return (*(each for each in run.budgets if each.name not in own), *(each for each in now if each.name in own))


def used_before(run: Run) -> Spent:
    """Return what the runs had used that a run goes on for; 0 where it has no budget that counts it."""
    return next((each.before for each in run.budgets if each.name in {BudgetName.RUN, BudgetName.AGENT}), Spent())


def asked_budget(run: Run) -> Budget:
    """Return the budget that a run's request gave it."""
    return next((each.budget for each in run.budgets if each.name is BudgetName.RUN), UNLIMITED)


def budget_question(plan: RunPlan, exceeded: BudgetExceeded, spending: Spending, now: datetime) -> Interrupt:
    """Return the question with which a run ends that a budget has stopped.

    It says what the run has used by now: others of its subagents have gone on since one of them met the budget.
    """
    named = exceeded.named
    is_plan = named.name is BudgetName.PLAN
    return Interrupt(
        key=plan.key,
        n=1,
        thread_id=plan.thread.thread_id,
        call=None,
        made_by=plan.run_id,
        reason=Reason.BUDGET_EXCEEDED,
        message=ERROR_MESSAGES[RunErrorCode.QUOTA_EXCEEDED] if is_plan else exceeded.message,
        response_schema=answer_schema(named.name),
        expires_at=now + timedelta(seconds=DEFAULT_WAIT_S),
        stopped_by=replace(named, before=named.before + spending.used),
        used=spending.used_in_all,
        least=exceeded.least,
    )


def continue_run(interrupt: Interrupt, stopped: Run | None, lost: Run | None, payload: object, *, at: str) -> Continued:
    """Return what a run starts with that goes on for a stopped one.

    Args:
        interrupt: the question with which that one ended.
        stopped: that one.
        lost: a run that went on with the same answer, and failed.
        payload: the answer.
        at: the answer's place in the request.

    Raises:
        ValidationFailed: the payload is no budget.
    """
    asked = asked_budget(stopped) if stopped else UNLIMITED
    spent = interrupt.used or _used_before(interrupt, stopped)
    if lost is not None:
        spent += lost.spent
    raised = _raised(asked, interrupt, payload, at)
    return Continued(asked=raised, spent=spent, is_raised=bool(payload), counts_anyway=True)


def _used_before(interrupt: Interrupt, stopped: Run | None) -> Spent:
    """Return what a stopped run had used by the question of a release that did not say it apart."""
    spent = interrupt.stopped_by.before if interrupt.stopped_by else Spent()
    if stopped is not None and interrupt.stopped_by is not None and interrupt.stopped_by.name is BudgetName.THREAD:
        # The thread's count has other runs, too; what this one goes on for is what the stopped one went on for.
        spent = used_before(stopped) + stopped.spent
    return spent


def _raised(asked: Budget, interrupt: Interrupt, payload: object, at: str) -> Budget:
    if payload is None:
        return asked
    about = interrupt.stopped_by
    if about is not None and about.name is not BudgetName.RUN and isinstance(payload, dict):
        for name in payload:
            told = f"is no answer to this question: the budget is raised by {_RAISED_BY[about.name]}"
            raise ValidationFailed.of(f"{at}.payload.{str(name)[:64]}", told)
    for name, message in problems_of_budget(payload):
        raise ValidationFailed.of(f"{at}.payload.{name}" if name else f"{at}.payload", message)
    return replace(asked, **payload) if isinstance(payload, dict) else asked
