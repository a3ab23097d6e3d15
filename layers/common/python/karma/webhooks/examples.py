"""Examples of the OpenAPI document for webhooks: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WEBHOOK = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f71"
_EVENT = "01994b9d-1a20-7c3d-9e4f-5a6b7c8d9e0f"
_AT = "2026-11-26T12:00:00Z"

FIELDS: Mapping[str, Any] = {
    "webhook_id": _WEBHOOK,
    "delivery_id": _EVENT,
    "WebhookView.id": _WEBHOOK,
    "DeliveryView.id": _EVENT,
    **dict.fromkeys(
        ("WebhookView.url", "CreateWebhookBody.url", "ChangeWebhookBody.url"), "https://app.example.com/karma-events"
    ),
    **{
        f"{name}.events": ["run.finished", "run.failed"]
        for name in ("WebhookView", "CreateWebhookBody", "ChangeWebhookBody")
    },
    **dict.fromkeys(
        ("WebhookView.description", "CreateWebhookBody.description", "ChangeWebhookBody.description"),
        "Production, run results",
    ),
    "DeliveryView.url": None,
    "WebhookView.status": "enabled",
    "ChangeWebhookBody.status": "enabled",
    "disabled_reason": None,
    "former_secret_until": None,
    "WebhookSecretData.secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "event_type": "run.finished",
    "DeliveryView.status": "succeeded",
    "next_attempt_at": None,
    "attempt_count": 1,
    "AttemptView.at": _AT,
    "AttemptView.duration_ms": 84,
    "status_code": 204,
    "AttemptView.error_code": None,
    "DeliveryView.payload": {
        "type": "run.finished",
        "timestamp": _AT,
        "data": {
            "run_id": "01994b9c-9a10-7f2e-8b3c-4d5e6f708192",
            "thread_id": "01994b9c-8b00-7a1d-9c2b-3e4f5a6b7c8d",
            "parent_run_id": None,
            "schedule_id": None,
            "agent_id": "karma",
            "agent_version": 1,
            "status": "finished",
            "error_code": None,
            "turns": 1,
            "usage": {"totalTokens": 120},
            "cost_micros": 840,
            "started_at": "2026-11-26T11:59:58Z",
            "finished_at": _AT,
        },
    },
}
