"""Stripe's webhook: verify, store, enqueue, answer 200. HTTP API payload 2.0, or the function's own URL."""

from __future__ import annotations

from karma.core import startup

# isort: split
import base64
import binascii
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.webhook import MAX_BODY, WebhookService
from karma.core import aws, secrets
from karma.core.clock import SystemClock, epoch_ms
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError, InvalidRequest, MethodNotAllowed, PayloadTooLarge
from karma.core.observability import count, logger
from karma.core.settings import FunctionSettings, load
from karma.http.envelope import InternalError, failure
from karma.integrations.sqs import SqsQueue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_HEADERS = {"content-type": "application/json"}
_clock = SystemClock()


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    billing_table: str
    inbox_queue_url: str
    stripe_webhook_secret_arn: str = ""
    """ARN of the secret with the signing secrets; empty: the endpoint answers 503 and stores nothing."""


@cache
def services() -> WebhookService:
    """Build the one service of this function, and the clients that its first event needs."""
    settings = load(Settings)
    bind_tables(settings)
    for service in ("dynamodb", "sqs", "secretsmanager"):
        aws.client(service)

    def signing_secrets(*, fresh: bool) -> tuple[str, ...]:
        max_age_s = 0 if fresh else secrets.MAX_AGE_S
        return secrets.strings(settings.stripe_webhook_secret_arn, "secrets", max_age_s=max_age_s)

    return WebhookService(
        secrets=signing_secrets,
        arrivals=ArrivalRepository(),
        queue=SqsQueue(settings.inbox_queue_url),
        clock=_clock,
    )


startup.over()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Receive one event. 200: stored; 400, 405, 413: refused; 503: try again (Stripe does, for three days)."""
    try:
        if event["requestContext"]["http"]["method"] != "POST":
            raise MethodNotAllowed("Only POST is answered here")
        services().receive(_body(event), event.get("headers", {}).get("stripe-signature"))
    except AppError as error:
        count("WebhookRejected", code=error.code)
        logger.warning("billing.webhook_refused", code=error.code, request_id=context.aws_request_id)
        return _refusal(error, event, context)
    except Exception:  # noqa: BLE001  the process edge
        count("UnhandledError")
        logger.exception("billing.webhook_failed", request_id=context.aws_request_id)
        return _refusal(InternalError(), event, context)
    return {"statusCode": 200, "headers": _HEADERS, "body": '{"received": true}'}


def _body(event: dict[str, Any]) -> bytes:
    text: str = event.get("body") or ""
    encoded = bool(event.get("isBase64Encoded"))
    if len(text) > (MAX_BODY * 4 // 3 + 4 if encoded else MAX_BODY):
        raise PayloadTooLarge(f"The body exceeds {MAX_BODY} bytes")
    if not encoded:
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The body is not base64", code="INVALID_BODY") from None


def _refusal(error: AppError, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    body = failure(
        error,
        path=str(event.get("rawPath", "/")),
        request_id=context.aws_request_id,
        now_ms=epoch_ms(_clock.now()),
    )
    headers = {**_HEADERS, **{name.lower(): value for name, value in error.headers.items()}}
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = "POST"
    if error.status == 503:
        headers["retry-after"] = "60"
    return {"statusCode": error.status, "headers": headers, "body": body.decode()}
