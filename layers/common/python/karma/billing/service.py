"""Use cases of billing: receive Stripe's events, keep the inbox moving, show a user's subscription.

What Stripe's events change is computed in projector.py, in the worker only.
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
"""Bytes; Stripe's events are a few KB."""
DUE_AFTER = timedelta(minutes=2)
"""An event that nobody handled for this long is enqueued again by the sweep."""
_LONGEST_PAUSE = timedelta(hours=6)
_SWEEP_LIMIT = 500


_REREAD_EVERY = timedelta(seconds=5)
"""How often a signature that does not match may have the secrets read past the cache, in one process: a flood of
forged requests costs Secrets Manager one call in this time."""


class Secrets(Protocol):
    """Where signing secrets come from."""

    def __call__(self, *, fresh: bool) -> tuple[str, ...]:
        """Return every signing secret valid now, () when none is set; `fresh` ignores what is cached."""
        ...


class WebhookDisabled(Upstream):
    """No signing secret is set: nothing can be verified, so nothing is accepted."""

    status = 503
    code = "WEBHOOK_DISABLED"


class InboxService:
    """Takes events in: verify, store once, enqueue."""

    def __init__(self, *, secrets: Secrets, arrivals: Arrivals, queue: Queue, clock: Clock) -> None:
        self._secrets = secrets
        self._reread_at: datetime | None = None
        self._arrivals = arrivals
        self._queue = queue
        self._clock = clock

    def receive(self, body: bytes, signature: str | None) -> Stored:
        """Verify and keep one event; returning means that it will be handled.

        Repeats are welcome: an event that is stored but not handled is enqueued again. When the queue does not take
        it, it is stored all the same and the sweep enqueues it.

        Raises:
            WebhookDisabled, PayloadTooLarge, SignatureInvalid, InvalidRequest, StorageUnavailable: nothing was stored,
            but for the last, where it is not known.
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


class InboxKeeper:
    """Looks after stored events: sends the late ones again, shows, replays and dismisses them."""

    def __init__(self, *, inbox: Inbox, queue: Queue, clock: Clock) -> None:
        self._inbox = inbox
        self._queue = queue
        self._clock = clock

    def requeue_due(self) -> int:
        """Enqueue every open event whose time has come, up to 500; the pause doubles with each attempt, to 6 h.

        The due time moves before the message is sent: a crash in between costs a pause, not a storm of messages.
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
        """List events of a state; one that is over, and that DynamoDB has not deleted yet, is left out."""
        now = self._clock.now()
        page = self._inbox.page(state, limit=limit, start=start)
        return page._replace(events=[event for event in page.events if not _is_over(event, now)])

    def event(self, event_id: str) -> InboxEvent:
        """Read one event, whatever became of it.

        Raises:
            NotFound: no such event.
        """
        found = self._inbox.get(event_id) if is_event_id(event_id) else None
        if found is None or _is_over(found, self._clock.now()):
            raise NotFound("Event not found")
        return found

    def replay(self, event_id: str) -> None:
        """Open an event again, whatever became of it, and enqueue it.

        Raises:
            NotFound: no such event.
            QueueUnavailable: it is open; the sweep will send it.
        """
        self.event(event_id)
        now = self._clock.now()
        if not self._inbox.reopen(event_id, at=now, due_at=now + DUE_AFTER):
            raise NotFound("Event not found")
        self._queue.send(event_id)

    def dismiss(
        self, event_id: str, *, reason: str, actor_id: UserId | None, source: Source | None = None
    ) -> InboxEvent:
        """Close an event that nobody will handle; a repeat changes nothing, and keeps the first reason.

        The audit log of the administrator has it; an operator at the command line (`actor_id` None) has no log.

        Raises:
            NotFound: no such event.
            EventClosed: it was handled, or ignored.
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
    """What was handled or ignored cannot be dismissed."""

    code = "EVENT_CLOSED"


class SubscriptionService:
    """Shows plans and a user's subscription."""

    def __init__(self, *, subscriptions: Subscriptions, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._clock = clock

    def current(self, user_id: UserId) -> Subscription:
        """Return the user's subscription; one to the free plan, for the current month, when none was ever bought."""
        from karma.billing.domain import free_subscription

        found = self._subscriptions.row(user_id).subscription
        return found or free_subscription(user_id, self._clock.now())

    def plan(self, user_id: UserId) -> Plan:
        """Return the plan whose limits hold for the user now."""
        from karma.billing.plans import plan_at

        now = self._clock.now()
        return plan_at(self.current(user_id).entitled_plan(now), now)

    def catalog(self) -> Catalog:
        """Return what is on offer now."""
        from karma.billing.plans import catalog_at

        return catalog_at(self.now())

    def now(self) -> datetime:
        """Return the moment that answers are given for."""
        return self._clock.now()
