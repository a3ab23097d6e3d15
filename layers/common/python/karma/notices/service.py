"""Use cases of notices: list them, and mark one as read."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import UserId, is_id
from karma.core.records import Record
from karma.notices.domain import MAX_COUNTED, RETENTION, Notice
from karma.notices.ports import Notices


class NoticePage(Record, kw_only=True):
    """Notices, newest first."""

    notices: Sequence[Notice]
    next_below: str | None
    """Ids of the next page are below this one; None at the end."""
    unread: int
    """Number of all unread notices, counted up to `MAX_COUNTED`."""


class NoticeService:
    """An account's own notices."""

    def __init__(self, store: Notices, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def page(self, user_id: UserId, *, unread: bool, below: str, limit: int) -> NoticePage:
        """Return a page of all notices, or of unread ones, with ids below `below`, "" for the first page."""
        since = self._clock.now() - RETENTION
        found = self._store.page(user_id, unread=unread, since=since, below=below, limit=limit + 1)
        shown = found[:limit]
        return NoticePage(
            notices=shown,
            next_below=shown[-1].id if len(found) > limit else None,
            unread=self._store.count_unread(user_id, since=since, most=MAX_COUNTED),
        )

    def read(self, user_id: UserId, notice_id: str) -> Notice:
        """Mark a notice as read; a repeat changes nothing.

        Raises:
            NotFound: the account has no such notice, or it has expired.
        """
        now = self._clock.now()
        found = self._store.mark_read(user_id, notice_id, at=now) if is_id(notice_id) else None
        if found is None or found.expires_at <= now:
            raise NotFound("Notice not found")
        return found
