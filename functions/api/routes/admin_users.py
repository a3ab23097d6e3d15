from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.services import identity
from karma.http.access import RequestSource, permit
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.accounts.answers import ManagedUserData, ManagedUserListData, managed_user_view
from karma.identity.accounts.directory import MAX_COUNTED, AccountFilter
from karma.identity.accounts.schemas import ChangeUser
from karma.identity.domain import Caller, Role, User

router = Router("users")

Administrator = Annotated[Caller, permit("user:admin")]


@router.get("/users", responses=answers(errors=(400,)))
async def list_users(
    caller: Administrator,
    q: Annotated[str, Query(max_length=320)] = "",
    role: Role | None = None,
    disabled: bool | None = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[ManagedUserListData]:
    """List accounts, newest first; with `q` the one with that e-mail address, or those whose names begin so, by name.

    A part of an address finds nobody. A search reaches the first 1,000 names.
    """
    text = q.strip()
    scope = scope_of("users", caller.user_id, role, disabled, text)
    after = position(cursor, scope, of=str).get("after")
    asked = AccountFilter(role=role, disabled=disabled)
    page = identity.administration().users(asked, text=text, limit=limit, after=after)
    return ok(
        {
            "users": [managed_user_view(user) for user in page.users],
            "total": min(page.total, MAX_COUNTED),
            "total_capped": page.total >= MAX_COUNTED,
            "limit": limit,
            "next_cursor": next_cursor({"after": page.after}, scope),
        }
    )


@router.get("/users/{user_id}", responses=answers(etag=True, errors=(404,)))
async def get_user(user_id: str, _: Administrator) -> Answer[ManagedUserData]:
    """Show an account; the ETag is its version."""
    return _user(identity.administration().user(user_id))


@router.patch("/users/{user_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_user(
    user_id: str, body: ChangeUser, caller: Administrator, source: RequestSource, if_match: IfMatch = None
) -> Answer[ManagedUserData]:
    """Give another person's account a role, disable or enable it; with `version` or If-Match only if it is unchanged.

    Sessions of an account that is disabled end; they change nothing more, and may read for up to a minute. Its API
    keys are refused until it is enabled. Nobody changes their own account here, so one administrator always remains.
    """
    changed = identity.administration().change_user(
        caller,
        user_id,
        role=body.role,
        disabled=body.disabled,
        version=expected_version(if_match, body.version),
        source=source,
    )
    return _user(changed)


def _user(user: User) -> Answer[ManagedUserData]:
    return ok({"user": managed_user_view(user)}, headers=etag(user.version))
