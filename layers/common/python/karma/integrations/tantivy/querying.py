"""Queries of Tantivy that find what `karma.search.matching` finds, and bring first what `karma.search.ranking` does.

A row's score is a whole number in which the rules of ranking have digits of their own, the first rule the highest:
terms that it has, typos, neighbours, parts, positions, exactness. It is exact in the first two. Of the others it knows
what the fields of the index tell, so that of many rows with as many terms and typos those that come first are read, and
then ranked. Scores are 32-bit floats, which are exact to 2**24.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from karma.integrations.tantivy.building import SHORT, whole_name
from karma.integrations.tantivy.places import ANYWHERE, IN_NAME, PLACES, POSITIONS
from karma.search.domain import Filters, QueryReading, RowPart, Term
from karma.search.matching import INNER_PREFIX_CHARS, has_pairs, missing_pairs, words_of_phrase
from karma.search.text import pairs_of
from karma.search.typos import Misspelled, allowed_typos, letters_of

if TYPE_CHECKING:
    from tantivy import Query, Schema, Searcher

_MOST_TYPOS: Final = 2
_EXACT: Final = 2
_NEAR_WORDS: Final = 1_000
"""Words that are looked at for each misspelled one."""
_PLACED_WORDS: Final = 4
"""Words of a term up to which their places count."""


class Units(NamedTuple):
    """Weights of the rules in a score."""

    position: int
    part: int
    neighbours: int
    typo: int
    term: int

    @classmethod
    def of(cls, terms: int) -> Units:
        """Return weights with which no rule outweighs the one before it."""
        position = 2 * terms + 2
        part = terms * POSITIONS * position + position
        neighbours = (3 * terms + 1) * part
        typo = terms * neighbours
        return cls(position, part, neighbours, typo, (_MOST_TYPOS * terms + 1) * typo)

    @property
    def whole(self) -> int:
        """Return the weight of a term without typos."""
        return self.term + _MOST_TYPOS * self.typo


class FoundTerm(NamedTuple):
    """Queries of the rows that have a term."""

    plain: Query
    liked: Sequence[tuple[Query, int]]
    """Queries of those of them that have it better, with what that is worth."""


class _Way(NamedTuple):
    """One of the ways in which rows have a term."""

    query: Query
    worth: int
    placed: Sequence[tuple[Query, int]] = ()
    """Queries of some of the same, by their places, with what these are worth besides."""
    is_among: bool = False
    """The next way finds all that it finds."""


class SegmentQueries:
    """Makes queries of one segment."""

    def __init__(self, schema: Schema, searcher: Searcher, word_schema: Schema, words: Searcher) -> None:
        from tantivy import Occur, Query  # local: 6 ms and 17 MB, for accounts with many objects

        self._query = Query
        self._must, self._should, self._must_not = Occur.Must, Occur.Should, Occur.MustNot
        self._schema = schema
        self._searcher = searcher
        self._word_schema = word_schema
        self._words = words

    def terms(self, reading: QueryReading) -> list[FoundTerm]:
        """Return queries of the rows that have each term of a reading."""
        units = Units.of(len(reading.terms))
        signs = [
            (sign, (RowPart.TEXT - part) * units.part + (POSITIONS - position) * units.position)
            for sign, (part, position) in PLACES.items()
        ]
        if len(reading.terms) > 1:
            # Rows with several words are few, and each further query takes as long as reading some of them.
            signs = [(IN_NAME, RowPart.TEXT * units.part)]
        ways = [list(self._ways(term, units, signs)) for term in reading.terms]
        for n, (one, other) in enumerate(pairwise(reading.terms)):
            if not one.is_phrase and not other.is_phrase:
                self._join(one, other, ways[n], ways[n + 1], units)
        return [self._found(each) for each in ways]

    def object(self, found: str) -> Query:
        """Return the query of the object with an id."""
        return self._only("i", found)

    def everything(self) -> Query:
        """Return the query of all rows."""
        return self._query.const_score_query(self._query.all_query(), 0.0)

    def having(self, terms: Sequence[FoundTerm], lacking: FoundTerm | None) -> Query:
        """Return the query of rows that have all of some terms, and not the one behind these."""
        parts = [(self._must, each.plain) for each in terms]
        if lacking is not None:
            parts.append((self._must_not, lacking.plain))
        return parts[0][1] if len(parts) == 1 else self._query.boolean_query(parts)

    def scored(self, query: Query, worth: int, liked: Sequence[tuple[Query, int]]) -> Query:
        """Return a query that finds the same, and gives each row its worth and that of what is liked in it.

        A query in a query each, since so rows that are not found are passed over. Beside each other they are one union,
        which goes through all of them.
        """
        found = self._silent(query, worth)
        for each, more in liked:
            found = self._query.boolean_query([(self._must, found), (self._should, self._silent(each, more))])
        return found

    def any_of(self, queries: Sequence[Query]) -> Query:
        """Return the query of rows that one of some queries, each of other rows, finds."""
        return queries[0] if len(queries) == 1 else self._query.boolean_query([(self._should, q) for q in queries])

    def liked(self, terms: Sequence[Term]) -> list[tuple[Query, int]]:
        """Return queries of rows with neighbours, and of those whose names have no other words, with their worth."""
        if any(term.is_phrase or has_pairs(term.words[0]) for term in terms):
            return []
        units, words = Units.of(len(terms)), [term.words[0] for term in terms]
        found = [
            (self._following(pair), units.neighbours)
            for pair in pairwise(words)
            if self._knows(pair[0]) and self._knows(pair[1])
        ]
        return [*found, (self._only("p", whole_name(words)), 1)]

    def let_through(self, filters: Filters, types: Collection[str]) -> list[Query]:
        """Return queries of what filters let through, all of which must match; `types` are those that there are."""
        made: list[Query] = []
        if filters.types is not None and not filters.types.issuperset(types):
            made.append(self._any("f", [f"type:{each}" for each in sorted(filters.types)]))
        if filters.statuses is not None:
            made.append(self._any("f", [f"status:{each}" for each in sorted(filters.statuses)]))
        if filters.tags is not None:
            made.append(self._any("f", [f"tag:{each}" for each in sorted(filters.tags)]))
        begin, end = filters.created_from_ms, filters.created_until_ms
        if begin is not None or end is not None:
            made.append(self._made_between(begin, end))
        return made

    def with_keys(self, keys: Collection[str]) -> Query:
        """Return the query of rows with any of the keys."""
        return self._query.term_set_query(self._schema, "k", list(keys))

    def narrowed(self, query: Query, filters: Sequence[Query], hidden: Sequence[Query]) -> Query:
        """Return the query of rows that match a query and all filters, and are not hidden."""
        if not filters and not hidden:
            return query
        parts = [(self._must, query), *((self._must, self._silent(each, 0)) for each in filters)]
        return self._query.boolean_query([*parts, *((self._must_not, each) for each in hidden)])

    def _made_between(self, begin: int | None, end: int | None) -> Query:
        from tantivy import FieldType  # local: as above

        if end is not None and end <= 0:
            return self._query.empty_query()
        return self._query.range_query(
            self._schema,
            "created",
            FieldType.Unsigned,
            lower_bound=max(0, begin) if begin is not None else None,
            upper_bound=end,
            include_upper=False,
        )

    def _found(self, ways: Sequence[_Way]) -> FoundTerm:
        if not ways:
            return FoundTerm(self._query.empty_query(), ())
        least = min(way.worth for way in ways)
        liked: list[tuple[Query, int]] = []
        for n, way in enumerate(ways):
            liked += way.placed
            more = way.worth - (ways[n + 1].worth if way.is_among else least)
            if more:
                liked.append((way.query, more))
        return FoundTerm(self.any_of([way.query for way in ways if not way.is_among]), liked)

    def _ways(self, term: Term, units: Units, signs: Sequence[tuple[str, int]]) -> Iterator[_Way]:
        if term.is_phrase:
            words = words_of_phrase(term.words)
            yield _Way(self._following(words), units.whole + _EXACT, self._placed(words[0], signs))
        elif has_pairs(term.words[0]):
            yield from self._run(pairs_of(term.words[0]), units, signs)
        else:
            yield from self._word(term.words[0], units, signs, as_prefix=term.as_prefix)

    def _word(self, word: str, units: Units, signs: Sequence[tuple[str, int]], *, as_prefix: bool) -> Iterator[_Way]:
        has_longer = as_prefix or len(word) >= INNER_PREFIX_CHARS
        if self._knows(word):
            yield _Way(self._only("w", word), units.whole + _EXACT, self._placed(word, signs), is_among=has_longer)
        if has_longer:
            placed = [(self._beginning(sign, word), worth) for sign, worth in signs] if as_prefix else []
            yield _Way(self._beginning(ANYWHERE, word), units.whole - (0 if as_prefix else units.typo), placed)
        most = allowed_typos(word)
        if not most:
            return
        for near, typos in self._misspelled(word, most):
            yield from self._near(near, units.whole - typos * units.typo, signs)
        for at in range(2, len(word) - 1):
            if self._knows(word[:at]) and self._knows(word[at:]):
                yield _Way(self._following((word[:at], word[at:])), units.whole - units.typo)

    def _near(self, words: Sequence[str], worth: int, signs: Sequence[tuple[str, int]]) -> Iterator[_Way]:
        if len(words) > _PLACED_WORDS:
            yield _Way(self._query.term_set_query(self._schema, "w", words), worth)
            return
        for word in words:
            yield _Way(self._only("w", word), worth, self._placed(word, signs))

    def _placed(self, word: str, signs: Sequence[tuple[str, int]]) -> list[tuple[Query, int]]:
        return [(self._only("p", sign + word), worth) for sign, worth in signs]

    def _run(self, pairs: Sequence[str], units: Units, signs: Sequence[tuple[str, int]]) -> Iterator[_Way]:
        kinds = list(dict.fromkeys(pairs))
        having = [(self._should, self._only("w", pair)) for pair in kinds]
        most = missing_pairs(len(kinds))
        whole = self._query.boolean_query([(self._must, each) for _, each in having])
        yield _Way(whole, units.whole + _EXACT, self._placed(kinds[0], signs))
        for missing in range(2, most + 2, 2):
            fewest = len(kinds) - min(missing, most)
            made = self._query.boolean_query(having, minimum_number_should_match=fewest)
            yield _Way(made, units.whole - missing // 2 * units.typo)

    def _join(self, one: Term, other: Term, first: list[_Way], second: list[_Way], units: Units) -> None:
        joined = one.words[0] + other.words[0]
        if joined.isascii() and self._knows(joined):
            first.append(_Way(self._only("w", joined), units.whole - units.typo))
            second.append(_Way(self._only("w", joined), units.whole))

    def _misspelled(self, word: str, most: int) -> Iterator[tuple[list[str], int]]:
        """Yield words that a misspelled one may mean, or begin with, by their typos."""
        fuzzy = self._query.fuzzy_term_query(self._word_schema, "v", word, distance=most, prefix=True)
        hits = self._words.search(fuzzy, limit=_NEAR_WORDS, count=False).hits
        spelled: dict[str, dict[str, int]] = {}
        for _, at in hits:
            found = str(self._words.doc(at)["v"][0])
            spelled.setdefault(found[0], {})[found] = letters_of(found)
        by_typos: dict[int, list[str]] = {}
        for each in Misspelled(word, most).near(spelled):
            if each.typos:  # others begin with it
                by_typos.setdefault(each.typos, []).append(each.word)
        for typos, words in by_typos.items():
            yield words, typos

    def _silent(self, query: Query, worth: int) -> Query:
        return self._query.const_score_query(query, float(worth))

    def _knows(self, word: str) -> bool:
        return self._searcher.doc_freq("w", word) > 0

    def _only(self, field: str, token: str) -> Query:
        return self._query.term_query(self._schema, field, token, index_option="basic")

    def _any(self, field: str, tokens: Sequence[str]) -> Query:
        return self.any_of([self._silent(self._only(field, token), 0) for token in tokens])

    def _beginning(self, sign: str, prefix: str) -> Query:
        if len(prefix) <= SHORT:
            return self._only("e", sign + prefix)
        field, text = ("w", prefix) if sign == ANYWHERE else ("p", sign + prefix)
        return self._query.fuzzy_term_query(self._schema, field, text, distance=0, prefix=True)

    def _following(self, words: Sequence[str]) -> Query:
        if len(words) == 1:
            return self._only("w", words[0])
        return self._query.phrase_query(self._schema, "w", list(words))
