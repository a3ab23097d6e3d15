from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import identity
from karma.http.access import RequestSource, permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.api_keys.answers import ApiKeyData, ApiKeyListData, api_key_view
from karma.identity.api_keys.schemas import CreateApiKey
from karma.identity.domain import Caller

router = Router("api keys")


@router.post("/api-keys", idempotent=True, status_code=201, responses=answers(status=201, errors=(403, 409)))
async def create_api_key(
    request: Request, body: CreateApiKey, caller: Annotated[Caller, permit("api_key:write")], source: RequestSource
) -> Answer[ApiKeyData]:
    """Make a key; it is shown this once, and its owner is told by mail. Needs a token: a key makes no keys.

    Needs a fresh proof: `current_password`, or a session that began with a login within the last ten minutes (403
    FRESH_PROOF_REQUIRED). Without `expires_at` the key ends after 90 days; at most 366 days are given.
    """

    def create() -> Outcome[ApiKeyData]:
        made = identity.api_keys().create_api_key(
            caller,
            name=body.name,
            scopes=frozenset(body.scopes),
            expires_at=body.expires_at,
            current_password=body.current_password,
            source=source,
            idempotency_key=idempotency_key(request, caller),
        )
        data: ApiKeyData = {"api_key": api_key_view(made.key), "key": made.secret}
        return Outcome(status=201, data=data, made_id=made.key.id, is_secret=True)

    return await once(request, caller, create, find=lambda made: identity.api_keys().require_made(caller, made))


@router.get("/api-keys", responses=answers())
async def list_api_keys(caller: Annotated[Caller, permit("api_key:read")]) -> Answer[ApiKeyListData]:
    """List the caller's keys, newest first, without their secrets; `last_used_at` is noted once an hour."""
    found = identity.api_keys().list_api_keys(caller)
    return ok({"api_keys": [api_key_view(key) for key in found], "total": len(found)})


@router.delete("/api-keys/{key_id}", status_code=204, responses=answers(status=204, errors=(404,)))
async def revoke_api_key(
    key_id: str, caller: Annotated[Caller, permit("api_key:write")], source: RequestSource
) -> Response:
    """Revoke a key; it changes nothing more, and may read for up to a minute."""
    identity.api_keys().revoke_api_key(caller, key_id, source=source)
    return no_content()
