"""Use cases of administrators and of the sweep with the stored events of Stripe."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.billing.arrival import DUE_AFTER, is_event_id
from karma.billing.domain import EventState, InboxEvent
from karma.core.clock import Clock
from karma.core.errors import Conflict, NotFound
from karma.core.ids import UserId
from karma.core.observability import count

if TYPE_CHECKING:
    from karma.billing.ports import DueEvent, Inbox, InboxPage, Queue

_LONGEST_PAUSE = timedelta(hours=6)
_SWEEP_LIMIT = 500


class EventClosed(Conflict):
    """The event was handled or ignored, and cannot be dismissed."""

    code = "EVENT_CLOSED"


class InboxService:
    """Use cases of administrators and the sweep with stored events: enqueue late ones again, list, replay, dismiss."""

    def __init__(self, *, inbox: Inbox, queue: Queue, clock: Clock) -> None:
        self._inbox = inbox
        self._queue = queue
        self._clock = clock

    def requeue_due(self) -> int:
        """Enqueue open events that are due, up to 500; the pause doubles with each attempt, to 6 h. Return how many.

        The due time moves before the message is sent, so that a crash in between costs a pause and repeats no message.
        """
        from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

        now = self._clock.now()
        sent: list[str] = []

        def move(due: DueEvent) -> int:
            pause = min(DUE_AFTER * 2 ** min(due.attempts, 20), _LONGEST_PAUSE)
            if self._inbox.postpone(due.event_id, until=now + pause):
                sent.append(due.event_id)
            return 0

        found = self._inbox.due(now, limit=_SWEEP_LIMIT)
        sweep_each("inbox", found, move, name=lambda due: due.event_id, clock=self._clock)
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
