"""What notices need from outside; its second implementation is in tests/fakes/notices.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.core.ids import UserId
from karma.notices.domain import Notice


class NoticeStore(Protocol):
    """Notices at rest, of one account each; those older than `since` are not there. All calls block."""

    def page(self, user_id: UserId, *, unread: bool, since: datetime, below: str, limit: int) -> Sequence[Notice]:
        """Read notices, newest first, those with ids under `below`; "" is from the newest on."""

    def count_unread(self, user_id: UserId, *, since: datetime, most: int) -> int:
        """Count unread notices, no further than `most`."""

    def get(self, user_id: UserId, notice_id: str) -> Notice | None:
        """Read one, however old it is."""

    def mark_read(self, user_id: UserId, notice_id: str, *, at: datetime) -> Notice | None:
        """Note that it was read, once: the first moment stays. None: there is none."""
