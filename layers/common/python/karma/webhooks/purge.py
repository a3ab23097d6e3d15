"""The step of webhooks in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.webhooks.repository.webhooks import WebhookRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's webhooks, their secrets and deliveries among them."""
    return WebhookRepository()
