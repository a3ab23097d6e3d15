"""Buckets of a device: from its rollups, and from raw where those are not computed, or not any more.

hour that ended some minutes ago, without a mark     its rollup
hour that is open, or dirty                          computed from raw, as a rebuild would
day without a mark, of such hours                    its rollup
any other day                                        joined from its hours
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from karma.core.ids import DeviceId
from karma.core.records import Record
from karma.telemetry.domain import (
    BUCKET_MS,
    DAY_MS,
    HOUR_MS,
    Bucket,
    Level,
    Resolution,
    Rollup,
    Statistics,
    joined,
    rolled_up,
    summed,
)
from karma.telemetry.ports import Batches, MetricDirectory, Rollups
from karma.telemetry.sketch import Sketch

MAX_UNITS_ROLLED: Final = 16_000
"""Begun kilobytes of a device's batches from which a page computes buckets: beyond, dirty hours are shown as stored."""
UNSETTLED_MS: Final = 15 * 60_000
"""Time after the end of an hour or a day in which its rollups may be missing, and nothing may say so yet."""
_PAGE: Final = 1_000
_Rows = Iterator[tuple[Statistics, Sketch]]


class Window(Record, kw_only=True):
    """The buckets that are asked for: those of a resolution that begin in [begin, end)."""

    resolution: Resolution
    begin_ms: int
    end_ms: int
    now_ms: int
    oldest_ms: int
    """Moment before which raw is not kept whole."""
    percents: Sequence[float] = ()


class _Fresh(Record):
    """Values that were computed from raw."""

    hours: Mapping[int, Mapping[str, Rollup]]
    """By number of the hour, then by metric."""
    left: frozenset[int]
    """Dirty hours that were too many to be computed."""


