"""What an account that is deleted had to do with Stripe."""

from __future__ import annotations

from typing import Protocol

from karma.billing.domain import SubscriptionStatus, plan_of, status_of
from karma.billing.ports import Customers, Payments
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.purge import Purge


class PaymentsOfOtherMode(Upstream):
    """A customer is of the mode that the key is not of: Stripe may charge still, and cannot be told to stop."""

    status = 503
    code = "PAYMENTS_OTHER_MODE"


class Forgetting(Protocol):
    """Removes a user's events and row."""

    def purge(self, purge: Purge) -> bool:
        """Remove what is left, True when nothing is."""
        ...


def stop_charging(payments: Payments, customer_id: str, *, livemode: bool | None) -> None:
    """End what a customer pays us for, and delete the customer unless it pays somebody else.

    One Stripe account may sell more than our plans: those subscriptions are not ours to end.

    Raises:
        PaymentsUnavailable, PaymentsDisabled: Stripe may charge still.
        PaymentsOfOtherMode: likewise, and our key cannot change it.
    """
    found = payments.subscriptions_of(customer_id, livemode=livemode)
    if found is None:
        if livemode is None:
            return  # Stripe never showed such a customer
        raise PaymentsOfOtherMode("The customer is of the mode that the Stripe key is not of")
    live = [each for each in found if status_of(each.status) is not SubscriptionStatus.CANCELED]
    for each in live:
        if plan_of(each) is not None:
            payments.cancel(each.id)
    if all(plan_of(each) is not None for each in live):
        payments.delete_customer(customer_id)


class BillingPurge:
    """First Stripe stops charging, then we forget."""

    name = "billing"

    def __init__(self, *, subscriptions: Forgetting, customers: Customers, payments: Payments, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._customers = customers
        self._payments = payments
        self._clock = clock

    def purge_account(self, purge: Purge) -> bool:
        """Remove what is left of an account's customers, subscription and events; True when nothing is.

        A customer is first taken from the account, on condition that it is its own: from then on nobody else can be
        linked to it, and one that an administrator gave to somebody else is left alone. Stripe's events that come
        later find a customer without a user, and are dropped (projector.py).

        Raises:
            PaymentsUnavailable, PaymentsDisabled, PaymentsOfOtherMode: Stripe may charge still, so nothing was
            forgotten.
        """
        for link in self._customers.links_of(purge.user_id):
            if purge.over():
                return False
            self._end(link.customer_id, purge.user_id, livemode=link.livemode)
        return self._subscriptions.purge(purge)

    def _end(self, customer_id: str, user_id: UserId, *, livemode: bool | None) -> None:
        if self._customers.begin_ending(customer_id, user_id, at=self._clock.now()):
            stop_charging(self._payments, customer_id, livemode=livemode)
            self._customers.end(customer_id, user_id, at=self._clock.now())


class UsagePurge:
    """Removes what an account had taken of its plan, behind all steps that give something back."""

    name = "usage"

    def __init__(self, usage: UsageRepository) -> None:
        self._usage = usage

    def purge_account(self, purge: Purge) -> bool:
        """Remove the account's usage items; True when none is left."""
        return self._usage.purge(purge)
