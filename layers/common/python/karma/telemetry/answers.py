"""Answers about telemetry."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.telemetry.domain import Point, Resolution, TelemetryPoint
from karma.telemetry.exports.domain import ExportState, TelemetryExport
from karma.telemetry.exports.service import ExportLink
from karma.telemetry.query import MetricSeries, TelemetryPage
from karma.telemetry.tables import TableFormat


class PointView(TypedDict):
    """A point of telemetry: a raw one has `value`, a bucket the others. `metric` is there when none was asked for.

    A bucket begins at a full UTC minute, hour or day. It is `partial` when it is not over yet, or when samples that
    came late are not counted in it yet. Where no sample is, there is no bucket.
    """

    metric: NotRequired[str]
    ts: str
    value: NotRequired[float]
    count: NotRequired[int]
    min: NotRequired[float]
    max: NotRequired[float]
    avg: NotRequired[float]
    sum: NotRequired[float]
    last: NotRequired[float]
    percentiles: NotRequired[dict[str, float]]
    """Those that were asked for, such as `p95`, within 1 % of a value that was sent; see docs/api.md."""
    partial: NotRequired[bool]


def point_view(point: TelemetryPoint, *, named: bool) -> PointView:
    """Render a point or a bucket, with the name of its metric or without it."""
    shown: PointView
    if isinstance(point, Point):
        shown = {"ts": iso(from_epoch_ms(point.ts)), "value": point.value}
    else:
        row = point.row
        shown = {
            "ts": iso(from_epoch_ms(point.ts)),
            "count": row.samples,
            "min": row.least,
            "max": row.greatest,
            "avg": row.average,
            "sum": row.total,
            "last": row.last,
            "partial": point.partial,
        }
        if point.percentiles:
            shown["percentiles"] = dict(point.percentiles)
    return {"metric": point.metric, **shown} if named else shown


class TelemetryData(TypedDict):
    """Points in time order."""

    points: list[PointView]
    resolution: Resolution
    """Resolution of the buckets, also where `auto` was asked for."""
    limit: int
    next_cursor: str | None


class SeriesView(TypedDict):
    """A metric of a device."""

    device_id: str
    metric: str
    points: list[PointView]
    gaps: list[list[str]]
    """Stretches of the page in which no bucket has a sample, each `[begin, end]`, up to now; none at resolution raw."""


class TelemetrySeriesData(TypedDict):
    """Points by device and metric, of one stretch of time for all of them."""

    series: list[SeriesView]
    resolution: Resolution
    """Resolution of the buckets, also where `auto` was asked for."""
    begins_at: str
    """Of the range; of buckets widened to whole ones."""
    ends_at: str
    limit: int
    next_cursor: str | None


def telemetry_data(page: TelemetryPage, *, named: bool, next_cursor: str | None) -> TelemetryData:
    """Render the page of one device, each point with the name of its metric or without it."""
    return {
        "points": [point_view(point, named=named) for point in page.points],
        "resolution": page.resolution,
        "limit": page.limit,
        "next_cursor": next_cursor,
    }


def series_view(series: MetricSeries) -> SeriesView:
    """Render a series."""
    return {
        "device_id": series.device_id,
        "metric": series.metric,
        "points": [point_view(point, named=False) for point in series.points],
        "gaps": [[iso(from_epoch_ms(gap.begin_ms)), iso(from_epoch_ms(gap.end_ms))] for gap in series.gaps],
    }


def series_data(page: TelemetryPage, *, next_cursor: str | None) -> TelemetrySeriesData:
    """Render a page by device and metric."""
    return {
        "series": [series_view(each) for each in page.series],
        "resolution": page.resolution,
        "begins_at": iso(from_epoch_ms(page.from_ms)),
        "ends_at": iso(from_epoch_ms(page.to_ms)),
        "limit": page.limit,
        "next_cursor": next_cursor,
    }


class ExportFailureView(TypedDict):
    """Reason for which an export failed."""

    code: str
    """`EXPORT_TOO_LARGE`: it has more rows than the plan allows; `NOT_FOUND`: a device may not be read any more;
    `EXPORT_FAILED`.
    """
    message: str


class ExportView(TypedDict):
    """An export, which is written in the background."""

    id: str
    state: ExportState
    format: TableFormat
    devices: list[str]
    metrics: list[str]
    """Empty: all of each device."""
    begins_at: str
    """Of the range; of buckets widened to whole ones, and of what is kept."""
    ends_at: str
    resolution: Resolution
    """Resolution of the buckets, also where `auto` was asked for."""
    percentiles: list[float]
    progress: float
    """Share of the range that is written, from 0 to 1."""
    rows: int
    """Rows that are written."""
    size: int | None
    """Bytes of the download, of which CSV is compressed on its way; null until the table is whole."""
    url: str | None
    """Link that downloads the table; null in lists, until the table is whole, and once a device of it may not be
    read any more.
    """
    url_expires_at: str | None
    """End of the link; another read makes a new one."""
    error: ExportFailureView | None
    """Null unless `state` is `failed`."""
    created_at: str
    ended_at: str | None
    expires_at: str | None
    """The moment at which the export and its table are removed; null until it is over."""


def export_view(export: TelemetryExport, link: ExportLink | None = None) -> ExportView:
    """Render an export."""
    order = export.order
    return {
        "id": export.key.export_id,
        "state": export.state,
        "format": order.format,
        "devices": list(order.devices),
        "metrics": list(order.metrics),
        "begins_at": iso(from_epoch_ms(order.from_ms)),
        "ends_at": iso(from_epoch_ms(order.to_ms)),
        "resolution": order.resolution,
        "percentiles": list(order.percents),
        "progress": export.progress,
        "rows": export.rows,
        "size": export.size or None,
        "url": link.url if link else None,
        "url_expires_at": iso(link.until) if link else None,
        "error": {"code": export.failure.code, "message": export.failure.message} if export.failure else None,
        "created_at": iso(from_epoch_ms(export.created_ms)),
        "ended_at": None if export.ended_ms is None else iso(from_epoch_ms(export.ended_ms)),
        "expires_at": iso(export.forget_at) if export.forget_at else None,
    }


class TelemetryExportData(TypedDict):
    """One export."""

    export: ExportView


class TelemetryExportListData(TypedDict):
    """A page of exports, newest first."""

    exports: list[ExportView]
    limit: int
    next_cursor: str | None
