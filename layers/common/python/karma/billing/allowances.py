"""Amounts that an account may use of its plan, also when many requests ask at once (docs/adr/0034).

    PlanLimits        limits of a plan (plans.py): of each metric, at one time or in a calendar month.
    usage         one item a metric, for some also a month: the amount that is taken. It decides refusals, and counts
                  what is reserved as taken.
    Reservation   takes an amount in the transaction that begins the work: both happen or neither. When less is left
                  than is asked for, that transaction fails with QuotaExceeded, which names the limit.
    DaySpend      what is taken of the month's model spend, counted by day, for an agent; for the account as a whole
                  while it has set a limit of its day.
    Adjustment    corrects what a reservation took, in the transaction that ends the work: all of it when a device
                  or a file goes, the difference to the true price when a run ends.

A process that dies between reserving and ending keeps what it reserved until the work's own sweep ends that work;
nothing else has to be cleaned up. Several metrics may be reserved in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from karma.core.clock import Clock, iso
from karma.core.errors import QuotaExceeded
from karma.core.ids import UserId
from karma.core.records import Record

if TYPE_CHECKING:
    from karma.billing.plans import Plan, PlanLimits

BYTES_A_GB: Final = 1_000_000_000
MICROS_A_MINOR: Final = 10_000
"""Micro-dollars in a cent."""

AGENT_DAY: Final = "agent_per_day"
"""`details.budget` of a 402: what an account may spend with an agent a day."""
ACCOUNT_DAY: Final = "account_per_day"
"""The same of what an account allows itself a day, with all agents and without one."""


class Metric(StrEnum):
    """Metric that plans limit; the value is part of the contract: `details.limit` of a 402."""

    DEVICES = "devices"
    SEATS = "seats"
    """Distinct people in the projects that the account pays for; the account's own person needs no seat."""
    STORAGE = "storage"
    """Bytes of device files, those still being uploaded included, and of attachments of conversations."""
    RUNS = "runs_per_month"
    MODEL_SPEND = "model_spend_per_month"
    """Micro-dollars, including what running runs may still spend."""


_BY_MONTH: Final = frozenset({Metric.RUNS, Metric.MODEL_SPEND})

_HELP: Final = {
    Metric.DEVICES: "delete one or choose a larger plan",
    Metric.SEATS: "remove a member or choose a larger plan",
    Metric.STORAGE: "delete files or choose a larger plan",
    Metric.RUNS: "wait for the next month or choose a larger plan",
    Metric.MODEL_SPEND: "wait for the next month or choose a larger plan",
}


class DaySpend(Record, kw_only=True):
    """A count of one day (UTC), which takes what is taken of the month's model spend, too: same amount, one place.

    The day of an account is the sum of its counts by agent. It has a count of its own beside them while the account
    limits its day, since a limit is decided where it is counted.
    """

    day: str
    """As `2026-11-29`."""
    agent_id: str = ""
    """Agent whose calls it counts; "": those that no agent makes."""
    is_account: bool = False
    """It counts the calls of all agents, and those of none."""
    allowed: int | None = None
    """Limit in micro-dollars; None is unlimited."""

    def refusal(self, amount: int, *, taken: int) -> DayExceeded:
        """Return the error of an amount for which the day has no room; `taken` is what it had when that was decided."""
        return DayExceeded(self, amount, taken)


class DayExceeded(QuotaExceeded):
    """A day has less left than an amount: whoever asked for it may ask for less, and tells its client otherwise."""

    code = "BUDGET_EXCEEDED"

    def __init__(self, day: DaySpend, amount: int, taken: int) -> None:
        left = max(0, (day.allowed or 0) - taken)
        super().__init__(
            f"The budget of a day is {usd(day.allowed or 0)}, of which {left} micro-dollars are left, not {amount}"
        )
        self.day = day
        self.taken = taken


