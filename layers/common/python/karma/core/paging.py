"""How much of a list fits into one answer: a function answers 6 MB at the most, whatever the page's limit allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import orjson

from karma.core.freeform import render

T = TypeVar("T")

MAX_PAGE_BYTES: Final = 5_000_000
"""Of a page's entries; the rest of the 6 MB (6,291,556 bytes) is for what stands around them."""


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


def shown(items: Iterable[T], view: Callable[[T], object]) -> tuple[list[T], list[orjson.Fragment]]:
    """Return the items that fit, as they are and as they stand in the answer; each is written once."""
    written = ((item, render(view(item))) for item in items)
    kept = fitting(written, lambda pair: len(pair[1]))
    return [item for item, _ in kept], [orjson.Fragment(text) for _, text in kept]
