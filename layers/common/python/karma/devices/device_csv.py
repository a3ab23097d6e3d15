"""Devices as people keep them in a spreadsheet: CSV whose columns are named as the fields of `POST /devices`.

A byte order mark, `sep=;` as Excel writes it, CRLF, quotes, blank lines, columns in any order and names in any case are
taken, with commas, semicolons or tabs between the cells: whichever the header has most of. A cell is text: what looks
like a formula or a number stays as it is written. An empty cell leaves its field out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from karma.core import freeform
from karma.core.errors import ValidationFailed
from karma.core.records import Record
from karma.core.wording import worded
from karma.devices.schemas import CreateDeviceRequest

MAX_CSV_CHARS: Final = 256 * 1024
MAX_ROWS: Final = 200

_OBJECTS: Final = ("capabilities", "hardware", "network", "location")
_COLUMNS: Final = (
    "name",
    "model",
    "mac",
    "serial_number",
    "ip",
    "firmware_version",
    "tags",
    *_OBJECTS,
)
_REQUIRED: Final = ("name", "model", "mac", "serial_number")
_TAGS_BETWEEN: Final = "|"
_BETWEEN: Final = (",", ";", "\t")


class RowFault(NamedTuple):
    """A reason for which a row makes no device."""

    line: int
    """Line of the text on which the row begins; the first is 1."""
    field: str
    message: str
    code: str = "VALIDATION_ERROR"


class DeviceRow(Record, kw_only=True):
    """A row that may become a device."""

    line: int
    device: CreateDeviceRequest


class DeviceTable(Record, kw_only=True):
    """Rows of a CSV text."""

    rows: Sequence[DeviceRow]
    faults: Sequence[RowFault]
    total: int
    """Number of its rows, good and bad."""


def read_table(text: str) -> DeviceTable:
    """Read a CSV text, each row by the rules of `POST /devices`.

    Raises:
        ValidationFailed: it has no header with the columns that a device needs, or another one; it has no rows, or too
            many; or its quotes do not end.
    """
    lines = lines_of(text.removeprefix("\ufeff"))
    _, header = next(lines, (0, []))
    columns = _columns(header)
    rows: list[DeviceRow] = []
    faults: list[RowFault] = []
    seen: dict[str, int] = {}
    total = 0
    for line, cells in lines:
        total += 1
        if total > MAX_ROWS:
            raise ValidationFailed.of("csv", f"at most {MAX_ROWS} rows in one request; send the others in another one")
        faults += _wrong(line, cells, columns, seen, rows)
    if not total:
        raise ValidationFailed.of("csv", "has no rows below its header")
    return DeviceTable(rows=rows, faults=faults, total=total)


def lines_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line on which it begins."""
    if "\n" not in text:
        text = text.replace("\r", "\n")
    first = 1
    told = text[: text.find("\n") if "\n" in text else len(text)].strip()
    between = ""
    if told.lower().startswith("sep="):
        between, text, first = told[len("sep=") :] or "\t", text[text.find("\n") + 1 :] if "\n" in text else "", 2
        if between not in _BETWEEN:
            raise ValidationFailed.of("csv", "may name a comma, a semicolon or a tab behind `sep=`")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between or _between(text), strict=True)
    begins = first
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = first + reader.line_num
    except csv.Error as exc:
        raise ValidationFailed.of("csv", f"is no CSV from line {begins} on: see its quotes") from exc


def _between(text: str) -> str:
    """Return what stands between the cells, as the first line that is not blank shows."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_BETWEEN, key=header.count)


def columns_of(header: Sequence[str]) -> list[str]:
    """Return the names of a header's columns as they are compared; cells without a name at its end are none."""
    columns = ["_".join(cell.split()).casefold() for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    return columns


def _columns(header: Sequence[str]) -> list[str]:
    columns = columns_of(header)
    wrong = [
        *(
            f"{name[:40] or 'a column without a name'} is no column of a device"
            for name in columns
            if name not in _COLUMNS
        ),
        *(f"{name} stands twice in the header" for name in dict.fromkeys(columns) if columns.count(name) > 1),
        *(f"the column {name} is missing" for name in _REQUIRED if name not in columns),
    ]
    if wrong:
        raise ValidationFailed(
            "Request validation failed",
            details=[{"field": "csv", "message": message, "type": "value_error"} for message in wrong[:20]],
        )
    return columns


def _wrong(
    line: int, cells: Sequence[str], columns: Sequence[str], seen: dict[str, int], rows: list[DeviceRow]
) -> list[RowFault]:
    """Add the device of a row to `rows`, or return what is wrong with it."""
    if any(cell.strip() for cell in cells[len(columns) :]):
        return [RowFault(line, "", f"has {len(cells)} cells, and the header {len(columns)}")]
    given, wrong = _fields(line, dict(zip(columns, cells, strict=False)))
    try:
        device = CreateDeviceRequest.model_validate(given)
    except ValidationError as exc:
        told: dict[str, str] = {}
        for error in exc.errors(include_url=False):
            told.setdefault(str(error["loc"][0]), worded({**error}))
        known = {fault.field for fault in wrong}
        return [*wrong, *(RowFault(line, field, said) for field, said in told.items() if field not in known)]
    if wrong:
        return wrong
    if (earlier := seen.setdefault(device.serial_number, line)) != line:
        return [RowFault(line, "serial_number", f"stands in line {earlier}, too", "ALREADY_EXISTS")]
    rows.append(DeviceRow(line=line, device=device))
    return []


def _fields(line: int, cells: Mapping[str, str]) -> tuple[dict[str, Any], list[RowFault]]:
    given: dict[str, Any] = {}
    wrong: list[RowFault] = []
    for name, cell in cells.items():
        text = cell.strip()
        if not text:
            continue
        if name == "tags":
            given[name] = [tag for each in text.split(_TAGS_BETWEEN) if (tag := each.strip())]
        elif name in _OBJECTS:
            try:
                given[name] = freeform.loads(text, of_request=True)
            except freeform.NotJson:
                wrong.append(RowFault(line, name, "must be a JSON object"))
            except freeform.OutOfBounds as exc:
                wrong.append(RowFault(line, name, str(exc)))
        else:
            given[name] = text
    return given, wrong
