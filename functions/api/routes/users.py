from __future__ import annotations

from starlette.responses import Response

from api import deps
from api.deps import CurrentCaller, RequestSource
from api.locking import IfMatch, etag, expected_version
from api.openapi import answers
from api.presenters import ok
from api.routing import Router
from api.views import user_view
from karma.identity.domain import ProfileChange
from karma.identity.schemas import PatchProfile, UserData

router = Router("users")


@router.get("/users/me", responses=answers(UserData))
async def me(caller: CurrentCaller) -> Response:
    """Show the caller's own account."""
    user = deps.accounts().get_user(caller.user_id)
    return ok({"user": user_view(user)}, headers=etag(user.version))


@router.patch("/users/me", responses=answers(UserData, errors=(403, 409)))
async def change_me(
    body: PatchProfile, caller: CurrentCaller, source: RequestSource, if_match: IfMatch = None
) -> Response:
    """Change name, avatar or language; a new address is sent a link, and becomes the account's when that is opened.

    Needs a token, not a key.
    """
    change = ProfileChange(
        name=body.name,
        avatar=body.avatar,
        locale=body.locale,
        email=body.email,
        current_password=body.current_password,
        version=expected_version(if_match, body.version),
    )
    user = deps.accounts().change_profile(caller, change, source=source)
    return ok({"user": user_view(user)}, headers=etag(user.version))
