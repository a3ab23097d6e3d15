"""Subscription rows, their guards, and the links from Stripe's customers to our users."""

from __future__ import annotations

from datetime import datetime

from karma.billing.domain import Subscription, SubscriptionStatus
from karma.billing.plans import PlanName
from karma.billing.ports import Row
from karma.billing.repository.inbox import KEEP, blank_event, closing_actions, open_condition
from karma.billing.repository.items import BillingItem, CustomerItem, GuardItem, SubscriptionItem
from karma.billing.repository.keys import (
    CUSTOMER_PREFIX,
    customer_id_of,
    customer_key,
    guard_key,
    subscription_key,
    user_pk,
)
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key, bind
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.purge import Purge
from karma.identity.parent import AccountGone, require_account_in, tell_in
from karma.notices.domain import Notice


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
        """Return whose customer it is.

        Raises:
            AccountGone: that account is deleted.
        """
        item = get(CustomerItem, Key(*customer_key(customer_id)), consistent=True)
        if item is not None and not item.user_id:
            raise AccountGone
        return UserId(item.user_id) if item else None

    def owner_of(self, stripe_subscription_id: str) -> UserId | None:
        """Return who holds the guard of a Stripe subscription."""
        item = get(GuardItem, Key(*guard_key(stripe_subscription_id)), consistent=True)
        return UserId(item.user_id) if item else None

    def link_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> bool:
        """Remember whose customer it is; False when another user's.

        Raises:
            AccountGone: the user, or the account whose customer it was.
        """
        key = customer_key(customer_id)
        tx = Transaction()
        require_account_in(tx, user_id)
        tx.put(
            CustomerItem(
                key.pk,
                key.sk,
                user_id=user_id,
                created_at=iso(at),
                updated_at=iso(at),
                gsi1pk=user_pk(user_id),
                gsi1sk=key.pk,
            )
        )
        try:
            tx.commit()
        except ConditionFailed:
            return self.user_of_customer(customer_id) == user_id
        return True

    def save_and_close(
        self,
        subscription: Subscription,
        *,
        seen: Row,
        claim: bool,
        event_id: str,
        at: datetime,
        note: str,
        notice: Notice | None = None,
    ) -> bool:
        """Write the row on the version seen, its guard when `claim`, the event's end and a notice, all or nothing.

        False: the row, the guard or the event changed since; nothing was written.

        Raises:
            AccountGone: the user.
        """
        now = iso(at)
        item = _item(subscription, created_at=seen.created_at or now, updated_at=now)
        if seen.version:
            item.version = seen.version
        transaction = Transaction()
        require_account_in(transaction, subscription.user_id)
        transaction.put(item)
        if claim and subscription.stripe_subscription_id:
            guard = guard_key(subscription.stripe_subscription_id)
            transaction.put(
                GuardItem(
                    guard.pk,
                    guard.sk,
                    user_id=subscription.user_id,
                    created_at=now,
                    updated_at=now,
                    gsi1pk=user_pk(subscription.user_id),
                    gsi1sk=f"GUARD#{subscription.stripe_subscription_id}",
                )
            )
        closing = closing_actions(event_id, at=at, note=note, unlinked=False, user_id=subscription.user_id)
        transaction.update(blank_event(event_id), closing, open_condition())
        if notice is not None:
            tell_in(transaction, notice)
        try:
            transaction.commit()
        except ConditionFailed:
            return False
        return True

    # Of an account that is deleted

    def customers_of(self, user_id: UserId) -> set[str]:
        """Read a user's customers, eventually consistent but for the one of the row."""
        row = self.row(user_id).subscription
        named = {row.stripe_customer_id} if row is not None and row.stripe_customer_id else set()
        listed = pages(BillingItem, user_pk(user_id), prefix=CUSTOMER_PREFIX, index=BillingItem.gsi1)
        return named | {customer_id_of(key.pk) for page in listed for key in page}

    def bury_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        """Remember that the account was deleted whose customer it is, or would be: its events may come for days.

        Another user's stays as it is.
        """
        key = customer_key(customer_id)
        actions = [
            CustomerItem.user_id.remove(),
            CustomerItem.gsi1pk.remove(),
            CustomerItem.gsi1sk.remove(),
            CustomerItem.expires_at.set(int((at + KEEP).timestamp())),
        ]
        try:
            upsert(
                CustomerItem(key.pk, key.sk),
                actions,
                CustomerItem.pk.does_not_exist() | (CustomerItem.user_id == user_id),
            )
        except ConditionFailed:
            return

    def purge(self, purge: Purge) -> bool:
        """Remove a user's events, guards and row, True when that was done."""
        own = user_pk(purge.user_id)
        for page in pages(BillingItem, own, index=BillingItem.gsi1):
            if purge.over():
                return False
            # Links stay, without their user; the index may still hold them.
            delete_keys(BillingItem, [key for key in page if not key.pk.startswith(CUSTOMER_PREFIX)])
        return empty(BillingItem, own, purge)


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
