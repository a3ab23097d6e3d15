"""Conditions on devices in transactions of other contexts."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import DeviceId, UserId
from karma.devices.domain import DeviceState
from karma.devices.repository.items import DeviceItem, device_key


def require_device(tx: Transaction, user_id: UserId, device_id: DeviceId) -> None:
    """Add the condition that the device is active; otherwise the transaction fails with NotFound. Two write units."""
    tx.check(
        DeviceItem,
        device_key(user_id, device_id),
        DeviceItem.state == DeviceState.ACTIVE,
        on_fail=NotFound(f"Device {device_id} not found"),
    )
