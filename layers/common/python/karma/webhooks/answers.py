"""Answers of the routes of webhooks: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict

import orjson

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.webhooks.domain import Delivery, DeliveryAttempt, Webhook

NO_RESTS: Final[Mapping[str, datetime]] = MappingProxyType({})


class WebhookView(TypedDict):
    """A webhook; its secret is not shown."""

    id: str
    url: str | None
    """Null: it is the default one, by which what goes to the addresses that runs name is signed."""
    events: list[str]
    """Types of events that it is told; `*`: all."""
    description: str
    status: Literal["enabled", "disabled"]
    disabled_reason: Literal["request", "gone", "failing"] | None
    """`gone`: the address answered 410; `failing`: nothing but failures for five days."""
    former_secret_until: ShownMoment | None
    """Moment until which a former secret signs beside the new one; null: none does."""
    next_attempt_at: ShownMoment | None
    """Moment before which nothing is sent to it, since it has failed several times; null: it is not left alone."""
    created_at: ShownMoment
    updated_at: ShownMoment
    version: int


class AttemptView(TypedDict):
    """One attempt to deliver."""

    at: ShownMoment
    duration_ms: int
    status_code: int | None
    """Status of the receiver's answer; null: there was none."""
    error_code: str | None
    """Null: it succeeded."""


class DeliveryView(TypedDict):
    """One event for one webhook."""

    id: str
    """The event's id, which the receiver gets as `webhook-id`."""
    webhook_id: str
    url: str | None
    """Address that the run has named; null: the webhook's."""
    event_type: str
    status: Literal["pending", "succeeded", "failed", "cancelled"]
    created_at: ShownMoment
    """Moment of the event."""
    next_attempt_at: ShownMoment | None
    """Null: it is done. A webhook that failed several times in a row is left alone a while longer."""
    attempt_count: int
    attempts: list[AttemptView]
    """The latest twenty, the oldest of them first."""
    payload: dict[str, Any]
    """The body that is sent."""


def webhook_view(webhook: Webhook, rests: Mapping[str, datetime] = NO_RESTS) -> WebhookView:
    """Shape a webhook; `rests` says until when those rest that do so."""
    rests_until = rests.get(webhook.id) if webhook.is_enabled else None
    return {
        "id": webhook.id,
        "url": webhook.url or None,
        "events": list(webhook.events),
        "description": webhook.description,
        "status": webhook.status.value,
        "disabled_reason": webhook.disabled_reason.value if webhook.disabled_reason else None,
        "former_secret_until": iso(max(each.until for each in webhook.former)) if webhook.former else None,
        "next_attempt_at": iso(rests_until) if rests_until else None,
        "created_at": iso(webhook.created_at),
        "updated_at": iso(webhook.updated_at),
        "version": webhook.version,
    }


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Shape a delivery."""
    return {
        "id": delivery.id,
        "webhook_id": delivery.webhook_id,
        "url": delivery.url or None,
        "event_type": delivery.type,
        "status": delivery.status.value,
        "created_at": iso(delivery.made_at),
        "next_attempt_at": iso(delivery.due_at) if delivery.due_at else None,
        "attempt_count": delivery.attempt_count,
        "attempts": [_attempt(each) for each in delivery.attempts],
        "payload": orjson.loads(delivery.payload),
    }


def _attempt(attempt: DeliveryAttempt) -> AttemptView:
    return {
        "at": iso(attempt.at),
        "duration_ms": attempt.duration_ms,
        "status_code": attempt.status_code,
        "error_code": attempt.error.value if attempt.error else None,
    }


class WebhookData(TypedDict):
    """One webhook."""

    webhook: WebhookView


class WebhookSecretData(TypedDict):
    """A webhook with a secret that was just made."""

    webhook: WebhookView
    secret: str
    """`whsec_…`, by which the receiver verifies signatures; shown this once."""


class WebhookListData(TypedDict):
    """All webhooks of an account."""

    webhooks: list[WebhookView]
    total: int


class DeliveryData(TypedDict):
    """One delivery."""

    delivery: DeliveryView


class DeliveryListData(TypedDict):
    """A page of deliveries."""

    deliveries: list[DeliveryView]
    limit: int
    next_cursor: str | None
