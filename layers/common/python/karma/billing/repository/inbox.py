"""Stored events, read and closed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.audit.transactional import add_audit_entry
from karma.billing.domain import EventState, InboxEvent
from karma.billing.ports import DueEvent, InboxPage
from karma.billing.repository.items import (
    BillingItem,
    CustomerItem,
    EventItem,
    NamingItem,
    OwnEventItem,
    PayerItem,
)
from karma.billing.repository.keys import (
    CUSTOMER_PREFIX,
    UNHANDLED,
    customer_key,
    event_id_of,
    event_key,
    ignored_key,
    inbox_partition,
    inbox_sort_key,
    naming_key,
    own_event_key,
    payer_key,
    sold_pk,
    unlinked_sort_key,
)
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.ids import UserId
from karma.identity.transactional import require_account

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry

RETENTION = timedelta(days=60)
"""Time for which a closed event is kept; Stripe repeats for three days and lists its own for thirty."""
RETENTION_UNLINKED = timedelta(days=400)
"""Time for which an unlinked or unnamed event is kept: a customer that nobody linked renews within it, with a new
event."""
_PAGE = 100
_RETENTION_NAMING = timedelta(days=1)
"""Time for which the moment of naming a price is stored: far longer than an event is handled."""
_WAITING = (EventState.UNLINKED.value, EventState.UNNAMED.value)
"""States of closed events that wait for an operator."""


class InboxRepository:
    """Inbox over DynamoDB."""

    def get(self, event_id: str) -> InboxEvent | None:
        """Read an event, strongly consistent."""
        item = get(EventItem, Key(*event_key(event_id)), consistent=True)
        return _event(item) if item else None

    def close(
        self,
        event_id: str,
        *,
        at: datetime,
        note: str,
        state: EventState = EventState.HANDLED,
        user_id: UserId | None = None,
    ) -> bool:
        """Close an open event and change nothing else; return False when it was closed already.

        Raises:
            AccountGone: the account of `user_id` is deleted.
        """
        tx = Transaction()
        if user_id is not None:
            require_account(tx, user_id)
        close_in(tx, event_id, at=at, note=note, state=state, user_id=user_id)
        return _committed(tx)

    def close_unlinked(self, event_id: str, customer_id: str, *, at: datetime, note: str) -> bool:
        """Close an event until its customer is linked, in place of earlier ones; see ports.py.

        Return False if it was closed or the customer linked already.
        """
        tx = Transaction()
        _require_unlinked(tx, customer_id)
        actions = _closing(at=at, note=note, state=EventState.UNLINKED, keep=RETENTION_UNLINKED)
        actions.append(EventItem.gsi1sk.set(unlinked_sort_key(customer_id, at, event_id)))
        tx.update(blank_event(event_id), actions, open_condition())
        if not _committed(tx):
            return False
        close_earlier(event_id, customer_id, EventState.UNLINKED, closed_at=at)
        return True

    def ignore_payer(
        self, event_id: str, customer_id: str, object_ids: Sequence[str], *, asked_at: datetime, at: datetime, note: str
    ) -> bool:
        """Close an event of a customer without a link as ignored, until one of the objects is named; see ports.py.

        Return False when it was closed already, the customer is linked, another event of the customer was ignored
        meanwhile, or an object was named since Stripe was asked.
        """
        own = ignored_key(customer_id)
        before = get(PayerItem, Key(*own), consistent=True)
        tx = Transaction()
        _require_unlinked(tx, customer_id)
        expires_at = int((at + RETENTION_UNLINKED).timestamp())
        noted = [PayerItem.event_id.set(event_id), PayerItem.expires_at.set(expires_at)]
        for object_id in object_ids:
            unchanged: Condition = NamingItem.pk.does_not_exist() | (NamingItem.named_at < iso(asked_at))
            tx.check(NamingItem, Key(*naming_key(object_id)), unchanged)
            key = payer_key(object_id, customer_id)
            tx.upsert(PayerItem(key.pk, key.sk), noted)
        seen: Condition = PayerItem.event_id == before.event_id if before else PayerItem.pk.does_not_exist()
        tx.upsert(PayerItem(own.pk, own.sk), noted, seen)
        actions = _closing(at=at, note=note, state=EventState.IGNORED, keep=RETENTION_UNLINKED)
        actions.append(EventItem.gsi1sk.set(inbox_sort_key(at, event_id)))
        tx.update(blank_event(event_id), actions, open_condition())
        if not _committed(tx):
            return False
        if before is not None and before.event_id != event_id:
            shorter: list[Action] = [
                EventItem.expires_at.set(int((at + RETENTION).timestamp())),
                EventItem.note.set(_replaced_by(event_id)),
            ]
            _update_if(before.event_id, shorter, EventItem.state == EventState.IGNORED.value)
        return True

    def reopen_payers_of(self, object_id: str, *, at: datetime) -> int:
        """Reopen events that `ignore_payer` closed, of customers that pay for what was just named; return how many.

        After a crash a repeat goes on from there.
        """
        key = naming_key(object_id)
        expires_at = int((at + _RETENTION_NAMING).timestamp())
        named = [NamingItem.named_at.set(iso(at)), NamingItem.expires_at.set(expires_at)]
        tx = Transaction()
        tx.upsert(NamingItem(key.pk, key.sk), named)
        tx.commit()
        opened = 0
        start: dict[str, str] | None = None
        while True:
            payers = PayerItem.sk.startswith(CUSTOMER_PREFIX)
            page = query(PayerItem, sold_pk(object_id), payers, limit=_PAGE, start=start, consistent=True)
            for payer in page.items:
                opened += self.reopen(payer.event_id, at=at, due_at=at)
                delete(PayerItem(payer.pk, payer.sk))
            start = page.last
            if start is None:
                return opened

    def waiting_of(self, customer_id: str, state: EventState) -> list[str]:
        """List the ids of a customer's events that wait in a state, up to 100, eventually consistent."""
        page = query(
            BillingItem,
            inbox_partition(state),
            BillingItem.gsi1sk.startswith(f"{customer_id}#"),
            limit=_PAGE,
            index=BillingItem.gsi1,
        )
        return [event_id_of(item.pk) for item in page.items]

    def dismiss(self, event_id: str, *, at: datetime, note: str, entry: AuditEntry | None) -> bool:
        """Close an event that is open, or waits for an operator, as dismissed; return False if it does neither."""
        tx = Transaction()
        actions = _closing(at=at, note=note, state=EventState.DISMISSED, keep=RETENTION)
        actions.append(EventItem.gsi1sk.set(inbox_sort_key(at, event_id)))
        undecided: Condition = open_condition() | EventItem.state.is_in(*_WAITING)
        tx.update(blank_event(event_id), actions, undecided)
        if entry is not None:
            add_audit_entry(tx, entry)
        return _committed(tx)

    def forget(self, event_id: str) -> None:
        """Delete an event about a deleted account."""
        delete(blank_event(event_id))

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        """Count a failed attempt of an event that is still open."""
        actions = [EventItem.attempts.add(1), EventItem.last_error.set(error), EventItem.updated_at.set(iso(at))]
        try:
            update(blank_event(event_id), actions, open_condition())
        except ConditionFailed:
            return

    def due(self, now: datetime, *, limit: int) -> list[DueEvent]:
        """List open events whose due time has passed, oldest first."""
        found: list[DueEvent] = []
        start: dict[str, str] | None = None
        while len(found) < limit:
            page = query_work(
                EventItem,
                UNHANDLED,
                EventItem.gsi1sk < iso(now),
                lambda item: DueEvent(event_id_of(item.pk), int(item.attempts)),
                limit=min(_PAGE, limit - len(found)),
                start=start,
            )
            found += page.items
            start = page.last
            if start is None:
                break
        return found

    def postpone(self, event_id: str, *, until: datetime) -> bool:
        """Move the due time of an open event and count the attempt; return False when it is closed."""
        actions = [EventItem.attempts.add(1), EventItem.gsi1sk.set(inbox_sort_key(until, event_id))]
        try:
            update(blank_event(event_id), actions, open_condition())
        except ConditionFailed:
            return False
        return True

    def reopen(self, event_id: str, *, at: datetime, due_at: datetime) -> bool:
        """Open an event again; return False when there is none."""
        actions = [
            EventItem.handled_at.remove(),
            EventItem.note.remove(),
            EventItem.last_error.remove(),
            EventItem.expires_at.remove(),
            EventItem.state.set(EventState.UNHANDLED.value),
            EventItem.attempts.set(0),
            EventItem.gsi1pk.set(UNHANDLED),
            EventItem.gsi1sk.set(inbox_sort_key(due_at, event_id)),
            EventItem.updated_at.set(iso(at)),
        ]
        try:
            update(blank_event(event_id), actions)
        except ConditionFailed:
            return False
        return True

    def page(self, state: EventState, *, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List events of a state: unhandled by due time, unlinked and unnamed by customer, others newest first."""
        page = query(
            EventItem,
            inbox_partition(state),
            limit=limit,
            start=start,
            forward=state is EventState.UNHANDLED or state.value in _WAITING,
            index=BillingItem.gsi1,
        )
        return InboxPage([_event(item) for item in page.items], page.last)


def _require_unlinked(tx: Transaction, customer_id: str) -> None:
    """Require that a customer has no link, or one whose account was deleted."""
    tx.check(CustomerItem, Key(*customer_key(customer_id)), CustomerItem.user_id.does_not_exist())


def open_condition() -> Condition:
    """Return the condition that an event exists and is open."""
    condition: Condition = EventItem.pk.exists() & EventItem.handled_at.does_not_exist()
    return condition


def close_in(
    tx: Transaction,
    event_id: str,
    *,
    at: datetime,
    note: str,
    state: EventState,
    user_id: UserId | None,
    waits_of: str = "",
) -> None:
    """Close an event in a transaction; an event about a user is also listed in the user's partition.

    `waits_of` is the customer for whose price's name it waits from now on; "": it has the state `state`.
    """
    keep = RETENTION_UNLINKED if waits_of else RETENTION
    actions = _closing(at=at, note=note, state=EventState.UNNAMED if waits_of else state, keep=keep)
    sort_key = unlinked_sort_key(waits_of, at, event_id) if waits_of else inbox_sort_key(at, event_id)
    actions.append(EventItem.gsi1sk.set(sort_key))
    tx.update(blank_event(event_id), actions, open_condition())
    if user_id is not None:
        own = own_event_key(user_id, event_id)
        tx.upsert(OwnEventItem(own.pk, own.sk), [OwnEventItem.expires_at.set(int((at + keep).timestamp()))])


def close_earlier(event_id: str, customer_id: str, state: EventState, *, closed_at: datetime) -> None:
    """Close as ignored the customer's events that waited in a state before this one did, up to 100.

    They are listed eventually consistent, and not at all when the process dies before: the customer's next event finds
    what is left. Of two events that are closed at once the one that sorts last stays, whichever worker looks first.
    """
    own = unlinked_sort_key(customer_id, closed_at, event_id)
    earlier = BillingItem.gsi1sk.between(f"{customer_id}#", own)
    page = query(EventItem, inbox_partition(state), earlier, limit=_PAGE, index=BillingItem.gsi1)
    for replaced in (event_id_of(item.pk) for item in page.items if item.gsi1sk != own):
        actions = _closing(at=closed_at, note=_replaced_by(event_id), state=EventState.IGNORED, keep=RETENTION)
        actions.append(EventItem.gsi1sk.set(inbox_sort_key(closed_at, replaced)))
        before: Condition = (EventItem.gsi1pk == inbox_partition(state)) & (EventItem.gsi1sk < own)
        _update_if(replaced, actions, before)


def _closing(*, at: datetime, note: str, state: EventState, keep: timedelta) -> list[Action]:
    return [
        EventItem.handled_at.set(iso(at)),
        EventItem.updated_at.set(iso(at)),
        EventItem.note.set(note),
        EventItem.last_error.remove(),
        EventItem.state.set(state.value),
        EventItem.gsi1pk.set(inbox_partition(state)),
        EventItem.expires_at.set(int((at + keep).timestamp())),
    ]


def _replaced_by(event_id: str) -> str:
    return f"a later event of the customer says as much: {event_id}"


def _update_if(event_id: str, actions: list[Action], condition: Condition) -> None:
    """Change an event that may be gone or in another state meanwhile, and then is left as it is."""
    try:
        update(blank_event(event_id), actions, condition)
    except ConditionFailed:
        return


def _committed(tx: Transaction) -> bool:
    try:
        tx.commit()
    except ConditionFailed:
        return False
    return True


def blank_event(event_id: str) -> EventItem:
    """Return an item that names an event and nothing more, for updates."""
    key = event_key(event_id)
    return EventItem(key.pk, key.sk)


def _event(item: EventItem) -> InboxEvent:
    packed = item.body_packed
    return InboxEvent(
        id=event_id_of(item.pk),
        type=item.event_type,
        body=item.body or (zlib.decompress(packed).decode() if packed else ""),
        received_at=parse_iso(item.created_at),
        handled_at=parse_iso(item.handled_at) if item.handled_at else None,
        note=item.note or "",
        attempts=int(item.attempts),
        last_error=item.last_error or "",
        state=EventState(item.state),
        expires_at=datetime.fromtimestamp(int(item.expires_at), UTC) if item.expires_at else None,
    )
