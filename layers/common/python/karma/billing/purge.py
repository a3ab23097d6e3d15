"""The steps of billing in the deletion of an account."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from karma.billing.domain import StripeSubscription, SubscriptionStatus, plan_of, status_of
from karma.billing.naming import remembering
from karma.billing.ports import CustomerLink, Customers, Payments
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.purge import PurgeAttempt


class PaymentsOfOtherMode(Upstream):
    """A customer is of the mode that the key is not of: Stripe may still charge, and cannot be told to stop."""

    status = 503
    code = "PAYMENTS_OTHER_MODE"


class Forgetting(Protocol):
    """Removal of a user's events and row."""

    def purge(self, purge: PurgeAttempt) -> bool:
        """Remove events and row until the time is over; return True when nothing is left."""
        ...


def stop_charging(payments: Payments, link: CustomerLink, *, deleted_at: datetime) -> list[StripeSubscription]:
    """End a customer's subscriptions of our plans that were bought before an account was deleted.

    One Stripe account may sell more than our plans: those subscriptions go on. So does what was bought since: its buyer
    may have another account by now. A subscription whose price named a plan when it was bought is ended, whatever the
    price says now. Stripe tells times in seconds; what was bought in the second of the deletion counts as before.

    Args:
        payments: Stripe.
        link: the customer.
        deleted_at: moment of the deletion's request.

    Returns:
        All subscriptions that the customer ever had, as `remembering` returned them.

    Raises:
        PaymentsUnavailable, PaymentsDisabled: Stripe does not answer, or there is no key; it may still charge.
        PaymentsOfOtherMode: the customer is of the other mode; Stripe may still charge.
    """
    answer = payments.subscriptions_of(link.customer_id, livemode=link.livemode)
    if answer is None:
        if link.livemode is None:
            return []  # Stripe never showed such a customer
        raise PaymentsOfOtherMode("The customer is of the mode that the Stripe key is not of")
    found = remembering(answer, link.decisions)
    for each in found:
        live = status_of(each.status) is not SubscriptionStatus.CANCELED
        if live and plan_of(each) is not None and each.created <= deleted_at:
            payments.cancel(each.id)
    return found


class BillingPurge:
    """Step of a deletion that ends payments at Stripe first, and then removes our data of them."""

    name = "billing"

    def __init__(self, *, subscriptions: Forgetting, customers: Customers, payments: Payments, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._customers = customers
        self._payments = payments
        self._clock = clock

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's customers, subscription and events; return True when none is left.

        A customer is first taken from the account, on condition that it is linked to it: from then on it cannot be
        linked again until that is done, and one that an administrator linked to another account is left alone. Later
        events of Stripe find a customer without a user, and end only what is older than the deletion (projector.py).

        Raises:
            PaymentsUnavailable, PaymentsDisabled, PaymentsOfOtherMode: as `stop_charging`; nothing of the customer was
                removed.
        """
        for link in self._customers.links_of(purge.user_id):
            if purge.over():
                return False
            self._end(link, purge)
        return self._subscriptions.purge(purge)

    def _end(self, link: CustomerLink, purge: PurgeAttempt) -> None:
        customer_id, deleted_at = link.customer_id, purge.requested_at
        if self._customers.begin_ending(customer_id, purge.user_id, at=self._clock.now(), deleted_at=deleted_at):
            found = stop_charging(self._payments, link, deleted_at=deleted_at)
            if self._was_ours_alone(customer_id, found, deleted_at):
                self._payments.delete_customer(customer_id)
            self._customers.end(customer_id, purge.user_id, at=self._clock.now())

    def _was_ours_alone(self, customer_id: str, found: list[StripeSubscription], deleted_at: datetime) -> bool:
        """Tell whether a customer bought our plans, before the deletion, and never anything else.

        Who bought nothing at all may be a customer whom another product of the same Stripe account is about to serve.
        """
        if not found or any(plan_of(each) is None or each.created > deleted_at for each in found):
            return False
        return not self._payments.buys_else(customer_id, [each.id for each in found])


class UsagePurge:
    """Step of a deletion that removes an account's usage items, after all steps that release reservations."""

    name = "usage"

    def __init__(self, usage: UsageRepository, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove the account's usage items but this month's; return True when none is left."""
        return self._usage.purge(purge, at=self._clock.now())
