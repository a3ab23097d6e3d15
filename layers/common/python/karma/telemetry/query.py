"""A query of telemetry, and the page that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from karma.core.errors import InvalidRequest
from karma.core.ids import DeviceId
from karma.core.records import Record
from karma.devices.domain import RAW_RETENTION_S
from karma.telemetry.domain import BUCKET_MS, DAY_MS, Gap, Resolution, TelemetryPoint, resolution_for
from karma.telemetry.items import DAYS_KEPT, HOURS_KEPT

DEFAULT_POINTS: Final = 1_000
"""Raw points of a page, where nothing else is asked for."""
MAX_POINTS: Final = 5_000
"""Largest number of points of a page; of buckets it is the default."""
DEFAULT_RANGE_MS: Final = DAY_MS
MAX_SERIES: Final = 100
"""Largest number of devices times metrics in a request."""
RETENTION_MS: Final = RAW_RETENTION_S * 1000 + DAY_MS

MAX_RANGE_MS: Final[Mapping[Resolution, int]] = {
    Resolution.RAW: RETENTION_MS,
    Resolution.MINUTE: 31 * DAY_MS,
    Resolution.HOUR: int(HOURS_KEPT.total_seconds()) * 1000,
    Resolution.DAY: int(DAYS_KEPT.total_seconds()) * 1000,
}
KEPT_MS: Final[Mapping[Resolution, int]] = {
    Resolution.RAW: RETENTION_MS,
    Resolution.MINUTE: int(HOURS_KEPT.total_seconds()) * 1000,
    Resolution.HOUR: int(DAYS_KEPT.total_seconds()) * 1000,
    Resolution.DAY: int(DAYS_KEPT.total_seconds()) * 1000,
}
"""Time for which what is shown at a resolution is kept."""

_END_MS: Final = 10**13
"""End of all times of samples, in the year 2286; they begin in 1970."""


class TelemetryQuery(Record, kw_only=True):
    """Devices, metrics, range and page of a read; times in milliseconds, [from, to)."""

    devices: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    """None: all of each device."""
    from_ms: int | None = None
    to_ms: int | None = None
    resolution: Resolution = Resolution.AUTO
    percents: tuple[float, ...] = ()
    """Percentiles of each bucket that are asked for."""
    limit: int | None = None
    after: Mapping[str, object] | None = None
    """The `next_position` of the page before."""


class Stretch(Record, kw_only=True):
    """The part of a query that a page shows, with all that the request left out."""

    resolution: Resolution
    from_ms: int
    to_ms: int
    """Of buckets: widened to whole ones."""
    start_ms: int
    """The place at which the page begins."""
    skip: int
    """Points at `start_ms` that the page before has shown."""
    limit: int
    now_ms: int

    @classmethod
    def of(
        cls, query: TelemetryQuery, now_ms: int, *, raw_kept_ms: int = RETENTION_MS, any_length: bool = False
    ) -> Stretch:
        """Return the part that a query means now; without a range the last day as of its first page.

        `raw_kept_ms` is how long raw telemetry is kept for whoever asks; with `any_length` the range may be as long as
        what is kept.

        Raises:
            InvalidRequest: INVALID_RANGE, the range is empty or longer than its resolution allows; INVALID_PERCENTILES,
                percentiles are asked for at a resolution that has none.
        """
        after = query.after or {}
        to_ms = min(_position(after, "to", query.to_ms if query.to_ms is not None else now_ms + 1), _END_MS)
        from_ms = _position(after, "from", query.from_ms if query.from_ms is not None else to_ms - DEFAULT_RANGE_MS)
        from_ms = max(0, from_ms)
        if not from_ms < to_ms:
            raise InvalidRequest("from: must be before to", code="INVALID_RANGE")
        resolution = query.resolution
        if resolution is Resolution.AUTO:
            resolution = resolution_for(to_ms - from_ms)
            if query.percents and resolution in (Resolution.RAW, Resolution.MINUTE):
                resolution = Resolution.HOUR
        elif query.percents and resolution in (Resolution.RAW, Resolution.MINUTE):
            told = "percentiles: at resolution hour or day, or auto"
            raise InvalidRequest(told, code="INVALID_PERCENTILES")
        if to_ms - from_ms > MAX_RANGE_MS[resolution] and not any_length:
            days = MAX_RANGE_MS[resolution] // DAY_MS
            raise InvalidRequest(f"from, to: at most {days} days at resolution {resolution}", code="INVALID_RANGE")
        # What is older is kept no longer, though the database may not have deleted it yet.
        kept_ms = raw_kept_ms if resolution is Resolution.RAW else KEPT_MS[resolution]
        start_ms = max(from_ms, now_ms - kept_ms)
        if resolution is not Resolution.RAW:
            size = BUCKET_MS[resolution]
            from_ms, to_ms, start_ms = from_ms - from_ms % size, to_ms + -to_ms % size, start_ms - start_ms % size
        default = DEFAULT_POINTS if resolution is Resolution.RAW else MAX_POINTS
        return cls(
            resolution=resolution,
            from_ms=from_ms,
            to_ms=to_ms,
            start_ms=_position(after, "ts", start_ms),
            skip=_position(after, "n", 0),
            limit=query.limit or default,
            now_ms=now_ms,
        )


class MetricSeries(Record, kw_only=True):
    """Points of a metric of a device, in time order."""

    device_id: DeviceId
    metric: str
    points: tuple[TelemetryPoint, ...]
    gaps: tuple[Gap, ...]
    """Stretches of the page without a sample; of buckets alone."""


class TelemetryPage(Record, kw_only=True):
    """A page of a query's answer."""

    points: tuple[TelemetryPoint, ...]
    """By time, then in the order of the devices, then by metric."""
    series: tuple[MetricSeries, ...]
    """The same, by device and metric."""
    resolution: Resolution
    from_ms: int
    to_ms: int
    limit: int
    next_position: Mapping[str, object] | None


def _position(position: Mapping[str, object], name: str, default: int) -> int:
    value = position.get(name, default)
    return value if isinstance(value, int) else default
