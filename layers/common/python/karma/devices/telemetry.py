"""Reading of telemetry: raw points, or hours and days computed from them on read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import RAW_RETENTION_S, Bucket, DeviceState, Point, Resolution, TelemetryPoint
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.telemetry import StoredBatch, TelemetryRepository

DEFAULT_POINTS: Final = 1_000
MAX_POINTS: Final = 5_000
DEFAULT_RANGE_MS: Final = 24 * 3_600_000
MAX_UNITS_READ: Final = 16_000
"""Begun kilobytes of stored batches after which a page ends, whatever it shows: it gives a position to go on from.

More than a device may send in an hour (karma.devices.allowance), so that a page gets beyond the hour it begins in.
"""
MAX_UNITS_SUMMED: Final = 4 * MAX_UNITS_READ
"""As much is read at once of a day whose sums do not fit into a cursor."""
MAX_SUMS_CHARS: Final = 1_200
"""Most characters of JSON of the sums that a cursor carries, in base64 in its 2,048; those of one metric fit."""

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

        A page ends when `MAX_UNITS_READ` were read, so it may have few points, or none, and still be followed.

        Raises:
            NotFound: the device does not exist or has another owner.
            InvalidRequest: INVALID_RANGE, the range is empty or longer than its resolution allows, or one day of all
            metrics is more than is summed at once.
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
        reading = _InOrder(self._telemetry, device_id, query.metric, start, to_ms)
        for ts, name, value in reading:
            if skip and ts == start:
                skip -= 1
                continue
            if len(points) == query.limit:
                more = True
                break
            points.append(Point(ts, name, value))
        if not more:
            return points, None if reading.reached is None else {"ts": reading.reached}
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
        made = _Made(query, from_ms, size_ms, whole)
        read, last_hour = 0, -1
        for batch in self._telemetry.batches(device_id, from_ms=made.start, to_ms=to_ms):
            # A batch is of one hour (karma.devices.samples), so nothing of an hour that is over follows.
            hour = batch.min_ts - batch.min_ts % _HOUR_MS
            if hour > made.start and hour != last_hour:
                made.begin(hour - hour % size_ms)
                if made.is_full:
                    return made.page(hour)
                if read >= MAX_UNITS_READ and made.fits:
                    return made.page(hour)
                if read >= MAX_UNITS_SUMMED:
                    raise InvalidRequest(
                        f"metric: name one, or ask for hours: days of over {MAX_UNITS_SUMMED} KB are summed by metric",
                        code="INVALID_RANGE",
                    )
            last_hour = hour
            read += batch.units
            made.take(batch, to_ms)
        made.begin(-1)
        return made.page(None)


class _InOrder:
    """Samples by time, then metric, until a page's worth of batches was read."""

    def __init__(
        self, telemetry: TelemetryRepository, device_id: DeviceId, metric: str, from_ms: int, to_ms: int
    ) -> None:
        self._telemetry = telemetry
        self._device_id = device_id
        self._metric = metric
        self._from_ms = from_ms
        self._to_ms = to_ms
        self.reached: int | None = None
        """Time up to which samples were yielded when the reading ended early; None: it did not."""

    def __iter__(self) -> Iterator[tuple[int, str, float]]:
        """Yield the samples; batches overlap, so a sample waits until a batch begins after it."""
        waiting: list[tuple[int, str, float]] = []
        read = 0
        for batch in self._telemetry.batches(self._device_id, from_ms=self._from_ms, to_ms=self._to_ms):
            # What began before the page does, is read again by each of them and brings none further.
            is_enough = read >= MAX_UNITS_READ and batch.min_ts > self._from_ms
            if is_enough or (waiting and waiting[0][0] < batch.min_ts):
                waiting.sort()
                safe = next((n for n, sample in enumerate(waiting) if sample[0] >= batch.min_ts), len(waiting))
                yield from waiting[:safe]
                del waiting[:safe]
            if is_enough:
                self.reached = batch.min_ts
                return
            if batch.min_ts >= self._from_ms:
                read += batch.units
            waiting += self._of(batch)
        waiting.sort()
        yield from waiting

    def _of(self, batch: StoredBatch) -> Iterator[tuple[int, str, float]]:
        metric = self._metric
        for ts, values in batch.samples:
            if not self._from_ms <= ts < self._to_ms:
                continue
            if not metric:
                yield from ((ts, name, value) for name, value in values.items())
            elif metric in values:
                yield ts, metric, values[metric]


