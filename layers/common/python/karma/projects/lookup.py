"""Reads of what projects show, for other contexts."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.ids import ProjectId, UserId
from karma.projects.all_shares import AllShares
from karma.projects.devices import ShownDevices
from karma.projects.permissions import ProjectPermission
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.shares import DeviceShare, ShownDevice


def owner_shown_to(viewer: UserId, device_id: str) -> UserId | None:
    """Return whose a device is that a project shows somebody; None: none does, or it is their own.

    Strongly consistent, but for which projects a device may be in.
    """
    shown = shown_device(viewer, device_id, ProjectPermission.READ_DEVICES)
    return shown.owner_id if shown is not None and shown.may else None


def shown_device(viewer: UserId, device_id: str, permission: ProjectPermission) -> ShownDevice | None:
    """Return whose a device is that a project shows somebody, and whether they may: as `ShownDevices.shown_to`."""
    return shown_devices().shown_to(viewer, device_id, permission)


def shown_devices() -> ShownDevices:
    """Return what tells whose a device is that a project shows somebody."""
    return ShownDevices(ProjectDeviceRepository())


def all_shares() -> AllShares:
    """Return what tells all that projects show somebody; it keeps what it has read."""
    return AllShares(ProjectDeviceRepository())


def shares_of(project_id: ProjectId) -> Sequence[DeviceShare]:
    """Return the devices that a project shows, whether they count or not: one Query, strongly consistent."""
    return ProjectDeviceRepository().of_project(project_id)
