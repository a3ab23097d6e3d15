"""The one table of project permissions: what a member of each role may do in a project.

It is asked by `ProjectAccess` (access.py) and nowhere else, after the account's own table
(karma/identity/permissions.py) has let the request through: an account that may only read, reads whatever its role in
the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from karma.projects.domain import ProjectRole


class ProjectPermission(StrEnum):
    """Actions in a project that need a role."""

    READ = "read"
    """See it and its members, and leave it. Invited people are no members yet, and need no permission to answer."""
    CHANGE = "change"
    """Change name, description, status and progress."""
    DELETE = "delete"
    MANAGE_MEMBERS = "manage_members"
    """Invite and remove members and viewers."""
    CHANGE_ROLES = "change_roles"
    """Give any role but ownership to any member; invite and remove owners and administrators."""
    READ_DEVICES = "read_devices"
    """See the devices that it shows: their description, telemetry and commands, also live."""
    CONTROL_DEVICES = "control_devices"
    """Send them commands, and cancel these."""
    SHARE_DEVICES = "share_devices"
    """Let it show devices of one's own. Taking others' out needs MANAGE_MEMBERS; one's own can always be taken out."""


_OWNER = frozenset({ProjectRole.OWNER})
_ADMINS = _OWNER | {ProjectRole.ADMIN}
_MEMBERS = _ADMINS | {ProjectRole.MEMBER}

ROLES_OF: Mapping[ProjectPermission, frozenset[ProjectRole]] = {
    ProjectPermission.READ: frozenset(ProjectRole),
    ProjectPermission.CHANGE: _MEMBERS,
    ProjectPermission.DELETE: _OWNER,
    ProjectPermission.MANAGE_MEMBERS: _ADMINS,
    ProjectPermission.CHANGE_ROLES: _OWNER,
    ProjectPermission.READ_DEVICES: frozenset(ProjectRole),
    ProjectPermission.CONTROL_DEVICES: _MEMBERS,
    ProjectPermission.SHARE_DEVICES: _MEMBERS,
}


def allows(role: ProjectRole, permission: ProjectPermission) -> bool:
    """Tell whether a role has a permission."""
    return role in ROLES_OF[permission]


def managed_by(role: ProjectRole) -> frozenset[ProjectRole]:
    """Return the roles that a member of this role may give and take."""
    return frozenset(other for other in ProjectRole if allows(role, needed_to_manage(other)))


def needed_to_manage(role: ProjectRole) -> ProjectPermission:
    """Return the permission that adding or removing a member of a role takes."""
    below_admin = role in {ProjectRole.MEMBER, ProjectRole.VIEWER}
    return ProjectPermission.MANAGE_MEMBERS if below_admin else ProjectPermission.CHANGE_ROLES
