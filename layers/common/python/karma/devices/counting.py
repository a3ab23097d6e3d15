"""Counting of active devices from the table's stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from karma.core.dynamo.counters import fold
from karma.core.ids import UserId
from karma.devices.domain import DeviceState
from karma.devices.repository.items import (
    DEVICE_PREFIX,
    DeviceCounter,
    devices_counter_key,
)
from karma.identity.transactional import require_account

_OWNER_PREFIX = "USER#"


class RowChange(NamedTuple):
    """Stream record, reduced to what is counted."""

    pk: str
    sk: str
    sequence_number: str
    was_active: bool
    is_active: bool


def is_active(image: Mapping[str, str]) -> bool:
    """Tell whether an image of an item is that of an active device's row."""
    return image.get("type") == "device" and image.get("state") == DeviceState.ACTIVE


class DeviceCounting:
    """Adds changes of rows to their owner's counter."""

    def apply(self, change: RowChange) -> bool:
        """Count one change; return False for a repeat, or a change of something else.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; the change must be delivered again.
        """
        if not (change.pk.startswith(_OWNER_PREFIX) and change.sk.startswith(DEVICE_PREFIX)):
            return False
        difference = int(change.is_active) - int(change.was_active)
        if difference == 0:
            return False
        owner = UserId(change.pk.removeprefix(_OWNER_PREFIX))
        return fold(
            DeviceCounter(*devices_counter_key(owner)),
            change=difference,
            sequence_number=change.sequence_number,
            require_parent=lambda tx: require_account(tx, owner),
        )
