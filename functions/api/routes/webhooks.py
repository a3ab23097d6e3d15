from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import webhooks
from karma.http.access import RequestSource, permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.webhooks.answers import (
    DeliveryData,
    DeliveryListData,
    WebhookData,
    WebhookListData,
    WebhookSecretData,
    delivery_view,
    webhook_view,
)
from karma.webhooks.domain import Webhook
from karma.webhooks.schemas import ChangeWebhookBody, CreateWebhookBody

router = Router("webhooks")

Reader = Annotated[Caller, permit("webhook:read")]
Writer = Annotated[Caller, permit("webhook:write")]


@router.post("/webhooks", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_webhook(
    request: Request, body: CreateWebhookBody, caller: Writer, source: RequestSource
) -> Answer[WebhookSecretData]:
    """Make a webhook; only `url` is required, and its secret is shown this once."""

    def create() -> Outcome[WebhookSecretData]:
        key = idempotency_key(request, caller)
        made = webhooks.service().create(caller.user_id, body.wanted(), source=source, idempotency_key=key)
        data: WebhookSecretData = {"webhook": webhook_view(made.webhook), "secret": made.secret}
        return Outcome(status=201, data=data, made_id=made.webhook.id, is_secret=True)

    return await once(request, caller, create, find=lambda made: webhooks.service().get(caller.user_id, made))


@router.get("/webhooks")
async def list_webhooks(caller: Reader) -> Answer[WebhookListData]:
    """List all webhooks of the caller, the oldest first."""
    service = webhooks.service()
    found, rests = service.all(caller.user_id), service.rests(caller.user_id)
    return ok({"webhooks": [webhook_view(webhook, rests) for webhook in found], "total": len(found)})


@router.get("/webhooks/{webhook_id}", responses=answers(etag=True, errors=(404,)))
async def get_webhook(webhook_id: str, caller: Reader) -> Answer[WebhookData]:
    """Show a webhook, `default` by that name; the ETag is its version."""
    return _webhook(webhooks.service().get(caller.user_id, webhook_id))


@router.patch("/webhooks/{webhook_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_webhook(
    webhook_id: str, body: ChangeWebhookBody, caller: Writer, source: RequestSource, if_match: IfMatch = None
) -> Answer[WebhookData]:
    """Change a webhook, or disable and enable it; with `version` or If-Match only if it has not changed since."""
    version = expected_version(if_match, body.version)
    changed = webhooks.service().change(caller.user_id, webhook_id, body.changes(), source=source, version=version)
    return _webhook(changed)


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_webhook(webhook_id: str, caller: Writer, source: RequestSource, if_match: IfMatch = None) -> Response:
    """Delete a webhook with its secret and its deliveries; an attempt that has begun is not called back."""
    webhooks.service().delete(caller.user_id, webhook_id, source=source, version=expected_version(if_match))
    return no_content()


@router.post("/webhooks/{webhook_id}/rotate-secret", idempotent=True, responses=answers(errors=(404, 409)))
async def rotate_webhook_secret(
    request: Request, webhook_id: str, caller: Writer, source: RequestSource, if_match: IfMatch = None
) -> Answer[WebhookSecretData]:
    """Give a webhook a new secret, shown this once; the former one signs beside it for 24 hours.

    The first secret of `default` makes it: by that what goes to the addresses that runs name is signed.
    """

    def rotate() -> Outcome[WebhookSecretData]:
        service, user_id = webhooks.service(), caller.user_id
        version, key = expected_version(if_match), idempotency_key(request, caller)
        made = service.rotate(user_id, webhook_id, source=source, version=version, idempotency_key=key)
        view = webhook_view(made.webhook, service.rests(user_id))
        data: WebhookSecretData = {"webhook": view, "secret": made.secret}
        return Outcome(status=200, data=data, made_id=made.webhook.id, is_secret=True)

    return await once(request, caller, rotate, find=lambda made: webhooks.service().get(caller.user_id, made))


@router.post(
    "/webhooks/{webhook_id}/test",
    idempotent=True,
    limit="outward",
    status_code=202,
    responses=answers(status=202, errors=(404, 409)),
)
async def test_webhook(request: Request, webhook_id: str, caller: Writer) -> Answer[DeliveryData]:
    """Have a webhook told a `webhook.test` event, by the way that all go; the delivery shows what became of it."""

    def try_out() -> Outcome[DeliveryData]:
        key = idempotency_key(request, caller)
        webhooks.count_try(caller.user_id, webhook_id)
        delivery = webhooks.service().try_out(caller.user_id, webhook_id, idempotency_key=key)
        return Outcome(status=202, data={"delivery": delivery_view(delivery)}, made_id=webhook_id)

    return await once(request, caller, try_out, find=lambda made: webhooks.service().get(caller.user_id, made))


@router.get("/webhooks/{webhook_id}/deliveries", responses=answers(errors=(400, 404)))
async def list_webhook_deliveries(
    webhook_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[DeliveryListData]:
    """List the deliveries of a webhook with their attempts, the newest event first; they are kept for 30 days."""
    scope = scope_of("webhooks", caller.user_id, webhook_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = webhooks.service().deliveries(caller.user_id, webhook_id, below=below, limit=limit)
    data: DeliveryListData = {
        "deliveries": [delivery_view(delivery) for delivery in page.deliveries],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    limit="outward",
    status_code=202,
    responses=answers(status=202, errors=(404, 409)),
)
async def redeliver_webhook(webhook_id: str, delivery_id: str, caller: Writer) -> Answer[DeliveryData]:
    """Deliver an event once more, with the same id; also one that is pending, which is then due at once."""
    webhooks.count_try(caller.user_id, webhook_id)
    delivery = webhooks.service().redeliver(caller.user_id, webhook_id, delivery_id)
    return ok({"delivery": delivery_view(delivery)}, 202)


def _webhook(webhook: Webhook) -> Answer[WebhookData]:
    rests = webhooks.service().rests(webhook.user_id)
    return ok({"webhook": webhook_view(webhook, rests)}, headers=etag(webhook.version))
