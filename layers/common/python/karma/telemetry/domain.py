"""Buckets of telemetry, and what is known of the samples in them; pure rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from karma.core.ids import DeviceId
from karma.core.records import Record
from karma.telemetry.sketch import Sketch

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

MAX_METRICS: Final = 200
"""Metrics of a device that are rolled up: the first that it sent. Others are read raw."""


class Resolution(StrEnum):
    """Resolution at which telemetry is read; `auto` is one of the others, by the length of the range."""

    RAW = "raw"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    AUTO = "auto"


BUCKET_MS: Final[Mapping[Resolution, int]] = {
    Resolution.MINUTE: MINUTE_MS,
    Resolution.HOUR: HOUR_MS,
    Resolution.DAY: DAY_MS,
}
"""Length of a bucket in milliseconds; buckets begin at full minutes, hours and days of UTC."""

_AUTO: Final = ((Resolution.RAW, HOUR_MS), (Resolution.MINUTE, 25 * HOUR_MS), (Resolution.HOUR, 62 * DAY_MS))
"""Longest range that `auto` shows at each resolution: at most 1,500 buckets, the longest local day by its minutes."""


def resolution_for(span_ms: int) -> Resolution:
    """Return what `auto` means for a range."""
    return next((resolution for resolution, most_ms in _AUTO if span_ms <= most_ms), Resolution.DAY)


class Level(StrEnum):
    """Length of a bucket that has rollups, or a day's archive."""

    HOUR = "hour"
    DAY = "day"
    ARCHIVE = "archive"
    """A day whose raw batches are to be archived; it has no rollups."""


LEVEL_MS: Final[Mapping[Level, int]] = {Level.HOUR: HOUR_MS, Level.DAY: DAY_MS, Level.ARCHIVE: DAY_MS}


class Period(NamedTuple):
    """An hour or a day of a device, counted from 1970."""

    device_id: DeviceId
    level: Level
    number: int

    @property
    def begin_ms(self) -> int:
        """Return when it begins, in milliseconds since 1970."""
        return self.number * LEVEL_MS[self.level]

    @property
    def end_ms(self) -> int:
        """Return when it is over, in milliseconds since 1970."""
        return (self.number + 1) * LEVEL_MS[self.level]


class Statistics(NamedTuple):
    """A metric's samples in one minute, hour or day."""

    ts: int
    """Milliseconds since 1970 at which it begins."""
    samples: int
    least: float
    greatest: float
    total: float
    last: float
    """Value of the latest sample; of several at the same time the greatest."""

    @property
    def average(self) -> float:
        """Return the mean, which rounding must not take out of the values' range."""
        return min(max(self.total / self.samples, self.least), self.greatest)


class Rollup(Record):
    """A metric's samples in an hour by minutes, or in a day by hours; parts without a sample have no row."""

    rows: tuple[Statistics, ...]
    """In time order; at least one."""
    sketch: Sketch


def rolled_up(samples: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, Rollup]:
    """Return the rollups of an hour by metric, made of its samples in any order."""
    minutes: dict[str, dict[int, list[float]]] = {}
    latest: dict[str, dict[int, tuple[int, float]]] = {}
    for ts, values in samples:
        minute = ts - ts % MINUTE_MS
        for metric, value in values.items():
            if metric not in minutes:
                minutes[metric], latest[metric] = {}, {}
            known = minutes[metric].get(minute)
            if known is None:
                minutes[metric][minute], latest[metric][minute] = [value], (ts, value)
            else:
                known.append(value)
                latest[metric][minute] = max(latest[metric][minute], (ts, value))
    return {
        metric: Rollup(
            # fsum rounds once, so the order of the samples does not matter.
            tuple(
                Statistics(ts, len(values), min(values), max(values), math.fsum(values), latest[metric][ts][1])
                for ts, values in sorted(found.items())
            ),
            Sketch.of(value for values in found.values() for value in values),
        )
        for metric, found in minutes.items()
    }


def joined(hours: Iterable[tuple[int, Rollup]]) -> Rollup:
    """Return the rollup of a day made of those of its hours, of which there is at least one, in time order."""
    found = list(hours)
    return Rollup(tuple(summed(ts, each) for ts, each in found), Sketch.merged(each.sketch for _, each in found))


def summed(ts: int, rollup: Rollup) -> Statistics:
    """Return all samples of a rollup in one row that begins at `ts`."""
    rows = rollup.rows
    return Statistics(
        ts,
        sum(row.samples for row in rows),
        min(row.least for row in rows),
        max(row.greatest for row in rows),
        math.fsum(row.total for row in rows),
        rows[-1].last,
    )


class Point(NamedTuple):
    """A metric's value at one moment."""

    ts: int
    """Milliseconds since 1970."""
    device_id: DeviceId
    metric: str
    value: float


class Bucket(NamedTuple):
    """A metric's values in one minute, hour or day of UTC."""

    ts: int
    """Milliseconds since 1970 at which it begins."""
    device_id: DeviceId
    metric: str
    row: Statistics
    partial: bool
    """True: it is not over yet, or samples of it are not counted yet."""
    percentiles: Mapping[str, float]


TelemetryPoint = Point | Bucket


class Gap(NamedTuple):
    """A stretch without a sample, in milliseconds since 1970; its end is not part of it."""

    begin_ms: int
    end_ms: int


def gaps_between(times: Iterable[int], *, size_ms: int, begin_ms: int, end_ms: int) -> list[Gap]:
    """Return the stretches of [begin, end) in which no bucket of a series begins, given when its buckets do."""
    found: list[Gap] = []
    after = begin_ms
    for ts in times:
        if ts > after:
            found.append(Gap(after, ts))
        after = ts + size_ms
    if after < end_ms:
        found.append(Gap(after, end_ms))
    return found
