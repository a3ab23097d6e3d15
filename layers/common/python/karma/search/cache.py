"""Indexes that a process keeps: those of the accounts that asked last, within bounds of memory and disk.

An index is as new as the head with which it was read. Every query reads the head, strongly consistent; when it has
moved, the rows that have changed since are read, or all of them where that is not known. Of an account with a segment
(karma/search/segments) the index has what has changed behind that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from karma.core.clock import Clock, from_epoch_ms
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey
from karma.search.domain import MAX_ROWS, Filters, Found, ObjectType, QueryReading, SearchRow, Sort
from karma.search.index import Index
from karma.search.ports import SearchHead, SearchRows
from karma.search.segments.domain import MAX_CHANGED, SegmentFacts
from karma.search.segments.opening import Segments
from karma.search.segments.ports import Segment, SegmentUnusable
from karma.search.showing import MAX_PROJECTS, Showing, Shown

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""About how much the indexes of a process take together; one that is larger alone is kept while it is the only one."""
DISK_BYTES: Final = 256 * 1024 * 1024
"""Bytes that the files of the segments of a process take together, of the 512 MB that Lambda gives it; as above."""
_LATE: Final = timedelta(minutes=2)
"""A change has at the most been written so long after the moment that it says: a writer's time is over sooner."""
_MAX_GROWTH: Final = 1_000
"""Rows above the bound with which an index is read anew."""
_PROJECTS: Final = QueryReading(terms=(), filters=Filters(types=frozenset({ObjectType.PROJECT.value})))


@dataclass(slots=True)
class KeptSegment:
    """A segment with what has changed behind it."""

    facts: SegmentFacts
    segment: Segment
    was: Index = field(default_factory=Index)
    """Its rows of what has changed since."""
    changed: set[SearchKey] = field(default_factory=set)
    """Keys of all that has changed since, also of what is new."""
    projects: frozenset[SearchKey] = frozenset()
    """Its newest projects."""

    def note(self, changed: Collection[RowChange]) -> None:
        """Note what has changed.

        Raises:
            SegmentUnusable: the segment cannot be read.
        """
        keys = {key for key, _ in changed} - self.changed
        for row in self.segment.rows_of(keys):
            self.was.put(row)
        self.changed |= keys


@dataclass(slots=True)
class KeptIndex:
    """An index with what it was read from."""

    index: Index
    changes: int
    read_at: datetime
    is_complete: bool
    """False: the account has older objects than those that are looked through."""
    oldest_ms: int = 0
    """Moment at which the oldest object in it was made; 0: it has all."""
    segment: KeptSegment | None = None
    """None: the index has all rows that are looked through."""
    as_of: datetime = field(kw_only=True)
    """Moment at which nothing else was stored."""
    shown: Shown = field(default_factory=Shown)
    """Rows of others that are in the index as well."""

    @property
    def memory_bytes(self) -> int:
        """Return about how much memory it takes."""
        return self.index.memory_bytes + (self.segment.was.memory_bytes if self.segment is not None else 0)

    @property
    def searched(self) -> int:
        """Return the number of objects that are looked through."""
        left = self.segment.facts.rows - len(self.segment.was) if self.segment is not None else 0
        return len(self.index) + left

    @property
    def own(self) -> int:
        """Return the number of rows in the index that are not others'."""
        return len(self.index) - sum(key in self.index for key in self.shown.projects)

    def projects(self, most: int) -> list[str]:
        """Return the ids of the newest projects in it."""
        keys = set(self.index.projects)
        if self.segment is not None:
            keys |= self.segment.projects - self.segment.changed
        return [key.id for key in sorted(keys, key=lambda key: (-key.created_ms, key.id))[:most]]


