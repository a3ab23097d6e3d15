"""Pages of lists: the position that a request asks for, and the fields of an answer that lead to the next.

A cursor is signed with the keys of tokens and is valid for one list of one caller, its scope.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import orjson
from fastapi import Query

from karma.core.errors import InvalidRequest
from karma.core.records import Record
from karma.http.serving import serving

Limit = Annotated[int, Query(ge=1, le=100)]
PageNumber = Annotated[int, Query(ge=1)]
Offset = Annotated[int, Query(ge=0)]
Cursor = Annotated[str, Query(max_length=2048)]

DEFAULT_SIZE = 20


def scope_of(name: str, *parts: object) -> str:
    """Return the scope of a list's cursors: its name, and all that decides what is in it and in which order.

    Lists have the same scope only when all parts are equal, whatever characters these hold.
    """
    return orjson.dumps([name, *parts], default=str).decode()


def position(cursor: str | None, scope: str, *, of: type = object) -> dict[str, Any]:
    """Return the position in a cursor; {}: there is no cursor.

    Args:
        cursor: the `next_cursor` of the page before.
        scope: what the cursor must be of, by `scope_of`.
        of: type that all values must have.

    Raises:
        InvalidRequest: INVALID_CURSOR, the cursor was altered, is of another scope, or has values of another type.
    """
    if cursor is None:
        return {}
    found = serving().cursor_signer().decode(cursor, scope=scope)
    if not all(isinstance(value, of) for value in found.values()):
        raise InvalidRequest("cursor: not readable", code="INVALID_CURSOR")
    return found


def next_cursor(following: Mapping[str, object] | None, scope: str) -> str | None:
    """Sign the position behind a page; None at the end of the list, where it has no value."""
    return serving().cursor_signer().encode(following, scope=scope) if following and any(following.values()) else None


class PageFields(TypedDict):
    """Fields of a list's answer that say which part of it this is, and how to go on."""

    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class Place(Record):
    """Part of a list that a request asks for: by page, by offset, or by cursor."""

    scope: str
    size: int
    offset: int
    after: Mapping[str, Any]
    """Position in the cursor; {}: there is no cursor."""
    page: int | None
    """Number of the page; None: asked for by offset or by cursor."""

    @classmethod
    def of(
        cls,
        scope: str,
        *,
        page: int | None,
        page_size: int | None,
        limit: int | None,
        offset: int | None,
        cursor: str | None,
    ) -> Place:
        """Return the part that a request asks for; without any parameter the first page of 20.

        Raises:
            InvalidRequest: INVALID_PAGE, two parameters contradict each other; INVALID_CURSOR, as `position`.
        """
        if cursor is not None and (offset is not None or page is not None):
            raise InvalidRequest("cursor: not together with page or offset", code="INVALID_PAGE")
        if offset is not None and page is not None:
            raise InvalidRequest("offset: not together with page", code="INVALID_PAGE")
        if limit is not None and page_size is not None and limit != page_size:
            raise InvalidRequest("limit: not together with another page_size", code="INVALID_PAGE")
        size = page_size or limit or DEFAULT_SIZE
        numbered = cursor is None and offset is None
        return cls(
            scope=scope,
            size=size,
            offset=offset if offset is not None else ((page or 1) - 1) * size,
            after=position(cursor, scope),
            page=(page or 1) if numbered else None,
        )

    @property
    def after_id(self) -> str:
        """Return the id in the cursor of a list that goes on after an id; "": at the beginning."""
        return str(self.after.get("id", ""))

    def told(self, following: Mapping[str, object] | None) -> PageFields:
        """Return the fields of an answer that say which part it is, and how to go on."""
        told: PageFields = {"limit": self.size, "next_cursor": next_cursor(following, self.scope)}
        return told if self.page is None else {**told, "page": self.page, "page_size": self.size}
