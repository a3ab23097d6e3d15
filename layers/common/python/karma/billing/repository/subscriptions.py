"""Subscription rows in DynamoDB."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from karma.billing.domain import EventState, Subscription, told_of
from karma.billing.naming import NOTHING, Paid, look_at
from karma.billing.ports import Look, OwnLimits, Payers, Row
from karma.billing.repository.items import BillingItem, CustomerItem, DailyBudgetItem, SubscriptionItem
from karma.billing.repository.keys import (
    CUSTOMER_PREFIX,
    EVENT_PREFIX,
    LOOKS,
    budget_key,
    customer_key,
    event_key,
    look_sort_key,
    subscription_key,
    user_pk,
)
from karma.billing.repository.rows import decisions_text, item_of, paid_of, subscription_of, told_in
from karma.core.clock import iso
from karma.core.dynamo.access import get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.ids import UserId
from karma.identity.transactional import require_account
from karma.notices.transactional import add_notice

if TYPE_CHECKING:
    from karma.core.dynamo.reads import Later, Reads
    from karma.core.purge import PurgeAttempt
    from karma.notices.domain import Notice

_PAGE = 100
_BEFORE_ALL = "0"
"""Sort key before every moment."""


def want_limits(reads: Reads, user_id: UserId) -> Later[OwnLimits]:
    """Ask for what `SubscriptionRepository.limits` reads, as two items of a call that asks for more."""
    row = reads.item(SubscriptionItem, Key(*subscription_key(user_id)))
    set_by_user = reads.item(DailyBudgetItem, Key(*budget_key(user_id)))
    return lambda: _limits(row(), set_by_user())


def _limits(row: SubscriptionItem | None, set_by_user: DailyBudgetItem | None) -> OwnLimits:
    most = None if set_by_user is None else set_by_user.attribute_values.get("max_cost_micros")
    return OwnLimits(None if row is None else subscription_of(row), None if most is None else int(most))


class SubscriptionRepository:
    """Subscriptions in the billing table."""

    def row(self, user_id: UserId) -> Row:
        """Read a user's row, strongly consistent."""
        item = get(SubscriptionItem, Key(*subscription_key(user_id)), consistent=True)
        if item is None:
            return Row()
        return Row(subscription_of(item), int(item.version), item.created_at or "", paid_of(item), told_in(item))

    def limits(self, user_id: UserId) -> OwnLimits:
        """Read a user's subscription and the limit that the user has set: one Query, strongly consistent."""
        key = subscription_key(user_id)
        page = query(BillingItem, key.pk, BillingItem.sk.startswith(key.sk), limit=2, consistent=True)
        row = next((each for each in page.items if isinstance(each, SubscriptionItem)), None)
        return _limits(row, next((each for each in page.items if isinstance(each, DailyBudgetItem)), None))

    def save(
        self,
        user_id: UserId,
        subscription: Subscription | None,
        *,
        seen: Row,
        at: datetime,
        event_id: str = "",
        note: str = "",
        notice: Notice | None = None,
        shown: Collection[str] = (),
        livemode: bool = False,
        paid: Paid = NOTHING,
        decisions: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        waits_of: str = "",
    ) -> bool:
        """Write the row on the version seen, the end of an event, and a notice, all or nothing; see ports.py.

        Return False when the row or the event changed since; nothing was written.

        Raises:
            AccountGone: the user's account is deleted.
        """
        from karma.billing.repository.inbox import close_earlier, close_in  # local: each request reads the plan

        now = iso(at)
        item = item_of(
            user_id,
            subscription,
            created_at=seen.created_at or now,
            updated_at=now,
            look_at=look_at(subscription, paid, at),
            paid=paid,
            told=told_of(subscription, at),
        )
        if seen.version:
            item.version = seen.version
        tx = Transaction()
        require_account(tx, user_id)
        tx.put(item)
        for customer_id in sorted({*shown, *decisions}):
            link = customer_key(customer_id)
            learned = [CustomerItem.livemode.set(livemode)] if customer_id in shown else []
            if customer_id in decisions:
                text = decisions_text(decisions[customer_id])
                learned.append(CustomerItem.names.set(text) if text else CustomerItem.names.remove())
            tx.update(CustomerItem(link.pk, link.sk), learned, CustomerItem.user_id == user_id)
        if event_id:
            state = EventState.HANDLED
            close_in(tx, event_id, at=at, note=note, state=state, user_id=user_id, waits_of=waits_of)
        if notice is not None:
            add_notice(tx, notice)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        if event_id and waits_of:
            close_earlier(event_id, waits_of, EventState.UNNAMED, closed_at=at)
        return True

    def due_looks(self, now: datetime, *, limit: int) -> list[Look]:
        """List users about whom Stripe is to be asked, the longest overdue first."""
        page = query_work(
            SubscriptionItem,
            LOOKS,
            SubscriptionItem.gsi1sk < iso(now),
            lambda item: Look(UserId(item.user_id), item.gsi1sk or ""),
            limit=limit,
        )
        return page.items

    def postpone_look(self, look: Look, *, until: datetime) -> bool:
        """Move the time of a question to Stripe; return False when another moved or answered it since it was listed."""
        key = subscription_key(look.user_id)
        moved = [SubscriptionItem.gsi1sk.set(look_sort_key(until, look.user_id))]
        try:
            update(SubscriptionItem(key.pk, key.sk), moved, SubscriptionItem.gsi1sk == look.due)
        except ConditionFailed:
            return False
        return True

    def payers_of(self, object_id: str, *, but_at: datetime, start: dict[str, str] | None) -> Payers:
        """List the users who pay for a price or product, 100 rows a page, eventually consistent.

        Users whose question is due at `but_at` to the millisecond are left out: `hasten_look` has moved theirs before.
        """

        def payer(item: SubscriptionItem) -> UserId | None:
            user_id = UserId(item.user_id)
            concerned = object_id in paid_of(item).ids and item.gsi1sk != look_sort_key(but_at, user_id)
            return user_id if concerned else None

        page = query_work(
            SubscriptionItem,
            LOOKS,
            SubscriptionItem.gsi1sk > _BEFORE_ALL,
            payer,
            limit=_PAGE,
            start=start,
        )
        return Payers(page.items, page.last)

    def hasten_look(self, user_id: UserId, *, at: datetime) -> bool:
        """Make the question about a user due now, even if one is under way; return False when all has ended."""
        key = subscription_key(user_id)
        hastened = [SubscriptionItem.gsi1sk.set(look_sort_key(at, user_id))]
        try:
            update(SubscriptionItem(key.pk, key.sk), hastened, SubscriptionItem.gsi1pk == LOOKS)
        except ConditionFailed:
            return False
        return True

    def purge(self, purge: PurgeAttempt) -> bool:
        """Remove the events and the row of a deleted user; return True when none is left. Links are not touched.

        Nor is usage, which other contexts still give back to (UsageRepository.purge).
        """
        own = user_pk(purge.user_id)
        for page in pages(BillingItem, own, prefix=EVENT_PREFIX):
            if purge.over():
                return False
            delete_keys(BillingItem, [Key(*event_key(key.sk.removeprefix(EVENT_PREFIX))) for key in page])
        prefixes = (EVENT_PREFIX, CUSTOMER_PREFIX, subscription_key(purge.user_id).sk)
        return all(empty(BillingItem, own, purge, prefix=each) for each in prefixes)
