"""Limits pages by bytes: an answer of a function has at most 6 MB, whatever the page's limit allows.

Lambda counts the function's response, which is JSON with the body as a string in it: each quote and backslash of the
body takes two bytes there, so a body of JSON may double. In base64 it grows by a third, whatever it holds. The gateway
(`karma.http.gateway`) sends a large body in whichever form is smaller, so a page that fits in base64 fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar, cast

import orjson

from karma.core.freeform import render

T = TypeVar("T")
V = TypeVar("V")

FUNCTION_BYTES: Final = 6_291_556
"""Largest response of a function: the JSON of status, headers and body."""
MAX_PAGE_BYTES: Final = 4_650_000
"""Most bytes of a page's entries: 6,200,000 in base64; the rest is for headers and the JSON around the entries."""

_SHORT_ESCAPES: Final = b'"\\\b\f\n\r\t'
_LONG_ESCAPES: Final = bytes(each for each in range(0x20) if each not in _SHORT_ESCAPES)
_LINE_ENDS: Final = ("\u2028".encode(), "\u2029".encode())


def fitting(items: Iterable[T], size: Callable[[T], int], *, most: int | None = None) -> list[T]:
    """Return the first items that fit into `most` bytes (None: `MAX_PAGE_BYTES`), and at least one of them."""
    kept: list[T] = []
    left = MAX_PAGE_BYTES if most is None else most
    for item in items:
        left -= size(item) + 1
        if left < 0 and kept:
            break
        kept.append(item)
    return kept


def shown(items: Iterable[T], view: Callable[[T], V]) -> tuple[list[T], list[V]]:
    """Return the items that fit into a page, and their views for the answer.

    The views are rendered JSON already, so that each is rendered once: they can be put into an answer, but not read.
    """
    written = ((item, render(view(item))) for item in items)
    kept = fitting(written, lambda pair: len(pair[1]))
    return [item for item, _ in kept], [cast("V", orjson.Fragment(text)) for _, text in kept]


def bytes_as_string(body: bytes) -> int:
    """Return the bytes that a body takes as a JSON string, as Lambda's runtime for Python writes it.

    Characters beyond ASCII are not escaped, except U+2028 and U+2029.
    """
    short = len(body) - len(body.translate(None, _SHORT_ESCAPES))
    long = len(body) - len(body.translate(None, _LONG_ESCAPES))
    return 2 + len(body) + short + 5 * long + 3 * sum(map(body.count, _LINE_ENDS))


def bytes_in_base64(body: bytes) -> int:
    """Return the bytes that a body takes as a JSON string in base64."""
    return 2 + 4 * -(-len(body) // 3)
