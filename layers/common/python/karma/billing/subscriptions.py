"""Use cases of readers of plans and subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.core.clock import Clock

if TYPE_CHECKING:
    from datetime import datetime

    from karma.billing.allowances import Terms
    from karma.billing.domain import Subscription
    from karma.billing.plans import Catalog, Plan
    from karma.billing.ports import OwnLimits, Subscriptions
    from karma.core.ids import UserId


def terms_at(now: datetime, user_id: UserId, found: OwnLimits) -> Terms:
    """Return the plan whose limits hold for a user at a moment, with the limit that the user has set."""
    from karma.billing.allowances import Terms
    from karma.billing.domain import free_subscription
    from karma.billing.plans import plan_at

    subscription = found.subscription or free_subscription(user_id, now)
    return Terms(plan=plan_at(subscription.entitled_plan(now), now), day_cost_micros=found.day_cost_micros)


class SubscriptionService:
    """Use cases of readers of plans and subscriptions."""

    def __init__(self, *, subscriptions: Subscriptions, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._clock = clock

    def current(self, user_id: UserId) -> Subscription:
        """Return the user's subscription; when none was ever bought, one to the free plan for the current month."""
        from karma.billing.domain import free_subscription

        found = self._subscriptions.row(user_id).subscription
        return found or free_subscription(user_id, self._clock.now())

    def plan(self, user_id: UserId) -> Plan:
        """Return the plan whose limits hold for the user now."""
        from karma.billing.plans import plan_at

        now = self._clock.now()
        return plan_at(self.current(user_id).entitled_plan(now), now)

    def terms(self, user_id: UserId) -> Terms:
        """Return the plan whose limits hold for the user now, with the limit that the user has set: one read."""
        return terms_at(self._clock.now(), user_id, self._subscriptions.limits(user_id))

    def catalog(self) -> Catalog:
        """Return the plans that are offered now."""
        from karma.billing.plans import catalog_at

        return catalog_at(self.now())

    def now(self) -> datetime:
        """Return the moment for which answers are computed."""
        return self._clock.now()
