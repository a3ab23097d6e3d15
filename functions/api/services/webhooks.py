"""Webhooks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.core.ids import UserId
    from karma.webhooks.service import OutgoingWebhooks


@cache
def service() -> OutgoingWebhooks:
    """Create, show, change and delete webhooks, and their deliveries."""
    from karma.core.happenings import declared_types
    from karma.integrations.guard import is_public, is_public_or_loopback
    from karma.integrations.kms import KmsSeal
    from karma.integrations.sqs import SqsQueue
    from karma.webhooks.repository.deliveries import DeliveryRepository
    from karma.webhooks.repository.webhooks import WebhookRepository
    from karma.webhooks.secrets import SigningSecrets
    from karma.webhooks.service import OutgoingWebhooks

    return OutgoingWebhooks(
        WebhookRepository(),
        DeliveryRepository(),
        SigningSecrets(KmsSeal(settings().vault_key_arn)),
        SqsQueue(settings().webhooks_queue_url),
        clock(),
        known_types=lambda: [each.name for each in declared_types()],
        is_allowed=is_public_or_loopback if settings().webhook_loopback else is_public,
        loopback=bool(settings().webhook_loopback),
    )


def count_try(user_id: UserId, webhook_id: str) -> None:
    """Count a delivery that somebody asks for by hand, for one webhook.

    Raises:
        RateLimited: there were too many.
    """
    from karma.core.dynamo.buckets import DynamoBuckets
    from karma.identity.limits import WEBHOOK_TRIES, refused

    decision = DynamoBuckets().take(WEBHOOK_TRIES, f"{user_id} {webhook_id}", now=clock().now())
    if not decision.allowed:
        raise refused(decision)
