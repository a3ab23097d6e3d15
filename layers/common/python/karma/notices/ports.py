"""Ports of notices; the second implementation is in tests/fakes/notices.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.core.ids import UserId
from karma.notices.domain import Notice


class Notices(Protocol):
    """A store of notices; those older than `since` are not returned. All calls block."""

    def page(self, user_id: UserId, *, unread: bool, since: datetime, below: str, limit: int) -> Sequence[Notice]:
        """Read notices, newest first, those with ids below `below`, "" for the first page."""

    def count_unread(self, user_id: UserId, *, since: datetime, most: int) -> int:
        """Count unread notices, up to `most`."""

    def get(self, user_id: UserId, notice_id: str) -> Notice | None:
        """Read a notice, however old it is; None: it does not exist."""

    def mark_read(self, user_id: UserId, notice_id: str, *, at: datetime) -> Notice | None:
        """Mark a notice as read, once: the first moment stays. None: it does not exist."""
