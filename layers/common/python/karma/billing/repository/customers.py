"""Links between Stripe's customers and accounts, with the rows that depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import orjson

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.billing.domain import together
from karma.billing.ports import CustomerLink
from karma.billing.repository.inbox import RETENTION
from karma.billing.repository.items import BillingItem, CustomerItem, OwnCustomerItem, SubscriptionItem
from karma.billing.repository.keys import (
    CUSTOMER_PREFIX,
    LOOKS,
    customer_id_of,
    customer_key,
    look_sort_key,
    own_customer_key,
    subscription_key,
    user_pk,
)
from karma.billing.repository.rows import decisions_text, item_of, subscription_of, told_in
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import pages
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.identity.transactional import require_account


class CustomerRepository:
    """Links in the billing table."""

    def link_of(self, customer_id: str) -> CustomerLink | None:
        """Read a customer's link, strongly consistent."""
        item = _get(customer_id)
        return _link(item) if item else None

    def links_of(self, user_id: UserId) -> list[CustomerLink]:
        """Read the links of a user's customers, strongly consistent; also those that are being ended."""
        noted = [
            customer_id_of(key.sk)
            for page in pages(BillingItem, user_pk(user_id), prefix=CUSTOMER_PREFIX)
            for key in page
        ]
        found = [item for item in map(_get, noted) if item is not None and user_id in {item.user_id, item.ending_of}]
        return [_link(item) for item in found]

    def link(
        self,
        customer_id: str,
        user_id: UserId,
        *,
        seen: CustomerLink | None,
        at: datetime,
        livemode: bool | None = None,
        entries: Sequence[AuditEntry] = (),
    ) -> bool:
        """Link a customer to a user, taking it from whoever has it, and make both users' rows due for a look.

        The customer's subscriptions leave the other's row in the same transaction. Return False when the link or a row
        changed since it was read; nothing was written.

        Raises:
            AccountGone: there is no such user.
        """
        now, key, own = iso(at), customer_key(customer_id), own_customer_key(user_id, customer_id)
        item = CustomerItem(key.pk, key.sk, user_id=user_id, livemode=livemode, created_at=now, updated_at=now)
        item.names = decisions_text(seen.decisions) if seen else None
        tx = Transaction()
        require_account(tx, user_id)
        if seen is not None:
            item.version = seen.version
            if seen.user_id is not None and seen.user_id != user_id:
                _take_in(tx, customer_id, seen.user_id, at=at)
        tx.put(item)
        tx.upsert(OwnCustomerItem(own.pk, own.sk), [OwnCustomerItem.created_at.set(now)])
        row = subscription_key(user_id)
        tx.upsert(
            SubscriptionItem(row.pk, row.sk),
            [
                SubscriptionItem.user_id.set(user_id),
                SubscriptionItem.created_at.set(SubscriptionItem.created_at | now),
                SubscriptionItem.updated_at.set(now),
                SubscriptionItem.gsi1pk.set(LOOKS),
                SubscriptionItem.gsi1sk.set(look_sort_key(at, user_id)),
            ],
        )
        for entry in entries:
            add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    # Of an account that is deleted

    def begin_ending(self, customer_id: str, user_id: UserId, *, at: datetime, deleted_at: datetime) -> bool:
        """Take a customer from an account that was deleted at a moment; return False when another has it.

        Until `end`, nobody is linked to it.
        """
        key = customer_key(customer_id)
        actions = [
            CustomerItem.user_id.remove(),
            CustomerItem.ending_of.set(user_id),
            CustomerItem.deleted_at.set(iso(deleted_at)),
            CustomerItem.updated_at.set(iso(at)),
        ]
        own = (CustomerItem.user_id == user_id) | (CustomerItem.ending_of == user_id)
        try:
            update(CustomerItem(key.pk, key.sk), actions, own)
        except ConditionFailed:
            return False
        return True

    def end(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        """Remove a link of a deleted account; that there was one is stored while the customer's events may come."""
        key, own = customer_key(customer_id), own_customer_key(user_id, customer_id)
        tx = Transaction()
        actions = [CustomerItem.ending_of.remove(), CustomerItem.expires_at.set(int((at + RETENTION).timestamp()))]
        tx.update(CustomerItem(key.pk, key.sk), actions, CustomerItem.ending_of == user_id)
        tx.delete(OwnCustomerItem(own.pk, own.sk))
        try:
            tx.commit()
        except ConditionFailed:
            return


def _take_in(tx: Transaction, customer_id: str, user_id: UserId, *, at: datetime) -> None:
    """Remove a customer's subscriptions from a user's row in a transaction, on the version that is read here."""
    own = own_customer_key(user_id, customer_id)
    tx.delete(OwnCustomerItem(own.pk, own.sk))
    item = get(SubscriptionItem, Key(*subscription_key(user_id)), consistent=True)
    if item is None:
        return
    row = subscription_of(item)
    left = [each for each in (row.all if row else ()) if each.stripe_customer_id != customer_id]
    # Who loses the customer is told by the look: what was told last stays.
    changed = item_of(
        user_id,
        together(left),
        created_at=item.created_at or iso(at),
        updated_at=iso(at),
        look_at=at,
        told=told_in(item),
    )
    changed.version = item.version
    tx.put(changed)


def _get(customer_id: str) -> CustomerItem | None:
    return get(CustomerItem, Key(*customer_key(customer_id)), consistent=True)


def _link(item: CustomerItem) -> CustomerLink:
    owner = UserId(item.user_id) if item.user_id else None
    decisions = orjson.loads(item.names) if item.names else {}
    # An earlier release wrote no moment of the deletion, but that of the write by which the customer was taken.
    moment = None if owner else item.deleted_at or item.updated_at
    return CustomerLink(
        customer_id=customer_id_of(item.pk),
        user_id=owner,
        livemode=item.livemode,
        version=int(item.version),
        deleted_at=parse_iso(moment) if moment else None,
        ending=item.ending_of is not None,
        decisions=decisions,
    )
