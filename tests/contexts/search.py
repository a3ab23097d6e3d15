"""Declarations of search for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from karma.core.clock import epoch_ms
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import MAX_TAG_CHARS, MAX_TEXT_CHARS
from karma.search.ports import StampedChange
from karma.search.repository import SearchRepository
from karma.search.segments.domain import SegmentFacts
from tests.fakes.search import MemorySearchRows
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.rows import LATER, NOW, AccountRows


def stamped(
    owner: UserId, n: int = 1, *, sequence: int = 1, name: str = "Pump", removed: bool = False, kind: str = "task"
) -> StampedChange:
    key = SearchKey(owner, kind, f"id-{n}", n)
    return StampedChange(RowChange(key, None if removed else SearchText(name=name, updated_ms=n)), str(sequence))


SEGMENT = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f71"


def facts(segment_id: str = SEGMENT, **more: Any) -> SegmentFacts:
    told: dict[str, Any] = {
        "changes": 1,
        "read_ms": epoch_ms(NOW),
        "rows": 1,
        "is_complete": True,
        "size": 1,
        "sha256": "00",
    }
    return SegmentFacts(id=segment_id, **(told | more))


class FoundRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.rows = SearchRepository()

    @cached_property
    def row(self) -> StampedChange:
        change = stamped(self.ada.id)
        self.rows.write(self.ada.id, [change], at=NOW)
        return change

    def begin(self) -> bool:
        return self.rows.begin_segment(self.ada.id, SEGMENT, instead_of="", now=NOW, until=LATER)

    @cached_property
    def journaled(self) -> StampedChange:
        self.row  # noqa: B018
        assert self.begin()
        change = stamped(self.ada.id, sequence=2)
        self.rows.write(self.ada.id, [change], at=NOW)
        return change


PAGES: Pages = {"search": (100, 6 * 2 * (255 + MAX_TEXT_CHARS + 20 * MAX_TAG_CHARS) + 8_000)}

FAKES: Fakes = {MemorySearchRows: (SearchRepository,)}

SCENARIOS = Scenarios[FoundRows](
    FoundRows,
    {
        "SearchRepository.head": made(lambda r: r.row, lambda r, _: r.rows.head(r.ada.id)),
        "SearchRepository.changes_of": made(lambda r: r.row, lambda r, _: r.rows.changes_of([r.ada.id])),
        "SearchRepository.rows_of": made(lambda r: r.row, lambda r, row: r.rows.rows_of([row.change.key])),
        "SearchRepository.newest": made(lambda r: r.row, lambda r, _: r.rows.newest(r.ada.id, most=5)),
        "SearchRepository.changed": made(
            lambda r: r.row, lambda r, _: r.rows.changed(r.ada.id, since=NOW, oldest_ms=0)
        ),
        "SearchRepository.journal": made(
            lambda r: r.journaled, lambda r, _: r.rows.journal(r.ada.id, since=NOW, most=5)
        ),
        "SearchRepository.write": made(
            lambda r: (r.row, stamped(r.ada.id, sequence=2)),
            lambda r, n: r.rows.write(r.ada.id, [n[1]], at=NOW),
        ),
        "SearchRepository.write: journaled": made(
            lambda r: (r.journaled, stamped(r.ada.id, sequence=3)),
            lambda r, n: r.rows.write(r.ada.id, [n[1]], at=NOW),
        ),
        "SearchRepository.begin_segment": made(lambda r: r.row, lambda r, _: r.begin()),
        "SearchRepository.publish_segment": made(
            lambda r: (r.row, r.begin()), lambda r, _: r.rows.publish_segment(r.ada.id, facts())
        ),
        "SearchRepository.end_segments": made(
            lambda r: (r.row, r.begin()), lambda r, _: r.rows.end_segments(r.ada.id, SEGMENT)
        ),
        "SearchRepository.forget": made(lambda r: r.row, lambda r, _: r.rows.forget(r.ada.id)),
        "SearchRepository.purge_account": made(lambda r: (r.row, r.purge()), lambda r, n: r.rows.purge_account(n[1])),
    },
)


def _refuses_until_removed(rows: FoundRows) -> None:
    """A tombstone has an end only for the database, which removes it: until then it refuses what is older."""
    owner = rows.ada.id
    rows.rows.write(owner, [stamped(owner, sequence=9, removed=True)], at=NOW)
    assert rows.rows.write(owner, [stamped(owner, sequence=8)], at=NOW) == 0


OUTLIVES = Checks[FoundRows](FoundRows, {"search_row": _refuses_until_removed})
