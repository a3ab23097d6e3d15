"""Reading of telemetry: raw points, or hours and days computed from them on read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import RAW_RETENTION_S, Bucket, DeviceState, Point, Resolution, TelemetryPoint
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.telemetry import TelemetryRepository

DEFAULT_POINTS: Final = 1_000
MAX_POINTS: Final = 5_000
DEFAULT_RANGE_MS: Final = 24 * 3_600_000
MAX_SAMPLES_READ: Final = 200_000
"""Samples after which an aggregated page stops at the next full bucket and gives a position to go on from."""

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

RETENTION_MS: Final = (RAW_RETENTION_S + 24 * 3600) * 1000

MAX_RANGE_MS: Final[Mapping[Resolution, int]] = {
    Resolution.RAW: RETENTION_MS,
    Resolution.AUTO: RETENTION_MS,
    Resolution.HOUR: 7 * _DAY_MS,
    Resolution.DAY: 31 * _DAY_MS,
}
_BUCKET_MS = {Resolution.HOUR: _HOUR_MS, Resolution.DAY: _DAY_MS}


@dataclass(frozen=True, kw_only=True)
class TelemetryQuery:
    """Range, metric and page of a read; times in milliseconds, [from, to).

    `after` is the `next_position` of the page before.
    """

    metric: str = ""
    from_ms: int | None = None
    to_ms: int | None = None
    resolution: Resolution = Resolution.AUTO
    limit: int = DEFAULT_POINTS
    after: Mapping[str, object] | None = None


@dataclass(frozen=True)
class TelemetryPage:
    """Points in time order."""

    points: tuple[TelemetryPoint, ...]
    resolution: Resolution
    from_ms: int
    to_ms: int
    next_position: Mapping[str, object] | None = None


class TelemetryReader:
    """Reads an owner's telemetry."""

    def __init__(self, devices: DeviceRepository, telemetry: TelemetryRepository, clock: Clock) -> None:
        self._devices = devices
        self._telemetry = telemetry
        self._clock = clock

    def points(self, user_id: UserId, device_id: str, query: TelemetryQuery) -> TelemetryPage:
        """Return raw points, or buckets of an hour or a day. One query a UTC day and page of 100 batches.

        Raises:
            NotFound: the device does not exist or has another owner.
            InvalidRequest: INVALID_RANGE, the range is empty or longer than its resolution allows.
        """
        row = self._devices.row(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        now_ms = epoch_ms(self._clock.now())
        after = query.after or {}
        # A page without a time range means the last day as of its first page.
        to_ms = _position(after, "to", query.to_ms if query.to_ms is not None else now_ms + 1)
        from_ms = _position(after, "from", query.from_ms if query.from_ms is not None else to_ms - DEFAULT_RANGE_MS)
        if not from_ms < to_ms:
            raise InvalidRequest("from: must be before to", code="INVALID_RANGE")
        if to_ms - from_ms > MAX_RANGE_MS[query.resolution]:
            days = MAX_RANGE_MS[query.resolution] // _DAY_MS
            raise InvalidRequest(f"from, to: at most {days} days at this resolution", code="INVALID_RANGE")
        resolution = Resolution.RAW if query.resolution is Resolution.AUTO else query.resolution
        # What is older is kept no longer, though the database may not have deleted it yet.
        start_ms = max(from_ms, now_ms - RETENTION_MS)
        points: Sequence[TelemetryPoint]
        if resolution is Resolution.RAW:
            points, position = self._raw(row.id, query, start_ms, to_ms)
        else:
            whole = (start_ms, min(to_ms, now_ms))
            points, position = self._buckets(row.id, query, start_ms, to_ms, _BUCKET_MS[resolution], whole)
        if position is not None:
            position = {"from": from_ms, "to": to_ms, **position}
        return TelemetryPage(tuple(points), resolution, from_ms, to_ms, position)

    def _raw(
        self, device_id: DeviceId, query: TelemetryQuery, from_ms: int, to_ms: int
    ) -> tuple[list[Point], Mapping[str, object] | None]:
        after = query.after or {}
        # Points at the same time as the last one shown: that many of them were shown already.
        start, skip = _position(after, "ts", from_ms), _position(after, "n", 0)
        points: list[Point] = []
        more = False
        for ts, name, value in self._in_order(device_id, query.metric, start, to_ms):
            if skip and ts == start:
                skip -= 1
                continue
            if len(points) == query.limit:
                more = True
                break
            points.append(Point(ts, name, value))
        if not more:
            return points, None
        last_ts = points[-1].ts
        shown = sum(1 for point in points if point.ts == last_ts)
        if last_ts == start:
            shown += _position(after, "n", 0)
        return points, {"ts": last_ts, "n": shown}

    def _buckets(
        self,
        device_id: DeviceId,
        query: TelemetryQuery,
        from_ms: int,
        to_ms: int,
        size_ms: int,
        whole: tuple[int, int],
    ) -> tuple[list[Bucket], Mapping[str, object] | None]:
        after = query.after or {}
        # Of the bucket in which the page before ended: that many of its points were shown already.
        start, skip = _position(after, "ts", from_ms), _position(after, "n", 0)
        made: list[Bucket] = []
        current: dict[str, list[float]] = {}
        bucket = -1

        def close() -> None:
            partial = not whole[0] <= bucket <= bucket + size_ms <= whole[1]
            made.extend(_buckets_at(bucket, current, partial=partial))

        def page(following: int | None) -> tuple[list[Bucket], Mapping[str, object] | None]:
            # A bucket of more metrics than a page has points is shown on several.
            shown = made[skip : skip + query.limit]
            if len(made) > skip + query.limit:
                last = shown[-1].ts
                seen = sum(1 for each in made[: skip + query.limit] if each.ts == last)
                return shown, {"ts": max(last, start), "n": seen}
            return shown, None if following is None else {"ts": max(following, start)}

        for read, (ts, name, value) in enumerate(self._in_order(device_id, query.metric, start, to_ms)):
            here = ts - ts % size_ms
            if here != bucket:
                close()
                current, bucket = {}, here
                if read >= MAX_SAMPLES_READ or len(made) >= skip + query.limit:
                    return page(here)
            sums = current.get(name)
            if sums is None:
                current[name] = [1, value, value, value]
            else:
                sums[0] += 1
                sums[1] = min(sums[1], value)
                sums[2] = max(sums[2], value)
                sums[3] += value
        close()
        return page(None)

    def _in_order(self, device_id: DeviceId, metric: str, from_ms: int, to_ms: int) -> Iterator[tuple[int, str, float]]:
        """Yield samples by time, then metric; batches overlap, so a sample waits until a batch begins after it."""
        waiting: list[tuple[int, str, float]] = []
        for batch in self._telemetry.batches(device_id, from_ms=from_ms, to_ms=to_ms):
            if waiting and waiting[0][0] < batch.min_ts:
                waiting.sort()
                safe = next((n for n, sample in enumerate(waiting) if sample[0] >= batch.min_ts), len(waiting))
                yield from waiting[:safe]
                del waiting[:safe]
            for ts, values in batch.samples:
                if not from_ms <= ts < to_ms:
                    continue
                if metric:
                    if metric in values:
                        waiting.append((ts, metric, values[metric]))
                else:
                    waiting += [(ts, name, value) for name, value in values.items()]
        waiting.sort()
        yield from waiting


def _position(position: Mapping[str, object], name: str, default: int) -> int:
    value = position.get(name, default)
    return value if isinstance(value, int) else default


def _buckets_at(ts: int, sums: Mapping[str, list[float]], *, partial: bool) -> Iterator[Bucket]:
    for name, (count, low, high, total) in sorted(sums.items()):
        average = min(max(total / count, low), high)
        yield Bucket(ts, name, int(count), low, high, average, partial)
