"""Indexes that a process keeps: those of the accounts that asked last, within a bound of memory.

An index is as new as the head with which it was read. Every query reads the head, strongly consistent; when it has
moved, the rows that have changed since are read, or all of them where that is not known.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from karma.core.clock import Clock
from karma.core.ids import UserId
from karma.search.domain import MAX_ROWS, SearchRow
from karma.search.index import Index
from karma.search.ports import SearchRows

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""About how much the indexes of a process take together; one that is larger alone is kept while it is the only one."""
_LATE: Final = timedelta(minutes=2)
"""A change has at the most been written so long after the moment that it says: a writer's time is over sooner."""
_MAX_GROWTH: Final = 1_000
"""Rows above the bound with which an index is read anew."""


@dataclass(slots=True)
class KeptIndex:
    """An index with what it was read from."""

    index: Index
    changes: int
    read_at: datetime
    is_complete: bool
    """False: the account has older objects than those that are looked through."""
    oldest_ms: int
    """Moment at which the oldest object in it was made; 0: it has all."""


class IndexCache:
    """Indexes by account; calls may come from several threads."""

    def __init__(self, rows: SearchRows, clock: Clock, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._rows = rows
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._kept: OrderedDict[UserId, KeptIndex] = OrderedDict()
        self._lock = Lock()

    def index(self, owner: UserId) -> KeptIndex:
        """Return an account's index, which has all of its rows that were stored when this was called.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer.
        """
        # One at a time: of two that wait for the same rows, the second one finds them here.
        with self._lock:
            changes, now = self._rows.changes(owner), self._clock.now()
            kept = self._kept.pop(owner, None)
            if kept is None or len(kept.index) > MAX_ROWS + _MAX_GROWTH or kept.changes > changes:
                kept = self._read(owner, changes, now)
            elif kept.changes < changes:
                self._renew(kept, owner, changes, now)
            self._kept[owner] = kept
            while len(self._kept) > 1 and self._memory() > self._memory_bytes:
                self._kept.popitem(last=False)
            return kept

    def _read(self, owner: UserId, changes: int, now: datetime) -> KeptIndex:
        if not changes:
            return KeptIndex(Index(), changes, now, is_complete=True, oldest_ms=0)
        rows, is_complete = self._rows.newest(owner, most=MAX_ROWS)
        oldest_ms = 0 if is_complete else min(row.key.created_ms for row in rows)
        return KeptIndex(Index(rows), changes, now, is_complete=is_complete, oldest_ms=oldest_ms)

    def _renew(self, kept: KeptIndex, owner: UserId, changes: int, now: datetime) -> None:
        for key, text in self._rows.changed(owner, since=kept.read_at - _LATE, oldest_ms=kept.oldest_ms):
            if text is None:
                kept.index.remove(key)
            else:
                kept.index.put(SearchRow(key, text))
        if kept.index.is_sparse:
            kept.index = Index(kept.index.rows())
        kept.changes, kept.read_at = changes, now

    def _memory(self) -> int:
        return sum(kept.index.memory_bytes for kept in self._kept.values())
