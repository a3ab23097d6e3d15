from __future__ import annotations

from starlette.responses import Response

from api.services import identity
from karma.http.access import CurrentCaller, RequestSource
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.accounts.answers import DeletionData, UserData, deletion_view, user_view
from karma.identity.accounts.schemas import DeleteAccount, PatchProfile
from karma.identity.domain import ProfileChange
from karma.identity.oauth.answers import LinkListData, link_view

router = Router("users")


@router.get("/users/me", responses=answers(etag=True))
async def me(caller: CurrentCaller) -> Answer[UserData]:
    """Show the caller's own account."""
    user = identity.accounts().get_user(caller.user_id)
    return ok({"user": user_view(user)}, headers=etag(user.version))


@router.patch("/users/me", responses=answers(etag=True, errors=(403, 409)))
async def change_me(
    body: PatchProfile, caller: CurrentCaller, source: RequestSource, if_match: IfMatch = None
) -> Answer[UserData]:
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
    user = identity.accounts().change_profile(caller, change, source=source)
    return ok({"user": user_view(user)}, headers=etag(user.version))


@router.get("/users/me/links", responses=answers(errors=(403,)))
async def my_links(caller: CurrentCaller) -> Answer[LinkListData]:
    """List the providers that open the caller's account. Needs a token, not a key."""
    found = identity.links().ways_in(caller)
    shown = [link_view(link) for link in found.links]
    return ok({"links": shown, "total": len(shown), "has_password": found.has_password})


@router.delete("/users/me/links/{provider}", status_code=204, responses=answers(status=204, errors=(403, 404, 409)))
async def unlink(provider: str, caller: CurrentCaller, source: RequestSource) -> Response:
    """Remove a provider's link to the caller's account, unless it is the only way to log in (409 LAST_LOGIN).

    Needs a token, not a key.
    """
    identity.links().unlink(caller, provider, source=source)
    return no_content()


@router.delete("/users/me", status_code=202, responses=answers(status=202, errors=(403, 404, 409)))
async def delete_me(
    caller: CurrentCaller, source: RequestSource, body: DeleteAccount | None = None
) -> Answer[DeletionData]:
    """Delete the caller's account at once; its data is removed within the hour.

    Needs a token, and the current password. Refused while the account owns a project, has created an avatar, or is an
    administrator's.
    """
    password = body.current_password if body else None
    deletion = identity.account_deletion().request(caller, current_password=password, source=source)
    return ok({"deletion": deletion_view(deletion)}, 202)
