"""In-memory stand-in for the store of search's rows. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import SearchRow
from karma.search.ports import NewestRows, StampedChange


class _Stored(NamedTuple):
    text: SearchText | None
    sequence: int
    at: datetime


class MemorySearchRows:
    """Rows in a dictionary."""

    def __init__(self, deleted_accounts: frozenset[UserId] = frozenset()) -> None:
        self.stored: dict[SearchKey, _Stored] = {}
        self.heads: dict[UserId, int] = {}
        self._deleted = deleted_accounts

    def changes(self, owner: UserId) -> int:
        return self.heads.get(owner, 0)

    def newest(self, owner: UserId, *, most: int) -> NewestRows:
        rows = [
            SearchRow(key, each.text)
            for key, each in sorted(self.stored.items(), key=_place, reverse=True)
            if key.owner == owner and each.text is not None
        ]
        return NewestRows(rows[:most], is_complete=len(rows) <= most)

    def changed(self, owner: UserId, *, since: datetime, oldest_ms: int) -> Sequence[RowChange]:
        return [
            RowChange(key, each.text)
            for key, each in sorted(self.stored.items(), key=_place, reverse=True)
            if key.owner == owner and each.at >= since and key.created_ms >= oldest_ms
        ]

    def write(self, owner: UserId, changes: Sequence[StampedChange], *, at: datetime) -> int:
        if owner in self._deleted:
            return 0
        written = 0
        for (key, text), sequence_number in changes:
            before = self.stored.get(key)
            if before is None or before.sequence < int(sequence_number):
                self.stored[key] = _Stored(text, int(sequence_number), at)
                written += 1
        if written:
            self.heads[owner] = self.changes(owner) + 1
        return written

    def forget(self, owner: UserId) -> None:
        gone = [key for key, each in self.stored.items() if key.owner == owner and each.text is not None]
        for key in gone:
            del self.stored[key]
        self.heads[owner] = self.changes(owner) + 1


def _place(pair: tuple[SearchKey, _Stored]) -> tuple[int, str, str]:
    key = pair[0]
    return key.created_ms, key.type, key.id
