from __future__ import annotations

from typing import Annotated

from fastapi import Request

from api.services import billing, devices
from karma.core.paging import shown
from karma.devices.bulk import BulkLimit
from karma.devices.bulk_answers import (
    BulkCommandData,
    BulkCommandListData,
    BulkProgressData,
    BulkResultListData,
    bulk_result_view,
    bulk_view,
)
from karma.devices.bulk_commands import BulkOrder
from karma.devices.schemas import SendBulkCommandBody
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]
Controller = Annotated[Caller, permit("device:control")]


@router.post(
    "/commands/bulk", idempotent=True, limit="bulk", status_code=202, responses=answers(status=202, errors=(400, 402))
)
async def send_bulk_command(request: Request, body: SendBulkCommandBody, caller: Controller) -> Answer[BulkCommandData]:
    """Send a command to all devices with a tag, or to those that are named; each device has a result of its own."""
    order = BulkOrder(
        command=body.command,
        params=body.params or {},
        ttl_s=body.ttl_s,
        serial=body.serial,
        tag=body.tag,
        device_ids=tuple(body.device_ids or ()),
    )

    def create() -> Outcome[BulkCommandData]:
        plan = billing.allowances().of(caller.user_id).plan
        made = devices.bulk_commands().create(
            caller.user_id,
            order,
            limit=BulkLimit(plan.name.value, plan.limits.bulk_devices),
            idempotency_key=idempotency_key(request, caller),
        )
        return Outcome(status=202, data={"bulk": bulk_view(made)}, made_id=made.key.bulk_id)

    return await once(request, caller, create, find=lambda made: devices.bulk_commands().get(caller.user_id, made))


@router.get("/commands/bulk", responses=answers(errors=(400,)))
async def list_bulk_commands(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[BulkCommandListData]:
    """List the caller's bulk commands, newest first; they are kept for 30 days after their end."""
    scope = scope_of("bulk-commands", caller.user_id)
    after = str(position(cursor, scope).get("id", ""))
    found, following = devices.bulk_commands().list(caller.user_id, limit=limit, after=after)
    kept, written = shown(found, bulk_view)
    more = following if len(kept) == len(found) else kept[-1].key.bulk_id
    return ok({"bulks": written, "limit": limit, "next_cursor": next_cursor({"id": more}, scope)})


@router.get("/commands/bulk/{bulk_id}", responses=answers(errors=(404,)))
async def get_bulk_command(bulk_id: str, caller: Reader) -> Answer[BulkProgressData]:
    """Show a bulk command with the number of its devices in each state."""
    bulk = devices.bulk_commands().get(caller.user_id, bulk_id)
    return ok({"bulk": bulk_view(bulk), "counts": dict(devices.bulk_commands().counts(bulk))})


@router.get("/commands/bulk/{bulk_id}/results", responses=answers(errors=(400, 404)))
async def list_bulk_results(
    bulk_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[BulkResultListData]:
    """List the devices of a bulk command in their order, each with its command or why it was sent none."""
    scope = scope_of("bulk-results", caller.user_id, bulk_id)
    after = int(position(cursor, scope, of=int).get("at", 0))
    bulk = devices.bulk_commands().get(caller.user_id, bulk_id)
    found, following = devices.bulk_commands().results(bulk, limit=limit, after=after)
    kept, written = shown(found, bulk_result_view)
    more = following if len(kept) == len(found) else after + len(kept)
    return ok(
        {
            "results": written,
            "total": bulk.total,
            "limit": limit,
            "next_cursor": next_cursor({"at": more}, scope),
        }
    )


@router.delete("/commands/bulk/{bulk_id}", responses=answers(errors=(404, 409)))
async def cancel_bulk_command(bulk_id: str, caller: Controller) -> Answer[BulkCommandData]:
    """Cancel a bulk command: no further device is sent it, and what waits for a device is cancelled in the background.

    Commands that a device was sent already go on.
    """
    return ok({"bulk": bulk_view(devices.bulk_commands().cancel(caller.user_id, bulk_id))})
