"""The steps of billing in the deletion of an account."""

from __future__ import annotations

from typing import Protocol

from karma.billing.domain import SubscriptionStatus, plan_of, status_of
from karma.billing.naming import remembering
from karma.billing.ports import CustomerLink, Customers, Payments
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.purge import Purge


class PaymentsOfOtherMode(Upstream):
    """A customer is of the mode that the key is not of: Stripe may still charge, and cannot be told to stop."""

    status = 503
    code = "PAYMENTS_OTHER_MODE"


class Forgetting(Protocol):
    """Removal of a user's events and row."""

    def purge(self, purge: Purge) -> bool:
        """Remove events and row until the time is over; return True when nothing is left."""
        ...


def stop_charging(payments: Payments, link: CustomerLink) -> None:
    """End a customer's subscriptions of our plans, and delete the customer unless it has others.

    One Stripe account may sell more than our plans: those subscriptions go on. A subscription whose price named a plan
    when it was bought is ended, whatever the price says now.

    Raises:
        PaymentsUnavailable, PaymentsDisabled: Stripe does not answer, or there is no key; it may still charge.
        PaymentsOfOtherMode: the customer is of the other mode; Stripe may still charge.
    """
    answer = payments.subscriptions_of(link.customer_id, livemode=link.livemode)
    if answer is None:
        if link.livemode is None:
            return  # Stripe never showed such a customer
        raise PaymentsOfOtherMode("The customer is of the mode that the Stripe key is not of")
    found = remembering(answer, link.names)
    live = [each for each in found if status_of(each.status) is not SubscriptionStatus.CANCELED]
    for each in live:
        if plan_of(each) is not None:
            payments.cancel(each.id)
    if all(plan_of(each) is not None for each in live):
        payments.delete_customer(link.customer_id)


class BillingPurge:
    """Step of a deletion that ends payments at Stripe first, and then removes our data of them."""

    name = "billing"

    def __init__(self, *, subscriptions: Forgetting, customers: Customers, payments: Payments, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._customers = customers
        self._payments = payments
        self._clock = clock

    def purge_account(self, purge: Purge) -> bool:
        """Remove an account's customers, subscription and events; return True when none is left.

        A customer is first taken from the account, on condition that it is linked to it: from then on it cannot be
        linked again, and one that an administrator linked to another account is left alone. Later events of Stripe find
        a customer without a user, and are dropped (projector.py).

        Raises:
            PaymentsUnavailable, PaymentsDisabled, PaymentsOfOtherMode: as `stop_charging`; nothing of the customer was
                removed.
        """
        for link in self._customers.links_of(purge.user_id):
            if purge.over():
                return False
            self._end(link, purge.user_id)
        return self._subscriptions.purge(purge)

    def _end(self, link: CustomerLink, user_id: UserId) -> None:
        if self._customers.begin_ending(link.customer_id, user_id, at=self._clock.now()):
            stop_charging(self._payments, link)
            self._customers.end(link.customer_id, user_id, at=self._clock.now())


class UsagePurge:
    """Step of a deletion that removes an account's usage items, after all steps that release reservations."""

    name = "usage"

    def __init__(self, usage: UsageRepository) -> None:
        self._usage = usage

    def purge_account(self, purge: Purge) -> bool:
        """Remove the account's usage items; return True when none is left."""
        return self._usage.purge(purge)
