"""Ports of threads."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from karma.conversations.domain import Thread, ThreadChange, ThreadHead, ThreadKey, ThreadPlace
from karma.core.ids import ThreadId, UserId
from karma.core.requests import RepeatableRequest


class Threads(Protocol):
    """A store of threads without their messages: karma.conversations.repository.ThreadRepository. All calls block."""

    def get(self, key: ThreadKey) -> ThreadHead | None:
        """Read a thread, consistently; None: it does not exist, or is deleted."""

    def whole(self, key: ThreadKey) -> tuple[ThreadHead | None, Thread] | None:
        """Read a thread with its messages, consistently; the head is None when `get` returns None.

        Returns None when the thread is being written, and several reads saw part of a write.
        """

    def page(self, user_id: UserId, *, limit: int, below: ThreadPlace | None) -> list[ThreadHead]:
        """List a user's threads, the newest activity first, `limit` of them or up to a megabyte.

        Args:
            user_id: the owner.
            limit: threads at the most; fewer are returned at the end of the list alone.
            below: place after which the list goes on; None: at its beginning.
        """

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ThreadId | None:
        """Read which thread a request made, consistently; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: it asked for another thread.
        """

    def create(self, head: ThreadHead, *, request: RepeatableRequest | None) -> None:
        """Store a thread without messages, and the record of its request, all or nothing.

        Raises:
            AlreadyExists: a thread of this id is stored, also one that is deleted or over; or the request made one.
            AccountGone: the owner's account is deleted.
        """

    def change(self, key: ThreadKey, change: ThreadChange, *, version: int | None, at: datetime) -> ThreadHead:
        """Change a thread, and return it as it is then; its place in the list stays.

        Args:
            key: the thread.
            change: what is changed, something at least.
            version: version that the thread must have; None: any.
            at: now.

        Raises:
            NotFound: the thread does not exist, or is deleted or over.
            StaleVersion: it has another version.
        """
