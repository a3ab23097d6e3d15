"""What other contexts ask of a device before they hang something on it."""

from __future__ import annotations

from karma.core.errors import NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import DeviceState
from karma.devices.repository.devices import DeviceRepository


class DeviceParent:
    """Devices as parents of what is not theirs to store."""

    def __init__(self, devices: DeviceRepository) -> None:
        self._devices = devices

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        """Return the id of an active device of this owner: one read.

        Raises:
            NotFound: absent, deleted, or another owner's.
        """
        row = self._devices.row(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        return row.id
