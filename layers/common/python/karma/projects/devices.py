"""Use cases of devices that projects show to their members; shares.py says what a share is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import DeviceId, ProjectId, UserId, is_id
from karma.core.observability import count, logger
from karma.core.repeat import repeat
from karma.projects.access import ProjectAccess
from karma.projects.domain import Membership, ProjectChanged
from karma.projects.permissions import ProjectPermission, allows
from karma.projects.shares import (
    MAX_DEVICES,
    MAX_PROJECTS_OF_A_DEVICE,
    DeviceShare,
    Join,
    SharedAt,
    ShownDevice,
    TooManyShares,
)


class DevicesOfProjects(Protocol):
    """Shares; repository/devices.py says what each method promises."""

    def of_device(self, device_id: DeviceId) -> Sequence[DeviceShare]: ...  # noqa: D102
    def of_project(self, project_id: ProjectId) -> Sequence[DeviceShare]: ...  # noqa: D102
    def at(self, share: DeviceShare, viewer: UserId) -> SharedAt: ...  # noqa: D102
    def add(self, share: DeviceShare, *, actor: Membership, also: Join) -> None: ...  # noqa: D102
    def remove(self, share: DeviceShare) -> bool: ...  # noqa: D102


class ShownDevices:
    """Tells whose a device is that a project shows somebody."""

    def __init__(self, store: DevicesOfProjects) -> None:
        self._store = store

    def shown_to(self, viewer: UserId, device_id: str, permission: ProjectPermission) -> ShownDevice | None:
        """Return whose a device is that a project shows somebody; None: none does, or it is their own.

        One Query of the index, and a BatchGet for each of the device's projects until one of them gives the permission.
        """
        shown: ShownDevice | None = None
        for share in self._store.of_device(DeviceId(device_id)) if is_id(device_id) else ():
            if share.owner_id == viewer:
                return None
            found = self._store.at(share, viewer)
            if not found.counts or found.viewer is None:
                continue
            shown = ShownDevice(owner_id=share.owner_id, may=allows(found.viewer.role, permission))
            if shown.may:
                break
        return shown


class ProjectDevices(ShownDevices):
    """Use cases of devices that projects show."""

    def __init__(self, store: DevicesOfProjects, access: ProjectAccess, clock: Clock) -> None:
        super().__init__(store)
        self._access = access
        self._clock = clock

    def of_project(self, user_id: UserId, project_id: str) -> Sequence[DeviceShare]:
        """Return the shares of a project that count, newest device first, for its members.

        Raises:
            NotFound: the project does not exist or is deleted, or the person is no member.
        """
        shares = self._store.of_project(ProjectId(project_id)) if is_id(project_id) else ()
        # Behind them, so that one read admits the caller and tells which owners are members.
        owners = dict.fromkeys(each.owner_id for each in shares)
        members = self._access.require(user_id, project_id, ProjectPermission.READ_DEVICES, *owners).others
        return [
            each for each in shares if each.owner_id in members and members[each.owner_id].joined_at <= each.shared_at
        ]

    def of_device(self, user_id: UserId, device_id: str) -> Sequence[DeviceShare]:
        """Return the shares of a device that count, for its owner."""
        found = self._store.of_device(DeviceId(device_id)) if is_id(device_id) else ()
        mine = [each for each in found if each.owner_id == user_id]
        return [each for each in mine if self._store.at(each, user_id).counts]

    def require(self, user_id: UserId, project_id: str, device_id: str) -> DeviceShare:
        """Return the share of one of somebody's devices with a project.

        Raises:
            NotFound: the project does not show the device, or it is not theirs.
        """
        for each in self.of_device(user_id, device_id):
            if each.project_id == project_id:
                return each
        raise NotFound(f"Device {device_id[:64]} not found")

    # Sharing

    def share(self, user_id: UserId, project_id: str, device_id: str, *, also: Join) -> DeviceShare:
        """Let a project show a device of somebody's; a repeat renews it.

        `also` adds the condition that the device is theirs.

        Raises:
            NotFound: the person is no member of the project, or the device is not theirs.
            Forbidden: the person's role may not show devices there.
            TooManyShares: the project has `MAX_DEVICES`, or the device is in `MAX_PROJECTS_OF_A_DEVICE` projects.
        """

        def once() -> DeviceShare:
            admitted = self._access.require(user_id, project_id, ProjectPermission.SHARE_DEVICES)
            if not is_id(device_id):
                raise NotFound(f"Device {device_id[:64]} not found")
            share = DeviceShare(
                project_id=admitted.project.id,
                device_id=DeviceId(device_id),
                owner_id=user_id,
                shared_at=self._clock.now(),
            )
            self._require_room(share)
            self._store.add(share, actor=admitted.member, also=also)
            return share

        made = repeat(once, on=(ProjectChanged,))
        count("DeviceShared")
        logger.info("project.device_shared", project_id=made.project_id, device_id=made.device_id)
        return made

    def _require_room(self, share: DeviceShare) -> None:
        here = [each for each in self._store.of_project(share.project_id) if each.device_id != share.device_id]
        if len(here) >= MAX_DEVICES:
            raise TooManyShares(f"A project shows at most {MAX_DEVICES} devices")
        elsewhere = [
            each for each in self.of_device(share.owner_id, share.device_id) if each.project_id != share.project_id
        ]
        if len(elsewhere) >= MAX_PROJECTS_OF_A_DEVICE:
            raise TooManyShares(f"A device is in at most {MAX_PROJECTS_OF_A_DEVICE} projects")

    def unshare(self, user_id: UserId, project_id: str, device_id: str) -> None:
        """Take a device out of a project: its owner may, member or not, and who manages the project's members.

        Raises:
            NotFound: the project does not show the device, or the person is neither its owner nor a member.
            Forbidden: the person is a member who may not.
        """
        shares = self._store.of_project(ProjectId(project_id)) if is_id(project_id) else ()
        found = [each for each in shares if each.device_id == device_id]
        mine = [each for each in found if each.owner_id == user_id]
        if not mine:
            # Whoever repeats what took their own out is told that it is not there, whatever their role.
            needed = ProjectPermission.MANAGE_MEMBERS if found else ProjectPermission.READ
            self._access.require(user_id, project_id, needed)
        if not (mine or found):
            raise NotFound(f"Device {device_id[:64]} not found")
        if self._store.remove((mine or found)[0]):
            logger.info("project.device_unshared", project_id=project_id, device_id=device_id)
