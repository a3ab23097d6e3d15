"""Port of stored rows; a second implementation is in tests/fakes/search.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.ids import UserId
from karma.core.search_rows import RowChange
from karma.search.domain import SearchRow


class StampedChange(NamedTuple):
    """A change of a row with the stream's sequence number of the record that it follows from."""

    change: RowChange
    sequence_number: str


class NewestRows(NamedTuple):
    """The rows of an owner, or the newest of them."""

    rows: Sequence[SearchRow]
    is_complete: bool
    """False: the owner has older ones."""


class SearchRows(Protocol):
    """Stored rows. All calls block."""

    def changes(self, owner: UserId) -> int:
        """Return the number of times that an owner's rows have changed, strongly consistent; 0: never."""
        ...

    def newest(self, owner: UserId, *, most: int) -> NewestRows:
        """Read the rows of an owner's newest objects, strongly consistent."""
        ...

    def changed(self, owner: UserId, *, since: datetime, oldest_ms: int) -> Sequence[RowChange]:
        """Read what has changed of an owner's rows since a moment, of objects made at `oldest_ms` or later."""
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
        """Delete an owner's rows, but not its tombstones, so that they can be filled anew."""
        ...
