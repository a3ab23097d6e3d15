"""Refusals of requests about webhooks.

Conflict 409
├─ TooManyWebhooks          the account has MAX_WEBHOOKS
├─ WebhookIsDisabled        it is told nothing until it is enabled
├─ WebhookIsDefault         the default webhook has no address, no types of events, and is not deleted
└─ SigningSecretMissing     a run names an address, and the account has no default webhook to sign what goes there
"""

from __future__ import annotations

from karma.core.errors import AlreadyExists, Conflict


class TooManyWebhooks(AlreadyExists):
    """The account has as many webhooks as one may have."""

    code = "TOO_MANY_WEBHOOKS"


class WebhookIsDefault(Conflict):
    """The default webhook has no address of its own, and stays."""

    code = "WEBHOOK_IS_DEFAULT"

    def __init__(self, instead: str) -> None:
        super().__init__(f"The default webhook signs what goes to the addresses that runs name; {instead}")


class SigningSecretMissing(Conflict):
    """The account has made no secret that signs what goes to the addresses that runs name."""

    code = "SIGNING_SECRET_MISSING"

    def __init__(self) -> None:
        super().__init__("Make a signing secret first, by POST /webhooks/default/rotate-secret")


class WebhookIsDisabled(Conflict):
    """The webhook is told nothing until it is enabled again."""

    code = "WEBHOOK_DISABLED"
