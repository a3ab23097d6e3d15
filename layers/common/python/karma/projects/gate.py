"""The one place where a project's door is: who gets in, and what for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from karma.core.errors import Forbidden, NotFound
from karma.core.ids import ProjectId, UserId, is_id
from karma.projects.domain import Membership, Project
from karma.projects.permissions import ProjectPermission, allows
from karma.projects.ports import ProjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Somebody who may do what they asked for, and what was read on the way."""

    project: Project
    member: Membership
    others: Mapping[UserId, Membership]

    def require(self, permission: ProjectPermission) -> None:
        """Ask for another permission.

        Raises:
            Forbidden: the role does not have it.
        """
        if not allows(self.member.role, permission):
            raise Forbidden.lacking(permission.value, where=" in this project")


class Gate:
    """Lets members in."""

    def __init__(self, store: ProjectStore) -> None:
        self._store = store

    def enter(self, user_id: UserId, project_id: str, permission: ProjectPermission, *others: UserId) -> Entry:
        """Let a member with a permission in, and read the memberships of others with the same call.

        Raises:
            NotFound: absent, deleted, or not a project of the person's.
            Forbidden: a member, whose role does not have the permission.
        """
        if not is_id(project_id):
            raise missing(project_id)
        project, members = self._store.read(ProjectId(project_id), user_id, *others)
        if project is None or project.deleting or user_id not in members:
            raise missing(project_id)
        entry = Entry(project=project, member=members[user_id], others=members)
        entry.require(permission)
        return entry


def missing(project_id: str) -> NotFound:
    """Make the answer to whoever is no member of a project, whether there is one or not."""
    return NotFound(f"Project {project_id[:64]} not found")
