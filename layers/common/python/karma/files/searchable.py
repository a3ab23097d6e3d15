"""Rows of search for files: those that are listed, and directories, each by the owner of its device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, kind_of, moment_in, rows_of_item

_FILE: Final = SearchType(name="file", words=("files", "文件"), permission="file:read", statuses={})
_LISTED: Final = "FILE#"


class FileSource:
    """Files and directories of devices."""

    types: Sequence[SearchType] = (_FILE,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of an entry that is listed, or no more."""
        if kind_of(change) != "device_file" or not text_in(change.new or change.old, "sk").startswith(_LISTED):
            return []
        return rows_of_item(change, _row)


def source() -> SearchSource:
    """Return what is found of files."""
    return FileSource()


def _row(image: Image) -> RowChange:
    key = SearchKey(
        UserId(text_in(image, "user_id")), _FILE.name, text_in(image, "file_id"), moment_in(image, "created_at")
    )
    text = SearchText(
        name=text_in(image, "name"),
        tags=(text_in(image, "category"),),
        text=" ".join([text_in(image, "path"), text_in(image, "mime_type"), text_in(image, "excerpt")]).strip(),
        updated_ms=moment_in(image, "modified_at"),
    )
    return RowChange(key, text)
