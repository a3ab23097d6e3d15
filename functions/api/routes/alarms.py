from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from api.services import alarms, devices
from karma.alarms.answers import AlarmData, AlarmListData, alarm_view
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("alarms")

Reader = Annotated[Caller, permit("alarm:read")]
Writer = Annotated[Caller, permit("alarm:write")]


@router.get("/alarms", responses=answers(errors=(400,)))
async def list_alarms(
    caller: Reader,
    state: Annotated[Literal["open", "past"], Query(description="Those that are the case, or over")] = "open",
    device_id: Annotated[str | None, Query(description="Device whose alarms are listed", max_length=64)] = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[AlarmListData]:
    """List the caller's alarms, those that were raised last first.

    With `device_id` also of a device that a project shows to the caller: those that its owner's rules raised.
    """
    scope = scope_of("alarms", caller.user_id, state, device_id)
    below = position(cursor, scope, of=str).get("below", "")
    owner = caller.user_id if device_id is None else devices.shared().owner_for(caller.user_id, device_id)
    page = alarms.alarms().page(owner, is_open=state == "open", device_id=device_id, below=below, limit=limit)
    data: AlarmListData = {
        "alarms": [alarm_view(alarm) for alarm in page.alarms],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get("/alarms/{alarm_id}", responses=answers(errors=(404,)))
async def get_alarm(
    alarm_id: str,
    caller: Reader,
    device_id: Annotated[str | None, Query(description="Device whose alarm it is", max_length=64)] = None,
) -> Answer[AlarmData]:
    """Show an alarm; it is kept for 90 days after its end.

    With `device_id` also one of a device that a project shows to the caller, as the list does.
    """
    owner = caller.user_id if device_id is None else devices.shared().owner_for(caller.user_id, device_id)
    return ok({"alarm": alarm_view(alarms.alarms().get(owner, alarm_id, device_id=device_id))})


@router.post("/alarms/{alarm_id}/acknowledge", responses=answers(errors=(404,)))
async def acknowledge_alarm(alarm_id: str, caller: Writer) -> Answer[AlarmData]:
    """Note that somebody has seen an alarm; a repeat, or one that is over, changes nothing."""
    return ok({"alarm": alarm_view(alarms.alarms().acknowledge(caller.user_id, alarm_id))})