class _Made:
    """Buckets of a page.

    A position has `ts`, from where the next page reads; `n`, how many points of its first bucket were shown; and of a
    bucket that was read in part `sums` by metric and `begin`, where its own reading began.
    """

    def __init__(self, query: TelemetryQuery, from_ms: int, size_ms: int, whole: tuple[int, int]) -> None:
        after = query.after or {}
        self.start = _position(after, "ts", from_ms)
        self._from_ms = _position(after, "begin", self.start)
        self._skip = _position(after, "n", 0)
        self._query = query
        self._size_ms = size_ms
        self._whole = whole
        self._made: list[Bucket] = []
        sums = after.get("sums")
        self._sums: dict[str, list[float]] = dict(sums) if isinstance(sums, dict) else {}
        self._bucket = self.start - self.start % size_ms

    @property
    def is_full(self) -> bool:
        """Tell whether the page has all the points that were asked for."""
        return len(self._made) >= self._skip + self._query.limit

    @property
    def fits(self) -> bool:
        """Tell whether the sums of the bucket that is being read fit into a position."""
        return len(json.dumps(self._sums, separators=(",", ":"))) <= MAX_SUMS_CHARS

    def begin(self, bucket: int) -> None:
        """Close the bucket that is being read, unless it is this one."""
        if bucket == self._bucket:
            return
        partial = not self._whole[0] <= self._bucket <= self._bucket + self._size_ms <= self._whole[1]
        self._made.extend(_buckets_at(self._bucket, self._sums, partial=partial))
        self._sums, self._bucket = {}, bucket

    def take(self, batch: StoredBatch, to_ms: int) -> None:
        """Add the samples of a batch to the bucket that is being read."""
        metric, sums = self._query.metric, self._sums
        for ts, values in batch.samples:
            if not self.start <= ts < to_ms:
                continue
            if not metric:
                taken = values.items()
            elif metric in values:
                taken = {metric: values[metric]}.items()
            else:
                continue
            for name, value in taken:
                of = sums.get(name)
                if of is None:
                    sums[name] = [1, value, value, value]
                else:
                    of[0] += 1
                    of[1] = min(of[1], value)
                    of[2] = max(of[2], value)
                    of[3] += value

    def page(self, following: int | None) -> tuple[list[Bucket], Mapping[str, object] | None]:
        """Return the points, and the position of the next page, which reads from `following`; None: all was read."""
        # A bucket of more metrics than a page has points is shown on several.
        end = self._skip + self._query.limit
        shown = self._made[self._skip : end]
        if len(self._made) > end:
            last = shown[-1].ts
            seen = sum(1 for each in self._made[:end] if each.ts == last)
            return shown, {"ts": max(last, self._from_ms), "n": seen}
        if following is None:
            return shown, None
        left = 0 if self._made else self._skip
        if not self._sums:
            return shown, {"ts": following, "n": left}
        return shown, {"ts": following, "n": left, "sums": self._sums, "begin": max(self._bucket, self._from_ms)}


def _position(position: Mapping[str, object], name: str, default: int) -> int:
    value = position.get(name, default)
    return value if isinstance(value, int) else default


def _buckets_at(ts: int, sums: Mapping[str, list[float]], *, partial: bool) -> Iterator[Bucket]:
    for name, (count, low, high, total) in sorted(sums.items()):
        average = min(max(total / count, low), high)
        yield Bucket(ts, name, int(count), low, high, average, partial)
