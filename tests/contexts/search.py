"""Declarations of search for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from functools import cached_property

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import MAX_TAG_CHARS, MAX_TEXT_CHARS
from karma.search.ports import StampedChange
from karma.search.repository import SearchRepository
from tests.fakes.search import MemorySearchRows
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.rows import NOW, AccountRows


def stamped(
    owner: UserId, n: int = 1, *, sequence: int = 1, name: str = "Pump", removed: bool = False, kind: str = "task"
) -> StampedChange:
    key = SearchKey(owner, kind, f"id-{n}", n)
    return StampedChange(RowChange(key, None if removed else SearchText(name=name, updated_ms=n)), str(sequence))


class FoundRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.rows = SearchRepository()

    @cached_property
    def row(self) -> StampedChange:
        change = stamped(self.ada.id)
        self.rows.write(self.ada.id, [change], at=NOW)
        return change


PAGES: Pages = {"search": (100, 6 * 2 * (255 + MAX_TEXT_CHARS + 20 * MAX_TAG_CHARS) + 8_000)}

FAKES: Fakes = {MemorySearchRows: (SearchRepository,)}

SCENARIOS = Scenarios[FoundRows](
    FoundRows,
    {
        "SearchRepository.changes": made(lambda r: r.row, lambda r, _: r.rows.changes(r.ada.id)),
        "SearchRepository.newest": made(lambda r: r.row, lambda r, _: r.rows.newest(r.ada.id, most=5)),
        "SearchRepository.changed": made(
            lambda r: r.row, lambda r, _: r.rows.changed(r.ada.id, since=NOW, oldest_ms=0)
        ),
        "SearchRepository.write": made(
            lambda r: (r.row, stamped(r.ada.id, sequence=2)),
            lambda r, n: r.rows.write(r.ada.id, [n[1]], at=NOW),
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
