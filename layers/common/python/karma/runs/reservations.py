"""Reservations of runs: what a start takes of its owner's plan and of days (docs/adr/0034, 0055).

A day is shared by runs that know nothing of each other, so that what is used of it is known to whoever it refuses
alone: the refusal says it, and the call is tried again with a shorter answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Concatenate, Final, ParamSpec, TypeVar

from karma.billing.allowances import Allowance, DayExceeded, DaySpend, Metric, Reservation, day_of, period_of
from karma.core.ids import AgentId
from karma.models.budgets import BudgetExceeded, BudgetName, NamedBudget, Spent
from karma.models.ports import ModelRequest
from karma.models.prices import estimate
from karma.runs.domain import Run

T = TypeVar("T")
Parameters = ParamSpec("Parameters")

NARROWINGS: Final = 5
"""Attempts to reserve a call for which a day has less left than it asks for: others may use up the rest meanwhile."""
_LITTLE = 100
"""A call whose bound is at most this part of a limit costs little of it."""
_WITH_DAYS = 4
"""`engine_schema` of the first runs that count in days."""


class RefusedDays:
    """Budgets of days that have refused the start of a run, or a direct call, with what is used of them."""

    def __init__(self) -> None:
        self._found: dict[BudgetName, NamedBudget] = {}
        self._refusals = 0

    def of(self, budgets: Sequence[NamedBudget]) -> list[NamedBudget]:
        """Return a run's budgets, those of days with what is known to be used of them."""
        return [self._found.get(each.name, each) for each in budgets]

    @property
    def all(self) -> list[NamedBudget]:
        """Return the budgets of days that have refused."""
        return list(self._found.values())

    def note(self, refusal: DayExceeded) -> None:
        """Note what a refusal says.

        Raises:
            BudgetExceeded: others have used up the rest so often that it is not tried once more.
        """
        day = NamedBudget.of_day(refusal.day, refusal.taken)
        self._found[day.name] = day
        self._refusals += 1
        if self._refusals == NARROWINGS:
            raise BudgetExceeded(day, Spent()) from None


def within_days(
    begin: Callable[Concatenate[RefusedDays, Parameters], T], *args: Parameters.args, **named: Parameters.kwargs
) -> T:
    """Return what `begin` does; where a day refuses it, it is called again with what is known to be used of that.

    Raises:
        BudgetExceeded: a day has less left than the shortest answer may cost.
    """
    days = RefusedDays()
    while True:
        try:
            return begin(days, *args, **named)
        except DayExceeded as exc:
            days.note(exc)


def agent_day(agent_id: AgentId, at: datetime, budgets: Sequence[NamedBudget]) -> DaySpend:
    """Return the count of an agent's day in which a run of it counts that begins at a moment."""
    limit = next((each.budget.max_cost_micros for each in budgets if each.name is BudgetName.AGENT_DAY), None)
    return DaySpend(day=day_of(at), agent_id=agent_id, allowed=limit)


def account_days(at: datetime, budgets: Sequence[NamedBudget]) -> tuple[DaySpend, ...]:
    """Return the count of an account's day, if a run that began at a moment, with these budgets, counts in it."""
    limits = [each.budget.max_cost_micros for each in budgets if each.name is BudgetName.ACCOUNT_DAY]
    return tuple(DaySpend(day=day_of(at), is_account=True, allowed=each) for each in limits)


def as_now(days: Sequence[DaySpend], allowance: Allowance) -> tuple[DaySpend, ...]:
    """Return the counts of a run with the limit that its owner has by now for the account's day."""
    return tuple(replace(each, allowed=allowance.day_cost_micros) if each.is_account else each for each in days)


def first_reservations(
    allowance: Allowance, request: ModelRequest | None, of_agent: DaySpend, *, ahead: bool = False
) -> tuple[Reservation, Reservation]:
    """Return the reservations of a run's start: one run, and the upper bound of its first call's cost, if it has one.

    With `ahead` they have what a second call may cost, too, where that is little of what the plan and the days allow:
    calls cost a fraction of their bound, so most runs that call tools then reserve nothing more.

    Raises:
        QuotaExceeded: one of them is more than the whole plan allows.
    """
    days = (of_agent, *allowance.account_days)
    if request is None:
        # Nothing is counted, so that it is not refused where more is used than a limit allows that was lowered.
        days = tuple(replace(each, allowed=None) for each in days)
        nothing = replace(allowance.reserve(Metric.MODEL_SPEND, 0), allowed=None, days=days)
        return allowance.reserve(Metric.RUNS), nothing
    bound = estimate(request, allowance.at)
    spend = allowance.reserve(Metric.MODEL_SPEND, bound)
    limits = (spend.allowed, of_agent.allowed, allowance.day_cost_micros)
    if ahead and all(each is None or bound * _LITTLE <= each for each in limits):
        spend = allowance.reserve(Metric.MODEL_SPEND, 2 * bound)
    return allowance.reserve(Metric.RUNS), replace(spend, days=days)


def reserved_for(run: Run) -> Reservation:
    """Return the reservation of model spend that is stored with a run, whatever its owner's plan allows by now."""
    return Reservation(
        user_id=run.key.user_id,
        metric=Metric.MODEL_SPEND,
        amount=run.reserved_micros,
        period=period_of(Metric.MODEL_SPEND, run.created_at),
        allowed=None,
        plan="",
        days=_days_of(run),
    )


def _days_of(run: Run) -> tuple[DaySpend, ...]:
    """Return the counts of the day in which a run began."""
    if run.agent_id is None or run.engine_schema < _WITH_DAYS:
        return ()
    at = run.created_at
    return (agent_day(run.agent_id, at, run.budgets), *account_days(at, run.budgets))
