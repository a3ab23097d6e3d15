"""What a device may still cost in an hour, counted over all processes: one item a device and hour."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from karma.core.dynamo.access import upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import DeviceId
from karma.devices.repository.items import HourItem, hour_key

HOUR_S: Final = 3_600
_KEPT_S: Final = 24 * 3_600
"""After the end of the hour: the queue may hand out a message that is hours old."""


class Cost(StrEnum):
    """What is counted."""

    LETTERS = "letters"
    """Dead letters that are kept."""
    UNITS = "units"
    """Write units of telemetry."""


class HourRepository:
    """Conditional counts in one `devices` table."""

    def take(self, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int) -> bool:
        """Count so much more in an hour; False where that would be more than `most`: then nothing is counted."""
        counted = getattr(HourItem, cost.value)
        item = HourItem(*hour_key(device_id, hour))
        actions = [counted.add(amount), HourItem.expires_at.set((hour + 1) * HOUR_S + _KEPT_S)]
        try:
            upsert(item, actions, counted.does_not_exist() | (counted <= most - amount))
        except ConditionFailed:
            return False
        return True
