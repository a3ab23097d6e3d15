"""The inbox worker: a message names an event, or a user about whom Stripe is asked (karma/billing/projector.py)."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.billing.arrival import is_event_id
from karma.billing.customers import user_of_message
from karma.billing.domain import RETRIES
from karma.billing.projector import EventProjector
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core import secrets
from karma.core.batch import Ids, each_message
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.core.observability import logger
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.integrations.stripe import StripeGateway

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    billing_table: str
    payment_retry_days: int = RETRIES.days
    """Days for which Stripe retries a failed payment, as set in its dashboard (Billing, Revenue recovery)."""
    stripe_api_secret_arn: str = ""
    stripe_api_base: str = ""
    """Address of a Stripe-compatible peer; absent means Stripe itself."""


class Services(Record, kw_only=True):
    """Services that handle a message."""

    projector: EventProjector
    inbox: InboxRepository
    clock: Clock


@cache
def services() -> Services:
    """Build the services of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    inbox, clock = InboxRepository(), SystemClock()
    return Services(
        inbox=inbox,
        clock=clock,
        projector=EventProjector(
            inbox=inbox,
            subscriptions=SubscriptionRepository(),
            customers=CustomerRepository(),
            payments=StripeGateway(
                api_key=lambda: secrets.string(settings.stripe_api_secret_arn, "api_key"),
                api_base=settings.stripe_api_base,
            ),
            clock=clock,
            retries=timedelta(days=settings.payment_retry_days),
        ),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle a batch; each message that fails is delivered again by itself."""
    return each_message(event, context.aws_request_id, name="billing.event", read=_read, handle=_handle)


def _read(body: str) -> tuple[tuple[UserId | None, str], Ids]:
    user_id = user_of_message(body)
    if user_id is not None:
        return (user_id, ""), {"user_id": user_id}
    if not is_event_id(body):
        raise ValueError("names neither an event nor a user")
    return (None, body), {"event_id": body}


def _handle(message: tuple[UserId | None, str]) -> str:
    user_id, event_id = message
    if user_id is not None:
        return services().projector.refresh(user_id)
    try:
        return services().projector.handle(event_id)
    except Exception as exc:
        _remember(event_id, exc.code if isinstance(exc, AppError) else type(exc).__name__)
        raise


def _remember(event_id: str, error: str) -> None:
    try:
        given = services()
        given.inbox.record_failure(event_id, error=error, at=given.clock.now())
    except Exception:  # noqa: BLE001  the message comes back without the note, and its neighbours are handled
        logger.exception("billing.failure_not_recorded", event_id=event_id)
