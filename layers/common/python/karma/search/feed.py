"""Writes the rows that follow from changes of items, as streams bring them: twice, late, and at times in another order.

A row keeps the sequence number of the record that it is from; an older record changes nothing. Records of one item, and
of all items that a row is made of, are numbered in the order of their changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.clock import Clock
from karma.core.happenings import ItemChange
from karma.core.ids import UserId
from karma.core.search_rows import SearchKey
from karma.core.searchables import SearchSource
from karma.core.streams import StreamRecord
from karma.search.ports import SearchRows, StampedChange

_BEFORE_ALL: Final = "0"
"""Sequence number of what was there before there was a stream; any record is newer."""


class Feed:
    """Keeps the rows of all accounts."""

    def __init__(self, rows: SearchRows, sources: Sequence[SearchSource], clock: Clock) -> None:
        self._rows = rows
        self._sources = sources
        self._clock = clock

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Write the rows that follow from a batch of records, and return how many were written.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; all may be given again.
        """
        return self._write((record.change, record.sequence_number) for record in records)

    def fill(self, changes: Iterable[ItemChange], *, owner: UserId | None = None) -> int:
        """Write the rows of items that are there, unless records of a stream have written them, and return how many.

        With `owner` those of one account alone.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; all may be given again.
        """
        return self._write(((change, _BEFORE_ALL) for change in changes), owner)

    def _write(self, changes: Iterable[tuple[ItemChange, str]], of: UserId | None = None) -> int:
        newest: dict[SearchKey, StampedChange] = {}
        for change, sequence_number in changes:
            for source in self._sources:
                for row in source.rows(change):
                    if of is not None and row.key.owner != of:
                        continue
                    before = newest.get(row.key)
                    if before is None or int(before.sequence_number) <= int(sequence_number):
                        newest[row.key] = StampedChange(row, sequence_number)
        by_owner: dict[UserId, list[StampedChange]] = {}
        for key, stamped in newest.items():
            by_owner.setdefault(key.owner, []).append(stamped)
        now = self._clock.now()
        return sum(self._rows.write(owner, stamped, at=now) for owner, stamped in by_owner.items())
