"""Pieces of a hit's texts that match what was looked for."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from karma.search.domain import Piece, SearchRow
from karma.search.matching import Matches, WordMatch
from karma.search.text import MAX_WORD_CHARS, ascii_words, tokens_of


def pieces_of(row: SearchRow, matches: Sequence[Matches]) -> Mapping[str, Sequence[Piece]]:
    """Return the texts of a row in which something matches, in pieces that make up the text in Unicode's form NFC."""
    words: dict[str, WordMatch] = {}
    for each in matches:
        words |= each.words
    found: dict[str, Sequence[Piece]] = {}
    for name, text in (("name", row.text.name), ("code", row.text.code), ("text", row.text.text)):
        shown = unicodedata.normalize("NFC", text)
        spans = list(_merged(_spans(shown, words)))
        if spans:
            found[name] = list(_pieces(shown, spans))
    return found


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    at = 0
    for start, end in spans:
        if start > at:
            yield Piece(text[at:start], matches=False)
        yield Piece(text[start:end], matches=True)
        at = end
    if at < len(text):
        yield Piece(text[at:], matches=False)


def _spans(text: str, words: Mapping[str, WordMatch]) -> Iterator[tuple[int, int]]:
    if text.isascii():
        # As below, in a third of the time.
        for found in ascii_words(text):
            word = found.group()
            match = words.get(word[:MAX_WORD_CHARS])
            if match is not None:
                start, end = found.span()
                yield start, start + match.shown if match.shown < len(word) <= MAX_WORD_CHARS else end
        return
    for token in tokens_of(text):
        match = words.get(token.word)
        if match is not None:
            # Of a beginning only what was typed; where folding changes the length, the whole word.
            is_plain = token.end - token.start == len(token.word)
            yield token.start, token.start + match.shown if is_plain and match.shown < len(token.word) else token.end


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield spans, in their order, with those that touch made one."""
    begun: tuple[int, int] | None = None
    for start, end in spans:
        if begun is not None and start <= begun[1]:
            begun = (begun[0], max(begun[1], end))
            continue
        if begun is not None:
            yield begun
        begun = (start, end)
    if begun is not None:
        yield begun