class BucketReader:
    """Reads buckets of devices."""

    def __init__(self, rollups: Rollups, batches: Batches) -> None:
        self._rollups = rollups
        self._batches = batches

    def read(
        self, device_id: DeviceId, directory: MetricDirectory, metrics: Collection[str], window: Window
    ) -> list[Bucket]:
        """Return a device's buckets by time and metric.

        One Query a metric, and up to four where a part of the window is not settled; one a page of a thousand batches
        of each hour that is computed from raw.
        """
        fresh = self._fresh(device_id, directory, window)
        numbers = {name: number for number, name in enumerate(directory.metrics)}
        seen = {*numbers, *(name for found in fresh.hours.values() for name in found)}
        buckets = [
            bucket
            for name in sorted(seen.intersection(metrics) if metrics else seen)
            for bucket in self._of(_Metric(device_id, name, numbers.get(name)), directory, window, fresh)
        ]
        return sorted(buckets, key=lambda bucket: (bucket.ts, bucket.metric))

    def _fresh(self, device_id: DeviceId, directory: MetricDirectory, window: Window) -> _Fresh:
        first, last = window.begin_ms // HOUR_MS, (window.end_ms - 1) // HOUR_MS
        # A clock that is ahead may have sent samples of the next hour.
        is_open = range((window.now_ms - UNSETTLED_MS) // HOUR_MS, window.now_ms // HOUR_MS + 2)
        dirty = {period.number for period in directory.dirty if period.level is Level.HOUR}
        wanted = sorted((n for n in dirty.union(is_open) if first <= n <= last), reverse=True)
        hours: dict[int, Mapping[str, Rollup]] = {}
        left: set[int] = set()
        units = 0
        for number in wanted:
            if units >= MAX_UNITS_ROLLED or number * HOUR_MS < window.oldest_ms:
                left.add(number)
                continue
            begin = number * HOUR_MS
            found = list(self._batches.batches(device_id, from_ms=begin, to_ms=begin + HOUR_MS, page=_PAGE))
            units += sum(batch.units for batch in found)
            hours[number] = rolled_up(sample for batch in found for sample in batch.samples)
        return _Fresh(hours, frozenset(left))

    def _of(self, metric: _Metric, directory: MetricDirectory, window: Window, fresh: _Fresh) -> Iterator[Bucket]:
        size = BUCKET_MS[window.resolution]
        for row, sketch in self._rows(metric, directory, window, fresh):
            if not window.begin_ms <= row.ts < window.end_ms:
                continue
            hours = range(row.ts // HOUR_MS, (row.ts + size - 1) // HOUR_MS + 1)
            yield Bucket(
                row.ts,
                metric.device_id,
                metric.name,
                row,
                row.ts + size > window.now_ms or not fresh.left.isdisjoint(hours),
                {f"p{each:g}": min(max(sketch.percentile(each), row.least), row.greatest) for each in window.percents},
            )

    def _rows(self, metric: _Metric, directory: MetricDirectory, window: Window, fresh: _Fresh) -> _Rows:
        first, last = window.begin_ms // HOUR_MS, (window.end_ms - 1) // HOUR_MS
        if window.resolution is Resolution.MINUTE:
            for _, rollup in self._hours(metric, fresh, first, last):
                yield from ((row, rollup.sketch) for row in rollup.rows)
        elif window.resolution is Resolution.HOUR and window.percents:
            for hour, rollup in self._hours(metric, fresh, first, last):
                yield summed(hour * HOUR_MS, rollup), rollup.sketch
        else:
            for day, rollup in self._days(metric, directory, window, fresh):
                if window.resolution is Resolution.DAY:
                    yield summed(day * DAY_MS, rollup), rollup.sketch
                else:
                    yield from ((row, rollup.sketch) for row in rollup.rows)

    def _hours(self, metric: _Metric, fresh: _Fresh, first: int, last: int) -> list[tuple[int, Rollup]]:
        """Return a metric's hours, in time order."""
        found = [
            (hour, of[metric.name]) for hour, of in fresh.hours.items() if first <= hour <= last and metric.name in of
        ]
        if metric.number is not None and any(hour not in fresh.hours for hour in range(first, last + 1)):
            stored = self._rollups.read(metric.device_id, Level.HOUR, metric.number, first=first, last=last)
            found += [(hour, rollup) for hour, rollup in stored if hour not in fresh.hours]
        return sorted(found, key=lambda pair: pair[0])

    def _days(
        self, metric: _Metric, directory: MetricDirectory, window: Window, fresh: _Fresh
    ) -> Iterator[tuple[int, Rollup]]:
        first, last = window.begin_ms // DAY_MS, (window.end_ms - 1) // DAY_MS
        unsettled = {hour // 24 for hour in (*fresh.hours, *fresh.left)}
        unsettled.update(period.number for period in directory.dirty if period.level is Level.DAY)
        unsettled.update(range((window.now_ms - UNSETTLED_MS) // DAY_MS, last + 1))
        joinable = sorted(day for day in unsettled if first <= day <= last)
        found: list[tuple[int, Rollup]] = []
        if metric.number is not None and len(joinable) <= last - first:
            stored = self._rollups.read(metric.device_id, Level.DAY, metric.number, first=first, last=last)
            found += [(day, rollup) for day, rollup in stored if day not in unsettled]
        for begin, end in _runs(joinable):
            by_day: dict[int, list[tuple[int, Rollup]]] = {}
            for hour, rollup in self._hours(metric, fresh, begin * 24, end * 24 + 23):
                by_day.setdefault(hour // 24, []).append((hour * HOUR_MS, rollup))
            found += [(day, joined(hours)) for day, hours in by_day.items()]
        yield from sorted(found, key=lambda pair: pair[0])


class _Metric(Record):
    device_id: DeviceId
    name: str
    number: int | None
    """Its number in the directory; None: it has no rollups yet."""


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last of each run of neighbours."""
    begin = None
    for place, number in enumerate(numbers):
        begin = number if begin is None else begin
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield begin, number
            begin = None
