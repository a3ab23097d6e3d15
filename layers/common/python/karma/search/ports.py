"""Ports of stored rows and of what others show; second implementations are in tests/fakes/search.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey
from karma.search.domain import SearchRow

if TYPE_CHECKING:
    from karma.search.segments.domain import SegmentFacts


class StampedChange(NamedTuple):
    """A change of a row with the stream's sequence number of the record that it follows from."""

    change: RowChange
    sequence_number: str


class NewestRows(NamedTuple):
    """The rows of an owner, or the newest of them."""

    rows: Sequence[SearchRow]
    is_complete: bool
    """False: the owner has older ones."""


class SearchHead(NamedTuple):
    """Facts of all rows of an owner."""

    changes: int = 0
    """Number of times that they have changed: the version of what is searched."""
    segment: SegmentFacts | None = None


class Journal(NamedTuple):
    """Changes of an owner's rows since a moment, each row once."""

    changes: Sequence[RowChange]
    is_complete: bool
    """False: there is more."""


class SearchRows(Protocol):
    """Stored rows. All calls block."""

    def head(self, owner: UserId) -> SearchHead:
        """Read an owner's head, strongly consistent."""
        ...

    def changes_of(self, owners: Collection[UserId]) -> Mapping[UserId, int]:
        """Read the numbers of changes of the rows of owners, strongly consistent; 0: it has none."""
        ...

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        """Read those rows of whichever owners that there are, strongly consistent."""
        ...

    def newest(self, owner: UserId, *, most: int) -> NewestRows:
        """Read the rows of an owner's newest objects, strongly consistent."""
        ...

    def changed(self, owner: UserId, *, since: datetime, oldest_ms: int) -> Sequence[RowChange]:
        """Read what has changed of an owner's rows since a moment, of objects made at `oldest_ms` or later."""
        ...

    def journal(self, owner: UserId, *, since: datetime, most: int) -> Journal:
        """Read what the journal of an owner says since a moment, strongly consistent, `most` entries or some more."""
        ...

    def write(self, owner: UserId, changes: Sequence[StampedChange], *, at: datetime) -> int:
        """Write those changes of an owner's rows, each of another row, that are newer than what is stored.

        Return their number. A row that is not found any more stays as a tombstone, which refuses older changes, for as
        long as records of streams may come late. Of an account that is gone nothing is written.

        Raises:
            StorageThrottled, StorageUnavailable: some may have been written; all may be given again.
        """
        ...

    def forget(self, owner: UserId) -> None:
        """Delete an owner's rows, but not its tombstones, so that they can be filled anew; no segment counts then."""
        ...

    def begin_segment(self, owner: UserId, segment_id: str, *, instead_of: str, now: datetime, until: datetime) -> bool:
        """Begin to make a segment, which nobody else does until a moment, and from now on keep a journal.

        Return False where another segment than `instead_of` ("": none) counts by now, another one is being made, or
        the account is gone.
        """
        ...

    def publish_segment(self, owner: UserId, facts: SegmentFacts) -> bool:
        """Let a segment count; False, where another one was begun since, or the account is gone."""
        ...

    def end_segments(self, owner: UserId, segment_id: str) -> bool:
        """End the journal and let no segment count, instead of publishing the one that was begun; False as there."""
        ...


class SharedRows(NamedTuple):
    """Rows of others that somebody finds as well."""

    projects: Mapping[SearchKey, str]
    """The project that shows each."""
    is_complete: bool
    """False: there are more."""


class SharedObjects(Protocol):
    """Objects of others that projects show to their members. All calls block.

    Raises:
        StorageThrottled, StorageUnavailable: the database does not answer.
    """

    def shown_to(self, viewer: UserId, projects: Sequence[str], *, most: int) -> SharedRows:
        """Return what projects show to somebody at this moment, if they are a member; strongly consistent."""
        ...

    def findable(self, viewer: UserId, keys: Collection[SearchKey]) -> Collection[SearchKey]:
        """Return those of the keys whose objects are there, and their owners' still; of projects, still the viewer's.

        Others are rows whose end a stream has not brought yet. Strongly consistent.
        """
        ...
