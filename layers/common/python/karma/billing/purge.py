"""What an account that is deleted had to do with Stripe."""

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
    """A customer is of the mode that the key is not of: Stripe may charge still, and cannot be told to stop."""

    status = 503
    code = "PAYMENTS_OTHER_MODE"


class Forgetting(Protocol):
    """Removes a user's events and row."""

    def purge(self, purge: Purge) -> bool:
        """Remove what is left, True when nothing is."""
        ...


def stop_charging(payments: Payments, link: CustomerLink) -> None:
    """End what a customer pays us for, and delete the customer unless it pays somebody else.

    One Stripe account may sell more than our plans: those subscriptions are not ours to end. A price that was ours when
    it was bought is ours to end, whatever became of its name.

    Raises:
        PaymentsUnavailable, PaymentsDisabled: Stripe may charge still.
        PaymentsOfOtherMode: likewise, and our key cannot change it.
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
            self._end(link, purge.user_id)
        return self._subscriptions.purge(purge)

    def _end(self, link: CustomerLink, user_id: UserId) -> None:
        if self._customers.begin_ending(link.customer_id, user_id, at=self._clock.now()):
            stop_charging(self._payments, link)
            self._customers.end(link.customer_id, user_id, at=self._clock.now())


class UsagePurge:
    """Removes what an account had taken of its plan, behind all steps that give something back."""

    name = "usage"

    def __init__(self, usage: UsageRepository) -> None:
        self._usage = usage

    def purge_account(self, purge: Purge) -> bool:
        """Remove the account's usage items; True when none is left."""
        return self._usage.purge(purge)
