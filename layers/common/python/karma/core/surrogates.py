r"""JSON with lone surrogates, written by programs that cut texts between the two halves of a character.

`"\ud83d"` without its other half is valid by JSON's grammar and no text in UTF-8: orjson refuses it, as storage and
other APIs do. A client that resends a conversation cannot correct it, so each is read as U+FFFD, the replacement
character.

A half in one piece of a text is lone only if the next piece does not begin with the other: such pieces are read with
`loads_in_pieces` and joined by a `Joiner`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def loads(data: bytes | str) -> Any:
    """Parse JSON as orjson does, with lone surrogates replaced by U+FFFD.

    Raises:
        orjson.JSONDecodeError: the text is not JSON.
    """
    return _loads(data, keeps_halves=False)


def loads_in_pieces(data: bytes | str) -> Any:
    """Parse JSON as orjson does, but keep lone surrogates: their other halves may be in the JSON that comes next.

    Texts of the result must go through a `Joiner` or `whole`.

    Raises:
        orjson.JSONDecodeError: the text is not JSON.
    """
    return _loads(data, keeps_halves=True)


def _loads(data: bytes | str, *, keeps_halves: bool) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
        mended = replace_lone(raw)
        if mended == raw:
            raise
        replaced = orjson.loads(mended)  # in either case: Python's own parser takes more than JSON
        return json.loads(raw) if keeps_halves else replaced


def whole(value: Any) -> Any:
    """Replace lone surrogates in a text, or in all texts of a JSON value, by U+FFFD; two matching halves are joined."""
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict):
        return {_whole(name): whole(inner) for name, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


class Joiner:
    """Joins the pieces of one text: the first half of a character at the end of a piece is kept for the next one."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """Take the next piece; return the text that is complete with it, perhaps ""."""
        if self._half and piece:
            piece, self._half = self._half + piece, ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        return _whole(piece)

    def end(self) -> str:
        """End the text; return U+FFFD for a half whose other half did not come, else ""."""
        rest, self._half = self._half, ""
        return _whole(rest)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def replace_lone(data: bytes) -> bytes:
    """Replace the escapes of lone surrogates in JSON; everything else stays as it is."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
