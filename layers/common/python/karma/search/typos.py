"""Distance of a word from others, and the greatest that is a match: Meilisearch's rules of typos.

A typo is a character too many, too few or another one, or two that changed places. A typo in the first letter counts
twice. Words of up to 4 letters have none, up to 8 one, longer ones two; words with a digit have none, so that `EOS-3A`
never finds `EOS-3B`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

ONE_TYPO_FROM: Final = 5
"""Letters from which on a word may have a typo."""
_TWO_FROM: Final = 9
_BITS: Final = 61


def allowed_typos(word: str) -> int:
    """Return the number of typos that a word may have."""
    if len(word) < ONE_TYPO_FROM or not word.isalpha():
        return 0
    return 1 if len(word) < _TWO_FROM else 2


def letters_of(word: str) -> int:
    """Return the letters of a word as bits, of which those of a word with k typos lack at the most k."""
    bits = 0
    for letter in word:
        bits |= 1 << ord(letter) % _BITS
    return bits


class Near(NamedTuple):
    """A word that is near to the one that is looked for."""

    word: str
    typos: int
    as_prefix: bool
    """Only its beginning is near."""


class Misspelled:
    """A word of a query, which finds others that it may have been meant to be."""

    def __init__(self, word: str, most: int) -> None:
        """Look for words with up to `most` typos."""
        self._word = word
        self._most = most
        self._letters = letters_of(word)
        self._places: dict[str, int] = {}
        for n, letter in enumerate(word):
            self._places[letter] = self._places.get(letter, 0) | 1 << n

    def near(self, spelled: Mapping[str, Mapping[str, int]]) -> Iterator[Near]:
        """Yield the words that are near, or that begin with what is; they are given as `Index.spelled` has them."""
        for first, words in spelled.items():
            more = int(first != self._word[0])
            most = self._most - more
            if most > 0:
                yield from self._among(words, most, more)

    def _among(self, words: Mapping[str, int], most: int, more: int) -> Iterator[Near]:
        letters, shortest = self._letters, len(self._word) - most
        for word, others in words.items():
            # Few of the words pass this, which takes a twentieth of the time of measuring.
            if (letters & ~others).bit_count() <= most and len(word) >= shortest:
                whole, prefix = self._distances(word)
                if prefix <= most:
                    yield Near(word, prefix + more, as_prefix=prefix < whole)

    def _distances(self, other: str) -> tuple[int, int]:
        """Return the typos between the word and another one, and the fewest to one of its beginnings.

        The algorithm of Hyyrö (2003) keeps a column of differences in the bits of two numbers.
        """
        places, size = self._places, len(self._word)
        all_bits, last = (1 << size) - 1, 1 << size - 1
        up, down, diagonal, before = all_bits, 0, 0, 0
        score = fewest = size
        for letter in other[: size + self._most]:
            here = places.get(letter, 0)
            swapped = ((~diagonal & here) << 1) & before
            diagonal = (((here & up) + up) ^ up) | here | down | swapped
            rises, falls = down | ~(diagonal | up), diagonal & up
            if rises & last:
                score += 1
            elif falls & last:
                score -= 1
            rises, falls = rises << 1 | 1, falls << 1
            up, down = (falls | ~(diagonal | rises)) & all_bits, rises & diagonal & all_bits
            before = here
            fewest = min(fewest, score)
        return score + max(0, len(other) - size - self._most), fewest
