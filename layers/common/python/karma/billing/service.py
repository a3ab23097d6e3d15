"""Use cases of billing: receive Stripe's events, enqueue late ones again, show a user's subscription.

The effects of Stripe's events are computed in projector.py, only by the worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from karma.billing.arrival import Stored, is_event_id, read_arrival
from karma.billing.signature import SignatureMismatch, verify
from karma.core.clock import Clock
from karma.core.errors import Conflict, NotFound, PayloadTooLarge, Upstream
from karma.core.observability import count, logger

if TYPE_CHECKING:
    from datetime import datetime

    from karma.audit.domain import Source
    from karma.billing.domain import EventState, InboxEvent, Subscription
    from karma.billing.plans import Catalog, Plan
    from karma.billing.ports import Arrivals, Inbox, InboxPage, Queue, Subscriptions
    from karma.core.ids import UserId

MAX_BODY = 1_000_000
"""Largest body of an event in bytes; Stripe's events have a few KB."""
DUE_AFTER = timedelta(minutes=2)
"""Time after which the sweep enqueues an event again that no worker has handled."""
_LONGEST_PAUSE = timedelta(hours=6)
_SWEEP_LIMIT = 500


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


class InboxService:
    """Receives events: verifies, stores once, enqueues."""

    def __init__(self, *, secrets: Secrets, arrivals: Arrivals, queue: Queue, clock: Clock) -> None:
        self._secrets = secrets
        self._reread_at: datetime | None = None
        self._arrivals = arrivals
        self._queue = queue
        self._clock = clock

    def receive(self, body: bytes, signature: str | None) -> Stored:
        """Verify and store one event; once this returns, it will be handled.

        May be repeated: an event that is stored but not handled is enqueued again. If it cannot be enqueued, the sweep
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
        elif stored is not Stored.HANDLED:
            self._enqueue(arrival.id)
        if stored in {Stored.WAITING, Stored.HANDLED}:
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


class InboxOperations:
    """Use cases of administrators and the sweep with stored events: enqueue late ones again, list, replay, dismiss."""

    def __init__(self, *, inbox: Inbox, queue: Queue, clock: Clock) -> None:
        self._inbox = inbox
        self._queue = queue
        self._clock = clock

    def requeue_due(self) -> int:
        """Enqueue open events that are due, up to 500; the pause doubles with each attempt, to 6 h. Return how many.

        The due time moves before the message is sent, so that a crash in between costs a pause and repeats no message.
        """
        now = self._clock.now()
        sent: list[str] = []
        for due in self._inbox.due(now, limit=_SWEEP_LIMIT):
            pause = min(DUE_AFTER * 2 ** min(due.attempts, 20), _LONGEST_PAUSE)
            if self._inbox.postpone(due.event_id, until=now + pause):
                sent.append(due.event_id)
        self._queue.send_many(sent)
        if sent:
            count("InboxRequeued", len(sent))
        return len(sent)

    def page(self, state: EventState, *, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List events of a state; expired ones that DynamoDB has not deleted yet are left out."""
        now = self._clock.now()
        page = self._inbox.page(state, limit=limit, start=start)
        return page._replace(events=[event for event in page.events if not _is_over(event, now)])

    def event(self, event_id: str) -> InboxEvent:
        """Read one event in any state.

        Raises:
            NotFound: there is no such event.
        """
        found = self._inbox.get(event_id) if is_event_id(event_id) else None
        if found is None or _is_over(found, self._clock.now()):
            raise NotFound("Event not found")
        return found

    def replay(self, event_id: str) -> None:
        """Open an event in any state again, and enqueue it.

        Raises:
            NotFound: there is no such event.
            QueueUnavailable: the queue does not answer; the event is open, and the sweep will enqueue it.
        """
        self.event(event_id)
        now = self._clock.now()
        if not self._inbox.reopen(event_id, at=now, due_at=now + DUE_AFTER):
            raise NotFound("Event not found")
        self._queue.send(event_id)

    def dismiss(
        self, event_id: str, *, reason: str, actor_id: UserId | None, source: Source | None = None
    ) -> InboxEvent:
        """Close an event that nobody will handle; a repeat keeps the first reason.

        It is written to the audit log of the administrator; an operator (`actor_id` None) has none.

        Raises:
            NotFound: there is no such event.
            EventClosed: the event was handled or ignored.
        """
        from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
        from karma.billing.domain import EventState

        event, now = self.event(event_id), self._clock.now()
        entry = None
        if actor_id is not None:
            entry = AuditEntry(
                user_id=actor_id,
                event=AuditEvent.BILLING_EVENT_DISMISSED,
                at=now,
                actor_id=actor_id,
                source=source or NOWHERE,
                details={"event_id": event_id, "reason": reason},
            )
        if event.state is EventState.DISMISSED or self._inbox.dismiss(event_id, at=now, note=reason, entry=entry):
            return self.event(event_id)
        event = self.event(event_id)
        if event.state is EventState.DISMISSED:
            return event
        raise EventClosed(f"The event is {event.state} already")


def _is_over(event: InboxEvent, now: datetime) -> bool:
    return event.expires_at is not None and event.expires_at <= now


class EventClosed(Conflict):
    """The event was handled or ignored, and cannot be dismissed."""

    code = "EVENT_CLOSED"


class SubscriptionService:
    """Use cases of readers of plans and subscriptions."""

    def __init__(self, *, subscriptions: Subscriptions, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._clock = clock

    def current(self, user_id: UserId) -> Subscription:
        """Return the user's subscription; when none was ever bought, one to the free plan for the current month."""
        from karma.billing.domain import free_subscription

        found = self._subscriptions.row(user_id).subscription
        return found or free_subscription(user_id, self._clock.now())

    def plan(self, user_id: UserId) -> Plan:
        """Return the plan whose limits hold for the user now."""
        from karma.billing.plans import plan_at

        now = self._clock.now()
        return plan_at(self.current(user_id).entitled_plan(now), now)

    def catalog(self) -> Catalog:
        """Return the plans that are offered now."""
        from karma.billing.plans import catalog_at

        return catalog_at(self.now())

    def now(self) -> datetime:
        """Return the moment for which answers are computed."""
        return self._clock.now()
