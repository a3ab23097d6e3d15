"""Examples of the OpenAPI document for telemetry: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import BEGAN, DEVICE, LATER

_HOUR = {"count": 3600, "min": 20.1, "max": 23.9, "avg": 21.5, "sum": 77400.0, "last": 22.0, "partial": False}

_EXPORT = "01994b92-0a25-7b31-8d4e-52c7f1a8b326"

FIELDS: Mapping[str, Any] = {
    "metric": "temp_c",
    "QueryTelemetryBody.metrics": ["temp_c"],
    "QueryTelemetryBody.devices": [DEVICE],
    "resolution": "hour",
    "QueryTelemetryBody.percentiles": [50, 95],
    "read_telemetry.percentiles": "50,95",
    "value": 21.5,
    "begins_at": BEGAN,
    "ends_at": LATER,
    "ExportTelemetryBody.metrics": ["temp_c"],
    "ExportTelemetryBody.devices": [DEVICE],
    "ExportTelemetryBody.percentiles": [50, 95],
    "ExportTelemetryBody.format": "parquet",
    "export_id": _EXPORT,
    "ExportView.id": _EXPORT,
    "ExportView.ended_at": LATER,
    "ExportView.devices": [DEVICE],
    "ExportView.metrics": ["temp_c"],
    "ExportView.percentiles": [50, 95],
    "ExportView.format": "parquet",
    "ExportView.state": "succeeded",
    "ExportView.progress": 1.0,
    "ExportView.rows": 744,
    "ExportView.size": 31415,
    "ExportView.url": "https://karma-files.s3.amazonaws.com/exports/...",
    "ExportView.url_expires_at": LATER,
    "ExportView.error": None,
    "ExportFailureView.code": "EXPORT_TOO_LARGE",
    "ExportFailureView.message": "Your plan allows 1000000 rows an export; it has fewer up to 2026-11-21T00:00:00.000Z",
    "TelemetryData.points": [{"ts": BEGAN, **_HOUR}],
    "SeriesView.points": [{"ts": BEGAN, **_HOUR}],
    "SeriesView.gaps": [[BEGAN, LATER]],
    "PointView.percentiles": {"p95": 23.4},
    **{f"PointView.{name}": value for name, value in _HOUR.items()},
}
