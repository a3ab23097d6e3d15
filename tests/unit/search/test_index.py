"""Properties of the index, its ranking and its cache, over random rows and changes."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.cache import IndexCache
from karma.search.domain import MAX_ROWS, Filters, Found, SearchRow, Why
from karma.search.grammar import read_query
from karma.search.index import Index
from karma.search.ports import StampedChange
from karma.search.ranking import find
from karma.search.text import fold, tokens_of, words_of
from karma.search.typos import Misspelled, allowed_typos, letters_of
from tests.fakes.runs import SetClock
from tests.fakes.search import MemorySearchRows
from tests.fakes.segments import no_segments
from tests.support.rows import NOW
from tests.unit.search.judged import OWNER, lexicon, rows

_WORDS = ("pump", "pumps", "north", "nroth", "hall", "eos", "3a", "温度", "传感器", "sensor", "sensors", "x")
names = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map(" ".join)


def row(n: int, name: str, *, owner: UserId = OWNER, **more: object) -> SearchRow:
    return SearchRow(SearchKey(owner, "device", f"r{n}", n), SearchText(name=name, updated_ms=n % 7, **more))  # type: ignore[arg-type]


def stored(n: int, owner: UserId = OWNER) -> StampedChange:
    return StampedChange(RowChange(*row(n, f"pump {n}", owner=owner)), "1")


def search(index: Index, query: str, *, limit: int = 1_000, after: Why | None = None) -> Found:
    return find(index, read_query(query, lexicon(), Filters()), limit=limit, after=after)


def ids(found: Found) -> list[str]:
    return [hit.row.key.id for hit in found.hits]


@given(st.lists(names, min_size=1, max_size=20), names)
def test_adding_a_row_never_hides_an_exact_match(others: Sequence[str], name: str) -> None:
    index = Index([row(0, name)])
    for n, other in enumerate(others, 1):
        index.put(row(n, other))
        assert "r0" in ids(search(index, name))
        assert "r0" in ids(search(index, f'"{name}"'))


@given(st.lists(names, min_size=1, max_size=30), names, st.integers(1, 7))
def test_pages_together_are_the_whole_list(given_names: Sequence[str], query: str, size: int) -> None:
    index = Index([row(n, name) for n, name in enumerate(given_names)])
    whole = search(index, query)
    seen: list[str] = []
    after: Why | None = None
    while True:
        page = search(index, query, limit=size, after=after)
        seen += ids(page)
        assert page.total == whole.total
        if page.last is None:
            break
        after = Why.of([list(each) if isinstance(each, tuple) else each for each in page.last])
    assert seen == ids(whole)
    assert len(seen) == whole.total


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | names), max_size=60), names)
def test_an_index_that_was_changed_answers_as_one_that_is_built(
    changes: Sequence[tuple[int, str | None]], query: str
) -> None:
    kept: dict[int, str] = {}
    index = Index()
    for n, name in changes:
        if name is None:
            kept.pop(n, None)
            index.remove(row(n, "").key)
        else:
            kept[n] = name
            index.put(row(n, name))
    built = Index([row(n, name) for n, name in kept.items()])
    assert ids(search(index, query)) == ids(search(built, query))
    assert len(index) == len(built)


@given(st.text(max_size=80))
def test_pieces_of_any_text_make_it_up_and_any_query_is_answered(text: str) -> None:
    index = Index([row(0, text)])
    found = search(index, text)
    for hit in found.hits:
        if "name" in hit.pieces:
            assert "".join(piece.text for piece in hit.pieces["name"]) == unicodedata.normalize("NFC", text)
    if words_of(text) and len(text) <= 40:
        assert found.total <= 1


@given(st.text(max_size=60))
def test_words_are_the_same_with_places_and_without(text: str) -> None:
    assert words_of(text) == [token.word for token in tokens_of(text)]
    assert words_of(fold(text)) == words_of(text) or not text.isascii()


@pytest.mark.fault("F-36a")
def test_a_beginning_that_is_not_the_last_word_counts_as_a_typo_whatever_its_length() -> None:
    index = Index([row(1, "hall measurement"), row(2, "hall measure"), row(3, "hall pumping")])
    found = search(index, "measure hall")
    assert [(hit.row.key.id, hit.why.typos) for hit in found.hits] == [("r2", 0), ("r1", 1)]
    assert [hit.why.typos for hit in search(index, "pump hall").hits] == [1]
    assert [hit.why.typos for hit in search(index, "hall measure").hits[:2]] == [0, 0]


def _distance(one: str, other: str) -> int:
    """Return the typos between two words by the plain algorithm."""
    table = [[i + j if not i * j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            differs = one[i - 1] != other[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + differs)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@given(st.text("abcd", min_size=5, max_size=11), st.text("abcd", min_size=1, max_size=13))
def test_typos_are_those_of_the_plain_algorithm(word: str, other: str) -> None:
    most = allowed_typos(word)
    found = {near.word: near.typos for near in Misspelled(word, most).near({other[0]: {other: letters_of(other)}})}
    nearest = min(_distance(word, other[:n]) for n in range(len(other) + 1)) + (word[0] != other[0])
    assert found == ({other: nearest} if nearest <= most else {})


@pytest.mark.parametrize(
    ("word", "typos"),
    [("pump", 0), ("pumps", 1), ("turbines", 1), ("compressor", 2), ("eos3a", 0), ("10447", 0), ("温度传感器湿度", 0)],
    ids=["4", "5", "8", "9", "serial", "number", "unspaced"],
)
def test_how_many_typos_a_word_may_have(word: str, typos: int) -> None:
    if words_of(word) == [word]:
        assert allowed_typos(word) == typos


def test_a_cache_answers_as_the_store_after_every_change_and_reads_little() -> None:
    store, clock = MemorySearchRows(), SetClock(NOW)
    cache = IndexCache(store, clock, no_segments())
    dice = random.Random(9)
    for sequence in range(1, 200):
        clock.at = NOW + timedelta(seconds=sequence)
        n = dice.randint(0, 60)
        text = None if dice.random() < 0.3 else SearchText(name=f"pump {dice.randint(0, 9)}", updated_ms=sequence)
        key = SearchKey(OWNER, "device", f"r{n}", n)
        store.write(OWNER, [StampedChange(RowChange(key, text), str(sequence))], at=clock.now())
        kept = cache.index(OWNER)
        stored = Index(store.newest(OWNER, most=MAX_ROWS).rows)
        assert ids(search(kept.index, "pump 3")) == ids(search(stored, "pump 3"))
        assert len(kept.index) == len(stored)


def test_a_cache_keeps_what_fits_and_those_who_asked_last() -> None:
    store = MemorySearchRows()
    people = [UserId(f"01890000-0000-7000-8000-00000000000{n}") for n in range(4)]
    for person in people:
        changes = [
            StampedChange(RowChange(row(n, "pump", owner=person).key, SearchText(name="pump")), "1") for n in range(9)
        ]
        store.write(person, changes, at=NOW)
    cache = IndexCache(
        store, SetClock(NOW), no_segments(), memory_bytes=2 * Index([row(n, "pump") for n in range(9)]).memory_bytes
    )
    first = cache.index(people[0])
    assert cache.index(people[0]) is first
    for person in people[1:]:
        assert len(cache.index(person).index) == 9
    assert cache.index(people[0]) is not first
    assert {hit.row.key.owner for hit in search(cache.index(people[1]).index, "pump").hits} == {people[1]}


def test_of_too_many_objects_the_newest_are_looked_through() -> None:
    store = MemorySearchRows()
    changes = [
        StampedChange(RowChange(row(n, f"pump {n}").key, SearchText(name=f"pump {n}")), "1")
        for n in range(MAX_ROWS + 5)
    ]
    store.write(OWNER, changes, at=NOW)
    kept = IndexCache(store, SetClock(NOW), no_segments()).index(OWNER)
    assert (len(kept.index), kept.is_complete) == (MAX_ROWS, False)
    assert not ids(search(kept.index, '"pump 3"'))


def test_the_judged_objects_are_found_by_their_own_names() -> None:
    index = Index(rows())
    for each in rows():
        assert each.key.id in ids(search(index, f'"{each.text.name}"'))
