"""Ports of segments; tests have others of them in tests/fakes/segments.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from karma.core.ids import UserId
from karma.core.search_rows import SearchKey
from karma.search.domain import QueryReading, SearchRow, Sort


class SegmentUnusable(Exception):
    """A segment is not there, or cannot be read."""


class Segment(Protocol):
    """An open segment of an account: its rows as they were at one moment."""

    def window(
        self, reading: QueryReading, before: Sequence[QueryReading], *, sort: Sort | None, begin: int, size: int
    ) -> Sequence[SearchRow]:
        """Return rows that a reading finds and those `before` it do not, from the one numbered `begin` on.

        All are numbered, and those that rank first have the least numbers: exactly by the terms and nearly always by
        the typos that they have, nearly by the rules behind.

        Raises:
            SegmentUnusable: it cannot be read.
        """
        ...

    def count(self, readings: Sequence[QueryReading]) -> int:
        """Return how many rows readings find.

        Raises:
            SegmentUnusable: it cannot be read.
        """
        ...

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        """Return its rows that have any of the keys.

        Raises:
            SegmentUnusable: it cannot be read.
        """
        ...


class PackedSegment(NamedTuple):
    """A segment as it is stored."""

    data: bytes
    size: int
    """Bytes of its files."""


class SegmentEngine(Protocol):
    """Makes segments, and opens them. All calls block."""

    def build(self, rows: Sequence[SearchRow]) -> PackedSegment:
        """Make a segment of rows."""
        ...

    def open(self, owner: UserId, data: bytes) -> Segment:
        """Open an account's segment.

        Raises:
            SegmentUnusable: it is none.
        """
        ...


class SegmentObjects(Protocol):
    """Stored segments. All calls block.

    Raises:
        Upstream: S3 does not answer.
    """

    def put(self, owner: UserId, segment_id: str, data: bytes) -> None:
        """Store a segment."""
        ...

    def read(self, owner: UserId, segment_id: str) -> bytes | None:
        """Read a segment; None: it is not there."""
        ...

    def remove_older(self, owner: UserId, segment_id: str) -> None:
        """Remove an account's segments with lesser ids."""
        ...

    def remove(self, owner: UserId, segment_id: str) -> None:
        """Remove a segment, if it is there."""
        ...

    def remove_all(self, owner: UserId, *, limit: int) -> int:
        """Remove up to so many of an account's segments, and return how many."""
        ...


class SegmentRequests(Protocol):
    """Asks the builder for segments."""

    def ask(self, owner: UserId, *, instead_of: str) -> None:
        """Ask for a segment in the place of the one that the head names; "": it names none.

        Raises:
            Upstream: the queue does not answer.
        """
        ...
