"""Removing what telemetry keeps of a deleted device, besides its raw samples."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.core.clock import Clock
from karma.core.ids import DeviceId
from karma.telemetry.archives import ArchiveObjects
from karma.telemetry.repository import RollupRepository

CLOSED_FOR: Final = timedelta(days=2)
"""Time for which a closed directory is kept: longer than a worker may hold what it has read."""


class TelemetryOfDevices:
    """Removes the rollups and archived days of a deleted device; fulfils devices.ports.DataOfDevices."""

    def __init__(self, rollups: RollupRepository, objects: ArchiveObjects, clock: Clock) -> None:
        self._rollups = rollups
        self._objects = objects
        self._clock = clock

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` items of a deleted device and return how many; fewer than `limit`: none is left.

        The directory is closed first, so nothing is noted behind what is removed. A mark that comes later is removed by
        the worker that finds no samples for it; an object that a worker puts later is removed by that worker, or by the
        next delivery of its message.
        """
        self._rollups.close(device_id, forget_at=self._clock.now() + CLOSED_FOR)
        removed = self._rollups.remove(device_id, limit=limit)
        if removed < limit:
            removed += self._objects.remove_all(device_id, limit=limit - removed)
        return removed
