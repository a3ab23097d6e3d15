"""Serial numbers as people keep them in a spreadsheet: the column `serial_number` of a CSV, whatever is beside it."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.errors import ValidationFailed
from karma.devices.device_csv import columns_of, lines_of
from karma.devices.domain import SERIAL, SERIAL_FORM
from karma.devices.provisioning import MAX_SERIALS

_COLUMN = "serial_number"
_TOLD = 20


def read_serials(text: str) -> list[str]:
    """Read the serial numbers of a CSV text, in the forms that an import takes (device_csv).

    Raises:
        ValidationFailed: it has no such column, no rows or too many, a serial number is no such or stands there twice,
            or its quotes do not end.
    """
    lines = lines_of(text.removeprefix("\ufeff"))
    _, header = next(lines, (0, []))
    columns = columns_of(header)
    if columns.count(_COLUMN) != 1:
        raise ValidationFailed.of("csv", f"needs a header with the column {_COLUMN}, once")
    at = columns.index(_COLUMN)
    found: dict[str, int] = {}
    wrong: list[tuple[int, str]] = []
    for line, cells in lines:
        if len(found) + len(wrong) >= MAX_SERIALS:
            raise ValidationFailed.of("csv", f"at most {MAX_SERIALS} serial numbers in one claim")
        serial = cells[at].strip() if at < len(cells) else ""
        if not SERIAL.fullmatch(serial):
            wrong.append((line, f"must be {SERIAL_FORM}"))
        elif (earlier := found.setdefault(serial, line)) != line:
            wrong.append((line, f"stands in line {earlier}, too"))
    if wrong:
        raise _refused(wrong)
    if not found:
        raise ValidationFailed.of("csv", "has no rows below its header")
    return list(found)


def _refused(wrong: Sequence[tuple[int, str]]) -> ValidationFailed:
    details = [
        {"field": f"csv[{line}].{_COLUMN}", "message": message, "type": "value_error"}
        for line, message in wrong[:_TOLD]
    ]
    return ValidationFailed("Request validation failed", details=details)
