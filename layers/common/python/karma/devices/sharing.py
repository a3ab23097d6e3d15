"""Devices of others that projects show: whose they are, and a list of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from karma.core.errors import Forbidden, NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import SERIAL, DeviceState
from karma.devices.reading import DevicePage, DeviceQuery, page_of
from karma.devices.repository.devices import DeviceRepository
from karma.devices.transactional import require_device

if TYPE_CHECKING:  # an owner's requests do without
    from karma.projects.devices import ProjectDevices, ShownDevices
    from karma.projects.shares import DeviceShare

_T = TypeVar("_T")


class ReachableDevices:
    """Lets people reach their devices, and those that others share with their projects."""

    def __init__(self, shown: Callable[[], ShownDevices], devices: DeviceRepository) -> None:
        """Build it; `shown` is asked for where somebody has no such device of their own."""
        self._shown = shown
        self._devices = devices

    def to_read(self, viewer: UserId, device_ref: str, use: Callable[[UserId], _T]) -> _T:
        """Return what `use` makes of a device of this owner: the viewer, or, if they have none, whoever shares it.

        An owner's own use costs no call more. The device is named by its id, or, where `use` takes that, by its serial
        number.

        Raises:
            NotFound: the viewer has no such device, and no project shows it to them.
        """
        return self._reach(viewer, device_ref, "read_devices", use)

    def to_control(self, viewer: UserId, device_ref: str, use: Callable[[UserId], _T]) -> _T:
        """Return what `to_read` does, for whoever may send the device commands.

        Raises:
            NotFound: as `to_read`.
            Forbidden: a project shows it to them, and their role there may not.
        """
        return self._reach(viewer, device_ref, "control_devices", use)

    def owner_for(self, viewer: UserId, device_id: str) -> UserId:
        """Return whose a device is that somebody may read; themselves, where there is none, or none any more."""
        try:
            return self.to_read(viewer, device_id, lambda owner: self._found(owner, device_id))
        except NotFound:
            return viewer

    def _found(self, owner: UserId, device_id: str) -> UserId:
        if not is_id(device_id) or not self._is_there(owner, DeviceId(device_id)):
            raise NotFound(f"Device {device_id[:64]} not found")
        return owner

    def _reach(self, viewer: UserId, device_ref: str, needed: str, use: Callable[[UserId], _T]) -> _T:
        try:
            return use(viewer)
        except NotFound:
            from karma.projects.permissions import ProjectPermission

            permission = ProjectPermission(needed)
            device_id = self._id_of(device_ref)
            shown = self._shown().shown_to(viewer, device_id, permission) if device_id is not None else None
            if shown is None or device_id is None:
                raise
            if not shown.may and self._is_there(shown.owner_id, device_id):
                raise Forbidden.lacking(permission.value, where=" in this project") from None
            if not shown.may:
                raise
        return use(shown.owner_id)

    def _id_of(self, ref: str) -> DeviceId | None:
        claim = self._devices.claim_of(ref) if not is_id(ref) and SERIAL.fullmatch(ref) else None
        return claim.device_id if claim is not None else DeviceId(ref) if is_id(ref) else None

    def _is_there(self, owner: UserId, device_id: DeviceId) -> bool:
        row = self._devices.row(owner, device_id, consistent=True)
        return row is not None and row.state is DeviceState.ACTIVE


class SharedDevices(ReachableDevices):
    """Lists devices that projects show, and shares them."""

    def __init__(self, projects: Callable[[], ProjectDevices], devices: DeviceRepository) -> None:
        super().__init__(projects, devices)
        self._projects = projects

    def page(self, viewer: UserId, project_id: str, query: DeviceQuery) -> DevicePage:
        """Return a page of the devices that a project shows to its members.

        Raises:
            NotFound: the project does not exist, or the viewer is no member.
        """
        shares = self._projects().of_project(viewer, project_id)
        return page_of(self._devices.each_of([(each.owner_id, each.device_id) for each in shares]), query)

    def share(self, user_id: UserId, project_id: str, device_id: str) -> DeviceShare:
        """Let a project show one of somebody's devices.

        Raises:
            NotFound: the device is not theirs, or they are no member of the project.
            Forbidden, TooManyShares: as of `ProjectDevices.share`.
        """
        if not is_id(device_id):
            raise NotFound(f"Device {device_id} not found")
        return self._projects().share(
            user_id, project_id, device_id, also=lambda tx: require_device(tx, user_id, DeviceId(device_id))
        )
