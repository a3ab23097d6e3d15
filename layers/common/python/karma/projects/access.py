"""Access to projects: the one place that checks a caller's membership and permission."""

from __future__ import annotations

from collections.abc import Mapping

from karma.core.errors import Forbidden, NotFound
from karma.core.ids import ProjectId, UserId, is_id
from karma.core.records import Record
from karma.projects.domain import Membership, Project
from karma.projects.permissions import ProjectPermission, allows
from karma.projects.ports import Projects


class AdmittedMember(Record, kw_only=True):
    """A caller whose permission was checked, with the project and memberships that were read for it."""

    project: Project
    member: Membership
    others: Mapping[UserId, Membership]

    def require(self, permission: ProjectPermission) -> None:
        """Check another permission of the caller.

        Raises:
            Forbidden: the caller's role does not have the permission.
        """
        if not allows(self.member.role, permission):
            raise Forbidden.lacking(permission.value, where=" in this project")


class ProjectAccess:
    """Checks that callers are members of a project and have a permission in it."""

    def __init__(self, store: Projects) -> None:
        self._store = store

    def require(
        self, user_id: UserId, project_id: str, permission: ProjectPermission, *others: UserId
    ) -> AdmittedMember:
        """Check that somebody is a member with a permission, and read the memberships of `others` with the same call.

        Raises:
            NotFound: the project does not exist or is deleted, or the person is no member.
            Forbidden: the person is a member whose role does not have the permission.
        """
        if not is_id(project_id):
            raise missing(project_id)
        project, members = self._store.read(ProjectId(project_id), user_id, *others)
        if project is None or project.deleting or user_id not in members:
            raise missing(project_id)
        admitted = AdmittedMember(project=project, member=members[user_id], others=members)
        admitted.require(permission)
        return admitted


def missing(project_id: str) -> NotFound:
    """Return the error for somebody who is no member of a project, whether it exists or not."""
    return NotFound(f"Project {project_id[:64]} not found")
