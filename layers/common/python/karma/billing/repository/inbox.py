"""Stored events, read and closed."""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.billing.domain import InboxEvent
from karma.billing.ports import Due, InboxPage
from karma.billing.repository.items import BillingItem, EventItem
from karma.billing.repository.keys import UNHANDLED, UNLINKED, event_id_of, event_key, inbox_sort_key, user_pk
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key, bind
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.ids import UserId
from karma.identity.parent import require_account_in

KEEP = timedelta(days=60)
"""How long a handled event stays; Stripe repeats for three days and lists its own for thirty."""
_PAGE = 100


class InboxRepository:
    """Events in the billing table."""

    def __init__(self, table: str) -> None:
        bind(BillingItem, table)

    def get(self, event_id: str) -> InboxEvent | None:
        """Read an event, strongly consistent."""
        item = get(EventItem, Key(*event_key(event_id)), consistent=True)
        return _event(item) if item else None

    def mark_handled(
        self, event_id: str, *, at: datetime, note: str, unlinked: bool, user_id: UserId | None = None
    ) -> bool:
        """Close an event that changes nothing else; False when it was closed already.

        Raises:
            AccountGone: the user whom it is about.
        """
        tx = Transaction()
        if user_id is not None:
            require_account_in(tx, user_id)
        actions = closing_actions(event_id, at=at, note=note, unlinked=unlinked, user_id=user_id)
        tx.update(blank_event(event_id), actions, open_condition())
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def forget(self, event_id: str) -> None:
        """Delete an event: it is about an account that is deleted."""
        delete(blank_event(event_id))

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        """Count a failed attempt of an event that is still open."""
        actions = [EventItem.attempts.add(1), EventItem.last_error.set(error), EventItem.updated_at.set(iso(at))]
        try:
            update(blank_event(event_id), actions, open_condition())
        except ConditionFailed:
            return

    def due(self, now: datetime, *, limit: int) -> list[Due]:
        """List open events whose due time has passed, oldest first."""
        found: list[Due] = []
        start: dict[str, str] | None = None
        while len(found) < limit:
            page = query_work(
                EventItem,
                UNHANDLED,
                EventItem.gsi1sk < iso(now),
                lambda item: Due(event_id_of(item.pk), int(item.attempts)),
                limit=min(_PAGE, limit - len(found)),
                start=start,
            )
            found += page.items
            start = page.last
            if start is None:
                break
        return found

    def postpone(self, event_id: str, *, until: datetime) -> bool:
        """Move the due time of an open event and count the attempt; False when it is closed."""
        actions = [EventItem.attempts.add(1), EventItem.gsi1sk.set(inbox_sort_key(until, event_id))]
        try:
            update(blank_event(event_id), actions, open_condition())
        except ConditionFailed:
            return False
        return True

    def reopen(self, event_id: str, *, at: datetime, due_at: datetime) -> bool:
        """Make an event open again; False when there is none."""
        actions = [
            EventItem.handled_at.remove(),
            EventItem.note.remove(),
            EventItem.last_error.remove(),
            EventItem.expires_at.remove(),
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

    def page(self, *, unlinked: bool, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List open events by due time, or closed ones without a user by the time of closing."""
        page = query(EventItem, UNLINKED if unlinked else UNHANDLED, limit=limit, start=start, index=BillingItem.gsi1)
        return InboxPage([_event(item) for item in page.items], page.last)


def open_condition() -> Condition:
    """Condition of every change to an event: it exists and waits."""
    condition: Condition = EventItem.pk.exists() & EventItem.handled_at.does_not_exist()
    return condition


def closing_actions(event_id: str, *, at: datetime, note: str, unlinked: bool, user_id: UserId | None) -> list[Action]:
    """Changes that close an event; one without a user stays listed, others are found by their user."""
    actions: list[Action] = [
        EventItem.handled_at.set(iso(at)),
        EventItem.updated_at.set(iso(at)),
        EventItem.note.set(note),
        EventItem.last_error.remove(),
    ]
    if unlinked:
        return [*actions, EventItem.gsi1pk.set(UNLINKED), EventItem.gsi1sk.set(inbox_sort_key(at, event_id))]
    expires_at = int((at + KEEP).timestamp())
    actions.append(EventItem.expires_at.set(expires_at))
    if user_id is None:
        return [*actions, EventItem.gsi1pk.remove(), EventItem.gsi1sk.remove()]
    return [*actions, EventItem.gsi1pk.set(user_pk(user_id)), EventItem.gsi1sk.set(f"EVENT#{event_id}")]


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
    )
