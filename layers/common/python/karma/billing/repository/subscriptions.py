"""Subscription rows, their guards, and the links from Stripe's customers to our users."""

from __future__ import annotations

from datetime import datetime

from karma.billing.domain import Subscription, SubscriptionStatus
from karma.billing.plans import PlanName
from karma.billing.ports import Row
from karma.billing.repository.inbox import blank_event, closing_actions, open_condition
from karma.billing.repository.items import BillingItem, CustomerItem, GuardItem, SubscriptionItem
from karma.billing.repository.keys import customer_key, guard_key, subscription_key
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, put
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key, bind
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId


class SubscriptionRepository:
    """Subscriptions in the billing table."""

    def __init__(self, table: str) -> None:
        bind(BillingItem, table)

    def row(self, user_id: UserId) -> Row:
        """Read a user's row, strongly consistent."""
        item = get(SubscriptionItem, Key(*subscription_key(user_id)), consistent=True)
        if item is None:
            return Row()
        return Row(_subscription(item), int(item.version), item.created_at or "")

    def user_of_customer(self, customer_id: str) -> UserId | None:
        """Return whose customer it is."""
        item = get(CustomerItem, Key(*customer_key(customer_id)), consistent=True)
        return UserId(item.user_id) if item else None

    def owner_of(self, stripe_subscription_id: str) -> UserId | None:
        """Return who holds the guard of a Stripe subscription."""
        item = get(GuardItem, Key(*guard_key(stripe_subscription_id)), consistent=True)
        return UserId(item.user_id) if item else None

    def link_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> bool:
        """Remember whose customer it is; False when another user's."""
        key = customer_key(customer_id)
        try:
            put(CustomerItem(key.pk, key.sk, user_id=user_id, created_at=iso(at), updated_at=iso(at)))
        except ConditionFailed:
            return self.user_of_customer(customer_id) == user_id
        return True

    def save_and_close(
        self, subscription: Subscription, *, seen: Row, claim: bool, event_id: str, at: datetime, note: str
    ) -> bool:
        """Write the row on the version seen, its guard when `claim`, and the event's end, all or nothing.

        False: the row, the guard or the event changed since; nothing was written.
        """
        now = iso(at)
        item = _item(subscription, created_at=seen.created_at or now, updated_at=now)
        if seen.version:
            item.version = seen.version
        transaction = Transaction()
        transaction.put(item)
        if claim and subscription.stripe_subscription_id:
            guard = guard_key(subscription.stripe_subscription_id)
            transaction.put(GuardItem(guard.pk, guard.sk, user_id=subscription.user_id, created_at=now, updated_at=now))
        transaction.update(
            blank_event(event_id), closing_actions(event_id, at=at, note=note, unlinked=False), open_condition()
        )
        try:
            transaction.commit()
        except ConditionFailed:
            return False
        return True


def _item(row: Subscription, *, created_at: str, updated_at: str) -> SubscriptionItem:
    key = subscription_key(row.user_id)
    return SubscriptionItem(
        key.pk,
        key.sk,
        user_id=row.user_id,
        plan=row.plan.value,
        status=row.status.value,
        stripe_status=row.stripe_status,
        current_period_start=iso(row.current_period_start),
        current_period_end=iso(row.current_period_end),
        cancel_at_period_end=row.cancel_at_period_end,
        cancel_at=_text(row.cancel_at),
        canceled_at=_text(row.canceled_at),
        trial_end=_text(row.trial_end),
        stripe_subscription_id=row.stripe_subscription_id,
        stripe_customer_id=row.stripe_customer_id,
        stripe_created=_text(row.stripe_created),
        price_id=row.price_id,
        created_at=created_at,
        updated_at=updated_at,
    )


def _subscription(item: SubscriptionItem) -> Subscription:
    return Subscription(
        user_id=UserId(item.user_id),
        plan=PlanName(item.plan),
        status=SubscriptionStatus(item.status),
        stripe_status=item.stripe_status,
        current_period_start=parse_iso(item.current_period_start),
        current_period_end=parse_iso(item.current_period_end),
        cancel_at_period_end=item.cancel_at_period_end,
        cancel_at=_moment(item.cancel_at),
        canceled_at=_moment(item.canceled_at),
        trial_end=_moment(item.trial_end),
        stripe_subscription_id=item.stripe_subscription_id,
        stripe_customer_id=item.stripe_customer_id,
        stripe_created=_moment(item.stripe_created),
        price_id=item.price_id,
    )


def _text(moment: datetime | None) -> str | None:
    return iso(moment) if moment else None


def _moment(text: str | None) -> datetime | None:
    return parse_iso(text) if text else None
