"""Signs of places in a row: what is found at many is told apart by them before it is read.

Three are of words at the first, the second and any later place of a name, one of those anywhere in it, one of codes and
one of tags. Words of texts have none: those of all rows that have a word and are told by no sign have it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from karma.search.domain import RowPart

POSITIONS: Final = 2
"""Positions in a name that are told apart, the last one with all behind it."""
IN_NAME: Final = "n"
ANYWHERE: Final = "*"
PLACES: Final = {
    "0": (RowPart.NAME, 0),
    "1": (RowPart.NAME, 1),
    "2": (RowPart.NAME, 2),
    "c": (RowPart.CODE, POSITIONS),
    "t": (RowPart.TAGS, POSITIONS),
}
"""Part and position of each sign of a place."""


def signs_of(part: RowPart, position: int) -> Iterator[str]:
    """Yield the signs of a word's first place in a row."""
    if part is RowPart.NAME:
        yield str(min(position, POSITIONS))
        yield IN_NAME
    elif part is not RowPart.TEXT:
        yield "c" if part is RowPart.CODE else "t"
