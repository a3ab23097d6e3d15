"""What the notice routes answer."""

from __future__ import annotations

from karma.core.schemas import Data
from karma.notices.domain import NoticeType, Severity


class NoticeView(Data):
    """A notice, in the language of its reader's account."""

    id: str
    type: NoticeType
    severity: Severity
    title: str
    text: str
    data: dict[str, str]
    """Ids, and words that the text uses."""
    created_at: str
    read_at: str | None
    expires_at: str
    """When it is gone."""


class NoticeData(Data):
    """`POST /notices/{notice_id}/read`."""

    notice: NoticeView


class NoticeListData(Data):
    """`GET /notices`, newest first."""

    notices: list[NoticeView]
    unread_count: int
    """Of all notices; 100 means 100 or more."""
    limit: int
    next_cursor: str | None
