"""Bytes of items that are compressed where that saves write units: each begun KB is one, and two in transactions."""

from __future__ import annotations

import zlib
from typing import Final

from pynamodb.attributes import BinaryAttribute

_MARK: Final = b"\xff"
"""First byte of what is packed. Text in UTF-8 never has it, not even where it is cut within a character."""
_LEAST: Final = 512
"""Bytes below which nothing is saved: with its keys the item has a KB or less."""
_MOST: Final = 1024 * 1024
"""Bytes beyond which nothing is packed; as they are they fit into no item."""
_BEST: Final = 6
_LARGE: Final = 32_768
_FAST: Final = 1
"""Level for more bytes than that: 350 KB take 3 ms instead of 13, for a fifth more bytes."""


def pack(data: bytes) -> bytes:
    """Return data compressed behind a mark if that makes them smaller, or if they begin with that mark."""
    if len(data) > _MOST or (len(data) < _LEAST and not data.startswith(_MARK)):
        return data
    packed = _MARK + zlib.compress(data, _BEST if len(data) <= _LARGE else _FAST)
    return packed if len(packed) < len(data) or data.startswith(_MARK) else data


def unpack(data: bytes) -> bytes:
    """Return data as they were given to `pack`, or as they were stored before anything was packed.

    Raises:
        ValueError: what is packed is broken, or has more bytes than are ever packed.
    """
    if not data.startswith(_MARK):
        return data
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(data[len(_MARK) :], _MOST)
    except zlib.error as exc:
        raise ValueError(f"packed bytes are broken: {exc}") from None
    if not reader.eof:
        raise ValueError(f"packed bytes are cut, or more than {_MOST}")
    return plain


class PackedAttribute(BinaryAttribute):
    """Bytes that are packed in the table alone."""

    def __init__(self, *, null: bool | None = None) -> None:
        super().__init__(legacy_encoding=False, null=null)

    def serialize(self, value: bytes) -> bytes:
        """Pack for the table."""
        return pack(value)

    def deserialize(self, value: bytes) -> bytes:
        """Unpack what the table holds."""
        return unpack(value)
