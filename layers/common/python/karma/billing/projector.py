"""What a Stripe event changes: read the row, fetch Stripe's object, write on the row's version, else again.

The event is only a hint that something may have changed. What is written comes from Stripe's objects as they are
now, fetched after the row was read; every write raises the row's version, even one that changes nothing. So a worker
that saw an older state finds a newer version and fetches again, and repeats, re-orderings and crashes all end in the
state that Stripe shows. An event of an account that is deleted is deleted as well.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import orjson

from karma.billing.domain import (
    Concern,
    Hint,
    InboxEvent,
    StripeSubscription,
    Subscription,
    SubscriptionStatus,
    deleted,
    hint_of,
    preference,
    project,
    user_named_by,
)
from karma.billing.plans import PlanName, plan_named_by
from karma.billing.ports import Inbox, Payments, Row, Subscriptions
from karma.core.clock import Clock
from karma.core.errors import Conflict
from karma.core.ids import UserId
from karma.core.observability import count, logger
from karma.identity.parent import AccountGone
from karma.notices.domain import Notice, NoticeType

_ROUNDS = 5


class SubscriptionBusy(Conflict):
    """Others changed the row in every round; the event stays open and is tried again."""

    code = "SUBSCRIPTION_BUSY"


class EventProjector:
    """Handles stored events."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        subscriptions: Subscriptions,
        payments: Payments,
        clock: Clock,
        was_deleted: Callable[[UserId], bool],
    ) -> None:
        """`was_deleted` tells a deleted account from one that never was."""
        self._was_deleted = was_deleted
        self._inbox = inbox
        self._subscriptions = subscriptions
        self._payments = payments
        self._clock = clock

    def handle(self, event_id: str) -> str:
        """Bring what the event is about up to date and close it; returns the note it was closed with.

        Repeatable at any point: an event is closed in the transaction that writes its effect.

        Raises:
            PaymentsUnavailable, StorageThrottled, StorageUnavailable, SubscriptionBusy: it stays open.
        """
        event = self._inbox.get(event_id)
        if event is None:
            count("InboxUnknownEvent")
            logger.warning("billing.event_unknown", event_id=event_id)
            return "unknown"
        if event.handled_at is not None:
            return "handled before"
        hint = _hint(event)
        if hint.concern is Concern.NOTHING:
            return self._close(event, "nothing to do")
        try:
            return self._follow(event, hint)
        except AccountGone as gone:
            return self._drop(event, hint, gone)

    def _follow(self, event: InboxEvent, hint: Hint) -> str:
        customer_id, user_id = self._parties(hint)
        if user_id is None:
            count("BillingUnlinked")
            return self._close(event, "unlinked: no user is known for this customer", unlinked=True)
        for _ in range(_ROUNDS):
            row = self._subscriptions.row(user_id)
            subscription = self._decide(row, hint, customer_id, user_id=user_id)
            if subscription is None:
                return self._close(event, "no subscription", user_id=user_id)
            held = row.subscription.stripe_subscription_id if row.subscription else None
            target = subscription.stripe_subscription_id
            claim = False
            if target is not None and target != held:
                owner = self._subscriptions.owner_of(target)
                if owner not in {None, user_id}:
                    count("BillingOwnershipConflict")
                    return self._close(event, "the subscription belongs to another user", unlinked=True)
                claim = owner is None
            note = f"{subscription.plan} {subscription.stripe_status}"
            now = self._clock.now()
            if self._subscriptions.save_and_close(
                subscription,
                seen=row,
                claim=claim,
                event_id=event.id,
                at=now,
                note=note,
                notice=_notice(row.subscription, subscription, at=now),
            ):
                return note
            again = self._inbox.get(event.id)
            if again is None or again.handled_at is not None:
                return "handled before"
        raise SubscriptionBusy("The subscription keeps changing; try again")

    def _decide(self, row: Row, hint: Hint, customer_id: str, *, user_id: UserId) -> Subscription | None:
        """Fetch every subscription that may be the user's best one; call it after the row was read."""
        held_id = row.subscription.stripe_subscription_id if row.subscription else None
        found: dict[str, StripeSubscription] = {}
        if hint.concern is Concern.CUSTOMER:
            found = {each.id: each for each in self._payments.subscriptions_of(customer_id)}
        for wanted in {hint.subscription_id, held_id} - {"", None} - found.keys():
            fetched = self._payments.subscription(str(wanted))
            if fetched is not None:
                found[fetched.id] = fetched
        if not found:
            return deleted(row.subscription) if row.subscription and held_id else row.subscription
        best = max(found.values(), key=preference)
        if plan_named_by(best.price) is None:
            count("BillingUnknownPrice")
            logger.warning("billing.price_unknown", price_id=best.price.price_id)
        return project(best, user_id=user_id)

    def _parties(self, hint: Hint) -> tuple[str, UserId | None]:
        """Find the customer, and whose it is: by a link made before, else by metadata, which makes the link."""
        customer_id = hint.customer_id
        if customer_id and (linked := self._subscriptions.user_of_customer(customer_id)) is not None:
            return customer_id, linked
        fetched = self._payments.subscription(hint.subscription_id) if hint.subscription_id else None
        if fetched is not None and fetched.customer_id != customer_id:
            customer_id = fetched.customer_id
            if (linked := self._subscriptions.user_of_customer(customer_id)) is not None:
                return customer_id, linked
        if not customer_id:
            return "", None
        named = user_named_by(hint.user_id, fetched.user_id if fetched else "")
        if named is None:
            customer = self._payments.customer(customer_id)
            named = user_named_by(customer.user_id if customer else "")
        if named is None or self._subscriptions.link_customer(customer_id, named, at=self._clock.now()):
            return customer_id, named
        return customer_id, self._subscriptions.user_of_customer(customer_id)

    def _drop(self, event: InboxEvent, hint: Hint, gone: AccountGone) -> str:
        if gone.user_id is not None:
            if not self._was_deleted(gone.user_id):
                count("BillingUnlinked")
                return self._close(event, "unlinked: there is no such user", unlinked=True)
            if hint.customer_id:
                # Bought before the account was deleted, heard of after it: nobody else would end it.
                self._payments.delete_customer(hint.customer_id)
                self._subscriptions.bury_customer(hint.customer_id, gone.user_id, at=self._clock.now())
        self._inbox.forget(event.id)
        count("BillingAccountGone")
        return "the account was deleted"

    def _close(self, event: InboxEvent, note: str, *, unlinked: bool = False, user_id: UserId | None = None) -> str:
        self._inbox.mark_handled(event.id, at=self._clock.now(), note=note, unlinked=unlinked, user_id=user_id)
        return note


def _notice(before: Subscription | None, after: Subscription, *, at: datetime) -> Notice | None:
    """Say what plan and status are now, when they were others; nobody without a row hears that there is none."""
    was = (before.plan, before.status) if before else (PlanName.FREE, SubscriptionStatus.ACTIVE)
    if was == (after.plan, after.status):
        return None
    data = {"plan": after.plan.value, "status": after.status.value}
    return Notice(user_id=after.user_id, type=NoticeType.SUBSCRIPTION_CHANGED, created_at=at, data=data)


def _hint(event: InboxEvent) -> Hint:
    try:
        obj = orjson.loads(event.body)["data"]["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Hint(concern=Concern.NOTHING)
    return hint_of(event.type, obj) if isinstance(obj, dict) else Hint(concern=Concern.NOTHING)
