"""Words of texts as search compares them: folded, and split by script.

Folding: NFKC (so that digits of full width are digits, and `㎏` is `kg`), without case (`ß` is `ss`), and without
accents of Latin, Greek and Cyrillic letters and vowel points of Hebrew and Arabic. Words of scripts that are written
without spaces become pairs of characters: `温度传感器` has `温度`, `度传`, `传感`, `感器`, and its last character
alone, so that each character is the beginning of something. Each emoji is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

MAX_WORD_CHARS: Final = 48
"""Characters of a word that are compared; more than a name has, and fewer than a key of an API."""
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese, and Korean, which has spaces but puts particles behind its words."""
_SYMBOLS: Final = "\u2600-\u27bf\U0001f000-\U0001faff"
_WORD: Final = re.compile(f"(?P<run>[{_UNSPACED}]+)|[{_SYMBOLS}]|(?:[^\\W_{_UNSPACED}]|[\u0900-\u0dff])+")
_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
_CLUSTER: Final = re.compile("(?s).[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u3099\u309a]*")
_MARKS: Final = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\ufe0f]")
_LETTERS: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ł": "l", "ħ": "h", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
"""Letters that Unicode does not take for others with an accent, though people type them so."""


class Token(NamedTuple):
    """A word of a text, with its part of the text."""

    word: str
    start: int
    end: int


def fold(text: str) -> str:
    """Return a text without its differences of case, width and accents."""
    if text.isascii():
        return text.lower()
    return "".join(map(_folded_cluster, _CLUSTER.findall(unicodedata.normalize("NFC", text))))


def is_unspaced(word: str) -> bool:
    """Tell whether a word is of a script that is written without spaces."""
    found = None if word.isascii() else _WORD.match(word)
    return found is not None and found["run"] is not None


def words_of(text: str) -> list[str]:
    """Return the words of a text in their order; much quicker than `tokens_of`, which tells where they are."""
    if text.isascii():
        return [word[:MAX_WORD_CHARS] for word in _ASCII_WORD.findall(text.lower())]
    found: list[str] = []
    for match in _WORD.finditer(fold(text)):
        word = match.group()
        if match["run"] is None:
            found.append(word[:MAX_WORD_CHARS])
        else:
            found += [word[n : n + 2] for n in range(len(word))]
    return found


def tokens_of(text: str) -> list[Token]:
    """Return the words of a text with the parts that they are, by positions in the text's form NFC."""
    if text.isascii():
        return [Token(match.group()[:MAX_WORD_CHARS], *match.span()) for match in ascii_words(text)]
    folded, at = _folded_with_places(unicodedata.normalize("NFC", text))
    found: list[Token] = []
    for match in _WORD.finditer(folded):
        start, end = match.span()
        if match["run"] is None:
            found.append(Token(folded[start : min(end, start + MAX_WORD_CHARS)], at[start][0], at[end - 1][1]))
            continue
        found += [Token(folded[n : n + 2], at[n][0], at[n + 1][1]) for n in range(start, end - 1)]
        found.append(Token(folded[end - 1], at[end - 1][0], at[end - 1][1]))
    return found


def ascii_words(text: str) -> Iterator[re.Match[str]]:
    """Return the matches of the words of a text in ASCII, folded and whole."""
    return _ASCII_WORD.finditer(text.lower())


def runs_of(text: str) -> list[str]:
    """Return the words of a folded text, where words without spaces stay whole."""
    return [match.group() for match in _WORD.finditer(text)]


def pairs_of(run: str) -> list[str]:
    """Return what is looked up for a run of a script without spaces: its pairs, or its only character."""
    return [run[n : n + 2] for n in range(len(run) - 1)] or [run]


def _folded_with_places(text: str) -> tuple[str, list[tuple[int, int]]]:
    if text.isascii():
        return text.lower(), [(n, n + 1) for n in range(len(text))]
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    for match in _CLUSTER.finditer(text):
        part = _folded_cluster(match.group())
        parts.append(part)
        places += [match.span()] * len(part)
    return "".join(parts), places


@lru_cache(maxsize=8_192)
def _folded_cluster(cluster: str) -> str:
    """Fold a character with its marks; what stands beside it changes nothing."""
    plain = unicodedata.normalize("NFKC", cluster).casefold().translate(_LETTERS)
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFKD", plain)))
