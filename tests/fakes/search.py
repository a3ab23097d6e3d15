"""In-memory stand-in for the store of search's rows. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import SearchRow
from karma.search.ports import Journal, NewestRows, SearchHead, StampedChange
from karma.search.segments.domain import SegmentFacts


class _Stored(NamedTuple):
    text: SearchText | None
    sequence: int
    at: datetime


@dataclass
class _Head:
    changes: int = 0
    segment: SegmentFacts | None = None
    building: str = ""
    until: datetime = field(default_factory=lambda: datetime.max.replace(tzinfo=UTC))
    is_journaled: bool = False


class MemorySearchRows:
    """Rows in a dictionary."""

    def __init__(self, deleted_accounts: frozenset[UserId] = frozenset()) -> None:
        self.stored: dict[SearchKey, _Stored] = {}
        self.heads: dict[UserId, _Head] = {}
        self.journals: dict[UserId, list[tuple[datetime, RowChange, int]]] = {}
        self._deleted = deleted_accounts

    def head(self, owner: UserId) -> SearchHead:
        head = self.heads.get(owner, _Head())
        return SearchHead(head.changes, head.segment)

    def changes_of(self, owners: Collection[UserId]) -> Mapping[UserId, int]:
        return {each: self.head(each).changes for each in owners}

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        found = ((key, self.stored.get(key)) for key in keys)
        return [SearchRow(key, each.text) for key, each in found if each is not None and each.text is not None]

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

    def journal(self, owner: UserId, *, since: datetime, most: int) -> Journal:
        found: dict[SearchKey, tuple[int, RowChange]] = {}
        for at, change, sequence in reversed(self.journals.get(owner, [])):
            if at >= since and found.get(change.key, (-1,))[0] <= sequence:
                found[change.key] = (sequence, change)
            if len(found) > most:
                return Journal([change for _, change in found.values()], is_complete=False)
        return Journal([change for _, change in found.values()], is_complete=True)

    def write(self, owner: UserId, changes: Sequence[StampedChange], *, at: datetime) -> int:
        if owner in self._deleted:
            return 0
        written = 0
        for (key, text), sequence_number in changes:
            before = self.stored.get(key)
            if before is None or before.sequence < int(sequence_number):
                self.stored[key] = _Stored(text, int(sequence_number), at)
                written += 1
                if owner in self.heads and self.heads[owner].is_journaled:
                    said = (at, RowChange(key, text), int(sequence_number))
                    self.journals.setdefault(owner, []).append(said)
        if written:
            self.heads.setdefault(owner, _Head()).changes += 1
        return written

    def forget(self, owner: UserId) -> None:
        gone = [key for key, each in self.stored.items() if key.owner == owner and each.text is not None]
        for key in gone:
            del self.stored[key]
        self.journals.pop(owner, None)
        self.heads[owner] = _Head(self.head(owner).changes + 1)

    def begin_segment(self, owner: UserId, segment_id: str, *, instead_of: str, now: datetime, until: datetime) -> bool:
        head = self.heads.get(owner)
        if head is None or (head.segment.id if head.segment else "") != instead_of:
            return False
        if head.building and head.until > now:
            return False
        head.building, head.until, head.is_journaled = segment_id, until, True
        return True

    def publish_segment(self, owner: UserId, facts: SegmentFacts) -> bool:
        head = self.heads.get(owner)
        if head is None or head.building != facts.id:
            return False
        head.segment, head.building = facts, ""
        return True

    def end_segments(self, owner: UserId, segment_id: str) -> bool:
        head = self.heads.get(owner)
        if head is None or head.building != segment_id:
            return False
        self.heads[owner] = _Head(head.changes)
        return True


def _place(pair: tuple[SearchKey, _Stored]) -> tuple[int, str, str]:
    key = pair[0]
    return key.created_ms, key.type, key.id
