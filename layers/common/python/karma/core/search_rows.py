"""Rows of search: what contexts say of objects that are found (karma/core/searchables.py), and karma/search keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from karma.core.ids import UserId
from karma.core.records import Record


class SearchType(Record, kw_only=True):
    """A type of objects that are found."""

    name: str
    """The singular, such as `device`: part of the API, never renamed."""
    words: tuple[str, ...]
    """Words by which queries mean the type."""
    permission: str
    """Permission that a caller needs to find objects of it."""
    statuses: Mapping[str, tuple[str, ...]]
    """Statuses of its objects, each with the words besides its name by which queries mean it."""


class SearchText(Record, kw_only=True):
    """Texts of an object by which it is found, and that a list of hits shows."""

    name: str
    code: str = ""
    """Names that machines gave it, such as a serial number."""
    tags: tuple[str, ...] = ()
    text: str = ""
    """Whatever else describes it; its beginning is kept."""
    status: str = ""
    """"": objects of its type have none."""
    updated_ms: int = 0


class SearchKey(NamedTuple):
    """Names a row: who finds an object, and which one."""

    owner: UserId
    type: str
    id: str
    created_ms: int
    """Moment at which the object was made; it never changes."""


class RowChange(NamedTuple):
    """A row as it is to be; None: the object is not found any more."""

    key: SearchKey
    text: SearchText | None
