"""Stores the messages of streams until their clients have them; items.py has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.realtime.domain import Inbox
from karma.realtime.items import InboxItem, inbox_key
from karma.realtime.ports import Delivered

MAX_BYTES: Final = 256 * 1024
"""Bytes of an inbox at the most: an item has 400 KB."""
_MOST_DROPPED: Final = 200
"""Messages that one call forgets: it names each of them in an expression, which has 4 KB at the most."""


class StreamInboxRepository:
    """See Inboxes; over DynamoDB."""

    def take_over(self, connection_id: str, reader: str, *, kept_until: datetime) -> Inbox | None:
        """See Inboxes; one Update."""
        actions = [InboxItem.reader.set(reader), InboxItem.kept_until.set(epoch_ms(kept_until))]
        try:
            return _inbox(update(InboxItem(*inbox_key(connection_id)), actions))
        except ConditionFailed:
            return None

    def read(self, connection_id: str) -> Inbox | None:
        """See Inboxes; one Get."""
        item = get(InboxItem, inbox_key(connection_id), consistent=True)
        return None if item is None else _inbox(item)

    def add(self, connection_id: str, bodies: Sequence[str], *, now: datetime) -> Delivered:
        """See Inboxes; one Update, or two where there is no room."""
        key, size = inbox_key(connection_id), sum(len(body.encode()) for body in bodies)
        is_kept = InboxItem.kept_until > epoch_ms(now)
        actions = [InboxItem.bodies.set(InboxItem.bodies.append(list(bodies))), InboxItem.size.add(size)]
        try:
            update(InboxItem(*key), actions, is_kept & (InboxItem.size <= MAX_BYTES - size))
        except ConditionFailed:
            pass
        else:
            return Delivered.SENT
        try:
            update(InboxItem(*key), [InboxItem.missed.add(len(bodies))], is_kept)
        except ConditionFailed:
            return Delivered.GONE
        return Delivered.BUSY

    def drop(self, connection_id: str, inbox: Inbox, *, number: int) -> None:
        """See Inboxes; one Update."""
        count = min(number - inbox.first + 1, _MOST_DROPPED)
        if count <= 0:
            return
        freed = sum(len(body.encode()) for body in inbox.bodies[:count])
        actions = [
            # From the last one, so that it is the same whether a place is counted before the others go, or after.
            *(InboxItem.bodies[place].remove() for place in reversed(range(count))),
            InboxItem.first.add(count),
            InboxItem.size.add(-freed),
        ]
        try:
            update(InboxItem(*inbox_key(connection_id)), actions, InboxItem.first == inbox.first)
        except ConditionFailed:
            return


def _inbox(item: InboxItem) -> Inbox:
    return Inbox(
        first=int(item.first),
        bodies=list(item.bodies),
        kept_until=from_epoch_ms(int(item.kept_until)),
        reader=item.reader or "",
        missed=int(item.missed),
    )
