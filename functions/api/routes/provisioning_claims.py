from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import devices, process
from karma.core.clock import epoch_ms
from karma.devices.claim_answers import (
    ListedSerialListData,
    MadeClaimData,
    ProvisioningClaimData,
    ProvisioningClaimListData,
    claim_credentials_view,
    claim_view,
    listed_serial_view,
)
from karma.devices.claims import NewClaim
from karma.devices.schemas import CreateProvisioningClaimBody
from karma.devices.serial_csv import read_serials
from karma.http.access import RequestSource, permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]
Writer = Annotated[Caller, permit("device:write")]


@router.post(
    "/provisioning-claims",
    idempotent=True,
    limit="device",
    status_code=201,
    responses=answers(status=201, errors=(409, 503)),
)
async def create_provisioning_claim(
    request: Request, body: CreateProvisioningClaimBody, caller: Writer, source: RequestSource
) -> Answer[MadeClaimData]:
    """Make a claim: a certificate for all devices of a list, by which each gets one of its own when it starts first.

    Its private key is shown this once.
    """
    serials = body.serial_numbers if body.csv is None else read_serials(body.csv)
    new = NewClaim(
        name=body.name,
        model=body.model,
        tags=tuple(body.tags),
        serial_numbers=tuple(serials or ()),
        max_devices=body.max_devices,
        expires_at=body.expires_at,
    )

    def create() -> Outcome[MadeClaimData]:
        made = devices.claims().create(
            caller.user_id, new, source=source, idempotency_key=idempotency_key(request, caller)
        )
        data: MadeClaimData = {
            "provisioning_claim": claim_view(made.claim, now_ms=_now_ms()),
            "credentials": claim_credentials_view(made, template_name=process.settings().provisioning_template),
        }
        return Outcome(status=201, data=data, made_id=made.claim.id, is_secret=True)

    return await once(request, caller, create, find=lambda made: devices.claims().get(caller.user_id, made))


@router.get("/provisioning-claims", responses=answers())
async def list_provisioning_claims(caller: Reader) -> Answer[ProvisioningClaimListData]:
    """List the caller's claims that are not revoked, newest first."""
    found = devices.claims().list(caller.user_id)
    now_ms = _now_ms()
    return ok({"provisioning_claims": [claim_view(each, now_ms=now_ms) for each in found], "total": len(found)})


@router.get("/provisioning-claims/{claim_id}", responses=answers(errors=(404,)))
async def get_provisioning_claim(claim_id: str, caller: Reader) -> Answer[ProvisioningClaimData]:
    """Show a claim with the number of devices that it has made, and why one was refused last."""
    return ok({"provisioning_claim": claim_view(devices.claims().get(caller.user_id, claim_id), now_ms=_now_ms())})


@router.get("/provisioning-claims/{claim_id}/serial-numbers", responses=answers(errors=(404,)))
async def list_claimed_serials(
    claim_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[ListedSerialListData]:
    """List a claim's serial numbers in the order in which they were given, each with the device that it became."""
    scope = scope_of("provisioning-claims", caller.user_id, claim_id)
    after = str(position(cursor, scope).get("serial", ""))
    found = devices.claims().serials(caller.user_id, claim_id, limit=limit, after=after)
    last = found.listed[-1].serial_number if found.more else None
    return ok(
        {
            "serial_numbers": [listed_serial_view(each) for each in found.listed],
            "total": found.total,
            "limit": limit,
            "next_cursor": next_cursor({"serial": last}, scope),
        }
    )


@router.delete(
    "/provisioning-claims/{claim_id}",
    limit="device",
    status_code=204,
    responses=answers(status=204, errors=(404,)),
)
async def revoke_provisioning_claim(claim_id: str, caller: Writer, source: RequestSource) -> Response:
    """Revoke a claim: it makes no more devices; those that it has made stay."""
    devices.claims().revoke(caller.user_id, claim_id, source=source)
    return no_content()


def _now_ms() -> int:
    return epoch_ms(process.clock().now())
