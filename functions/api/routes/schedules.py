from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import schedules
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.schedules.answers import ScheduleData, ScheduleListData, schedule_details, schedule_view
from karma.schedules.domain import Schedule
from karma.schedules.schemas import ChangeScheduleBody, CreateScheduleBody

router = Router("schedules")

Reader = Annotated[Caller, permit("schedule:read")]
Writer = Annotated[Caller, permit("schedule:write")]


@router.post("/schedules", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_schedule(request: Request, body: CreateScheduleBody, caller: Writer) -> Answer[ScheduleData]:
    """Create a schedule of runs or of commands: by a cron expression in a time zone, or at one moment."""

    def create() -> Outcome[ScheduleData]:
        key = idempotency_key(request, caller)
        made = schedules.service().create(caller, schedules.wanted(body), idempotency_key=key)
        return Outcome(status=201, data={"schedule": schedule_details(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: schedules.service().get(caller.user_id, made))


@router.get("/schedules", responses=answers(errors=(400,)))
async def list_schedules(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[ScheduleListData]:
    """List the caller's schedules, newest first, without what they do."""
    scope = scope_of("schedules", caller.user_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = schedules.service().page(caller.user_id, below=below, limit=limit)
    data: ScheduleListData = {
        "schedules": [schedule_view(schedule) for schedule in page.schedules],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get("/schedules/{schedule_id}", responses=answers(etag=True, errors=(404,)))
async def get_schedule(schedule_id: str, caller: Reader) -> Answer[ScheduleData]:
    """Show a schedule; the ETag is its version."""
    return _schedule(schedules.service().get(caller.user_id, schedule_id))


@router.patch("/schedules/{schedule_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_schedule(
    schedule_id: str, body: ChangeScheduleBody, caller: Writer, if_match: IfMatch = None
) -> Answer[ScheduleData]:
    """Change, pause or resume a schedule; with `version` or If-Match only if nobody else has changed it since.

    Its fires do not change its version. What it does has the caller's rights from then on.
    """
    version = expected_version(if_match, body.version)
    return _schedule(schedules.service().change(caller, schedule_id, body.changes(), version=version))


@router.delete("/schedules/{schedule_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_schedule(schedule_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a schedule; runs that it has begun go on."""
    schedules.service().delete(caller.user_id, schedule_id, version=expected_version(if_match))
    return no_content()


def _schedule(schedule: Schedule) -> Answer[ScheduleData]:
    return ok({"schedule": schedule_details(schedule)}, headers=etag(schedule.version))
