"""Reads of devices for other contexts that store items of a device."""

from __future__ import annotations

from karma.core.errors import NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import SERIAL, DeviceState
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

    def resolve(self, user_id: UserId, ref: str) -> DeviceId:
        """Return the id of an active device of this owner that is named by id or serial number: one or two reads.

        Raises:
            NotFound: as `require`.
        """
        if is_id(ref):
            return self.require(user_id, ref)
        claim = self._devices.claim_of(ref) if SERIAL.fullmatch(ref) else None
        if claim is None or claim.user_id != user_id:
            raise NotFound(f"Device {ref} not found")
        return self.require(user_id, claim.device_id)
