"""The sweep of dirty hours and days: sends those that are due to the queue of telemetry, as hints."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Final, Protocol

from karma.core.clock import Clock
from karma.core.ids import DeviceId
from karma.core.sweeping import sweep_each
from karma.telemetry.items import DUE_SHARDS
from karma.telemetry.ports import DirtyPeriod, Rollups
from karma.telemetry.rebuilding import periods_message

PERIODS_A_SHARD: Final = 1_000
PERIODS_A_MESSAGE: Final = 10
LOOK_AGAIN: Final = timedelta(minutes=10)
"""Time after which a period that is still dirty is sent again: its message, or its worker, was lost."""


class TelemetryQueue(Protocol):
    """The queue of telemetry."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one message. Raises Upstream."""


def send_dirty(rollups: Rollups, queue: TelemetryQueue, clock: Clock) -> int:
    """Send the dirty periods that are due; return how many. One that cannot be sent is left for the next sweep."""

    def send(periods: list[DirtyPeriod]) -> int:
        queue.send(periods_message([each.period for each in periods]))
        for each in periods:
            rollups.put_off(each, until=clock.now() + LOOK_AGAIN)
        return len(periods)

    sent = 0
    for shard in range(DUE_SHARDS):
        now = clock.now()
        by_device: dict[DeviceId, list[DirtyPeriod]] = defaultdict(list)
        for dirty in rollups.due(shard, before=now, limit=PERIODS_A_SHARD):
            by_device[dirty.period.device_id].append(dirty)
        messages = [
            periods[at : at + PERIODS_A_MESSAGE]
            for periods in by_device.values()
            for at in range(0, len(periods), PERIODS_A_MESSAGE)
        ]
        sent += sweep_each("rollups", messages, send, name=lambda each: each[0].period.device_id, clock=clock)
    return sent
