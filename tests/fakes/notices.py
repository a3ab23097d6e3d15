"""In-memory stand-in for the store of notices. It passes the same contract suite as DynamoDB's."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from karma.core.ids import UserId, first_id
from karma.notices.domain import Notice


class MemoryNotices:
    """Notices in a dictionary."""

    def __init__(self) -> None:
        self.notices: dict[tuple[UserId, str], Notice] = {}

    def add(self, notice: Notice) -> None:
        self.notices[notice.user_id, notice.id] = notice

    def page(self, user_id: UserId, *, unread: bool, since: datetime, below: str, limit: int) -> Sequence[Notice]:
        found = [
            notice
            for (owner, notice_id), notice in self.notices.items()
            if owner == user_id
            and first_id(since) <= notice_id < (below or "~")
            and not (unread and notice.read_at is not None)
        ]
        return sorted(found, key=lambda notice: notice.id, reverse=True)[:limit]

    def count_unread(self, user_id: UserId, *, since: datetime, most: int) -> int:
        return len(self.page(user_id, unread=True, since=since, below="", limit=most))

    def get(self, user_id: UserId, notice_id: str) -> Notice | None:
        return self.notices.get((user_id, notice_id))

    def mark_read(self, user_id: UserId, notice_id: str, *, at: datetime) -> Notice | None:
        found = self.get(user_id, notice_id)
        if found is not None and found.read_at is None:
            found = replace(found, read_at=at)
            self.add(found)
        return found
