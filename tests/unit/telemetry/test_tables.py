"""Tables of points: CSV as programs and Excel read it, and Parquet, read back by a reader of its own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import DeviceId, new_id
from karma.telemetry.domain import Bucket, Point, Statistics
from karma.telemetry.parquet import MAGIC, Kind, ParquetFile
from karma.telemetry.tables import KINDS, TableFormat, writer_of

DEVICE = DeviceId(new_id())


class Thrift:
    """Reads Thrift's compact protocol, of which a struct becomes a dict by number of field."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.stream.read(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 5 | 6:
                return self.zigzag()
            case 8:
                return self.stream.read(self.varint())
            case 9:
                head = self.stream.read(1)[0]
                size = head >> 4 if head >> 4 < 15 else self.varint()
                return [self.value(head & 15) for _ in range(size)]
            case 12:
                return self.struct()
        raise AssertionError(kind)

    def struct(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self.stream.read(1)[0]:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            found[number] = self.value(head & 15)
        return found


def read_back(data: bytes) -> dict[str, list[Any]]:
    assert (data[:4], data[-4:]) == (b"PAR1", b"PAR1")
    [size] = struct.unpack("<i", data[-8:-4])
    footer = Thrift(data[-8 - size : -8]).struct()
    names = [element[4].decode() for element in footer[2][1:]]
    assert footer[2][0][5] == len(names)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for group in footer[4]:
        for chunk in group[1]:
            meta = chunk[3]
            page = Thrift(data[meta[9] : meta[9] + meta[7]])
            header = page.struct()
            plain = zlib.decompress(page.stream.read(header[3]), 47)
            assert len(plain) == header[2]
            [name] = meta[3]
            values = _values(meta[1], plain)
            assert len(values) == meta[5] == header[5][1] == group[3]
            found[name.decode()] += values
    assert all(len(values) == footer[3] for values in found.values())
    return found


def _values(physical: int, plain: bytes) -> list[Any]:
    if physical in (2, 5):
        return [value for (value,) in struct.iter_unpack("<q" if physical == 2 else "<d", plain)]
    values, at = [], 0
    while at < len(plain):
        [size] = struct.unpack_from("<i", plain, at)
        values.append(plain[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return values


Rows = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text(max_size=9)), max_size=30)


@given(rows=Rows)
def test_parquet_holds_what_was_written(rows: list[tuple[int, float, str]]) -> None:
    columns = {"ts": (Kind.MOMENT, 0), "count": (Kind.COUNT, 0), "value": (Kind.NUMBER, 1), "温": (Kind.TEXT, 2)}
    file = ParquetFile([(name, kind) for name, (kind, _) in columns.items()])
    data = MAGIC + file.add([[row[at] for row in rows] for _, at in columns.values()]) + file.end()
    assert read_back(data) == {name: [row[at] for row in rows] for name, (_, at) in columns.items()}


def test_parquet_has_groups_of_rows() -> None:
    many = list(range(100))
    file = ParquetFile([(f"c{n}", Kind.COUNT) for n in range(20)])
    groups = [file.add([many[at : at + 7]] * 20) for at in range(0, 100, 7)]
    assert read_back(b"".join([MAGIC, *groups, file.end()])) == {f"c{n}": many for n in range(20)}


POINTS = [Point(1_790_000_000_000, DEVICE, "temp_c", 1), Point(1_790_000_000_001, DEVICE, "=1+1", -2.5)]
BUCKETS = [Bucket(1_790_000_000_000, DEVICE, "é,", Statistics(0, 2, 1, 3, 4, 3), False, {"p95": 2.9})]


def written(points: Any, form: TableFormat, *, raw: bool, groups: int = 1) -> bytes:
    """Write points in some groups, each by another process than the one before."""
    percents = () if raw else (95,)
    writer = writer_of(form, raw=raw, percents=percents)
    parts = [writer.begin()]
    size = -(-len(points) // groups)
    for at in range(0, len(points), size or 1):
        kept = json.loads(json.dumps(writer.state()))
        writer = writer_of(form, raw=raw, percents=percents, state=kept)
        parts.append(writer.add(points[at : at + size]))
    return b"".join([*parts, writer.end()])


def read_csv(points: Any, form: TableFormat, *, raw: bool) -> tuple[bytes, list[list[str]]]:
    assert (KINDS[form].encoding, KINDS[form].suffix) == ("gzip", "csv")
    text = gzip.decompress(written(points, form, raw=raw))
    return text[:3], list(csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")))


def test_csv_has_a_row_a_point() -> None:
    begin, rows = read_csv(POINTS, TableFormat.CSV, raw=True)
    assert begin == b"ts,"
    assert rows == [
        ["ts", "device_id", "metric", "value"],
        ["2026-09-21T14:13:20.000Z", DEVICE, "temp_c", "1.0"],
        ["2026-09-21T14:13:20.001Z", DEVICE, "=1+1", "-2.5"],
    ]
    _, [names, cells] = read_csv(BUCKETS, TableFormat.CSV, raw=False)
    assert names[3:] == ["count", "min", "max", "avg", "sum", "last", "partial", "p95"]
    assert cells[2:] == ["é,", "2", "1.0", "3.0", "2.0", "4.0", "3.0", "0", "2.9"]


def test_csv_for_excel_opens_as_it_is_meant() -> None:
    begin, rows = read_csv(POINTS, TableFormat.CSV_EXCEL, raw=True)
    assert begin == b"\xef\xbb\xbf"
    assert rows[1:] == [
        ["2026-09-21 14:13:20", DEVICE, "temp_c", "1.0"],
        ["2026-09-21 14:13:20", DEVICE, "'=1+1", "-2.5"],
    ]


def test_parquet_has_the_same_columns() -> None:
    found = read_back(written(BUCKETS, TableFormat.PARQUET, raw=False))
    assert (found["ts"], found["metric"], found["p95"]) == ([1_790_000_000_000], ["é,"], [2.9])
    assert read_back(written([], TableFormat.PARQUET, raw=True))["value"] == []


@pytest.mark.parametrize("form", list(TableFormat))
def test_a_table_that_several_processes_write_reads_as_that_of_one(form: TableFormat) -> None:
    points = [Point(1_790_000_000_000 + n, DEVICE, f"m{n % 3}", n / 7) for n in range(1_000)]
    whole, parted = (written(points, form, raw=True, groups=groups) for groups in (1, 7))
    if form is TableFormat.PARQUET:
        assert read_back(parted) == read_back(whole)
    else:
        # One member: browsers show of several only the first.
        decompress = zlib.decompressobj(31)
        assert decompress.decompress(parted) == gzip.decompress(whole)
        assert (decompress.eof, decompress.unused_data) == (True, b"")
