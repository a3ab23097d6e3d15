"""Answer of the route that imports devices: its shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import Field

from karma.devices.importing import ImportReport


class ImportedDeviceView(TypedDict):
    """A device that a row has made; it has no certificate yet."""

    line: Annotated[int, Field(description="Line of the text on which the row begins; the header is on the first")]
    device_id: str
    serial_number: str


class RefusedRowView(TypedDict):
    """A reason for which a row made no device; a row may have several."""

    line: int
    field: Annotated[str, Field(description="Its column; empty: the row as a whole")]
    code: str
    message: str


class ImportData(TypedDict):
    """Outcome of an import, row by row."""

    created: list[ImportedDeviceView]
    refused: list[RefusedRowView]
    total: Annotated[int, Field(description="Number of rows")]


def import_data(report: ImportReport) -> ImportData:
    """Render what became of a list."""
    return {
        "created": [
            {"line": each.line, "device_id": each.id, "serial_number": each.serial_number} for each in report.created
        ],
        "refused": [
            {"line": each.line, "field": each.field, "code": each.code, "message": each.message}
            for each in report.refused
        ],
        "total": report.total,
    }
