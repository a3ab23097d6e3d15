"""Each role of a project has exactly the permissions of the table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from karma.projects.domain import ProjectRole
from karma.projects.permissions import ROLES_OF, ProjectPermission, allows, needed_to_manage

READ, CHANGE, DELETE = ProjectPermission.READ, ProjectPermission.CHANGE, ProjectPermission.DELETE
MANAGE, ROLES = ProjectPermission.MANAGE_MEMBERS, ProjectPermission.CHANGE_ROLES
SEE = ProjectPermission.READ_DEVICES
DEVICES = {ProjectPermission.CONTROL_DEVICES, ProjectPermission.SHARE_DEVICES}
RANK = (ProjectRole.VIEWER, ProjectRole.MEMBER, ProjectRole.ADMIN, ProjectRole.OWNER)


@pytest.mark.req("R-K-17")
@pytest.mark.parametrize(
    ("role", "may"),
    [
        (ProjectRole.OWNER, {READ, CHANGE, DELETE, MANAGE, ROLES, SEE, *DEVICES}),
        (ProjectRole.ADMIN, {READ, CHANGE, MANAGE, SEE, *DEVICES}),
        (ProjectRole.MEMBER, {READ, CHANGE, SEE, *DEVICES}),
        (ProjectRole.VIEWER, {READ, SEE}),
    ],
)
def test_a_role_has_exactly_its_permissions(role: ProjectRole, may: set[ProjectPermission]) -> None:
    assert {permission for permission in ProjectPermission if allows(role, permission)} == may


def test_every_permission_has_a_row_and_a_higher_role_has_what_a_lower_one_has() -> None:
    assert set(ROLES_OF) == set(ProjectPermission)
    for lower, higher in pairwise(RANK):
        assert all(allows(higher, permission) for permission in ProjectPermission if allows(lower, permission))


def test_nobody_adds_or_removes_somebody_of_their_own_role_but_owners() -> None:
    for role in ProjectRole:
        if role is not ProjectRole.OWNER:
            assert not allows(role, needed_to_manage(role))
    assert allows(ProjectRole.OWNER, needed_to_manage(ProjectRole.OWNER))
