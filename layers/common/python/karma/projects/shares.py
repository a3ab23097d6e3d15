"""Devices that projects show to their members.

A share of a device is its owner's word that a project's members may see it, each as their role says (permissions.py).
The device stays its owner's: plan, settings, certificates, files and deletion. A share is worth nothing

    when the project is deleted, or the share is taken back
    when its owner is no member any more, or became one again only behind it
    for who is no member, or whose role does not have the permission
    when the device is gone or another account's: then nobody has a device of that id

All of it is read anew each time somebody asks, so nothing has to be cleaned up for it to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from karma.core.errors import Conflict
from karma.core.ids import DeviceId, ProjectId, UserId
from karma.core.records import Record
from karma.projects.domain import Membership, Project

if TYPE_CHECKING:
    from karma.core.dynamo.transaction import Transaction

MAX_DEVICES: Final = 100
"""Largest number of devices of a project."""
MAX_PROJECTS_OF_A_DEVICE: Final = 10

Join = Callable[["Transaction"], None]
"""Adds conditions of another context to a transaction."""


class TooManyShares(Conflict):
    """The project shows as many devices, or the device is in as many projects, as may be."""

    code = "TOO_MANY_OBJECTS"


class DeviceShare(Record, kw_only=True):
    """A device that a project shows."""

    project_id: ProjectId
    device_id: DeviceId
    owner_id: UserId
    shared_at: datetime


class SharedAt(Record, kw_only=True):
    """A share with all that decides whether it counts, read at one moment."""

    project: Project | None
    share: DeviceShare | None
    owner: Membership | None
    viewer: Membership | None

    @property
    def counts(self) -> bool:
        """Tell whether the project shows the device to its members."""
        if self.project is None or self.project.deleting or self.share is None or self.owner is None:
            return False
        return self.owner.user_id == self.share.owner_id and self.owner.joined_at <= self.share.shared_at


class SeenShares(Record, kw_only=True):
    """A project that has shares, as somebody sees it who is a member."""

    changes: int
    """Number of changes of its shares: while it stands, none is made, renewed or taken back."""
    viewer: Membership


class ShownDevice(Record, kw_only=True):
    """A device of another's that somebody sees in a project."""

    owner_id: UserId
    may: bool
    """Their role there has the permission that was asked about."""
