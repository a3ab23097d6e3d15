"""Raw telemetry of some devices in time order, page by page."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from karma.core.ids import DeviceId
from karma.devices.samples import StoredBatch
from karma.telemetry.domain import Point
from karma.telemetry.ports import Batches
from karma.telemetry.query import Stretch

MAX_UNITS_READ: Final = 16_000
"""Begun kilobytes of stored batches of a device after which a page ends, whatever it shows.

More than a device may send in an hour (karma.devices.allowance), so that a page gets beyond the hour it begins in.
"""


def raw_points(
    batches: Batches, devices: Sequence[DeviceId], metrics: Collection[str], part: Stretch
) -> tuple[list[Point], Mapping[str, object] | None]:
    """Return the points of a page by time, device and metric, and the position of the next page.

    One Query a UTC day, device and page of 100 batches.
    """
    readings = [_InOrder(batches, device_id, metrics, part.start_ms, part.to_ms) for device_id in devices]
    order = {device_id: place for place, device_id in enumerate(devices)}
    points: list[Point] = []
    skip, more = part.skip, False
    merged = heapq.merge(*readings, key=lambda point: (point.ts, order[point.device_id], point.metric, point.value))
    for point in merged:
        if skip and point.ts == part.start_ms:
            skip -= 1
            continue
        if len(points) == part.limit:
            more = True
            break
        points.append(point)
    # Behind this moment not all devices were read.
    read_to = min((each.reached for each in readings if each.reached is not None), default=None)
    if read_to is not None and (not more or points[-1].ts >= read_to):
        return [point for point in points if point.ts < read_to], {"ts": read_to}
    if not more:
        return points, None
    last_ts = points[-1].ts
    shown = sum(1 for point in points if point.ts == last_ts)
    return points, {"ts": last_ts, "n": shown + (part.skip if last_ts == part.start_ms else 0)}


class _InOrder:
    """Samples of a device by time, then metric, until a page's worth of batches was read."""

    def __init__(
        self, batches: Batches, device_id: DeviceId, metrics: Collection[str], from_ms: int, to_ms: int
    ) -> None:
        self._batches = batches
        self._device_id = device_id
        self._metrics = metrics
        self._from_ms = from_ms
        self._to_ms = to_ms
        self.reached: int | None = None
        """Time up to which samples were yielded when the reading ended early; None: it did not."""

    def __iter__(self) -> Iterator[Point]:
        """Yield the samples; batches overlap, so a sample waits until a batch begins after it."""
        waiting: list[Point] = []
        read = 0
        for batch in self._batches.batches(self._device_id, from_ms=self._from_ms, to_ms=self._to_ms):
            # What began before the page does, is read again by each of them and brings none further.
            is_enough = read >= MAX_UNITS_READ and batch.min_ts > self._from_ms
            if is_enough or (waiting and waiting[0].ts < batch.min_ts):
                waiting.sort()
                safe = next((n for n, point in enumerate(waiting) if point.ts >= batch.min_ts), len(waiting))
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

    def _of(self, batch: StoredBatch) -> Iterator[Point]:
        for ts, values in batch.samples:
            if not self._from_ms <= ts < self._to_ms:
                continue
            for metric, value in values.items():
                if not self._metrics or metric in self._metrics:
                    yield Point(ts, self._device_id, metric, value)
