"""Finds the rows that have a term of a query, with how well and by which of their words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from karma.search.domain import Term
from karma.search.index import Index
from karma.search.text import is_unspaced, pairs_of
from karma.search.typos import Misspelled, allowed_typos

INNER_PREFIX_CHARS: Final = 3
"""Letters from which on a word that is not the last one may be a beginning, which counts as a typo."""
_PLACE_BITS: Final = 12
_INEXACT: Final = 1 << _PLACE_BITS
_TYPO: Final = _INEXACT << 1


class WordMatch(NamedTuple):
    """Match of a word of rows with a term."""

    typos: int
    is_exact: bool
    shown: int
    """Characters from its beginning on that match."""


@dataclass(slots=True)
class Matches:
    """Rows and words that match one term."""

    words: dict[str, WordMatch] = field(default_factory=dict)
    best: dict[int, int] = field(default_factory=dict)
    """By a row's number, its best match: typos, then whether it is inexact, then the place, as one number."""

    def add(self, index: Index, word: str, match: WordMatch) -> None:
        """Note that a word matches, and which rows have it."""
        old = self.words.get(word)
        if old is not None and (old.typos, not old.is_exact) <= (match.typos, not match.is_exact):
            return
        self.words[word] = match
        rank = match.typos * _TYPO + (0 if match.is_exact else _INEXACT)
        index.note_best(word, rank, self.best)

    def note(self, number: int, packed: int) -> None:
        """Note a match of a row, unless it has a better one."""
        old = self.best.get(number)
        if old is None or packed < old:
            self.best[number] = packed

    def typos(self, number: int) -> int:
        """Return the typos with which a row matches."""
        return self.best[number] // _TYPO

    def is_exact(self, number: int) -> bool:
        """Tell whether a row has the term as it is written."""
        return not self.best[number] % _TYPO // _INEXACT

    def place(self, number: int) -> int:
        """Return the first place of a row's best match."""
        return self.best[number] % _INEXACT


def match_terms(index: Index, terms: Sequence[Term]) -> list[Matches]:
    """Return what matches each term."""
    found = [_match(index, term) for term in terms]
    for n, (one, other) in enumerate(pairwise(terms)):
        if not one.is_phrase and not other.is_phrase:
            _join(index, one, other, found[n], found[n + 1])
    return found


def _match(index: Index, term: Term) -> Matches:
    if term.is_phrase:
        return _phrase(index, words_of_phrase(term.words))
    [word] = term.words
    if has_pairs(word):
        return _run(index, pairs_of(word))
    return _word(index, word, as_prefix=term.as_prefix)


def _word(index: Index, word: str, *, as_prefix: bool) -> Matches:
    matches = Matches()
    matches.add(index, word, WordMatch(0, is_exact=True, shown=len(word)))
    if as_prefix or len(word) >= INNER_PREFIX_CHARS:
        for longer in index.beginning_with(word):
            matches.add(index, longer, WordMatch(int(not as_prefix), is_exact=False, shown=len(word)))
    most = allowed_typos(word)
    if most:
        for near in Misspelled(word, most).near(index.spelled()):
            if near.typos:  # others are the word, or begin with it
                matches.add(index, near.word, WordMatch(near.typos, is_exact=False, shown=len(near.word)))
        _split(index, word, matches)
    return matches


def _split(index: Index, word: str, matches: Matches) -> None:
    """Find rows that have the word as two that follow each other, which counts as a typo."""
    for at in range(2, len(word) - 1):
        if index.knows(word[:at]) and index.knows(word[at:]):
            pair = (word[:at], word[at:])
            for number, place in _following(index, pair):
                matches.note(number, _TYPO + _INEXACT + place)
                for part in pair:
                    matches.words.setdefault(part, WordMatch(1, is_exact=False, shown=len(part)))


def _join(index: Index, one: Term, other: Term, first: Matches, second: Matches) -> None:
    """Find rows that have two words as one, which counts as a typo."""
    joined = one.words[0] + other.words[0]
    if joined.isascii() and index.knows(joined):
        first.add(index, joined, WordMatch(1, is_exact=False, shown=len(joined)))
        second.add(index, joined, WordMatch(0, is_exact=False, shown=len(joined)))


def _phrase(index: Index, words: Sequence[str]) -> Matches:
    matches = Matches(words={word: WordMatch(0, is_exact=True, shown=len(word)) for word in words})
    for number, place in _following(index, words):
        matches.note(number, place)
    return matches


def _run(index: Index, pairs: Sequence[str]) -> Matches:
    """Find rows that have most of the pairs of a run; a wrong character, which takes two pairs, counts as a typo."""
    matches = Matches(words={pair: WordMatch(0, is_exact=True, shown=len(pair)) for pair in pairs})
    count: dict[int, int] = {}
    first: dict[int, int] = {}
    for pair in dict.fromkeys(pairs):
        for number, place in index.having(pair):
            count[number] = count.get(number, 0) + 1
            first.setdefault(number, place)
    kinds = len(set(pairs))
    most = missing_pairs(kinds)
    for number, had in count.items():
        missing = kinds - had
        if missing <= most:
            matches.note(number, -(-missing // 2) * _TYPO + (_INEXACT if missing else 0) + first[number])
    return matches


def missing_pairs(pairs: int) -> int:
    """Return how many of so many pairs may be missing: the pairs of one character in four, and of two in eight."""
    if pairs <= 2:
        return 0
    return 1 if pairs == 3 else 2 if pairs < 7 else 4


def _following(index: Index, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the rows in which words follow each other, with the place of the first one."""
    having = [dict(index.having(word)) for word in set(words)]
    if not having:
        return
    for number in set.intersection(*map(set, having)):
        entry = index.entry(number)
        for at in range(len(entry.words) - len(words) + 1):
            follow = entry.words[at : at + len(words)] == tuple(words)
            if follow and entry.places[at + len(words) - 1] - entry.places[at] == len(words) - 1:
                yield number, entry.places[at]
                break


def words_of_phrase(runs: Sequence[str]) -> list[str]:
    """Return the words that follow each other where a phrase stands; its last run may go on there."""
    *before, last = runs
    whole = [word for run in before for word in ([*pairs_of(run), run[-1]] if has_pairs(run) else [run])]
    return whole + (pairs_of(last) if has_pairs(last) else [last])


def has_pairs(run: str) -> bool:
    """Tell whether a run of letters is looked up by its pairs."""
    return len(run) > 1 and is_unspaced(run)
