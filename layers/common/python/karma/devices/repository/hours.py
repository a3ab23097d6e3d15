"""Costs of devices by hour, counted over all processes: one item a device and hour."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from karma.core.dynamo.access import upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import DeviceId
from karma.devices.repository.items import HourItem, hour_key

HOUR_S: Final = 3_600
_RETENTION_S: Final = 24 * 3_600
"""Seconds after the end of the hour for which the item is kept: the queue may deliver a message hours later."""


class Cost(StrEnum):
    """Cost that is counted."""

    LETTERS = "letters"
    """Dead letters that are kept."""
    UNITS = "units"
    """Write units of telemetry."""
    WORDS = "words"
    """Heartbeats, events, `ready`, and what the broker says of connections."""
    ANSWERS = "answers"
    """Answers to commands."""


class HourRepository:
    """Conditional counts in one `devices` table."""

    def take(self, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int) -> bool:
        """Add an amount to an hour's count; return False and add nothing when that would exceed `most`."""
        counted = getattr(HourItem, cost.value)
        item = HourItem(*hour_key(device_id, hour))
        actions = [counted.add(amount), HourItem.expires_at.set((hour + 1) * HOUR_S + _RETENTION_S)]
        try:
            upsert(item, actions, counted.does_not_exist() | (counted <= most - amount))
        except ConditionFailed:
            return False
        return True
