"""Billing's stores, queue and Stripe in memory; tests/contract/stores holds the stores to the real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import orjson

from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import InboxEvent, StripeCustomer, StripeSubscription, Subscription
from karma.billing.ports import Due, InboxPage, Row
from karma.core.clock import iso
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.identity.parent import AccountGone
from karma.notices.domain import Notice


@dataclass
class MemoryQueue:
    """A queue that can be down."""

    bodies: list[str] = field(default_factory=list)
    down: bool = False

    def send(self, body: str) -> None:
        self.send_many([body])

    def send_many(self, bodies: list[str]) -> None:
        if self.down:
            raise Upstream("The queue did not answer; try again")
        self.bodies += bodies


@dataclass
class MemoryBilling:
    """Arrivals, inbox and subscriptions over one set of dictionaries, as one table holds them."""

    events: dict[str, InboxEvent] = field(default_factory=dict)
    due_at: dict[str, datetime] = field(default_factory=dict)
    unlinked: set[str] = field(default_factory=set)
    rows: dict[UserId, Row] = field(default_factory=dict)
    customers: dict[str, UserId] = field(default_factory=dict)
    guards: dict[str, UserId] = field(default_factory=dict)
    gone: set[UserId] = field(default_factory=set)
    """Accounts that are deleted."""
    buried: set[str] = field(default_factory=set)
    """Their customers."""
    notices: list[Notice] = field(default_factory=list)

    def store(self, arrival: Arrival, *, received_at: datetime, due_at: datetime) -> Stored:
        there = self.events.get(arrival.id)
        if there is None:
            self.events[arrival.id] = InboxEvent(
                id=arrival.id,
                type=arrival.type,
                body=arrival.body,
                received_at=received_at,
                handled_at=None,
                note="",
                attempts=0,
                last_error="",
            )
            self.due_at[arrival.id] = due_at
            return Stored.NEW
        before, now = orjson.loads(there.body), orjson.loads(arrival.body)
        if (before["type"], before["data"]) != (now["type"], now["data"]):
            return Stored.CONFLICT
        return Stored.HANDLED if there.handled_at else Stored.WAITING

    def get(self, event_id: str) -> InboxEvent | None:
        return self.events.get(event_id)

    def mark_handled(
        self, event_id: str, *, at: datetime, note: str, unlinked: bool, user_id: UserId | None = None
    ) -> bool:
        self._require(user_id)
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None:
            return False
        self.events[event_id] = replace(event, handled_at=at, note=note, last_error="")
        del self.due_at[event_id]
        if unlinked:
            self.unlinked.add(event_id)
        return True

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        event = self.events.get(event_id)
        if event is not None and event.handled_at is None:
            self.events[event_id] = replace(event, attempts=event.attempts + 1, last_error=error)

    def due(self, now: datetime, *, limit: int) -> list[Due]:
        late = sorted((when, event_id) for event_id, when in self.due_at.items() if when < now)
        return [Due(event_id, self.events[event_id].attempts) for _, event_id in late[:limit]]

    def postpone(self, event_id: str, *, until: datetime) -> bool:
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None:
            return False
        self.events[event_id] = replace(event, attempts=event.attempts + 1)
        self.due_at[event_id] = until
        return True

    def reopen(self, event_id: str, *, at: datetime, due_at: datetime) -> bool:
        event = self.events.get(event_id)
        if event is None:
            return False
        self.events[event_id] = replace(event, handled_at=None, note="", attempts=0, last_error="")
        self.unlinked.discard(event_id)
        self.due_at[event_id] = due_at
        return True

    def page(self, *, unlinked: bool, limit: int, start: dict[str, str] | None) -> InboxPage:
        listed = sorted(self.unlinked) if unlinked else sorted(self.due_at, key=lambda each: (self.due_at[each], each))
        first = listed.index(start["id"]) + 1 if start else 0
        shown = listed[first : first + limit]
        more = first + limit < len(listed)
        return InboxPage([self.events[each] for each in shown], {"id": shown[-1]} if more else None)

    def row(self, user_id: UserId) -> Row:
        return self.rows.get(user_id, Row())

    def forget(self, event_id: str) -> None:
        self.events.pop(event_id, None)
        self.due_at.pop(event_id, None)
        self.unlinked.discard(event_id)

    def _require(self, user_id: UserId | None) -> None:
        if user_id in self.gone:
            raise AccountGone(user_id)

    def bury_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        if self.customers.get(customer_id, user_id) == user_id:
            self.customers.pop(customer_id, None)
            self.buried.add(customer_id)

    def user_of_customer(self, customer_id: str) -> UserId | None:
        if customer_id in self.buried:
            raise AccountGone
        return self.customers.get(customer_id)

    def owner_of(self, stripe_subscription_id: str) -> UserId | None:
        return self.guards.get(stripe_subscription_id)

    def link_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> bool:
        self._require(user_id)
        return self.customers.setdefault(customer_id, user_id) == user_id

    def save_and_close(
        self,
        subscription: Subscription,
        *,
        seen: Row,
        claim: bool,
        event_id: str,
        at: datetime,
        note: str,
        notice: Notice | None = None,
    ) -> bool:
        self._require(subscription.user_id)
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None or self.row(subscription.user_id).version != seen.version:
            return False
        target = subscription.stripe_subscription_id
        if claim and target is not None:
            if target in self.guards:
                return False
            self.guards[target] = subscription.user_id
        self.notices += [notice] if notice else []
        self.rows[subscription.user_id] = Row(subscription, seen.version + 1, seen.created_at or iso(at))
        return self.mark_handled(event_id, at=at, note=note, unlinked=False)


@dataclass
class MemoryStripe:
    """Stripe's objects as they are now; `on_fetch` runs before each answer, for what happens meanwhile."""

    subscriptions: dict[str, StripeSubscription] = field(default_factory=dict)
    customers: dict[str, StripeCustomer] = field(default_factory=dict)
    down: bool = False
    fetches: int = 0
    on_fetch: Callable[[], None] = lambda: None
    after_read: Callable[[], None] = lambda: None
    """Runs once Stripe has read its object, before we get it: the answer is then already old."""

    def subscription(self, subscription_id: str) -> StripeSubscription | None:
        self._fetch()
        found = self.subscriptions.get(subscription_id)
        self.after_read()
        return found

    def subscriptions_of(self, customer_id: str) -> list[StripeSubscription]:
        self._fetch()
        return [each for each in self.subscriptions.values() if each.customer_id == customer_id]

    def customer(self, customer_id: str) -> StripeCustomer | None:
        self._fetch()
        return self.customers.get(customer_id)

    def delete_customer(self, customer_id: str) -> None:
        self._fetch()
        self.customers.pop(customer_id, None)
        for each in [each for each in self.subscriptions.values() if each.customer_id == customer_id]:
            self.subscriptions[each.id] = replace(each, status="canceled")

    def _fetch(self) -> None:
        if self.down:
            raise Upstream("Stripe did not answer; try again")
        self.fetches += 1
        self.on_fetch()
