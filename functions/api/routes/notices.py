from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from api.access import permit
from api.deps import notices
from api.openapi import answers
from api.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from api.presenters import ok
from api.routing import Router
from karma.identity.domain import Caller
from karma.notices.schemas import NoticeData, NoticeListData

router = Router("notices")


@router.get("/notices", responses=answers(NoticeListData, errors=(400,)))
async def list_notices(
    caller: Annotated[Caller, permit("notice:read")],
    unread: bool = False,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Response:
    """List what the caller was told in the last 90 days, newest first; with `unread` what was not read yet.

    Texts are in the language of the account.
    """
    from karma.notices.service import notice_view

    scope = f"notices:{caller.user_id}:{unread}"
    below = position(cursor, scope, of=str).get("below", "")
    page = notices.service().page(caller.user_id, unread=unread, below=below, limit=limit)
    data = {
        "notices": [notice_view(notice, locale=caller.locale.value) for notice in page.notices],
        "unread_count": page.unread,
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.post("/notices/{notice_id}/read", responses=answers(NoticeData, errors=(404,)))
async def read_notice(notice_id: str, caller: Annotated[Caller, permit("notice:write")]) -> Response:
    """Note that a notice was read; a repeat changes nothing."""
    from karma.notices.service import notice_view

    found = notices.service().read(caller.user_id, notice_id)
    return ok({"notice": notice_view(found, locale=caller.locale.value)})
