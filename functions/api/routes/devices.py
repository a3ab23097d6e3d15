from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.responses import Response

from api.services import billing, devices, process, waiting
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.core.paging import shown
from karma.core.schemas import COMPOSED
from karma.devices.answers import (
    CertificateListData,
    CommandData,
    CommandListData,
    CreatedDeviceData,
    DeadLetterData,
    DeadLetterListData,
    DeviceData,
    DeviceListData,
    LatestData,
    certificate_view,
    command_view,
    credentials_view,
    dead_letter_view,
    device_view,
    latest_data,
)
from karma.devices.device_csv import read_table
from karma.devices.domain import MAX_TAG_CHARS, Command, CurrentDevice, DeviceModel, DeviceStatus
from karma.devices.import_answers import ImportData, import_data
from karma.devices.reading import MAX_TEXT_CHARS, DeviceQuery
from karma.devices.schemas import (
    ChangeDeviceRequest,
    CreateDeviceRequest,
    ImportDevicesBody,
    RotateCertificateBody,
    SendCommandRequest,
)
from karma.devices.service import NewDevice
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, Offset, PageNumber, Place, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]
Writer = Annotated[Caller, permit("device:write")]
Controller = Annotated[Caller, permit("device:control")]


@router.post(
    "/devices", idempotent=True, limit="device", status_code=201, responses=answers(status=201, errors=(402, 409, 503))
)
async def create_device(request: Request, body: CreateDeviceRequest, caller: Writer) -> Answer[CreatedDeviceData]:
    """Create a device; its private key is shown this once, and not at all when the body has a `csr`."""
    fields = body.model_dump(exclude={"csr", "tags"})
    new = NewDevice(**fields, tags=tuple(body.tags))

    def create() -> Outcome[CreatedDeviceData]:
        made = devices.service().create(
            caller.user_id,
            new,
            allowance=billing.allowances().of(caller.user_id),
            csr=body.csr or "",
            idempotency_key=idempotency_key(request, caller),
        )
        device = made.current.device
        data: CreatedDeviceData = {
            "device": device_view(made.current),
            "credentials": credentials_view(device, made.certificate, made.endpoint),
        }
        return Outcome(status=201, data=data, made_id=device.id, is_secret=True)

    return await once(request, caller, create, find=lambda made: devices.service().get(caller.user_id, made))


@router.post(
    "/devices/import",
    idempotent=True,
    limit="device",
    status_code=201,
    responses=answers(status=201, errors=(402, 409)),
)
async def import_devices(request: Request, body: ImportDevicesBody, caller: Writer) -> Answer[ImportData]:
    """Make devices of a list in CSV, all or none, or those that can; they get certificates one by one later."""
    table = read_table(body.csv)

    def create() -> Outcome[ImportData]:
        service = devices.imports()
        run = service.import_all if body.all_or_nothing else service.import_each
        report = run(
            caller.user_id,
            table,
            allowance=billing.allowances().of(caller.user_id),
            idempotency_key=idempotency_key(request, caller),
        )
        first = report.created[0].id if report.created else ""
        return Outcome(status=201, data=import_data(report), made_id=first)

    return await once(request, caller, create, find=lambda made: devices.service().get(caller.user_id, made))


@router.get("/devices", responses=answers(errors=(400, 404)))
async def list_devices(
    caller: Reader,
    status: DeviceStatus | None = None,
    model: DeviceModel | None = None,
    tag: Annotated[str | None, Query(min_length=1, max_length=MAX_TAG_CHARS), COMPOSED] = None,
    q: Annotated[str, Query(max_length=MAX_TEXT_CHARS)] = "",
    project: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
    sort: Literal[
        "created_at", "name", "updated_at", "model", "status", "serial_number", "last_heartbeat"
    ] = "created_at",
    order: Literal["asc", "desc"] = "desc",
) -> Answer[DeviceListData]:
    """List the caller's devices, by page, by offset, or by the `next_cursor` of the page before.

    With `project` those that a project of the caller's shows to its members, whoever has them.

    `tag` is one of a device's tags, spelled as there. `q` has words that all stand in name, serial number, MAC, model,
    tags or location, in any order and case; `GET /search` forgives typos and ranks.
    """
    scope = scope_of("devices", caller.user_id, sort, order, status, model, tag, q, project)
    place = Place.of(scope, page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor)
    query = DeviceQuery(
        limit=place.size,
        offset=place.offset,
        after=place.after or None,
        sort=sort,
        descending=order == "desc",
        status=status,
        model=model,
        tag=tag,
        text=q,
    )
    if project is None:
        found = devices.service().list(caller.user_id, query)
    else:
        found = devices.shared().page(caller.user_id, project, query)
    kept, written = shown(found.devices, device_view)
    position_of = query.position_of if project is None else query.key_position_of
    more = found.next_position if len(kept) == len(found.devices) else position_of(kept[-1])
    data: DeviceListData = {
        "devices": written,
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told(more),
    }
    return ok(data)


