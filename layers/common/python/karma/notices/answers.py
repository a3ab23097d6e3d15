"""Answers of the notice routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.notices.domain import SEVERITIES, Notice, NoticeType, Severity
from karma.notices.texts import compose


class NoticeView(TypedDict):
    """A notice, in the language of its reader's account."""

    id: str
    type: NoticeType
    severity: Severity
    title: str
    text: str
    data: dict[str, str]
    """Ids, and words that the text contains."""
    created_at: str
    read_at: str | None
    expires_at: str
    """Moment after which the notice is not shown any more."""


def notice_view(notice: Notice, *, locale: str) -> NoticeView:
    """Shape a notice for its reader."""
    text = compose(notice, locale=locale)
    return {
        "id": notice.id,
        "type": notice.type,
        "severity": SEVERITIES[notice.type],
        "title": text.title,
        "text": text.text,
        "data": dict(notice.data),
        "created_at": iso(notice.created_at),
        "read_at": iso(notice.read_at) if notice.read_at else None,
        "expires_at": iso(notice.expires_at),
    }


class NoticeData(TypedDict):
    """`POST /notices/{notice_id}/read`."""

    notice: NoticeView


class NoticeListData(TypedDict):
    """`GET /notices`, newest first."""

    notices: list[NoticeView]
    unread_count: int
    """Number of unread notices on all pages; 100 means 100 or more."""
    limit: int
    next_cursor: str | None
