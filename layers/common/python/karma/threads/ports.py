"""Ports of threads."""

from __future__ import annotations

from typing import Protocol

from karma.conversations.domain import ThreadHead, ThreadKey, ThreadPlace
from karma.core.ids import UserId


class Threads(Protocol):
    """A store of threads without their messages: karma.conversations.repository.ThreadRepository. All calls block."""

    def get(self, key: ThreadKey) -> ThreadHead | None:
        """Read a thread, consistently; None: it does not exist."""

    def page(self, user_id: UserId, *, limit: int, below: ThreadPlace | None) -> list[ThreadHead]:
        """List a user's threads, the newest activity first, `limit` of them or up to a megabyte.

        Args:
            user_id: the owner.
            limit: threads at the most; fewer are returned at the end of the list alone.
            below: place after which the list goes on; None: at its beginning.
        """
