"""Plans for tests: one without limits, where limits are not what is tested."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from karma.billing.allowances import Allowance, Allowances, Metric, Reservation, Terms
from karma.billing.domain import SubscriptionStatus, free_subscription
from karma.billing.plans import PlanName, plan_at
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.transactional import reserve_usage
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def allowance(
    user_id: UserId, plan: PlanName = PlanName.ENTERPRISE, *, at: datetime = NOW, a_day: int | None = None
) -> Allowance:
    """Return the allowance of an account on a plan; without limits unless the test says otherwise."""
    return Allowance(user_id, plan_at(plan, at), at, a_day)


def allowances(
    plan: PlanName = PlanName.ENTERPRISE, *, clock: Clock | None = None, a_day: int | None = None
) -> Allowances:
    """Return allowances by which everybody is on this plan, and has set this limit of a day, in micro-dollars."""
    own = clock or SystemClock()

    def terms_of(user_id: UserId) -> Terms:
        assert user_id
        return Terms(plan=plan_at(plan, own.now()), day_cost_micros=a_day)

    return Allowances(terms_of=terms_of, clock=own)


def subscribe(user_id: str, plan: PlanName = PlanName.ENTERPRISE) -> None:
    """Give an account a plan from now on, as if it had bought it."""
    free, now = free_subscription(UserId(user_id), datetime.now(UTC)), datetime.now(UTC)
    bought = replace(free, plan=plan, status=SubscriptionStatus.ACTIVE, stripe_status="active")
    rows = SubscriptionRepository()
    assert rows.save(UserId(user_id), bought, seen=rows.row(UserId(user_id)), at=now)


def reserved(user_id: UserId, metric: Metric = Metric.DEVICES, amount: int = 1) -> Reservation:
    """Return a reservation that is never refused."""
    return allowance(user_id).reserve(metric, amount)


def limited(user_id: UserId, metric: Metric = Metric.DEVICES, amount: int = 1) -> Reservation:
    """Return a reservation on the free plan."""
    return allowance(user_id, PlanName.FREE).reserve(metric, amount)


def take(reservation: Reservation) -> None:
    """Take an amount of a plan by a transaction of its own, as work would that does nothing else."""
    tx = Transaction()
    reserve_usage(tx, [reservation])
    tx.commit()
