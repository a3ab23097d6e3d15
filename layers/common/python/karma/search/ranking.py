"""Finds what matches a query, and ranks it by Meilisearch's seven rules (`domain.Why`).

Rules are asked one after the other, as there: rows are divided by the first two, and only those that the page needs are
measured by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import replace
from heapq import nsmallest
from itertools import pairwise
from typing import Any

from karma.search.domain import NEAR, Filters, Found, Hit, Query, QueryReading, SearchRow, Sort, Why
from karma.search.highlighting import pieces_of
from karma.search.index import Entry, Index, part_of, position_of
from karma.search.matching import Matches, match_terms
from karma.search.text import fold, words_of

Numbers = set[int]
"""Rows of an index."""


def find(index: Index, query: Query, *, limit: int, after: Why | None = None, sort: Sort | None = None) -> Found:
    """Return the page of hits that begins behind the rank `after`."""
    best: list[tuple[Ranking, Why, SearchRow]] = []
    seen: Numbers = set()
    for n, reading in enumerate(query.readings):
        ranking = Ranking(index, reading, n, sort)
        fresh = ranking.numbers - seen
        seen |= fresh
        if len(best) <= limit and (after is None or n >= after.reading):
            ranked = ranking.ranked(fresh, after, most=limit + 1 - len(best))
            best += [(ranking, why, index.entry(number).row) for why, number in ranked]
    hits = tuple(Hit(row=row, why=why, pieces=pieces_of(row, by.matches)) for by, why, row in best[:limit])
    return Found(hits=hits, total=len(seen), last=hits[-1].why if len(best) > limit else None)


class Ranking:
    """The rows that one reading of a query finds, and their order."""

    def __init__(self, index: Index, reading: QueryReading, n: int, sort: Sort | None) -> None:
        self._index = index
        self._n = n
        self._sort = _sort_key(sort)
        self._name_words = len(words_of(" ".join(word for term in reading.terms for word in term.words)))
        self.matches = match_terms(index, reading.terms)
        lets_through = _filter(reading.filters, index.types)
        self._levels = [
            set(level)
            if lets_through is None
            else {number for number in level if lets_through(index.entry(number).row)}
            for level in self._matching(reading)
        ]
        """Rows by how many terms they lack, from none on."""
        self.numbers: Numbers = set().union(*self._levels)

    def _matching(self, reading: QueryReading) -> list[Collection[int]]:
        if reading.object_id:
            numbers = self._index.numbers()
            return [{number for number in numbers if self._index.entry(number).row.key.id == reading.object_id}]
        if not self.matches:
            return [list(self._index.numbers())]
        had = set(self.matches[0].best)
        lacking: list[Collection[int]] = []
        for term, each in zip(reading.terms[1:], self.matches[1:], strict=True):
            more = had & each.best.keys()
            lacking.insert(0, () if term.is_joined else had - more)
            had = more
        return [had] if reading.is_whole else [had, *lacking]

    def row(self, number: int) -> SearchRow:
        """Return the row of a number."""
        return self._index.entry(number).row

    def ranked(self, numbers: Numbers, after: Why | None, *, most: int) -> list[tuple[Why, int]]:
        """Return the best of the numbers behind a rank, with their own."""
        found: list[tuple[Why, int]] = []
        for missing, level in enumerate(self._levels):
            had = self.matches[: len(self.matches) - missing]
            for typos, alike in self._by_typos(level & numbers, had):
                if after is not None and (self._n, missing, typos) < after[:3]:
                    continue
                ranks = (self._rank(number, missing, typos, had) for number in alike)
                behind = ranks if after is None else (each for each in ranks if each[:-1] > after)
                best = nsmallest(most - len(found), behind)
                found += [(Why._make(rank[:-1]), rank[-1]) for rank in best]
                if len(found) >= most:
                    return found
        return found

    def _by_typos(self, numbers: Numbers, had: Sequence[Matches]) -> Iterator[tuple[int, list[int]]]:
        found: dict[int, list[int]] = {}
        for number in numbers:
            found.setdefault(sum([each.typos(number) for each in had]), []).append(number)
        return iter(sorted(found.items()))

    def _rank(self, number: int, missing: int, typos: int, had: Sequence[Matches]) -> tuple[Any, ...]:
        """Return the fields of a row's `Why`, in their order, and its number."""
        entry = self._index.entry(number)
        row = entry.row
        places = [each.place(number) for each in had]
        inexact = missing + len(had) - sum([each.is_exact(number) for each in had])
        parts = sum(map(part_of, places))
        is_named_so = not parts and entry.name_words == self._name_words
        return (
            self._n,
            missing,
            typos,
            _proximity(entry, had) if len(had) > 1 else 0,
            parts,
            self._sort(row),
            sum(map(position_of, places)),
            2 * inexact + (not is_named_so),
            -row.text.updated_ms,
            row.key.id,
            number,
        )


def _proximity(entry: Entry, had: Sequence[Matches]) -> int:
    """Return the words between consecutive terms, and 1 for each two in the other order; of each two `NEAR` at most."""
    standing = list(zip(entry.words, entry.places, strict=True))
    places = [[place for word, place in standing if word in each.words] for each in had]
    total = 0
    for ones, others in pairwise(places):
        apart = [other - one - 1 if other > one else one - other for one in ones for other in others]
        total += min(NEAR, *apart) if apart else NEAR
    return total


def _sort_key(sort: Sort | None) -> Callable[[SearchRow], tuple[int | str, ...]]:
    if sort is Sort.CREATED:
        return lambda row: (-row.key.created_ms,)
    if sort is Sort.UPDATED:
        return lambda row: (-row.text.updated_ms,)
    if sort is Sort.NAME:
        return lambda row: (fold(row.text.name),)
    return lambda _: ()


def _filter(filters: Filters, there_are: Set[str]) -> Callable[[SearchRow], bool] | None:
    """Return what tells whether a row of the types that there are is let through; None: all are."""
    if filters.types is not None and filters.types >= there_are:
        filters = replace(filters, types=None)
    if filters == Filters():
        return None
    types, statuses, tags = filters.types, filters.statuses, filters.tags
    begin, end = filters.created_from_ms, filters.created_until_ms

    def lets_through(row: SearchRow) -> bool:
        key, text = row
        return (
            (types is None or key.type in types)
            and (statuses is None or text.status in statuses)
            and (tags is None or not tags.isdisjoint(map(fold, text.tags)))
            and (begin is None or key.created_ms >= begin)
            and (end is None or key.created_ms < end)
        )

    return lets_through
