"""Budgets: what calls of models may use at the most, in tokens and in micro-dollars.

A budget is asked before each call, with the call's upper bound by the prices of that moment: a call is given as many
tokens for its answer as can be paid, and is not made when that is too few for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from karma.billing.allowances import ACCOUNT_DAY, AGENT_DAY, DaySpend, day_after
from karma.core.clock import iso, parse_iso
from karma.core.errors import QuotaExceeded
from karma.core.records import Record
from karma.models.ports import ModelRequest
from karma.models.prices import MAX_INPUT_TOKENS, affordable_output, estimate, input_tokens

MAX_BUDGET_TOKENS: Final = 10**12
MAX_BUDGET_MICROS: Final = 10**12
"""A million dollars."""
LIMITS: Final = {"max_tokens": MAX_BUDGET_TOKENS, "max_cost_micros": MAX_BUDGET_MICROS}
"""Members of a budget, with their largest values."""
MIN_ANSWER_TOKENS: Final = 256
"""Tokens of an answer below which a call is not worth its input, unless the call asks for fewer itself."""


class BudgetName(StrEnum):
    """Owner of a budget; part of the API."""

    RUN = "run"
    """The request's own."""
    THREAD = "thread"
    """Limit of all runs of a thread together, set by its owner."""
    AGENT = "agent"
    """Limit of each run of an agent."""
    AGENT_DAY = AGENT_DAY
    """Limit of each account a day with an agent."""
    ACCOUNT_DAY = ACCOUNT_DAY
    """Limit that an account has set for its day."""
    PLAN = "plan"
    """Limit of a month, by the owner's plan."""


_WORDS: Final = {
    BudgetName.RUN: "the run",
    BudgetName.THREAD: "the thread",
    BudgetName.AGENT: "the agent for each run",
    BudgetName.AGENT_DAY: "the agent for a day",
    BudgetName.ACCOUNT_DAY: "the account for a day",
    BudgetName.PLAN: "the plan",
}


class Spent(Record, kw_only=True):
    """Use by calls of models."""

    tokens: int = 0
    """Of input and output, cached ones included."""
    cost_micros: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(tokens=self.tokens + other.tokens, cost_micros=self.cost_micros + other.cost_micros)


class Budget(Record, kw_only=True):
    """Upper bound of what is used; None: there is none."""

    max_tokens: int | None = None
    """Of input and output together, cached ones included."""
    max_cost_micros: int | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether it limits anything."""
        return self.max_tokens is not None or self.max_cost_micros is not None


UNLIMITED: Final = Budget()


_SHARED: Final = frozenset({BudgetName.AGENT_DAY, BudgetName.ACCOUNT_DAY, BudgetName.PLAN})
"""Those in which runs count that know nothing of each other: what is used of them is counted where it is reserved."""


class NamedBudget(Record, kw_only=True):
    """A budget of a run, with what earlier runs have used of it: those that it continues, or of the thread all."""

    name: BudgetName
    budget: Budget
    before: Spent = Spent()
    resets_at: datetime | None = None
    """Moment at which its count begins anew; None: never, or nobody asks."""
    is_counted: bool = True
    """False: runs count in it that know nothing of each other, so that only a reservation learns what is used of it."""

    @classmethod
    def of_day(cls, day: DaySpend, taken: int, *, own: int = 0) -> NamedBudget:
        """Return the budget of a day as a refusal says it; `own` of what is taken is the call's that is to be made."""
        return cls(
            name=BudgetName.ACCOUNT_DAY if day.is_account else BudgetName.AGENT_DAY,
            budget=Budget(max_cost_micros=day.allowed),
            before=Spent(cost_micros=taken - own),
            resets_at=day_after(day.day),
        )


class BudgetExceeded(QuotaExceeded):
    """A budget does not cover a call of a model.

    `details` name the budget, what it allows, what is used and left of it, and the least that it would have to allow
    for the call to be made.
    """

    code = "BUDGET_EXCEEDED"

    def __init__(self, named: NamedBudget, spent: Spent, least: Spent | None = None) -> None:
        """Build it for a run that has used `spent`; `least` is what its next call uses at the least, by its bound."""
        budget, used = named.budget, named.before + spent
        left = _left(budget.max_cost_micros, used.cost_micros) if named.is_counted else None
        told = f"The budget of {_WORDS[named.name]} does not cover the next call of the model"
        if named.resets_at is not None and least is not None and left is not None:
            told += f", which may cost {least.cost_micros} micro-dollars, and {left} are left"
        super().__init__(
            told,
            details={
                **budget_shown(named, spent, least),
                "left_tokens": _left(budget.max_tokens, used.tokens) if named.is_counted else None,
                "left_cost_micros": left,
                **({"requested": least.cost_micros} if named.resets_at is not None and least is not None else {}),
            },
        )
        self.named = named
        self.used = used
        self.least = least


class Afforded(NamedTuple):
    """A call as budgets can pay it."""

    request: ModelRequest
    by: NamedBudget | None
    """The budget that gives its answer fewer tokens than was asked for; None: none does."""


