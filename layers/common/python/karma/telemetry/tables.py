"""Points of telemetry as tables: CSV for programs and for Excel, and Parquet.

One row a point, written a group of points at a time by whoever holds what was written; a process may begin a table and
another end it, since what a writer remembers is small and can be kept (`state`). A CSV is one gzip stream: each group
begins anew what the compression knows, and CRC and length go on.

Excel reads UTF-8 by its byte order mark, times without zone or milliseconds, and takes a cell that begins with one of
`= + - @` for a formula, so those of names get an apostrophe.
"""

from __future__ import annotations

import base64
import csv
import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from karma.core.clock import from_epoch_ms, iso
from karma.telemetry.domain import TelemetryPoint
from karma.telemetry.parquet import MAGIC, Kind, ParquetFile


class TableFormat(StrEnum):
    """Format of an exported table."""

    CSV = "csv"
    CSV_EXCEL = "csv-excel"
    PARQUET = "parquet"


class TableKind(NamedTuple):
    """Media of a format."""

    media_type: str
    encoding: str
    """Content encoding of the bytes; "": none."""
    suffix: str


_CSV: Final = TableKind("text/csv; charset=utf-8", "gzip", "csv")
KINDS: Final[Mapping[TableFormat, TableKind]] = {
    TableFormat.CSV: _CSV,
    TableFormat.CSV_EXCEL: _CSV,
    TableFormat.PARQUET: TableKind("application/vnd.apache.parquet", "", "parquet"),
}

_GZIP_HEAD: Final = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF])
_LEVEL: Final = 6


class TableWriter(Protocol):
    """Writes a table; what its methods return is to be joined."""

    def begin(self) -> bytes:
        """Return the beginning of the table; called once."""

    def add(self, points: Sequence[TelemetryPoint]) -> bytes:
        """Return rows of at least one point."""

    def end(self) -> bytes:
        """Return the end of the table; called once."""

    def state(self) -> Mapping[str, Any]:
        """Return what `writer_of` needs, as JSON, to go on behind what was written."""


_COLUMNS: Final[Mapping[str, tuple[Kind, Callable[[Any], Any]]]] = {
    "ts": (Kind.MOMENT, lambda point: point.ts),
    "device_id": (Kind.TEXT, lambda point: point.device_id),
    "metric": (Kind.TEXT, lambda point: point.metric),
}
_RAW: Final[Mapping[str, tuple[Kind, Callable[[Any], Any]]]] = {
    "value": (Kind.NUMBER, lambda point: float(point.value)),
}
_BUCKET: Final[Mapping[str, tuple[Kind, Callable[[Any], Any]]]] = {
    "count": (Kind.COUNT, lambda bucket: bucket.row.samples),
    "min": (Kind.NUMBER, lambda bucket: float(bucket.row.least)),
    "max": (Kind.NUMBER, lambda bucket: float(bucket.row.greatest)),
    "avg": (Kind.NUMBER, lambda bucket: float(bucket.row.average)),
    "sum": (Kind.NUMBER, lambda bucket: float(bucket.row.total)),
    "last": (Kind.NUMBER, lambda bucket: float(bucket.row.last)),
    "partial": (Kind.COUNT, lambda bucket: int(bucket.partial)),
}


def writer_of(
    form: TableFormat, *, raw: bool, percents: Sequence[float] = (), state: Mapping[str, Any] | None = None
) -> TableWriter:
    """Return a writer of raw points with `value`, or of buckets with their figures and percentiles."""
    figures = {f"p{each:g}": (Kind.NUMBER, _percentile(f"p{each:g}")) for each in percents}
    columns = {**_COLUMNS, **(_RAW if raw else _BUCKET), **figures}
    if form is TableFormat.PARQUET:
        return _Parquet(columns, state or {})
    return _Csv(columns, state or {}, excel=form is TableFormat.CSV_EXCEL)


def _percentile(name: str) -> Callable[[Any], Any]:
    return lambda bucket: bucket.percentiles[name]


class _Parquet:
    """Writes Parquet; a group of points is a group of rows."""

    def __init__(self, columns: Mapping[str, tuple[Kind, Callable[[Any], Any]]], state: Mapping[str, Any]) -> None:
        groups = [base64.b85decode(each) for each in state.get("groups", ())]
        named = [(name, kind) for name, (kind, _) in columns.items()]
        self._file = ParquetFile(named, groups=groups, rows=state.get("rows", 0))
        self._file.size = state.get("size", self._file.size)
        self._columns = columns

    def begin(self) -> bytes:
        return MAGIC

    def add(self, points: Sequence[TelemetryPoint]) -> bytes:
        return self._file.add([[take(point) for point in points] for _, take in self._columns.values()])

    def end(self) -> bytes:
        return self._file.end()

    def state(self) -> Mapping[str, Any]:
        groups = [base64.b85encode(each).decode() for each in self._file.groups]
        return {"groups": groups, "rows": self._file.rows, "size": self._file.size}


class _Csv:
    """Writes compressed CSV."""

    def __init__(
        self,
        columns: Mapping[str, tuple[Kind, Callable[[Any], Any]]],
        state: Mapping[str, Any],
        *,
        excel: bool,
    ) -> None:
        self._columns = columns
        self._excel = excel
        self._crc: int = state.get("crc", 0)
        self._size: int = state.get("size", 0)

    def begin(self) -> bytes:
        return _GZIP_HEAD + self._written([tuple(self._columns)], mark="\ufeff" if self._excel else "")

    def add(self, points: Sequence[TelemetryPoint]) -> bytes:
        columns = (
            _cells(kind, [take(point) for point in points], excel=self._excel) for kind, take in self._columns.values()
        )
        return self._written(zip(*columns, strict=True))

    def end(self) -> bytes:
        nothing = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()
        return nothing + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)

    def state(self) -> Mapping[str, Any]:
        return {"crc": self._crc, "size": self._size}

    def _written(self, rows: Iterable[Sequence[object]], *, mark: str = "") -> bytes:
        text = io.StringIO(mark, newline="")
        text.seek(len(mark))
        csv.writer(text).writerows(rows)
        plain = text.getvalue().encode()
        self._crc, self._size = zlib.crc32(plain, self._crc), self._size + len(plain)
        squeezer = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS)
        # Ends at a whole byte, and does not say that the stream ends.
        return squeezer.compress(plain) + squeezer.flush(zlib.Z_FULL_FLUSH)


def _cells(kind: Kind, values: Sequence[Any], *, excel: bool) -> Iterator[object]:
    if kind is Kind.MOMENT:
        for ts in values:
            written = iso(from_epoch_ms(ts))
            yield written[:19].replace("T", " ") if excel else written
    elif kind is Kind.TEXT and excel:
        for text in values:
            yield f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    else:
        yield from values
