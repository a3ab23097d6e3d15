"""Consumer of the webhooks queue: sends what is due in a message's lane. See karma/webhooks/worker.py."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import UserId
from karma.core.settings import FunctionSettings, load
from karma.identity.transactional import is_disabled
from karma.integrations.guard import is_public, is_public_or_loopback
from karma.integrations.kms import KmsSeal
from karma.integrations.sqs import SqsQueue
from karma.integrations.webhooks import WebhookPosts
from karma.webhooks.domain import Lane, webhook_of
from karma.webhooks.looks import read_look
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository
from karma.webhooks.secrets import SigningSecrets
from karma.webhooks.worker import DeliveryWorker

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    realtime_table: str
    webhooks_queue_url: str
    vault_key_arn: str
    webhook_loopback: str = ""
    """Not empty: receivers on this machine are told, by http:// too; only where the backend runs on its developer's."""


@cache
def services() -> DeliveryWorker:
    """Build the worker once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return DeliveryWorker(
        is_disabled=is_disabled,
        webhooks=WebhookRepository(),
        deliveries=DeliveryRepository(),
        secrets=SigningSecrets(KmsSeal(settings.vault_key_arn)),
        posts=WebhookPosts(is_allowed=is_public_or_loopback if settings.webhook_loopback else is_public),
        queue=SqsQueue(settings.webhooks_queue_url),
        clock=SystemClock(),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Look at each lane that a message names; messages that fail come again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="webhook.look", read=_read, handle=_look)


def _read(body: str) -> tuple[tuple[UserId, Lane], Ids]:
    user_id, lane = read_look(body)
    return (user_id, lane), {"user_id": user_id, "webhook_id": webhook_of(lane)}


def _look(message: tuple[UserId, Lane]) -> str:
    return services().look(*message)
