"""Rows of search for avatars, each found by its creator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, in_hours, json_in, kind_of, moment_in, rows_of_item

_AVATAR: Final = SearchType(
    name="avatar",
    words=("avatars", "头像"),
    permission="avatar:read",
    statuses={"idle": ("空闲",), "working": ("工作中",), "error": ("故障",)},
)


class AvatarSource:
    """Avatars; their prompts are not looked through."""

    types: Sequence[SearchType] = (_AVATAR,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of an avatar."""
        if kind_of(change) != _AVATAR.name:
            return []
        return rows_of_item(change, _row)


def source() -> SearchSource:
    """Return what is found of avatars."""
    return AvatarSource()


def _row(image: Image) -> RowChange:
    key = SearchKey(
        UserId(text_in(image, "created_by")),
        _AVATAR.name,
        text_in(image, "avatar_id"),
        moment_in(image, "created_at"),
    )
    text = SearchText(
        name=text_in(image, "name"),
        code=text_in(image, "role"),
        tags=tuple(map(str, json_in(image, "skills") or ())),
        text=text_in(image, "description"),
        status=text_in(image, "status"),
        updated_ms=in_hours(moment_in(image, "updated_at")),
    )
    return RowChange(key, text)