class Reservation(Record, kw_only=True):
    """An amount of one metric that a transaction takes, if the plan leaves room for it."""

    user_id: UserId
    metric: Metric
    amount: int
    period: str
    """Month such as `2026-11` for a metric counted by month, else ""."""
    allowed: int | None
    """The plan's limit in the metric's unit; None is unlimited."""
    plan: str
    days: tuple[DaySpend, ...] = ()
    """Counts of a day that take the same amount."""
    of_days_alone: bool = False
    """The month has taken the amount already: it is counted in the days only."""

    def adjusted(self, difference: int) -> Adjustment:
        """Return the adjustment of this reservation by a difference, negative when less was used."""
        return Adjustment(
            user_id=self.user_id,
            metric=self.metric,
            period=self.period,
            difference=difference,
            days=self.days,
            of_days_alone=self.of_days_alone,
        )

    def refusal(self, *, taken: int | None = None) -> QuotaExceeded:
        """Return the 402 that names limit and plan, what is `taken` (None: unknown), and when the count begins anew."""
        return QuotaExceeded(
            f"The {self.plan} plan allows {_amount(self.metric, self.allowed or 0)}; {_HELP[self.metric]}",
            details={
                "limit": self.metric.value,
                "plan": self.plan,
                "allowed": self.allowed,
                **({} if taken is None else {"used": taken}),
                "requested": self.amount,
                "resets_at": iso(_next_month(self.period)) if self.period else None,
            },
        )


class Adjustment(Record, kw_only=True):
    """A change of the amount that an account has taken of a metric; never refused."""

    user_id: UserId
    metric: Metric
    period: str
    difference: int
    days: tuple[DaySpend, ...] = ()
    """Counts of a day that change by the same difference."""
    of_days_alone: bool = False
    """As in the reservation that it corrects."""


class MetricUsage(Record, kw_only=True):
    """Amount of a metric that an account has taken, with its limit.

    `allowed` None: unlimited; `resets_at` None: never.
    """

    metric: Metric
    used: int
    allowed: int | None
    resets_at: datetime | None


class SpentToday(Record, kw_only=True):
    """Model spend of an account on a day, in micro-dollars, what running runs may still spend included."""

    day: str
    total: int
    by_agent: Mapping[str, int]
    """By id of the agent; direct calls and titles are no agent's."""
    delegated: Mapping[str, int] = field(default_factory=dict)
    """Of it, what agents have spent as subagents; the agents of those runs have it in their share, too."""

    @classmethod
    def of(cls, day: str, amounts: Mapping[str, int], delegated: Mapping[str, int]) -> SpentToday:
        """Sum the counts of a day, by agent; that of "" is of calls that no agent makes."""
        total = sum(amounts.values()) - sum(delegated.values())
        by_agent = {agent: amount for agent, amount in amounts.items() if agent}
        return cls(day=day, total=max(0, total), by_agent=by_agent, delegated=delegated)


class Terms(Record, kw_only=True):
    """Limits of an account: those of its plan, and the one that it has set itself."""

    plan: Plan
    day_cost_micros: int | None = None
    """Micro-dollars that its calls of models may cost a day; None: it has set no limit."""


class Allowance(Record):
    """One account's plan at one moment, from which reservations are made."""

    user_id: UserId
    plan: Plan
    at: datetime
    day_cost_micros: int | None = None
    """As in its terms."""

    @classmethod
    def under(cls, terms: Terms, user_id: UserId, at: datetime) -> Allowance:
        """Return what an account may use under its terms at a moment."""
        return cls(user_id, terms.plan, at, terms.day_cost_micros)

    @property
    def account_days(self) -> tuple[DaySpend, ...]:
        """Return the count of the account's day, if it has set a limit of that."""
        if self.day_cost_micros is None:
            return ()
        return (DaySpend(day=day_of(self.at), is_account=True, allowed=self.day_cost_micros),)

    def reserve(self, metric: Metric, amount: int = 1) -> Reservation:
        """Return a reservation of an amount; the transaction that it is added to fails if less is left.

        Model spend is counted by day, too, as a call that no agent makes, and in the account's day if that is limited.

        Raises:
            QuotaExceeded: the amount alone is more than the plan allows.
        """
        reservation = Reservation(
            user_id=self.user_id,
            metric=metric,
            amount=amount,
            period=period_of(metric, self.at),
            allowed=allowed_by(self.plan.limits, metric),
            plan=self.plan.name.value,
            days=(DaySpend(day=day_of(self.at)), *self.account_days) if metric is Metric.MODEL_SPEND else (),
        )
        if reservation.allowed is not None and amount > reservation.allowed:
            raise reservation.refusal()
        return reservation

    def resets_at(self, metric: Metric) -> datetime | None:
        """Return the moment at which the count of a metric begins anew; None: it is not counted by month."""
        period = period_of(metric, self.at)
        return _next_month(period) if period else None