class IndexCache:
    """Indexes by account; calls may come from several threads."""

    def __init__(
        self,
        rows: SearchRows,
        clock: Clock,
        segments: Segments,
        *,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
        most: int = MAX_ROWS,
        showing: Showing | None = None,
    ) -> None:
        """Keep indexes within bounds; of an account without a segment the `most` newest objects are in its index.

        Without `showing` everybody finds their own objects alone.
        """
        self._showing = showing
        self._rows = rows
        self._clock = clock
        self._segments = segments
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._most = most
        self._kept: OrderedDict[UserId, KeptIndex] = OrderedDict()
        self._lock = Lock()

    def index(self, owner: UserId) -> KeptIndex:
        """Return an account's index: all of its rows that were stored when this was called, and what it is shown then.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer.
        """
        # One at a time: of two that wait for the same rows, the second one finds them here.
        with self._lock:
            now = self._clock.now()
            head = self._rows.head(owner)
            kept = self._kept.pop(owner, None)
            if head.segment is not None:
                kept = self._with_segment(owner, head, head.segment, kept, now) or self._in_memory(
                    owner, head, kept, now
                )
            else:
                kept = self._in_memory(owner, head, kept, now)
                if not kept.is_complete:
                    self._segments.ask(owner, instead_of="", now=now)
            if self._showing is not None:
                self._showing.renew(owner, kept)
            kept.as_of = now
            self._kept[owner] = kept
            while len(self._kept) > 1 and self._is_over():
                self._kept.popitem(last=False)
            return kept

    def without_segment(self, owner: UserId, kept: KeptIndex) -> KeptIndex:
        """Return an account's index in the place of one whose segment turned out to be unusable.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer.
        """
        if kept.segment is not None:
            self._segments.give_up(owner, kept.segment.facts, now=self._clock.now())
        with self._lock:
            self._kept.pop(owner, None)
        return self.index(owner)

    def confirmed(self, owner: UserId, found: Found) -> Found:
        """Return a page without what its account may not find any more: see `Showing.confirmed`."""
        return found if self._showing is None else self._showing.confirmed(owner, found)

    def _in_memory(self, owner: UserId, head: SearchHead, kept: KeptIndex | None, now: datetime) -> KeptIndex:
        is_other = kept is None or kept.segment is not None or kept.changes > head.changes
        if kept is None or is_other or kept.own > self._most + _MAX_GROWTH:
            return self._read(owner, head.changes, now)
        if kept.changes < head.changes:
            changed = self._rows.changed(owner, since=kept.read_at - _LATE, oldest_ms=kept.oldest_ms)
            _renew(kept, changed, head, now)
        return kept

    def _read(self, owner: UserId, changes: int, now: datetime) -> KeptIndex:
        if not changes:
            return KeptIndex(Index(), changes, now, is_complete=True, as_of=now)
        rows, is_complete = self._rows.newest(owner, most=self._most)
        oldest_ms = 0 if is_complete else min(row.key.created_ms for row in rows)
        return KeptIndex(Index(rows), changes, now, is_complete, oldest_ms, as_of=now)

    def _with_segment(
        self, owner: UserId, head: SearchHead, facts: SegmentFacts, kept: KeptIndex | None, now: datetime
    ) -> KeptIndex | None:
        """Return an index of what has changed behind the segment that the head names; None: it cannot be used."""
        if not facts.is_usable(now):
            self._segments.ask(owner, instead_of=facts.id, now=now)
            return None
        if kept is None or kept.segment is None or kept.segment.facts.id != facts.id:
            try:
                opened = self._segments.open(owner, facts, now=now)
                projects = opened.window(_PROJECTS, (), sort=Sort.CREATED, begin=0, size=MAX_PROJECTS + 1)
            except SegmentUnusable:
                return None
            since = from_epoch_ms(facts.read_ms)
            kept = KeptIndex(
                Index(),
                facts.changes,
                since,
                facts.is_complete,
                segment=KeptSegment(facts, opened, projects=frozenset(row.key for row in projects)),
                as_of=now,
            )
        assert kept.segment is not None  # noqa: S101  told to the type checker
        if kept.changes < head.changes:
            changed, is_complete = self._rows.journal(owner, since=kept.read_at - _LATE, most=MAX_CHANGED)
            _renew(kept, changed, head, now)
            try:
                kept.segment.note(changed)
            except SegmentUnusable:
                self._segments.give_up(owner, facts, now=now)
                return None
            if not is_complete or len(kept.segment.changed) > MAX_CHANGED:
                self._segments.ask(owner, instead_of=facts.id, now=now)
                return None
        if facts.should_be_renewed(now, changed=len(kept.segment.changed)):
            self._segments.ask(owner, instead_of=facts.id, now=now)
        return kept

    def _is_over(self) -> bool:
        kept = self._kept.values()
        disk = sum(each.segment.facts.size for each in kept if each.segment is not None)
        memory = sum(each.memory_bytes for each in kept)
        return memory > self._memory_bytes or disk > self._disk_bytes


def _renew(kept: KeptIndex, changed: Collection[RowChange], head: SearchHead, now: datetime) -> None:
    for key, text in changed:
        if text is None:
            kept.index.remove(key)
        else:
            kept.index.put(SearchRow(key, text))
    if kept.index.is_sparse:
        kept.index = Index(kept.index.rows())
    kept.changes, kept.read_at = head.changes, now
