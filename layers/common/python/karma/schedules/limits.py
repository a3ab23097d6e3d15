"""Limits of plans on schedules: how many are active at a time, and how often one fires."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from karma.core.errors import QuotaExceeded
from karma.schedules.domain import Census, TooManySchedules
from karma.schedules.timing import Timing

if TYPE_CHECKING:
    from karma.billing.plans import Plan


def require_frequency(plan: Plan, timing: Timing, *, now: datetime) -> None:
    """Check that a schedule fires no more often than a plan allows.

    Raises:
        QuotaExceeded: it does; `schedule_interval_s` is the limit.
    """
    gap = timing.shortest_gap(now, limit=timedelta(seconds=plan.limits.schedule_interval_s))
    if gap is not None:
        raise _too_frequent(plan, gap)


def require_room(plan: Plan, census: Census) -> None:
    """Check that a plan allows one more active schedule.

    Raises:
        QuotaExceeded: it does not; `schedules` is the limit.
    """
    allowed = plan.limits.schedules
    if allowed is not None and census.active >= allowed:
        raise QuotaExceeded(
            f"The plan {plan.name.value} has {allowed} active schedules; pause one or choose a larger plan",
            details=_details(plan, "schedules", allowed, 1),
        )


def require_place(census: Census) -> None:
    """Check that an account may have one more schedule, active or not.

    Raises:
        TooManySchedules: it has MAX_SCHEDULES.
    """
    if census.is_full:
        raise TooManySchedules


def _too_frequent(plan: Plan, gap: timedelta) -> QuotaExceeded:
    """Return the refusal of a schedule whose fires are so close together."""
    allowed, asked = plan.limits.schedule_interval_s, int(gap.total_seconds())
    return QuotaExceeded(
        f"A schedule of the plan {plan.name.value} fires every {allowed} s at most; two fires are {asked} s apart",
        details=_details(plan, "schedule_interval_s", allowed, asked),
    )


def _details(plan: Plan, limit: str, allowed: int, requested: int) -> dict[str, object]:
    return {"limit": limit, "plan": plan.name.value, "allowed": allowed, "requested": requested, "resets_at": None}
