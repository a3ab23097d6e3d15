from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from api import deps
from api.deps import permit
from api.openapi import answers
from api.presenters import ok
from api.routing import Router
from karma.identity.domain import Caller
from karma.notices.schemas import NoticeData, NoticeListData

router = Router("notices")


@router.get("/notices", responses=answers(NoticeListData, errors=(400,)))
async def list_notices(
    caller: Annotated[Caller, permit("notice:read")],
    unread: bool = False,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
) -> Response:
    """List what the caller was told in the last 90 days, newest first; with `unread` what was not read yet.

    Texts are in the language of the account.
    """
    from karma.notices.service import notice_view

    scope = f"notices:{caller.user_id}:{unread}"
    below = str(deps.cursor_signer().decode(cursor, scope=scope).get("below", "")) if cursor is not None else ""
    page = deps.notices().page(caller.user_id, unread=unread, below=below, limit=limit)
    following = deps.cursor_signer().encode({"below": page.next_below}, scope=scope) if page.next_below else None
    data = {
        "notices": [notice_view(notice, locale=caller.locale.value) for notice in page.notices],
        "unread_count": page.unread,
        "limit": limit,
        "next_cursor": following,
    }
    return ok(data)


@router.post("/notices/{notice_id}/read", responses=answers(NoticeData, errors=(404,)))
async def read_notice(notice_id: str, caller: Annotated[Caller, permit("notice:write")]) -> Response:
    """Note that a notice was read; a repeat changes nothing."""
    from karma.notices.service import notice_view

    found = deps.notices().read(caller.user_id, notice_id)
    return ok({"notice": notice_view(found, locale=caller.locale.value)})
