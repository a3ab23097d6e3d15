"""Rows of search: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from karma.core.clock import monotonic
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import MAX_TEXT_CHARS
from karma.search.ports import SearchRows, StampedChange
from karma.search.repository import SearchRepository
from tests.contexts.search import stamped
from tests.fakes.search import MemorySearchRows
from tests.support.accounts import open_account
from tests.support.rows import NOW
from tests.support.stores import Database, Store

ADA, BOB, GONE = (UserId(new_id()) for _ in range(3))
LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def rows(store: Store) -> SearchRows:
    if store.in_memory:
        return MemorySearchRows(deleted_accounts=frozenset({GONE}))
    return stored(store.database)


def stored(_: Database) -> SearchRepository:
    for user in (ADA, BOB):
        open_account(user)
    return SearchRepository()


def names(rows: SearchRows, owner: UserId) -> list[str]:
    return [row.text.name for row in rows.newest(owner, most=500).rows]


def test_rows_are_read_as_they_were_written_the_newest_objects_first(rows: SearchRows) -> None:
    text = SearchText(
        name="上海 pump", code="EOS-1", tags=("a", "b#c"), text="west", status="online", updated_ms=1_700_000_000_000
    )
    newer = RowChange(SearchKey(ADA, "thread", "own#id~", 1_700_000_000_001), text)
    assert rows.write(ADA, [stamped(ADA, 7), StampedChange(newer, "123")], at=NOW) == 2
    found = rows.newest(ADA, most=2)
    assert found.is_complete
    assert [(row.key, row.text) for row in found.rows] == [newer, stamped(ADA, 7).change]
    assert rows.newest(BOB, most=2).rows == []


def test_the_oldest_are_left_out_where_there_are_too_many(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, n, name=f"n{n}") for n in range(1, 6)], at=NOW)
    found = rows.newest(ADA, most=3)
    assert ([row.text.name for row in found.rows], found.is_complete) == (["n5", "n4", "n3"], False)


def test_long_texts_are_cut() -> None:
    text = SearchText(name="n" * 300, text="t" * 5_000)
    from karma.search.repository import _packed, _unpacked

    cut = _unpacked(_packed(text))
    assert (len(cut.name), len(cut.text)) == (255, MAX_TEXT_CHARS)


def test_an_older_change_changes_nothing_and_a_repeat_neither(rows: SearchRows) -> None:
    assert rows.write(ADA, [stamped(ADA, sequence=20, name="new")], at=NOW) == 1
    before = rows.changes(ADA)
    for sequence in (3, 19, 20):
        assert rows.write(ADA, [stamped(ADA, sequence=sequence, name="old")], at=NOW) == 0
    assert names(rows, ADA) == ["new"]
    assert rows.changes(ADA) == before
    assert rows.write(ADA, [stamped(ADA, sequence=100, name="newest")], at=NOW) == 1
    assert names(rows, ADA) == ["newest"]


def test_a_tombstone_is_not_found_and_refuses_what_is_older(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, sequence=5)], at=NOW)
    assert rows.write(ADA, [stamped(ADA, sequence=9, removed=True)], at=NOW) == 1
    assert rows.write(ADA, [stamped(ADA, sequence=8, name="late")], at=NOW) == 0
    assert names(rows, ADA) == []
    assert rows.write(ADA, [stamped(ADA, sequence=10, name="again")], at=NOW) == 1
    assert names(rows, ADA) == ["again"]


def test_what_was_there_before_gives_way_to_every_record(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, 1, sequence=7, removed=True), stamped(ADA, 2, sequence=7, name="kept")], at=NOW)
    filled = [stamped(ADA, n, sequence=0, name="filled") for n in (1, 2, 3)]
    assert rows.write(ADA, filled, at=NOW) == 1
    assert names(rows, ADA) == ["filled", "kept"]
    assert rows.write(ADA, filled, at=NOW) == 0
    assert rows.write(ADA, [stamped(ADA, 3, sequence=1, name="streamed")], at=NOW) == 1


def test_changes_since_a_moment_are_told_with_those_that_ended(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, n, name=f"n{n}") for n in range(1, 5)], at=NOW)
    rows.write(ADA, [stamped(ADA, 2, sequence=2, removed=True), stamped(ADA, 4, sequence=2, name="m4")], at=LATER)
    told = rows.changed(ADA, since=NOW + timedelta(seconds=1), oldest_ms=0)
    assert [(key.id, text and text.name) for key, text in told] == [("id-4", "m4"), ("id-2", None)]
    assert [key.id for key, _ in rows.changed(ADA, since=NOW, oldest_ms=3)] == ["id-4", "id-3"]


def test_the_head_moves_with_every_change_and_for_its_owner_alone(rows: SearchRows) -> None:
    assert rows.changes(ADA) == 0
    seen = [0]
    for n in range(1, 4):
        rows.write(ADA, [stamped(ADA, n)], at=NOW)
        seen.append(rows.changes(ADA))
    rows.forget(ADA)
    seen.append(rows.changes(ADA))
    assert seen == sorted(set(seen))
    assert rows.changes(BOB) == 0


def test_what_is_forgotten_can_be_filled_anew_but_not_what_is_gone(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, 1, sequence=5), stamped(ADA, 2, sequence=5, removed=True)], at=NOW)
    rows.forget(ADA)
    assert names(rows, ADA) == []
    assert rows.write(ADA, [stamped(ADA, n, sequence=0, name=f"n{n}") for n in (1, 2)], at=NOW) == 1
    assert names(rows, ADA) == ["n1"]


def test_nothing_is_written_for_an_account_that_is_gone(rows: SearchRows) -> None:
    assert rows.write(GONE, [stamped(GONE, n) for n in range(3)], at=NOW) == 0
    assert rows.newest(GONE, most=5).rows == []


def test_any_order_and_any_batches_of_changes_give_the_newest_of_each_row(rows: SearchRows) -> None:
    dice = random.Random(5)
    changes = [
        stamped(ADA, n, sequence=sequence, name=f"{n}:{sequence}", removed=sequence == 4 and n % 3 == 0)
        for n in range(1, 60)
        for sequence in range(1, 5)
    ] * 2
    dice.shuffle(changes)
    at = 0
    while at < len(changes):
        size = dice.randint(1, 130)
        newest = {each.change.key: each for each in sorted(changes[at : at + size], key=lambda each: int(each[1]))}
        rows.write(ADA, list(newest.values()), at=NOW)
        at += size
    assert sorted(names(rows, ADA)) == sorted(f"{n}:4" for n in range(1, 60) if n % 3)


def test_a_deleted_account_leaves_nothing_and_is_not_written_again(database: Database) -> None:
    rows = stored(database)
    rows.write(ADA, [stamped(ADA, n) for n in range(120)], at=NOW)
    rows.write(BOB, [stamped(BOB)], at=NOW)
    purge = PurgeAttempt(user_id=ADA, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
    assert rows.purge_account(purge)
    assert (rows.changes(ADA), rows.newest(ADA, most=5).rows) == (0, [])
    assert len(rows.newest(BOB, most=5).rows) == 1
