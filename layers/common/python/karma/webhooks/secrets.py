"""Secrets of webhooks as they are kept: sealed for one webhook of one account, opened where it signs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from secrets import token_bytes
from typing import Final

from karma.core.clock import monotonic
from karma.core.ids import UserId
from karma.webhooks.domain import SECRET_BYTES, Webhook, WebhookId
from karma.webhooks.ports import SecretSeal

_KEPT_S: Final = 300.0
_MAX_KEPT: Final = 200


def seal_context(user_id: UserId, webhook_id: WebhookId) -> Mapping[str, str]:
    """Return what is bound to the ciphertext: moved to another account or webhook, it does not open."""
    return {"purpose": "webhook-secret", "user_id": user_id, "webhook_id": webhook_id}


class SigningSecrets:
    """Makes, seals and opens secrets; opened ones are kept for five minutes, two hundred of them."""

    def __init__(self, seal: SecretSeal) -> None:
        self._seal = seal
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def new(self, user_id: UserId, webhook_id: WebhookId) -> tuple[bytes, bytes]:
        """Return a new secret, and how it is stored.

        Raises:
            SealUnavailable: the keys' service did not answer.
        """
        secret = token_bytes(SECRET_BYTES)
        return secret, self._seal.seal(secret, context=seal_context(user_id, webhook_id))

    def of(self, webhook: Webhook, *, now: datetime) -> tuple[bytes, ...]:
        """Return the secrets by which a webhook signs, the newest first.

        Raises:
            SealUnavailable, SealBroken: one cannot be opened.
        """
        return tuple(self._opened(webhook, sealed) for sealed in webhook.signing(now))

    def _opened(self, webhook: Webhook, sealed: bytes) -> bytes:
        # By the ciphertext and its owner: an item that was moved is opened anew, and refused.
        key = b"%b %b %b" % (webhook.user_id.encode(), webhook.id.encode(), sealed)
        kept = self._kept.get(key)
        if kept is not None and monotonic() - kept[0] < _KEPT_S:
            return kept[1]
        opened = self._seal.unseal(sealed, context=seal_context(webhook.user_id, webhook.id))
        self._kept[key] = (monotonic(), opened)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return opened
