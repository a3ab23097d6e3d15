"""Rows of search: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from karma.core.clock import monotonic
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.domain import MAX_TEXT_CHARS
from karma.search.ports import SearchRows, StampedChange
from karma.search.repository import SearchRepository
from tests.contexts.search import SEGMENT, facts, stamped
from tests.fakes.search import MemorySearchRows
from tests.support.accounts import open_account
from tests.support.rows import NOW
from tests.support.stores import Database, Store

ADA, BOB, GONE = (UserId(new_id()) for _ in range(3))
OTHER = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f72"
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


def test_rows_of_several_owners_are_read_by_their_keys_with_the_numbers_of_their_changes(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, 1), stamped(ADA, 2)], at=NOW)
    rows.write(ADA, [stamped(ADA, 2, sequence=2, removed=True)], at=NOW)
    rows.write(BOB, [stamped(BOB, 3)], at=NOW)
    assert rows.changes_of([ADA, BOB, GONE]) == {ADA: 2, BOB: 1, GONE: 0}
    asked = [stamped(ADA, 1), stamped(ADA, 2), stamped(BOB, 3), stamped(BOB, 1)]
    found = rows.rows_of([each.change.key for each in asked])
    assert [(row.key, row.text) for row in found] == [asked[0].change, asked[2].change]
    assert (rows.changes_of([]), rows.rows_of([])) == ({}, [])


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
    before = rows.head(ADA).changes
    for sequence in (3, 19, 20):
        assert rows.write(ADA, [stamped(ADA, sequence=sequence, name="old")], at=NOW) == 0
    assert names(rows, ADA) == ["new"]
    assert rows.head(ADA).changes == before
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
    assert rows.head(ADA).changes == 0
    seen = [0]
    for n in range(1, 4):
        rows.write(ADA, [stamped(ADA, n)], at=NOW)
        seen.append(rows.head(ADA).changes)
    rows.forget(ADA)
    seen.append(rows.head(ADA).changes)
    assert seen == sorted(set(seen))
    assert rows.head(BOB).changes == 0


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


def begun(rows: SearchRows, *, instead_of: str = "", segment_id: str = SEGMENT, at: datetime = NOW) -> bool:
    return rows.begin_segment(ADA, segment_id, instead_of=instead_of, now=at, until=at + timedelta(minutes=1))


def told(rows: SearchRows, *, since: datetime = NOW, most: int = 500) -> list[tuple[str, str | None]]:
    return sorted(
        (key.id, text.name if text else None) for key, text in rows.journal(ADA, since=since, most=most).changes
    )


def test_a_journal_tells_what_was_written_since_a_segment_was_begun_each_row_once(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA, n) for n in (1, 2)], at=NOW)
    assert begun(rows)
    assert told(rows) == []
    written = [stamped(ADA, n, sequence=n, name=f"n{n}") for n in range(2, 130)]
    assert rows.write(ADA, written, at=NOW) == 128
    rows.write(ADA, [stamped(ADA, 2, sequence=3, removed=True), stamped(ADA, 3, sequence=2, name="old")], at=LATER)
    newest = [("id-2", None), *sorted((f"id-{n}", f"n{n}") for n in range(3, 130))]
    assert told(rows) == sorted(newest)
    assert told(rows, since=LATER) == [("id-2", None)]
    assert rows.journal(ADA, since=NOW, most=500).is_complete
    assert not rows.journal(ADA, since=NOW, most=5).is_complete


def test_the_last_change_of_a_row_is_told_in_whatever_order_entries_stand(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    rows.write(ADA, [stamped(ADA, sequence=2, name="older")], at=LATER)
    rows.write(ADA, [stamped(ADA, sequence=10, name="newer")], at=NOW)
    assert told(rows) == [("id-1", "newer")]


def test_rows_of_any_size_are_written_together_with_their_journal(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    tags = tuple("设" * 50 for _ in range(20))
    large = [
        StampedChange(RowChange(stamped(ADA, n).change.key, SearchText(name="备" * 255, tags=tags)), "5")
        for n in range(1, 91)
    ]
    assert rows.write(ADA, large, at=NOW) == 90
    assert len(told(rows)) == 90


def test_a_segment_counts_once_it_is_published_and_until_another_one_does(rows: SearchRows) -> None:
    assert not begun(rows)
    rows.write(ADA, [stamped(ADA)], at=NOW)
    assert not begun(rows, instead_of=OTHER)
    assert begun(rows)
    assert not begun(rows, segment_id=OTHER)
    assert not rows.publish_segment(ADA, facts(OTHER))
    assert rows.head(ADA).segment is None
    assert rows.publish_segment(ADA, facts())
    assert rows.head(ADA) == (1, facts())
    assert not rows.publish_segment(ADA, facts())
    assert not begun(rows, segment_id=OTHER)
    assert begun(rows, segment_id=OTHER, instead_of=SEGMENT)
    assert rows.head(ADA).segment == facts()
    assert rows.publish_segment(ADA, facts(OTHER))
    assert rows.head(ADA).segment == facts(OTHER)
    assert rows.head(BOB).segment is None


def test_a_segment_whose_builder_s_time_is_over_is_begun_by_another_one(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    assert begun(rows, segment_id=OTHER, at=NOW + timedelta(minutes=1))
    assert not rows.publish_segment(ADA, facts())
    assert not rows.end_segments(ADA, SEGMENT)
    assert rows.publish_segment(ADA, facts(OTHER))


def test_where_segments_end_no_journal_is_kept(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    rows.publish_segment(ADA, facts())
    begun(rows, segment_id=OTHER, instead_of=SEGMENT)
    assert rows.end_segments(ADA, OTHER)
    assert rows.head(ADA).segment is None
    assert rows.write(ADA, [stamped(ADA, 2)], at=NOW) == 1
    assert told(rows) == []
    assert begun(rows)


def test_what_is_forgotten_is_in_no_segment_and_no_journal(rows: SearchRows) -> None:
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    rows.publish_segment(ADA, facts())
    rows.write(ADA, [stamped(ADA, sequence=2)], at=NOW)
    begun(rows, segment_id=OTHER, instead_of=SEGMENT)
    rows.forget(ADA)
    assert (rows.head(ADA).segment, told(rows)) == (None, [])
    assert not rows.publish_segment(ADA, facts(OTHER))
    assert rows.write(ADA, [stamped(ADA, sequence=0, name="filled")], at=NOW) == 1


def test_two_who_write_meet_a_journal_that_another_one_began(database: Database) -> None:
    one, other = stored(database), SearchRepository()
    for sequence, rows in ((1, one), (2, other)):
        rows.write(ADA, [stamped(ADA, sequence=sequence)], at=NOW)
    begun(one)
    for sequence, rows in ((3, one), (4, other), (5, one), (6, other)):
        rows.write(ADA, [stamped(ADA, sequence, name=f"n{sequence}")], at=NOW)
    assert told(one) == [(f"id-{n}", f"n{n}") for n in range(3, 7)]


def test_no_segment_of_a_deleted_account_is_published(database: Database) -> None:
    rows = stored(database)
    rows.write(ADA, [stamped(ADA)], at=NOW)
    begun(rows)
    rows.write(ADA, [stamped(ADA, 2)], at=NOW)
    purge = PurgeAttempt(user_id=ADA, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
    assert rows.purge_account(purge)
    assert not rows.publish_segment(ADA, facts())
    assert not rows.end_segments(ADA, SEGMENT)
    assert (rows.head(ADA), told(rows)) == ((0, None), [])


def test_a_deleted_account_leaves_nothing_and_is_not_written_again(database: Database) -> None:
    rows = stored(database)
    rows.write(ADA, [stamped(ADA, n) for n in range(120)], at=NOW)
    rows.write(BOB, [stamped(BOB)], at=NOW)
    purge = PurgeAttempt(user_id=ADA, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
    assert rows.purge_account(purge)
    assert (rows.head(ADA).changes, rows.newest(ADA, most=5).rows) == (0, [])
    assert len(rows.newest(BOB, most=5).rows) == 1
