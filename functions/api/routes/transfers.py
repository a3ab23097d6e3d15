from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import devices
from karma.core.answers import AcceptedData
from karma.devices.answers import DeviceData, device_view
from karma.devices.schemas import OfferDeviceBody
from karma.devices.transfer_answers import (
    DeviceOfferData,
    ReceivedOfferListData,
    offer_view,
    received_offer_view,
)
from karma.http.access import RequestSource, permit
from karma.http.idempotency import Outcome, once
from karma.http.locking import etag
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]
Writer = Annotated[Caller, permit("device:write")]
Answerer = Annotated[Caller, permit("membership:write")]
"""A caller who decides what comes to them, whatever the role of the account."""

_Offered = answers(status=201, errors=(403, 404, 409)) | answers(status=202)


@router.post("/devices/{device_id}/transfer", idempotent=True, limit="member", status_code=201, responses=_Offered)
async def offer_device(
    request: Request, device_id: str, body: OfferDeviceBody, caller: Writer, source: RequestSource
) -> Answer[DeviceOfferData] | Answer[AcceptedData]:
    """Offer a device to an account by `user_id` (201), or to whoever proves an `email` (202); for 14 days.

    Needs a fresh proof: `current_password`, or a session that began with a login within the last ten minutes (403
    FRESH_PROOF_REQUIRED). A repeat replaces the offer, whoever it was to; who declined is not asked again until the 14
    days are over (409 OFFER_DECLINED). The device is the caller's until the offer is accepted.
    """
    service = devices.transfers()

    def ask_account() -> Outcome[DeviceOfferData]:
        made = service.offer(
            caller, device_id, body.user_id or "", current_password=body.current_password, source=source
        )
        return Outcome(status=201, data={"transfer": offer_view(made)}, made_id=device_id)

    def ask_address() -> Outcome[AcceptedData]:
        service.offer_by_email(
            caller, device_id, body.email or "", current_password=body.current_password, source=source
        )
        return Outcome(status=202, data={"accepted": True}, made_id=device_id)

    def find(made: str) -> object:
        return devices.service().get(caller.user_id, made)

    # An offer ends by being answered; what was asked stays asked as long as the caller has the device.
    if body.email is None:
        return await once(request, caller, ask_account, find=find)
    return await once(request, caller, ask_address, find=find)


@router.get("/devices/{device_id}/transfer", responses=answers(errors=(404,)))
async def get_offer(device_id: str, caller: Reader) -> Answer[DeviceOfferData]:
    """Show to whom a device of the caller's is offered, until that is accepted, withdrawn or over."""
    return ok({"transfer": offer_view(devices.transfers().given(caller.user_id, device_id))})


@router.delete(
    "/devices/{device_id}/transfer", limit="member", status_code=204, responses=answers(status=204, errors=(404,))
)
async def withdraw_offer(device_id: str, caller: Writer) -> Response:
    """Withdraw the offer of a device; 404 when there is none, as after it was accepted."""
    devices.transfers().withdraw(caller.user_id, device_id)
    return no_content()


@router.get("/transfers", responses=answers())
async def my_offers(caller: Reader) -> Answer[ReceivedOfferListData]:
    """List the devices that are offered to the caller, and to the caller's address once that is verified."""
    shown = [received_offer_view(each) for each in devices.transfers().received(caller.user_id)]
    return ok({"transfers": shown, "total": len(shown)})


@router.post(
    "/devices/{device_id}/transfer/accept", limit="member", responses=answers(etag=True, errors=(402, 404, 409))
)
async def accept_offer(device_id: str, caller: Writer, source: RequestSource) -> Answer[DeviceData]:
    """Take over a device that is offered to the caller; a repeat changes nothing.

    It has a new id, begins without history, and goes on connected by its certificate. It takes a device in the caller's
    plan; when there is no room (402), or its certificate is being changed (409 ROTATION_UNDER_WAY), the offer stays.
    """
    current = devices.transfers().accept(caller.user_id, device_id, source=source)
    return ok({"device": device_view(current)}, headers=etag(current.device.version))


@router.post(
    "/devices/{device_id}/transfer/decline",
    limit="member",
    status_code=204,
    responses=answers(status=204, errors=(404,)),
)
async def decline_offer(device_id: str, caller: Answerer, source: RequestSource) -> Response:
    """Decline a device; until the offer's time is over its owner cannot offer it to the caller again."""
    devices.transfers().decline(caller.user_id, device_id, source=source)
    return no_content()
