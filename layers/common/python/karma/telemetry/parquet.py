"""A small writer of Apache Parquet: columns without missing values, PLAIN, one gzip page a column and row group.

pyarrow, the usual writer, is 156 MB unpacked, most of what a function may have (docs/adr/0060); this is what of the
format a table of telemetry needs. Names of structures and numbers of fields are those of parquet.thrift; the footer is
in Thrift's compact protocol.

    file = ParquetFile([("ts", Kind.MOMENT), ("value", Kind.NUMBER)])
    MAGIC + file.add([[1, 2], [.5, .25]]) + file.end()
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

MAGIC: Final = b"PAR1"
_GZIP, _PLAIN, _RLE, _REQUIRED = 2, 0, 3, 0
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


class Kind(Enum):
    """Meaning of a column."""

    MOMENT = "moment"
    """Milliseconds since 1970, in UTC."""
    COUNT = "count"
    NUMBER = "number"
    TEXT = "text"


_PHYSICAL: Final = {Kind.MOMENT: 2, Kind.COUNT: 2, Kind.NUMBER: 5, Kind.TEXT: 6}
"""Parquet's types: INT64, DOUBLE, BYTE_ARRAY."""
_CODES: Final = {Kind.MOMENT: "q", Kind.COUNT: "q", Kind.NUMBER: "d"}
"""Formats by which `struct` writes their values."""


class ParquetFile:
    """Writes a file whose rows come a group at a time; what is written begins with `MAGIC`."""

    def __init__(self, columns: Sequence[tuple[str, Kind]], *, groups: Sequence[bytes] = (), rows: int = 0) -> None:
        """Begin a file, or go on behind groups that were written; `size` is then to be set to how long the file was."""
        self._columns = columns
        self.groups = list(groups)
        """The end of the file's words on each group, some hundred bytes."""
        self.rows = rows
        self.size = len(MAGIC)

    def add(self, values: Sequence[Sequence[Any]]) -> bytes:
        """Return a group of rows, given by column."""
        chunks: list[bytes] = []
        pages: list[bytes] = []
        total, count = 0, len(values[0])
        for (name, kind), column in zip(self._columns, values, strict=True):
            page, plain_bytes = _page(kind, column)
            chunks.append(_chunk(name, kind, count, self.size, len(page), plain_bytes))
            pages.append(page)
            self.size += len(page)
            total += plain_bytes
        self.groups.append(_struct({1: _list(_STRUCT, chunks), 2: _i64(total), 3: _i64(count)}))
        self.rows += count
        return b"".join(pages)

    def end(self) -> bytes:
        """Return what stands behind the last group."""
        schema = [_struct({4: _text("telemetry"), 5: _i32(len(self._columns))})]
        schema += [_element(name, kind) for name, kind in self._columns]
        footer = _struct(
            {
                1: _i32(2),
                2: _list(_STRUCT, schema),
                3: _i64(self.rows),
                4: _list(_STRUCT, self.groups),
                6: _text("karma"),
            }
        )
        return b"".join([footer, struct.pack("<i", len(footer)), MAGIC])


def _page(kind: Kind, values: Sequence[Any]) -> tuple[bytes, int]:
    plain = _texts(values) if kind is Kind.TEXT else struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
    squeezer = zlib.compressobj(level=6, wbits=31)
    squeezed = squeezer.compress(plain) + squeezer.flush()
    head = _struct({1: _i32(len(values)), 2: _i32(_PLAIN), 3: _i32(_RLE), 4: _i32(_RLE)})
    header = _struct({1: _i32(0), 2: _i32(len(plain)), 3: _i32(len(squeezed)), 5: (_STRUCT, head)})
    return header + squeezed, len(header) + len(plain)


def _texts(values: Sequence[str]) -> bytes:
    known: dict[str, bytes] = {}
    return b"".join(known.get(each) or known.setdefault(each, _written(each)) for each in values)


def _written(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded)) + encoded


def _chunk(name: str, kind: Kind, count: int, at: int, size: int, plain_bytes: int) -> bytes:
    meta = _struct(
        {
            1: _i32(_PHYSICAL[kind]),
            2: _list(_I32, [_zigzag(_PLAIN)]),
            3: _list(_BINARY, [_binary(name)]),
            4: _i32(_GZIP),
            5: _i64(count),
            6: _i64(plain_bytes),
            7: _i64(size),
            9: _i64(at),
        }
    )
    return _struct({2: _i64(at), 3: (_STRUCT, meta)})


def _element(name: str, kind: Kind) -> bytes:
    fields = {1: _i32(_PHYSICAL[kind]), 3: _i32(_REQUIRED), 4: _text(name)}
    if kind is Kind.TEXT:
        fields |= {6: _i32(0), 10: (_STRUCT, _struct({1: (_STRUCT, _struct({}))}))}
    elif kind is Kind.MOMENT:
        milliseconds = (_STRUCT, _struct({1: (_STRUCT, _struct({}))}))
        in_utc = (1, b"")
        fields |= {6: _i32(9), 10: (_STRUCT, _struct({8: (_STRUCT, _struct({1: in_utc, 2: milliseconds}))}))}
    return _struct(fields)


# Thrift's compact protocol: a field is its type and its value.

_Field = tuple[int, bytes]


def _struct(fields: Mapping[int, _Field]) -> bytes:
    parts: list[bytes] = []
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        parts += (bytes([(number - last) << 4 | kind]), value)
        last = number
    return b"".join(parts) + b"\0"


def _list(kind: int, values: Sequence[bytes]) -> _Field:
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + _varint(len(values))
    return _LIST, head + b"".join(values)


def _i32(value: int) -> _Field:
    return _I32, _zigzag(value)


def _i64(value: int) -> _Field:
    return _I64, _zigzag(value)


def _text(value: str) -> _Field:
    return _BINARY, _binary(value)


def _binary(value: str) -> bytes:
    encoded = value.encode()
    return _varint(len(encoded)) + encoded


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
