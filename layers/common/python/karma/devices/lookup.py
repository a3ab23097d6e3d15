"""Reads of devices for other contexts that store items of a device."""

from __future__ import annotations

from karma.core.errors import NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import DeviceState
from karma.devices.repository.devices import DeviceRepository


class DeviceLookup:
    """Devices as other contexts require them."""

    def __init__(self, devices: DeviceRepository) -> None:
        self._devices = devices

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        """Return the id of an active device of this owner: one read.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        row = self._devices.row(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        return row.id
