from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.services import identity
from karma.audit.answers import AuditEntryListData, audit_entry_view
from karma.audit.domain import AuditEvent, AuditQuery
from karma.core.schemas import Day, Moment
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("audit")


@router.get("/audit", responses=answers(errors=(400,)))
async def list_audit_entries(
    caller: Annotated[Caller, permit("audit:read")],
    event: AuditEvent | None = None,
    from_: Annotated[Moment | None, Query(alias="from")] = None,
    to: Moment | None = None,
    user_id: Annotated[str | None, Query(max_length=64)] = None,
    day: Day | None = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[AuditEntryListData]:
    """List security events of [from, to), newest first, of the last 400 days: the caller's own.

    Administrators also see those of another account (`user_id`), or of a day (UTC) in all accounts (`day`). With
    `event` a page may hold fewer than `limit`, even none, while `next_cursor` names another.
    """
    scope = scope_of("audit", caller.user_id, event, from_, to, user_id, day)
    below = position(cursor, scope, of=str).get("below")
    asked = AuditQuery(limit=limit, below=below, event=event, since=from_, until=to)
    page = identity.audit().entries(caller, asked, user_id=user_id, day=day)
    entries = [audit_entry_view(entry) for entry in page.entries]
    return ok({"entries": entries, "limit": limit, "next_cursor": next_cursor({"below": page.below}, scope)})
