"""Permissions of each role, and of each scope of a key."""

from __future__ import annotations

from typing import Literal

import pytest

from karma.core.ids import UserId, new_id
from karma.identity import permissions
from karma.identity.domain import Caller, Role


def caller(role: Role, *, scopes: frozenset[str] = frozenset(), method: Literal["jwt", "api_key"] = "jwt") -> Caller:
    return Caller(
        user_id=UserId(new_id()),
        role=role,
        method=method,
        scopes=scopes,
        email_verified=False,
        name="Ada",
        avatar=None,
    )


@pytest.mark.req("R-A-34")
@pytest.mark.parametrize(
    ("permission", "admin", "user", "viewer"),
    [
        ("read:agent", True, True, True),
        ("write:agent", True, False, False),
        ("delete:agent", True, False, False),
        ("execute:agent", True, True, False),
    ],
)
def test_the_agio_matrix_holds(permission: str, admin: bool, user: bool, viewer: bool) -> None:
    assert caller(Role.ADMIN).may(permission) is admin
    assert caller(Role.USER).may(permission) is user
    assert caller(Role.VIEWER).may(permission) is viewer


@pytest.mark.req("R-M-36")
class TestRoles:
    @pytest.mark.parametrize("permission", sorted(permissions.ROLES_OF))
    def test_an_administrator_may_everything(self, permission: str) -> None:
        assert caller(Role.ADMIN).may(permission)

    @pytest.mark.parametrize("permission", sorted(permissions.ROLES_OF))
    def test_what_a_viewer_may_a_user_may(self, permission: str) -> None:
        assert caller(Role.USER).may(permission) or not caller(Role.VIEWER).may(permission)

    @pytest.mark.parametrize("permission", ["device:write", "device:control", "run:control", "billing:write"])
    def test_a_viewer_changes_nothing(self, permission: str) -> None:
        assert not caller(Role.VIEWER).may(permission)

    def test_an_unknown_permission_is_a_bug(self) -> None:
        with pytest.raises(KeyError):
            caller(Role.ADMIN).may("device:fly")


class TestScopes:
    def test_a_key_may_what_its_scopes_name(self) -> None:
        key = caller(Role.USER, method="api_key", scopes=frozenset({"device:read"}))
        assert key.may("device:read")
        assert not key.may("device:control")

    def test_a_scope_may_use_the_agio_name(self) -> None:
        key = caller(Role.USER, method="api_key", scopes=frozenset({"execute:agent"}))
        assert key.may("agent:run")

    def test_a_key_never_exceeds_its_owner(self) -> None:
        key = caller(Role.VIEWER, method="api_key", scopes=frozenset({"*", "device:control"}))
        assert key.may("device:read")
        assert not key.may("device:control")

    def test_a_key_without_scopes_may_nothing(self) -> None:
        assert not caller(Role.ADMIN, method="api_key").may("device:read")
