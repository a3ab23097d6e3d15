from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from starlette.responses import Response

from api.services import avatars
from karma.avatars.answers import AvatarData, AvatarListData, avatar_view, summary_view
from karma.avatars.domain import Avatar
from karma.avatars.schemas import ChangeAvatarBody, CreateAvatarBody
from karma.core.paging import shown
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import Cursor, Limit, Offset, PageNumber, Place, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("avatars")

Reader = Annotated[Caller, permit("avatar:read")]
Writer = Annotated[Caller, permit("avatar:write")]


@router.post("/avatars", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_avatar(request: Request, body: CreateAvatarBody, caller: Writer) -> Answer[AvatarData]:
    """Create an avatar; only `name` and `role` are required."""

    def create() -> Outcome[AvatarData]:
        key = idempotency_key(request, caller)
        made = avatars.service().create(caller.user_id, body.new(), idempotency_key=key)
        return Outcome(status=201, data={"avatar": avatar_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: avatars.service().get(caller.user_id, made))


@router.get("/avatars", responses=answers(errors=(400,)))
async def list_avatars(
    caller: Reader,
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Answer[AvatarListData]:
    """List the avatars that the caller made by `created_at`: by page, by offset, or by the last `next_cursor`."""
    scope = scope_of("avatars", caller.user_id, order)
    place = Place.of(scope, page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor)
    found = avatars.service().list(
        caller.user_id,
        limit=place.size,
        offset=place.offset,
        after=place.after_id,
        newest_first=order == "desc",
    )
    kept, written = shown(found.avatars, summary_view)
    data: AvatarListData = {
        "avatars": written,
        "total": found.total,
        "total_capped": False,
        **place.told({"id": found.next_after if len(kept) == len(found.avatars) else kept[-1].id}),
    }
    return ok(data)


@router.get("/avatars/{avatar_id}", responses=answers(etag=True, errors=(404,)))
async def get_avatar(avatar_id: str, caller: Reader) -> Answer[AvatarData]:
    """Show an avatar; the ETag is its version."""
    return _avatar(avatars.service().get(caller.user_id, avatar_id))


@router.patch("/avatars/{avatar_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_avatar(
    avatar_id: str, body: ChangeAvatarBody, caller: Writer, if_match: IfMatch = None
) -> Answer[AvatarData]:
    """Change an avatar; with `version` or If-Match only if nobody else has changed it since."""
    version = expected_version(if_match, body.version)
    return _avatar(avatars.service().change(caller.user_id, avatar_id, body.changes(), version=version))


@router.delete("/avatars/{avatar_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_avatar(avatar_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete an avatar."""
    avatars.service().delete(caller.user_id, avatar_id, version=expected_version(if_match))
    return no_content()


def _avatar(avatar: Avatar) -> Answer[AvatarData]:
    return ok({"avatar": avatar_view(avatar)}, headers=etag(avatar.version))
