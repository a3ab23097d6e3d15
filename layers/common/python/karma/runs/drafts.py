"""Threads that are stored before they begin: copies of conversations that are too large for one transaction.

A draft is stored as a thread whose deletion has been requested, so it is found nowhere, and what is left of one whose
process died is removed as that of any deleted thread is. Each write asks that this has not begun; the start of the run
makes the draft a thread and calls the deletion off. docs/adr/0047-checkpoints.md says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from karma.billing.allowances import Reservation
from karma.conversations.attachments import attachments_in
from karma.conversations.domain import MAX_ADDED_BYTES, MAX_CONVERSATION_BYTES, Message, Thread, ThreadKey
from karma.conversations.stored import dump_messages
from karma.core.clock import Clock
from karma.core.errors import PayloadTooLarge
from karma.core.ids import RunId

MAX_COPIED_BYTES: Final = MAX_CONVERSATION_BYTES
"""Bytes of stored JSON that a copy of a conversation may have; four transactions hold it."""
MAX_COPIED_ATTACHMENTS: Final = 40
"""Attachments that a copy names at the most: each is an item of a transaction of 100."""
REMOVED_AFTER: Final = timedelta(minutes=15)
"""Time from its beginning after which a draft is removed; a request takes 30 s at the most."""


class Drafts(Protocol):
    """A store of drafts. All calls block."""

    def begin(
        self, key: ThreadKey, *, at: datetime, removed_at: datetime, reservations: Sequence[Reservation] = ()
    ) -> None:
        """Store an empty draft, if the plan has room for what the run will reserve; nothing is reserved yet.

        Raises:
            QuotaExceeded: it has none.
            AccountGone: its owner is being deleted.
            ThreadChanged: there is a thread of this id.
        """

    def add(self, key: ThreadKey, messages: tuple[Message, ...], *, n: int, at: datetime) -> None:
        """Add messages to a draft, the first at position `n`, and note the attachments that they name.

        Raises:
            AccountGone: its owner is being deleted.
            ThreadChanged: its removal has begun, or one of the attachments is being removed.
        """


class Drafting:
    """Stores copies of conversations."""

    def __init__(self, store: Drafts, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def draft(self, key: ThreadKey, messages: Sequence[Message], *, reservations: Sequence[Reservation] = ()) -> Thread:
        """Store a draft with these messages, for a run to begin in; one call, and one for each 3 MB of them.

        `reservations` are those of the run: megabytes are not written for one that the plan is known to refuse.

        Raises:
            QuotaExceeded, AccountGone, ThreadChanged: as `Drafts`.
        """
        now = self._clock.now()
        self._store.begin(key, at=now, removed_at=now + REMOVED_AFTER, reservations=reservations)
        n = 0
        for pack in packs(messages, most=MAX_ADDED_BYTES):
            self._store.add(key, pack, n=n, at=self._clock.now())
            n += len(pack)
        whole = tuple(messages)
        return Thread(key=key, messages=whole, next_message=n, version=1, last_run_id=RunId(""), is_draft=True)


def packs(messages: Sequence[Message], *, most: int) -> Iterator[tuple[Message, ...]]:
    """Divide messages, in order, into as many as a transaction adds: `most` bytes of stored JSON."""
    pack: list[Message] = []
    size = 0
    for message in messages:
        own = len(dump_messages([message]))
        if pack and size + own > most:
            yield tuple(pack)
            pack, size = [], 0
        pack.append(message)
        size += own
    if pack:
        yield tuple(pack)


def is_large(messages: Sequence[Message], *, beside: int = 0) -> bool:
    """Tell whether messages, `beside` so many bytes of other things, are more than the start of a run can add."""
    return bool(messages) and len(dump_messages(messages)) + beside > MAX_ADDED_BYTES


def require_room(copied: Sequence[Message], *, most: int, beside: int = 0, named: Collection[str] = ()) -> None:
    """Check that messages can be copied for a new run, `beside` so many bytes of its subagents' work.

    `named` are the attachments which that names.

    Raises:
        PayloadTooLarge: all have more than `most` bytes as they are stored, or name too many attachments; or that work
            alone is more than the start of a run can add.
    """
    if len(dump_messages(copied)) + beside > most:
        raise PayloadTooLarge(f"The copied messages exceed {most} bytes")
    if beside > MAX_ADDED_BYTES:
        raise PayloadTooLarge(f"The copied work of subagents exceeds {MAX_ADDED_BYTES} bytes")
    if len({*attachments_in(copied), *named}) > MAX_COPIED_ATTACHMENTS:
        raise PayloadTooLarge(f"The copied messages name more than {MAX_COPIED_ATTACHMENTS} attachments")
