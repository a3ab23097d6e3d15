"""Reads of devices for other contexts that store items of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from karma.core.errors import Forbidden, NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import SERIAL, DeviceState
from karma.devices.repository.devices import DeviceRepository

if TYPE_CHECKING:
    from karma.projects.permissions import ProjectPermission
    from karma.projects.shares import ShownDevice


class FoundDevice(NamedTuple):
    """A device that was required, with whose it is."""

    owner_id: UserId
    device_id: DeviceId


class DeviceLookup:
    """Devices of their owners, as other contexts require them."""

    def __init__(self, devices: DeviceRepository) -> None:
        self._devices = devices

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        """Return the id of an active device: as `find`."""
        return self.find(user_id, device_id).device_id

    def find(self, user_id: UserId, device_id: str) -> FoundDevice:
        """Return an active device of this owner: one read.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        row = self._devices.row(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        return FoundDevice(row.user_id, row.id)

    def resolve(self, user_id: UserId, ref: str) -> DeviceId:
        """Return the id of an active device that is named by id or serial number: as `find`, or one read more.

        Raises:
            NotFound: as `find`.
        """
        if is_id(ref):
            return self.require(user_id, ref)
        claim = self._devices.claim_of(ref) if SERIAL.fullmatch(ref) else None
        try:
            if claim is not None:
                return self.require(user_id, claim.device_id)
        except NotFound:  # of an id that is not the asker's to know
            pass
        raise NotFound(f"Device {ref} not found")


class SharedLookup(DeviceLookup):
    """Devices as whoever may read or control them requires them: their owners, and whom projects show them.

    An owner's own cost no call more; one of another's costs a Query of the index of shares, a BatchGet for each of the
    device's projects until one gives the permission, and the read of the owner's row.
    """

    def __init__(self, devices: DeviceRepository, needed: str) -> None:
        """Build it; `needed` is the permission of projects that one of another's takes (`ProjectPermission`)."""
        super().__init__(devices)
        self._needed = needed

    def find(self, user_id: UserId, device_id: str) -> FoundDevice:
        """Return an active device of somebody's own, or one that a project shows them.

        Raises:
            NotFound: they have no such device, and no project shows it to them.
            Forbidden: a project shows it to them, and their role there does not have the permission.
        """
        try:
            return super().find(user_id, device_id)
        except NotFound:
            permission, shown = self._shown(user_id, device_id)
            if shown is None:
                raise
        found = super().find(shown.owner_id, device_id)
        if not shown.may:
            raise Forbidden.lacking(permission.value, where=" in this project")
        return found

    def _shown(self, viewer: UserId, device_id: str) -> tuple[ProjectPermission, ShownDevice | None]:
        from karma.projects.lookup import shown_device  # local: owners' requests do without
        from karma.projects.permissions import ProjectPermission

        permission = ProjectPermission(self._needed)
        return permission, shown_device(viewer, device_id, permission)
