"""An open segment: finds the rows that a reading of a query may show first, and counts all that it finds."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from karma.core.ids import UserId
from karma.core.search_rows import SearchKey, SearchText
from karma.integrations.tantivy.building import key_of
from karma.integrations.tantivy.querying import SegmentQueries, Units
from karma.search.domain import QueryReading, SearchRow, Sort
from karma.search.segments.ports import SegmentUnusable

if TYPE_CHECKING:
    from tantivy import Query

_SORTED: Final = 5_000
"""Rows that are put in an order that is asked for, of those with words the best ones."""
_KEYS: Final = 1_000
"""Keys that are looked for at once."""
_FIELDS: Final = {Sort.CREATED: "created", Sort.UPDATED: "updated", Sort.NAME: "name"}


class TantivySegment:
    """A segment of an account; see Segment. It keeps its files mapped, wherever they have gone."""

    def __init__(self, owner: UserId, folder: Path) -> None:
        """Open the files that `building.build` wrote."""
        from tantivy import Index  # local: 6 ms and 17 MB, for accounts with many objects

        facts = orjson.loads((folder / "facts.json").read_bytes())
        self.rows: int = facts["rows"]
        self._types: frozenset[str] = frozenset(facts["types"])
        self._owner = owner
        found, words = Index.open(str(folder / "found")), Index.open(str(folder / "words"))
        for index in (found, words):
            index.config_reader("manual")  # no thread that looks after the files
        self._searcher = found.searcher()
        self._queries = SegmentQueries(found.schema, self._searcher, words.schema, words.searcher())
        with (folder / "rows").open("rb") as file:
            self._packed = mmap(file.fileno(), 0, access=ACCESS_READ) if self.rows else b""
        self._ends = array("I", (folder / "ends").read_bytes())
        if self._searcher.num_docs != self.rows or len(self._ends) != self.rows:
            raise ValueError("not all rows are in it")

    def window(
        self, reading: QueryReading, before: Sequence[QueryReading], *, sort: Sort | None, begin: int, size: int
    ) -> Sequence[SearchRow]:
        """See Segment."""
        with _unusable():
            return [self._row(n) for n in self._window(reading, before, sort, begin, size)]

    def count(self, readings: Sequence[QueryReading]) -> int:
        """See Segment."""
        with _unusable():
            return self._counted(self._queries.any_of([self._all(each) for each in readings]), 1)[1]

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        """See Segment."""
        tokens = [key_of(each) for each in keys]
        with _unusable():
            found: list[int] = []
            for begin in range(0, len(tokens), _KEYS):
                part = tokens[begin : begin + _KEYS]
                found += self._hits(self._queries.with_keys(part), 0, len(part))
            return [self._row(n) for n in found]

    def _window(
        self, reading: QueryReading, before: Sequence[QueryReading], sort: Sort | None, begin: int, size: int
    ) -> list[int]:
        asked = _Asked(self._queries, reading)
        filters = self._queries.let_through(reading.filters, self._types)
        narrow = partial(self._queries.narrowed, filters=filters, hidden=[self._all(each) for each in before])
        if sort is not None:
            return self._sorted(narrow(asked.all_scored()), reading, sort, begin, size)
        if begin:
            return self._hits(narrow(asked.all_scored()), begin, size)
        found: list[int] = []
        for level in asked.levels():
            # Most levels are so small that it need not be told which of their rows come first.
            hits, total = self._counted(narrow(asked.having(level)), size)
            if total > size - len(found):
                hits = self._hits(narrow(asked.scored(level)), 0, size - len(found))
            found += hits
            if len(found) >= size:
                break
        return found

    def _all(self, reading: QueryReading) -> Query:
        """Return the query of all that a reading finds."""
        filters = self._queries.let_through(reading.filters, self._types)
        return self._queries.narrowed(_Asked(self._queries, reading).plain(), filters=filters, hidden=())

    def _hits(self, query: Query, begin: int, size: int) -> list[int]:
        return [at.doc for _, at in self._searcher.search(query, limit=size, offset=begin, count=False).hits]

    def _counted(self, query: Query, size: int) -> tuple[list[int], int]:
        found = self._searcher.search(query, limit=size)
        # Its stub does not tell of it.
        return [at.doc for _, at in found.hits], int(found.count)  # type: ignore[attr-defined]

    def _sorted(self, query: Query, reading: QueryReading, sort: Sort, begin: int, size: int) -> list[int]:
        from tantivy import Order  # local: as above

        field = _FIELDS[sort]
        if not reading.terms:
            order = Order.Asc if sort is Sort.NAME else Order.Desc
            found = self._searcher.search(
                query, limit=size, offset=begin, order_by_field=field, order=order, count=False
            )
            return [at.doc for _, at in found.hits]
        if begin >= _SORTED:
            return self._hits(query, begin, size)
        hits = self._searcher.search(query, limit=_SORTED, count=False).hits
        unit, sign = Units.of(len(reading.terms)).part, 1 if sort is Sort.NAME else -1
        values = self._searcher.fast_field_values(field, [at for _, at in hits])
        ranked = sorted(
            (-int(score // unit), sign * (value or 0), at.doc) for (score, at), value in zip(hits, values, strict=True)
        )
        return [n for *_, n in ranked[begin : begin + size]]

    def _row(self, n: int) -> SearchRow:
        begin = self._ends[n - 1] if n else 0
        kind, found, made, name, code, tags, text, status, updated = orjson.loads(self._packed[begin : self._ends[n]])
        key = SearchKey(self._owner, kind, found, made)
        return SearchRow(
            key, SearchText(name=name, code=code, tags=tuple(tags), text=text, status=status, updated_ms=updated)
        )


@contextmanager
def _unusable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # as Tantivy raises them
        raise SegmentUnusable from exc


class _Asked:
    """The queries of a reading, by levels: numbers of terms, from the first one on, that rows have."""

    def __init__(self, queries: SegmentQueries, reading: QueryReading) -> None:
        self._queries = queries
        self._reading = reading
        self._terms = queries.terms(reading) if reading.terms and not reading.object_id else []
        self._liked = queries.liked(reading.terms) if self._terms else []

    def levels(self) -> Iterator[int]:
        """Yield the levels of what it finds, the best one first; what is joined to a term is not left out alone."""
        terms = self._reading.terms
        yield len(terms)
        for n in range(len(terms) - 1, 0, -1):
            if not self._reading.is_whole and not terms[n].is_joined:
                yield n

    def having(self, level: int) -> Query:
        """Return the query of a level."""
        if not self._terms:
            found = self._reading.object_id
            return self._queries.object(found) if found else self._queries.everything()
        lacking = self._terms[level] if level < len(self._terms) else None
        return self._queries.having(self._terms[:level], lacking)

    def scored(self, level: int) -> Query:
        """Return the query of a level by the rules in their order."""
        liked = [each for term in self._terms[:level] for each in term.liked]
        worth = Units.of(max(1, len(self._terms))).term * level
        return self._queries.scored(self.having(level), worth, [*liked, *self._liked])

    def all_scored(self) -> Query:
        """Return the query of all that it finds, by the rules in their order."""
        return self._queries.any_of([self.scored(level) for level in self.levels()])

    def plain(self) -> Query:
        """Return the query of all that it finds, in no order."""
        if self._terms and not self._reading.is_whole and not any(term.is_joined for term in self._reading.terms):
            return self._terms[0].plain
        return self._queries.any_of([self.having(level) for level in self.levels()])