@router.get("/devices/{device_id}", responses=answers(etag=True, errors=(404,)))
async def get_device(device_id: str, caller: Reader) -> Answer[DeviceData]:
    """Show a device with its status and newest values; the ETag is its version."""
    return _device(_shown(caller, device_id))


@router.patch("/devices/{device_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_device(
    device_id: str,
    body: ChangeDeviceRequest,
    caller: Writer,
    if_match: IfMatch = None,
) -> Answer[DeviceData]:
    """Change name, tags or location; with `version` or If-Match only if nobody else has changed it since."""
    given = body.model_dump(exclude_unset=True, exclude={"version"})
    version = expected_version(if_match, body.version)
    return _device(devices.service().change(caller.user_id, device_id, given, version=version))


@router.delete(
    "/devices/{device_id}", limit="device", status_code=204, responses=answers(status=204, errors=(404, 409))
)
async def delete_device(device_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a device, its certificates and its data; its serial number is free again."""
    devices.service().delete(caller.user_id, device_id, version=expected_version(if_match))
    return no_content()


@router.get("/devices/{device_id}/certificates", responses=answers(errors=(404,)))
async def list_certificates(device_id: str, caller: Reader) -> Answer[CertificateListData]:
    """List the certificates by which a device may connect: one, or two while it changes to a new one."""
    found = devices.certificates().list(caller.user_id, device_id)
    return ok({"certificates": [certificate_view(each) for each in found]})


@router.post(
    "/devices/{device_id}/certificates",
    idempotent=True,
    limit="device",
    status_code=201,
    responses=answers(status=201, errors=(404, 409, 503)),
)
async def rotate_certificate(
    request: Request, device_id: str, body: RotateCertificateBody, caller: Writer
) -> Answer[CreatedDeviceData]:
    """Make a new certificate while the old one still connects; it is removed once the new one has connected.

    The private key is shown this once, and not at all when the body has a `csr`.
    """

    def create() -> Outcome[CreatedDeviceData]:
        made = devices.certificates().rotate(
            caller.user_id,
            device_id,
            csr=body.csr or "",
            overlap_s=body.overlap_s,
            idempotency_key=idempotency_key(request, caller),
        )
        data: CreatedDeviceData = {
            "device": device_view(made.current),
            "credentials": credentials_view(made.current.device, made.certificate, made.endpoint),
        }
        return Outcome(status=201, data=data, made_id=made.certificate.id, is_secret=True)

    def find(made: str) -> object:
        return devices.certificates().require(caller.user_id, device_id, made)

    return await once(request, caller, create, find=find)


@router.delete(
    "/devices/{device_id}/certificates/{certificate_id}",
    limit="device",
    status_code=204,
    responses=answers(status=204, errors=(404, 409, 503)),
)
async def remove_certificate(device_id: str, certificate_id: str, caller: Writer) -> Response:
    """Remove one of a device's two certificates: the old one before its time, or the new one."""
    devices.certificates().remove(caller.user_id, device_id, certificate_id)
    return no_content()


@router.get("/devices/{device_id}/latest", responses=answers(errors=(404,)))
async def latest_values(device_id: str, caller: Reader) -> Answer[LatestData]:
    """Show the newest value of each metric."""
    return ok(latest_data(_shown(caller, device_id)))


@router.get("/devices/{device_id}/dead-letters", responses=answers(errors=(404,)))
async def list_dead_letters(
    device_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[DeadLetterListData]:
    """List messages with refused parts, newest first, of two weeks; `taken` says whether the rest was stored."""
    scope = scope_of("dead-letters", caller.user_id, device_id)
    current = devices.service().get(caller.user_id, device_id)
    after = str(position(cursor, scope).get("id", ""))
    now_s = process.clock().now().timestamp()
    found, more = devices.dead_letters().page(current.device.id, limit=limit, after=after, now_s=now_s)
    return ok(
        {
            "dead_letters": [dead_letter_view(letter) for letter in found],
            "limit": limit,
            "next_cursor": next_cursor({"id": found[-1].id if more else None}, scope),
        }
    )


@router.get("/devices/{device_id}/dead-letters/{letter_id}", responses=answers(errors=(404,)))
async def get_dead_letter(device_id: str, letter_id: str, caller: Reader) -> Answer[DeadLetterData]:
    """Show a message of the device with parts that were refused, with its whole payload."""
    current = devices.service().get(caller.user_id, device_id)
    letter = devices.dead_letters().get(current.device.id, letter_id, now_s=process.clock().now().timestamp())
    if letter is None:
        raise NotFound(f"Dead letter {letter_id} not found")
    return ok({"dead_letter": dead_letter_view(letter)})


@router.post(
    "/devices/{device_id}/commands",
    idempotent=True,
    limit="command",
    status_code=201,
    responses=answers(status=201, errors=(403, 404, 409)),
)
async def send_command(
    request: Request, device_id: str, body: SendCommandRequest, caller: Controller
) -> Answer[CommandData]:
    """Send a command; with `wait_s` the answer waits for the device's, and shows the command as it is then."""

    def create() -> Outcome[CommandData]:
        # Before the command is sent: a request that may not wait sends none.
        with waiting.held(caller.user_id, seconds=body.wait_s) as left_s:
            return send(left_s)

    def send(left_s: Callable[[], float]) -> Outcome[CommandData]:
        sent = devices.shared().to_control(caller.user_id, device_id, send_to)
        if body.wait_s:
            sent = devices.commands().wait(sent.user_id, sent, timeout_s=left_s())
        return Outcome(status=201, data={"command": command_view(sent)}, made_id=sent.id)

    def send_to(owner: UserId) -> Command:
        key, by = idempotency_key(request, caller), "user"
        if owner != caller.user_id:
            # The record of the request is the owner's, who may use the same key.
            by = f"member:{caller.user_id}"
            key = key and replace(key, value=f"{caller.user_id}:{key.value}")
        return devices.commands().send(
            owner,
            device_id,
            body.command,
            body.params,
            ttl_s=body.ttl_s,
            serial_order=body.serial,
            requested_by=by,
            idempotency_key=key,
        )

    def find(made: str) -> object:
        return _command(caller, device_id, made)

    return await once(request, caller, create, find=find)


@router.get("/devices/{device_id}/commands", responses=answers(errors=(404,)))
async def list_commands(
    device_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[CommandListData]:
    """List a device's commands, newest first; they are kept for 30 days."""
    scope = scope_of("commands", caller.user_id, device_id)
    after = str(position(cursor, scope).get("id", ""))

    def use(owner: UserId) -> tuple[tuple[Command, ...], str | None]:
        return devices.commands().list(owner, device_id, limit=limit, after=after)

    found, following = devices.shared().to_read(caller.user_id, device_id, use)
    kept, written = shown(found, command_view)
    return ok(
        {
            "commands": written,
            "limit": limit,
            "next_cursor": next_cursor({"id": following if len(kept) == len(found) else kept[-1].id}, scope),
        }
    )


@router.get("/devices/{device_id}/commands/{command_id}", responses=answers(errors=(404,)))
async def get_command(
    device_id: str, command_id: str, caller: Reader, wait_s: Annotated[float, Query(ge=0, le=20)] = 0
) -> Answer[CommandData]:
    """Show a command; with `wait_s` once it has ended, or as it is after that many seconds."""
    command = _command(caller, device_id, command_id)
    if wait_s and not command.finished:
        with waiting.held(caller.user_id, seconds=wait_s) as left_s:
            command = devices.commands().wait(command.user_id, command, timeout_s=left_s())
    return ok({"command": command_view(command)})


@router.delete("/devices/{device_id}/commands/{command_id}", responses=answers(errors=(403, 404, 409)))
async def cancel_command(
    device_id: str,
    command_id: str,
    caller: Controller,
    force: Annotated[bool, Query(description="Also one that was sent: the device may still carry it out")] = False,
) -> Answer[CommandData]:
    """Cancel a command that has not been sent yet, or with `force` one that was."""

    def use(owner: UserId) -> Command:
        return devices.commands().cancel(owner, device_id, command_id, force=force)

    command = devices.shared().to_control(caller.user_id, device_id, use)
    return ok({"command": command_view(command)})


def _command(caller: Caller, device_id: str, command_id: str) -> Command:
    """Return a command of a device as `_shown` does the device."""

    def use(owner: UserId) -> Command:
        return devices.commands().get(owner, device_id, command_id)

    return devices.shared().to_read(caller.user_id, device_id, use)


def _shown(caller: Caller, device_id: str) -> CurrentDevice:
    """Return a device of the caller's, or of who shares it with a project of theirs."""

    def use(owner: UserId) -> CurrentDevice:
        return devices.service().get(owner, device_id)

    return devices.shared().to_read(caller.user_id, device_id, use)


def _device(current: CurrentDevice) -> Answer[DeviceData]:
    return ok({"device": device_view(current)}, headers=etag(current.device.version))
