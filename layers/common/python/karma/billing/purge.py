"""What an account that is deleted had to do with Stripe."""

from __future__ import annotations

from karma.billing.ports import Payments
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core.clock import Clock
from karma.core.purge import Purge


class BillingPurge:
    """First Stripe stops charging, then we forget."""

    name = "billing"

    def __init__(self, *, subscriptions: SubscriptionRepository, payments: Payments, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._payments = payments
        self._clock = clock

    def purge_account(self, purge: Purge) -> bool:
        """Remove what is left of an account's customers, subscription and events; True when nothing is.

        Stripe's events that come later find a customer without a user, and are dropped (projector.py).

        Raises:
            PaymentsUnavailable, PaymentsDisabled: Stripe may charge still, so nothing was forgotten.
        """
        for customer_id in self._subscriptions.customers_of(purge.user_id):
            if purge.over():
                return False
            self._payments.delete_customer(customer_id)
            self._subscriptions.bury_customer(customer_id, purge.user_id, at=self._clock.now())
        return self._subscriptions.purge(purge)
