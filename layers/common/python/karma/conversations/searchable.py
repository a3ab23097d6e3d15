"""Rows of search for threads: their titles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, in_hours, kind_of, moment_in, rows_of_item

_THREAD: Final = SearchType(
    name="thread",
    words=("threads", "conversation", "conversations", "chat", "chats", "对话"),
    permission="thread:read",
    statuses={},
)


class ThreadSource:
    """Threads, each found by its owner; drafts are stored as deleted ones, and not found."""

    types: Sequence[SearchType] = (_THREAD,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of a thread."""
        if kind_of(change) != _THREAD.name:
            return []
        return rows_of_item(change, _row)


def source() -> SearchSource:
    """Return what is found of threads."""
    return ThreadSource()


def _row(image: Image) -> RowChange:
    key = SearchKey(
        UserId(text_in(image, "user_id")),
        _THREAD.name,
        text_in(image, "thread_id"),
        moment_in(image, "created_at"),
    )
    if text_in(image, "deleted_at"):
        return RowChange(key, None)
    text = SearchText(
        name=text_in(image, "title"),
        tags=tuple(filter(None, [text_in(image, "agent_id")])),
        updated_ms=in_hours(moment_in(image, "updated_at")),
    )
    return RowChange(key, text)
