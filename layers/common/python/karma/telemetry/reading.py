"""Reading of telemetry for owners and for whom projects show the devices, of several of these at once.

It is raw points, or buckets of minutes, hours or days.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import DeviceId, UserId
from karma.telemetry.buckets import BucketReader, Window
from karma.telemetry.domain import BUCKET_MS, DAY_MS, HOUR_MS, Resolution, TelemetryPoint, gaps_between
from karma.telemetry.ports import Batches, Devices, MetricDirectory, Rollups
from karma.telemetry.query import MAX_SERIES, RETENTION_MS, MetricSeries, Stretch, TelemetryPage, TelemetryQuery
from karma.telemetry.raw import raw_points

_Found = tuple[Sequence[TelemetryPoint], Mapping[str, object] | None]


class TelemetryReader:
    """Reads the telemetry of whatever devices somebody may read."""

    def __init__(
        self,
        devices: Devices,
        batches: Batches,
        rollups: Rollups,
        clock: Clock,
        *,
        kept_days: Callable[[UserId], int] = lambda _: 0,
    ) -> None:
        """Build the reader; `kept_days` reads how long an account's plan keeps raw telemetry that is archived."""
        self._kept_days = kept_days
        self._devices = devices
        self._batches = batches
        self._rollups = rollups
        self._buckets = BucketReader(rollups, batches)
        self._clock = clock

    def read(self, user_id: UserId, query: TelemetryQuery) -> TelemetryPage:
        """Return a page of points.

        Raw: one Query a UTC day, device and page of 100 batches; a page ends when so many batches were read that it may
        have few points, or none, and still be followed. Buckets: see BucketReader; a page is a stretch of time, the
        same for all series.

        Raises:
            NotFound: a device does not exist, or is another's and no project shows it to whoever asks.
            InvalidRequest: INVALID_RANGE, INVALID_PERCENTILES as Stretch says; TOO_MANY_SERIES.
        """
        devices, part = self.asked(user_id, query)
        metrics = frozenset(query.metrics)
        points: Sequence[TelemetryPoint]
        if part.resolution is Resolution.RAW:
            points, position = raw_points(self._batches, devices, metrics, part)
        else:
            points, position = self._of_buckets(devices, metrics, query.percents, part)
        return TelemetryPage(
            points=tuple(points),
            series=tuple(_series(devices, metrics, points, part, position)),
            resolution=part.resolution,
            from_ms=part.from_ms,
            to_ms=part.to_ms,
            limit=part.limit,
            next_position=None if position is None else {"from": part.from_ms, "to": part.to_ms, **position},
        )

    def asked(
        self, user_id: UserId, query: TelemetryQuery, *, any_length: bool = False
    ) -> tuple[Sequence[DeviceId], Stretch]:
        """Return what a query means now for whoever asks; a read a device. `any_length`: see Stretch.

        Raises:
            NotFound, InvalidRequest: as `read`.
        """
        found = [self._devices.find(user_id, each) for each in dict.fromkeys(query.devices)]
        devices = [each.device_id for each in found]
        if len(devices) * max(1, len(set(query.metrics))) > MAX_SERIES:
            raise InvalidRequest(f"devices, metrics: at most {MAX_SERIES} series", code="TOO_MANY_SERIES")
        now_ms = epoch_ms(self._clock.now())
        raw_kept_ms = RETENTION_MS
        if query.from_ms is not None and query.from_ms < now_ms - RETENTION_MS:
            # Owners' plans say how long theirs is kept; several begin where all of them are kept.
            kept_days = min(map(self._kept_days, dict.fromkeys(each.owner_id for each in found)), default=0)
            raw_kept_ms = max(raw_kept_ms, kept_days * DAY_MS)
        return devices, Stretch.of(query, now_ms, raw_kept_ms=raw_kept_ms, any_length=any_length)

    def may_read(self, user_id: UserId, devices: Sequence[DeviceId]) -> bool:
        """Tell whether an account may read all of these devices; a read a device."""
        try:
            for device_id in devices:
                self._devices.find(user_id, device_id)
        except NotFound:
            return False
        return True

    def _of_buckets(
        self, devices: Sequence[DeviceId], metrics: Collection[str], percents: Sequence[float], part: Stretch
    ) -> _Found:
        directories = [self._rollups.directory(device_id) for device_id in devices]
        size = BUCKET_MS[part.resolution]
        series = max(1, sum(_width(each, metrics) for each in directories))
        # Nothing is stored of what is later than this.
        last_ms = min(part.to_ms, part.now_ms + HOUR_MS)
        end_ms = min(part.to_ms, part.start_ms + max(1, part.limit // series) * size)
        window = Window(
            resolution=part.resolution,
            begin_ms=part.start_ms,
            end_ms=end_ms,
            now_ms=part.now_ms,
            oldest_ms=part.now_ms - RETENTION_MS + DAY_MS,
            percents=percents,
        )
        found: list[TelemetryPoint] = []
        for device_id, directory in zip(devices, directories, strict=True):
            found += self._buckets.read(device_id, directory, metrics, window)
        found.sort(key=lambda bucket: bucket.ts)
        before = sum(1 for bucket in found[: part.skip] if bucket.ts == part.start_ms)
        shown = found[before : before + part.limit]
        if before + len(shown) < len(found):
            last_ts = shown[-1].ts
            same = sum(1 for bucket in found[: before + len(shown)] if bucket.ts == last_ts)
            return shown, {"ts": last_ts, "n": same}
        return shown, None if end_ms >= last_ms else {"ts": end_ms}


def _width(directory: MetricDirectory, metrics: Collection[str]) -> int:
    return len(metrics) or len(directory.metrics)


def _series(
    devices: Sequence[DeviceId],
    metrics: Collection[str],
    points: Sequence[TelemetryPoint],
    part: Stretch,
    position: Mapping[str, object] | None,
) -> list[MetricSeries]:
    """Return points by device and metric; a metric that is asked for and has none is there, too."""
    by_key: dict[tuple[DeviceId, str], list[TelemetryPoint]] = {
        (device_id, metric): [] for device_id in devices for metric in sorted(metrics)
    }
    for point in points:
        by_key.setdefault((point.device_id, point.metric), []).append(point)
    order = {device_id: place for place, device_id in enumerate(devices)}
    shown_to = min(part.to_ms if position is None else int(str(position["ts"])), part.now_ms)
    return [
        MetricSeries(
            device_id=device_id,
            metric=metric,
            points=tuple(found),
            gaps=()
            if part.resolution is Resolution.RAW
            else tuple(
                gaps_between(
                    [point.ts for point in found],
                    size_ms=BUCKET_MS[part.resolution],
                    begin_ms=part.start_ms,
                    end_ms=shown_to,
                )
            ),
        )
        for (device_id, metric), found in sorted(by_key.items(), key=lambda pair: (order[pair[0][0]], pair[0][1]))
    ]
