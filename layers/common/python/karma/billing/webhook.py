"""The use case of the webhook: verifies an event of Stripe's, stores it once, and enqueues it for the worker.

Its effects are computed in projector.py, only by the worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from karma.billing.arrival import DUE_AFTER, Stored, read_arrival
from karma.billing.signature import SignatureMismatch, verify
from karma.core.clock import Clock
from karma.core.errors import PayloadTooLarge, Upstream
from karma.core.observability import count, logger

if TYPE_CHECKING:  # which its cold start goes without
    from datetime import datetime

    from karma.billing.ports import Arrivals, Queue

MAX_BODY = 1_000_000
"""Largest body of an event in bytes; Stripe's events have a few KB."""
_REREAD_EVERY = timedelta(seconds=5)
"""Shortest time, in one process, between two reads of the secrets past the cache for a wrong signature: a flood of
forged requests costs Secrets Manager one call in this time."""


class Secrets(Protocol):
    """Source of the webhook's signing secrets."""

    def __call__(self, *, fresh: bool) -> tuple[str, ...]:
        """Return every signing secret that is valid now, () when none is set; `fresh` ignores the cache."""
        ...


class WebhookDisabled(Upstream):
    """No signing secret is set: nothing can be verified, so nothing is accepted."""

    status = 503
    code = "WEBHOOK_DISABLED"


class WebhookService:
    """Receives events of Stripe."""

    def __init__(self, *, secrets: Secrets, arrivals: Arrivals, queue: Queue, clock: Clock) -> None:
        self._secrets = secrets
        self._reread_at: datetime | None = None
        self._arrivals = arrivals
        self._queue = queue
        self._clock = clock

    def receive(self, body: bytes, signature: str | None) -> Stored:
        """Verify and store one event; once this returns, a worker will close it.

        May be repeated: an event that is stored and open is enqueued again. If it cannot be enqueued, the sweep
        does so later.

        Raises:
            WebhookDisabled: no signing secret is set.
            PayloadTooLarge: the body exceeds `MAX_BODY`, or an item of DynamoDB.
            SignatureInvalid: Stripe did not sign the body with a secret of ours, or not now.
            InvalidRequest: the body is no event.
            StorageUnavailable: the database does not answer; the event may be stored.
        """
        if len(body) > MAX_BODY:
            raise PayloadTooLarge(f"The body exceeds {MAX_BODY} bytes")
        now = self._clock.now()
        try:
            self._verify(body, signature, now, fresh=False)
        except (SignatureMismatch, WebhookDisabled):
            # The secrets may have been rolled, or set, since they were cached.
            if self._reread_at is not None and now - self._reread_at < _REREAD_EVERY:
                raise
            self._reread_at = now
            self._verify(body, signature, now, fresh=True)
        arrival = read_arrival(body)
        stored = self._arrivals.store(arrival, received_at=now, due_at=now + DUE_AFTER)
        if stored is Stored.CONFLICT:
            count("WebhookConflict")
            logger.warning("billing.webhook_conflict", event_id=arrival.id)
        elif stored is not Stored.CLOSED:
            self._enqueue(arrival.id)
        if stored in {Stored.OPEN, Stored.CLOSED}:
            count("WebhookDuplicate")
        return stored

    def _verify(self, body: bytes, signature: str | None, now: datetime, *, fresh: bool) -> None:
        secrets = tuple(secret for secret in self._secrets(fresh=fresh) if secret.strip())
        if not secrets:
            raise WebhookDisabled("No webhook secret is set")
        verify(body, signature, secrets, now_s=now.timestamp())

    def _enqueue(self, event_id: str) -> None:
        try:
            self._queue.send(event_id)
        except Upstream:
            count("InboxEnqueueFailed")
            logger.exception("billing.enqueue_failed", event_id=event_id)
