from __future__ import annotations

from typing import Annotated

from api.services import notices
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.notices.answers import NoticeData, NoticeListData, notice_view

router = Router("notices")


@router.get("/notices", responses=answers(errors=(400,)))
async def list_notices(
    caller: Annotated[Caller, permit("notice:read")],
    unread: bool = False,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[NoticeListData]:
    """List the caller's notices of the last 90 days, newest first; with `unread` those that were not read yet.

    Texts are in the language of the account.
    """
    scope = scope_of("notices", caller.user_id, unread)
    below = position(cursor, scope, of=str).get("below", "")
    page = notices.service().page(caller.user_id, unread=unread, below=below, limit=limit)
    data: NoticeListData = {
        "notices": [notice_view(notice, locale=caller.locale.value) for notice in page.notices],
        "unread_count": page.unread,
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.post("/notices/{notice_id}/read", responses=answers(errors=(404,)))
async def read_notice(notice_id: str, caller: Annotated[Caller, permit("notice:write")]) -> Answer[NoticeData]:
    """Mark a notice as read; a repeat changes nothing."""
    found = notices.service().read(caller.user_id, notice_id)
    return ok({"notice": notice_view(found, locale=caller.locale.value)})
