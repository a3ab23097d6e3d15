"""An index of an owner's rows in memory: their words, and which rows have them.

Rows are numbered as they come. A changed row gets a new number, and its old one is let go; an index of which a quarter
was let go `is_sparse`, and is to be built anew. So a change costs as much as its row, whatever the index holds.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from karma.core.search_rows import SearchKey
from karma.search.domain import NEAR, ObjectType, RowPart, SearchRow
from karma.search.text import words_of
from karma.search.typos import letters_of

_PLACE_BITS: Final = 12
_PLACE_MASK: Final = (1 << _PLACE_BITS) - 1
_PLACES: Final = 1 << _PLACE_BITS - 2
"""Places of a part: words behind them count as at the last one."""
_ROW_BYTES: Final = 1_700
"""Memory that a row takes with its words, in the middle (docs/adr/0058)."""
_SPARSE_FROM: Final = 64


class Entry(NamedTuple):
    """A row with its words in their order."""

    row: SearchRow
    words: tuple[str, ...]
    places: array[int]
    """Place of each word, by which `part_of` and `position_of` tell where it stands."""
    name_words: int
    """Words of its name, which come first."""


def part_of(place: int) -> int:
    """Return the part of a row that a place is in."""
    return place // _PLACES


def position_of(place: int) -> int:
    """Return the number of words before a place in its part."""
    return place % _PLACES


class Index:
    """Rows of one owner, found by their words."""

    def __init__(self, rows: Iterable[SearchRow] = ()) -> None:
        """Build the index of rows, each with a key of its own."""
        self._entries: list[Entry | None] = []
        self._numbers: dict[SearchKey, int] = {}
        self._postings: dict[str, array[int]] = {}
        self.types: set[str] = set()
        """Types of its rows, those among them that have gone."""
        self.projects: set[SearchKey] = set()
        """Keys of its projects, which may show devices of others."""
        for row in rows:
            self._add(row)
        self._sorted = sorted(self._postings)
        self._spelled: dict[str, dict[str, int]] = {}
        """By their first letter, the words that a misspelled one may mean, with their letters."""
        for word in self._sorted:
            self._note_letters(word)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._numbers)

    def __contains__(self, key: SearchKey) -> bool:
        """Tell whether it has a row with a key."""
        return key in self._numbers

    @property
    def memory_bytes(self) -> int:
        """Return about how much memory it takes."""
        return _ROW_BYTES * (len(self._entries) + 1)

    @property
    def is_sparse(self) -> bool:
        """Tell whether so many rows were let go that it should be built anew."""
        return len(self._entries) > _SPARSE_FROM + len(self) * 4 // 3

    def put(self, row: SearchRow) -> None:
        """Add a row, in the place of the one with its key."""
        self.remove(row.key)
        for word in self._add(row):
            insort(self._sorted, word)
            self._note_letters(word)

    def remove(self, key: SearchKey) -> None:
        """Remove a row; where there is none with the key, nothing changes."""
        number = self._numbers.pop(key, None)
        if number is not None:
            self._entries[number] = None
            self.projects.discard(key)

    def row_of(self, key: SearchKey) -> SearchRow | None:
        """Return the row with a key; None: it has none."""
        number = self._numbers.get(key)
        return self.entry(number).row if number is not None else None

    def rows(self) -> list[SearchRow]:
        """Return all rows."""
        return [entry.row for entry in self._entries if entry is not None]

    def numbers(self) -> Iterable[int]:
        """Return the numbers of all rows."""
        return self._numbers.values()

    def entry(self, number: int) -> Entry:
        """Return the row of a number that `numbers` or `having` has told."""
        found = self._entries[number]
        assert found is not None  # noqa: S101  numbers that were let go are not told
        return found

    def having(self, word: str) -> Iterator[tuple[int, int]]:
        """Yield the number of each row that has a word, with the first place where it stands."""
        entries = self._entries
        for packed in self._postings.get(word, ()):
            if entries[packed >> _PLACE_BITS] is not None:
                yield packed >> _PLACE_BITS, packed & (1 << _PLACE_BITS) - 1

    def note_best(self, word: str, rank: int, best: dict[int, int]) -> None:
        """Note in `best` for each row that has a word `rank` with its first place, unless it has less there.

        The same as a loop over `having`, in a third of the time: for single letters it is most of a query's.
        """
        posting = self._postings.get(word, ())
        if not best and len(self._entries) == len(self._numbers):
            best.update({packed >> _PLACE_BITS: rank | packed & _PLACE_MASK for packed in posting})
            return
        entries = self._entries
        for packed in posting:
            number = packed >> _PLACE_BITS
            if entries[number] is not None:
                value = rank | packed & _PLACE_MASK
                if best.get(number, value) >= value:
                    best[number] = value

    def knows(self, word: str) -> bool:
        """Tell whether a row has a word, or had it."""
        return word in self._postings

    def beginning_with(self, prefix: str) -> Iterator[str]:
        """Yield the words that begin with a prefix, itself among them."""
        at = bisect_left(self._sorted, prefix)
        while at < len(self._sorted) and self._sorted[at].startswith(prefix):
            yield self._sorted[at]
            at += 1

    def spelled(self) -> Mapping[str, Mapping[str, int]]:
        """Return the words that a misspelled one may mean with their letters, by the first of these."""
        return self._spelled

    def _note_letters(self, word: str) -> None:
        if word.isalpha():
            self._spelled.setdefault(word[0], {})[word] = letters_of(word)

    def _add(self, row: SearchRow) -> list[str]:
        """Add a row, and return those of its words that no row had."""
        number = len(self._entries)
        words, places = placed(row)
        fresh: list[str] = []
        seen: set[str] = set()
        for word, place in zip(words, places, strict=True):
            if word in seen:
                continue
            seen.add(word)
            posting = self._postings.get(word)
            if posting is None:
                posting = self._postings[word] = array("I")
                fresh.append(word)
            posting.append(number << _PLACE_BITS | place)
        self._entries.append(Entry(row, tuple(words), places, len(words_of(row.text.name))))
        self._numbers[row.key] = number
        self.types.add(row.key.type)
        if row.key.type == ObjectType.PROJECT:
            self.projects.add(row.key)
        return fresh


def placed(row: SearchRow) -> tuple[list[str], array[int]]:
    """Return the words of a row in their order, and the place of each."""
    text = row.text
    words: list[str] = []
    places = array("H")
    for part, pieces in (
        (RowPart.NAME, (text.name,)),
        (RowPart.CODE, (text.code,)),
        (RowPart.TAGS, text.tags),
        (RowPart.TEXT, (text.text,)),
    ):
        at = 0
        for piece in pieces:
            for word in words_of(piece):
                words.append(word)
                places.append(part * _PLACES + min(at, _PLACES - 1))
                at += 1
            at += NEAR  # words of two tags do not follow each other
    return words, places
