"""How much of a list fits into one answer: a function answers 6 MB at the most, whatever the page's limit allows.

Lambda counts the function's response, which is JSON with the body as a string in it: each quote and backslash of the
body takes two bytes there, so a body of JSON may double. In base64 it grows by a third, whatever it holds. The gateway
(`api.gateway`) sends a large body in whichever form is smaller, so a page that fits in base64 fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar, cast

import orjson

from karma.core.freeform import render

T = TypeVar("T")
V = TypeVar("V")

FUNCTION_BYTES: Final = 6_291_556
"""Of a function's response at the most, the JSON of status, headers and body."""
MAX_PAGE_BYTES: Final = 4_650_000
"""Of a page's entries: 6,200,000 bytes in base64; the rest is for headers and for what stands around the entries."""

_SHORT_ESCAPES: Final = b'"\\\b\f\n\r\t'
_LONG_ESCAPES: Final = bytes(each for each in range(0x20) if each not in _SHORT_ESCAPES)
_LINE_ENDS: Final = ("\u2028".encode(), "\u2029".encode())


def fitting(items: Iterable[T], size: Callable[[T], int], *, most: int | None = None) -> list[T]:
    """Return the first items that fit into `most` bytes, `MAX_PAGE_BYTES` unless said, and at least one of them."""
    kept: list[T] = []
    left = MAX_PAGE_BYTES if most is None else most
    for item in items:
        left -= size(item) + 1
        if left < 0 and kept:
            break
        kept.append(item)
    return kept


def shown(items: Iterable[T], view: Callable[[T], V]) -> tuple[list[T], list[V]]:
    """Return the items that fit, as they are and as they stand in the answer.

    The views are written already, so that each is written once: they have their shape for `ok`, not for reading.
    """
    written = ((item, render(view(item))) for item in items)
    kept = fitting(written, lambda pair: len(pair[1]))
    return [item for item, _ in kept], [cast("V", orjson.Fragment(text)) for _, text in kept]


def bytes_as_string(body: bytes) -> int:
    """Count the bytes of a body as a JSON string, as Lambda's runtime for Python writes it.

    Characters beyond ASCII stay as they are, but for U+2028 and U+2029.
    """
    short = len(body) - len(body.translate(None, _SHORT_ESCAPES))
    long = len(body) - len(body.translate(None, _LONG_ESCAPES))
    return 2 + len(body) + short + 5 * long + 3 * sum(map(body.count, _LINE_ENDS))


def bytes_in_base64(body: bytes) -> int:
    """Count the bytes of a body as a JSON string in base64."""
    return 2 + 4 * -(-len(body) // 3)