class Allowances:
    """Reads what accounts may use now."""

    def __init__(self, *, terms_of: Callable[[UserId], Terms], clock: Clock) -> None:
        """Build the reader.

        `terms_of` reads what holds for an account now, consistently and uncached.
        """
        self._terms_of = terms_of
        self._clock = clock

    def now(self) -> datetime:
        """Return the moment at which an allowance that is read now holds."""
        return self._clock.now()

    def of(self, user_id: UserId) -> Allowance:
        """Read an account's allowance: one consistent read, so that a plan bought a moment ago counts."""
        return Allowance.under(self._terms_of(user_id), user_id, self._clock.now())


def granted(user_id: UserId, metric: Metric, amount: int = 1) -> Reservation:
    """Return a reservation that is never refused, for what comes to an account without its asking."""
    assert metric not in _BY_MONTH  # noqa: S101  which month would it be
    return Reservation(user_id=user_id, metric=metric, amount=amount, period="", allowed=None, plan="")


def given_back(user_id: UserId, metric: Metric, amount: int = 1) -> Adjustment:
    """Return the adjustment that releases a reservation of a metric that is not counted by month."""
    assert metric not in _BY_MONTH  # noqa: S101  a month's count does not shrink
    return Adjustment(user_id=user_id, metric=metric, period="", difference=-amount)


def day_after(day: str) -> datetime:
    """Return the moment at which the count of a day, as `2026-11-29`, begins anew."""
    return datetime.fromisoformat(f"{day}T00:00:00+00:00") + timedelta(days=1)


def period_of(metric: Metric, at: datetime) -> str:
    """Return the calendar month (UTC) for a metric counted by month, else ""."""
    return f"{at:%Y-%m}" if metric in _BY_MONTH else ""


def day_of(at: datetime) -> str:
    """Return the calendar day (UTC)."""
    return f"{at:%Y-%m-%d}"


def usd(micros: int) -> str:
    """Return an amount in words."""
    return f"{micros / (100 * MICROS_A_MINOR):.2f} USD"


def allowed_by(limits: PlanLimits, metric: Metric) -> int | None:
    """Return a plan's limit in the metric's own unit; None: unlimited."""
    match metric:
        case Metric.DEVICES:
            return limits.devices
        case Metric.SEATS:
            return limits.seats
        case Metric.STORAGE:
            return None if limits.storage_gb is None else limits.storage_gb * BYTES_A_GB
        case Metric.RUNS:
            return limits.runs_per_month
        case Metric.MODEL_SPEND:
            cents = limits.model_spend_minor_per_month
            return None if cents is None else cents * MICROS_A_MINOR


def _amount(metric: Metric, allowed: int) -> str:
    match metric:
        case Metric.DEVICES:
            return f"{allowed} devices"
        case Metric.SEATS:
            return f"{allowed} seat{'s' if allowed != 1 else ''} for other people"
        case Metric.STORAGE:
            return f"{allowed // BYTES_A_GB} GB of files"
        case Metric.RUNS:
            return f"{allowed} runs a month"
        case Metric.MODEL_SPEND:
            return f"{usd(allowed)} of model calls a month"


def _next_month(period: str) -> datetime:
    year, month = (int(part) for part in period.split("-"))
    return datetime.fromisoformat(f"{year + month // 12:04d}-{month % 12 + 1:02d}-01T00:00:00+00:00")