def afford(request: ModelRequest, budgets: Sequence[NamedBudget], spent: Spent, at: datetime) -> Afforded:
    """Return a call with as many tokens for its answer as all budgets can pay at a moment.

    Args:
        request: the call that is to be made.
        budgets: all that it has to keep to.
        spent: what the run itself has used so far, with what may still come of calls that broke off.
        at: moment whose prices hold.

    Raises:
        BudgetExceeded: one of them leaves too few tokens for an answer.
    """
    most, by = request.max_tokens, None
    for named in budgets:
        room = _room(request, named.budget, named.before + spent, at)
        if room < min(MIN_ANSWER_TOKENS, request.max_tokens):
            if not named.is_counted:
                continue  # its reservation is refused, and says what is used of it
            raise BudgetExceeded(named, spent, least_of(request, at))
        if room < most:
            most, by = room, named
    return Afforded(replace(request, max_tokens=most) if by else request, by)


def bound_of(request: ModelRequest, at: datetime) -> Spent:
    """Return the most that a call may use at the prices of a moment."""
    tokens = min(MAX_INPUT_TOKENS, input_tokens(request)) + request.max_tokens
    return Spent(tokens=tokens, cost_micros=estimate(request, at))


def least_of(request: ModelRequest, at: datetime) -> Spent:
    """Return what has to be left for a call to be made, if with an answer as short as may be."""
    return bound_of(replace(request, max_tokens=min(MIN_ANSWER_TOKENS, request.max_tokens)), at)


def _room(request: ModelRequest, budget: Budget, used: Spent, at: datetime) -> int:
    """Return the tokens that an answer may have, all of the request being input that is not cached yet."""
    rooms = [request.max_tokens]
    if budget.max_tokens is not None:
        rooms.append(budget.max_tokens - used.tokens - min(MAX_INPUT_TOKENS, input_tokens(request)))
    if budget.max_cost_micros is not None:
        rooms.append(affordable_output(request, budget.max_cost_micros - used.cost_micros, at))
    return min(rooms)


def _left(most: int | None, used: int) -> int | None:
    return None if most is None else max(0, most - used)


def problems_of_budget(value: object) -> Sequence[tuple[str, str]]:
    """Return what is wrong with a budget: names of members ("" for the whole) and messages."""
    if not isinstance(value, dict):
        return [("", "must be an object with max_tokens or max_cost_micros, or both")]
    wrong = [(str(name)[:64], "is not a member of a budget") for name in value if name not in LIMITS]
    for name, most in LIMITS.items():
        if name in value and (type(value[name]) is not int or not 1 <= value[name] <= most):
            wrong.append((name, f"must be a whole number from 1 to {most}"))
    return wrong


def budget_shown(named: NamedBudget, spent: Spent | None = None, least: Spent | None = None) -> dict[str, object]:
    """Shape a budget for interrupts, refusals and runs.

    Args:
        named: the budget.
        spent: what was used beside what it counts itself.
        least: what the next call uses at the least, which makes known what the budget has to allow; None: nobody asks.
    """
    budget, used = named.budget, named.before + (spent or Spent())
    shown: dict[str, object] = {
        "budget": named.name.value,
        "max_tokens": budget.max_tokens,
        "max_cost_micros": budget.max_cost_micros,
        "spent_tokens": used.tokens if named.is_counted and named.name not in _SHARED else None,
        "spent_cost_micros": used.cost_micros if named.is_counted else None,
    }
    if least is not None:
        needed = used + least
        shown["required_tokens"] = None if budget.max_tokens is None else needed.tokens
        shown["required_cost_micros"] = None if budget.max_cost_micros is None else needed.cost_micros
    if named.resets_at is not None:
        shown["resets_at"] = iso(named.resets_at)
    return shown


def dump_budget(budget: Budget) -> list[int | None]:
    """Return a budget as JSON."""
    return [budget.max_tokens, budget.max_cost_micros]


def load_budget(body: Sequence[Any]) -> Budget:
    """Read a budget that `dump_budget` made."""
    max_tokens, max_cost_micros = body
    return Budget(max_tokens=max_tokens, max_cost_micros=max_cost_micros)


def dump_budgets(budgets: Sequence[NamedBudget]) -> list[dict[str, object]]:
    """Return a run's budgets as JSON."""
    return [
        {
            "name": each.name.value,
            "budget": dump_budget(each.budget),
            "before": [each.before.tokens, each.before.cost_micros],
            **({"is_counted": True} if each.is_counted and each.name in _SHARED else {}),
            **({"resets_at": iso(each.resets_at)} if each.resets_at else {}),
        }
        for each in budgets
    ]


def load_budgets(body: Sequence[Mapping[str, Any]]) -> tuple[NamedBudget, ...]:
    """Read budgets that `dump_budgets` made."""
    return tuple(
        NamedBudget(
            name=BudgetName(each["name"]),
            budget=load_budget(each["budget"]),
            before=Spent(tokens=each["before"][0], cost_micros=each["before"][1]),
            is_counted=each.get("is_counted", each["name"] not in _SHARED),
            resets_at=parse_iso(each["resets_at"]) if "resets_at" in each else None,
        )
        for each in body
    )
