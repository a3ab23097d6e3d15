"""Amounts that an account may use of its plan, also when many requests ask at once (docs/adr/0034).

    PlanLimits        limits of a plan (plans.py): of each metric, at one time or in a calendar month.
    usage         one item a metric, for some also a month: the amount that is taken. It decides refusals, and counts
                  what is reserved as taken.
    Reservation   takes an amount in the transaction that begins the work: both happen or neither. When less is left
                  than is asked for, that transaction fails with QuotaExceeded, which names the limit.
    Adjustment    corrects what a reservation took, in the transaction that ends the work: all of it when a device
                  or a file goes, the difference to the true price when a run ends.

A process that dies between reserving and ending keeps what it reserved until the work's own sweep ends that work;
nothing else has to be cleaned up. Several metrics may be reserved in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from karma.core.clock import Clock, iso
from karma.core.errors import QuotaExceeded
from karma.core.ids import UserId

if TYPE_CHECKING:
    from karma.billing.plans import Plan, PlanLimits

BYTES_A_GB: Final = 1_000_000_000
MICROS_A_MINOR: Final = 10_000
"""Micro-dollars in a cent."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An amount of one metric that a transaction takes, if the plan leaves room for it."""

    user_id: UserId
    metric: Metric
    amount: int
    period: str
    """Month such as `2026-11` for a metric counted by month, else ""."""
    allowed: int | None
    """The plan's limit in the metric's unit; None is unlimited."""
    plan: str

    def adjusted(self, difference: int) -> Adjustment:
        """Return the adjustment of this reservation by a difference, negative when less was used."""
        return Adjustment(user_id=self.user_id, metric=self.metric, period=self.period, difference=difference)

    def refusal(self) -> QuotaExceeded:
        """Return the 402 that names the limit and plan, and the moment at which the count begins anew."""
        return QuotaExceeded(
            f"The {self.plan} plan allows {_amount(self.metric, self.allowed or 0)}; {_HELP[self.metric]}",
            details={
                "limit": self.metric.value,
                "plan": self.plan,
                "allowed": self.allowed,
                "requested": self.amount,
                "resets_at": iso(_next_month(self.period)) if self.period else None,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A change of the amount that an account has taken of a metric; never refused."""

    user_id: UserId
    metric: Metric
    period: str
    difference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricUsage:
    """Amount of a metric that an account has taken, with its limit.

    `allowed` None: unlimited; `resets_at` None: never.
    """

    metric: Metric
    used: int
    allowed: int | None
    resets_at: datetime | None


@dataclass(frozen=True, slots=True)
class Allowance:
    """One account's plan at one moment, from which reservations are made."""

    user_id: UserId
    plan: Plan
    at: datetime

    def reserve(self, metric: Metric, amount: int = 1) -> Reservation:
        """Return a reservation of an amount; the transaction that it is added to fails if less is left.

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

    def __init__(self, *, plan_of: Callable[[UserId], Plan], clock: Clock) -> None:
        """Build the reader.

        `plan_of` reads the plan whose limits hold now, consistently and uncached.
        """
        self._plan_of = plan_of
        self._clock = clock

    def of(self, user_id: UserId) -> Allowance:
        """Read an account's allowance: one consistent read, so that a plan bought a moment ago counts."""
        return Allowance(user_id, self._plan_of(user_id), self._clock.now())


def granted(user_id: UserId, metric: Metric, amount: int = 1) -> Reservation:
    """Return a reservation that is never refused, for what comes to an account without its asking."""
    assert metric not in _BY_MONTH  # noqa: S101  which month would it be
    return Reservation(user_id=user_id, metric=metric, amount=amount, period="", allowed=None, plan="")


def given_back(user_id: UserId, metric: Metric, amount: int = 1) -> Adjustment:
    """Return the adjustment that releases a reservation of a metric that is not counted by month."""
    assert metric not in _BY_MONTH  # noqa: S101  a month's count does not shrink
    return Adjustment(user_id=user_id, metric=metric, period="", difference=-amount)


def period_of(metric: Metric, at: datetime) -> str:
    """Return the calendar month (UTC) for a metric counted by month, else ""."""
    return f"{at:%Y-%m}" if metric in _BY_MONTH else ""


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
            return f"{allowed / (100 * MICROS_A_MINOR):.2f} USD of model calls a month"


def _next_month(period: str) -> datetime:
    year, month = (int(part) for part in period.split("-"))
    return datetime.fromisoformat(f"{year + month // 12:04d}-{month % 12 + 1:02d}-01T00:00:00+00:00")
