"""Billing's stores and queue in memory; tests/contract/stores holds the stores to the real ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

import orjson

from karma.audit.domain import AuditEntry
from karma.billing.allowances import day_of
from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import (
    EventState,
    InboxEvent,
    Subscription,
    Told,
    read_hint,
    together,
    told_of,
)
from karma.billing.naming import NOTHING, Paid, look_at
from karma.billing.ports import CustomerLink, DailyBudget, DueEvent, InboxPage, Look, OwnLimits, Payers, Row
from karma.billing.repository.inbox import RETENTION, RETENTION_UNLINKED
from karma.core.clock import iso
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice
from tests.fakes.usage import MemoryUsage


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
class MemoryDailyBudgets:
    """Limits of days, over the stores of what is counted and of what is read with subscriptions."""

    usage: MemoryUsage = field(default_factory=MemoryUsage)
    kept: dict[UserId, DailyBudget] = field(default_factory=dict)
    gone: set[UserId] = field(default_factory=set)
    audit: list[AuditEntry] = field(default_factory=list)

    def get(self, user_id: UserId) -> DailyBudget:
        return self.kept.get(user_id, DailyBudget())

    def save(
        self,
        user_id: UserId,
        max_cost_micros: int | None,
        *,
        seen: DailyBudget,
        used: int | None,
        at: datetime,
        entry: AuditEntry,
    ) -> bool:
        if user_id in self.gone:
            raise AccountGone(user_id)
        if self.get(user_id).version != seen.version:
            return False
        self.kept[user_id] = DailyBudget(max_cost_micros, seen.version + 1, seen.created_at or iso(at))
        if used is not None:
            self.usage.account_days[user_id, day_of(at)] = used
        self.audit.append(entry)
        return True


@dataclass
class MemoryBilling:
    """Arrivals, inbox, subscriptions and links over one set of dictionaries, as one table holds them."""

    events: dict[str, InboxEvent] = field(default_factory=dict)
    due_at: dict[str, datetime] = field(default_factory=dict)
    about: dict[str, UserId] = field(default_factory=dict)
    """Events that were about a user, by id."""
    rows: dict[UserId, Row] = field(default_factory=dict)
    budgets: MemoryDailyBudgets = field(default_factory=MemoryDailyBudgets)
    """Amounts that accounts allow themselves a day."""
    looks: dict[UserId, datetime] = field(default_factory=dict)
    customers: dict[str, CustomerLink] = field(default_factory=dict)
    ending: dict[str, UserId] = field(default_factory=dict)
    gone: set[UserId] = field(default_factory=set)
    """Accounts that are deleted."""
    notices: list[Notice] = field(default_factory=list)
    audit: list[AuditEntry] = field(default_factory=list)
    payers: dict[tuple[str, str], str] = field(default_factory=dict)
    """By price or product and customer, the event that was ignored."""
    ignored: dict[str, str] = field(default_factory=dict)
    """By customer without a link that pays, the latest event that was ignored."""
    named_at: dict[str, datetime] = field(default_factory=dict)
    page_size: int = 100

    # Arrivals and inbox

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
        return Stored.CLOSED if there.handled_at else Stored.OPEN

    def get(self, event_id: str) -> InboxEvent | None:
        return self.events.get(event_id)

    def close(
        self,
        event_id: str,
        *,
        at: datetime,
        note: str,
        state: EventState = EventState.HANDLED,
        user_id: UserId | None = None,
    ) -> bool:
        self._require(user_id)
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None:
            return False
        self._close(event, at=at, note=note, state=state)
        if user_id is not None:
            self.about[event_id] = user_id
        return True

    def close_unlinked(self, event_id: str, customer_id: str, *, at: datetime, note: str) -> bool:
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None or self._is_linked(customer_id):
            return False
        self._close(event, at=at, note=note, state=EventState.UNLINKED)
        self._close_earlier(event_id, customer_id, EventState.UNLINKED, at=at)
        return True

    def _close_earlier(self, event_id: str, customer_id: str, state: EventState, *, at: datetime) -> None:
        for other in map(self.events.__getitem__, self.waiting_of(customer_id, state)):
            if other.handled_at is not None and (iso(other.handled_at), other.id) < (iso(at), event_id):
                self._close(other, at=at, note=f"replaced by {event_id}", state=EventState.IGNORED)

    def ignore_payer(
        self, event_id: str, customer_id: str, object_ids: Sequence[str], *, asked_at: datetime, at: datetime, note: str
    ) -> bool:
        event = self.events.get(event_id)
        if event is None or event.handled_at is not None or self._is_linked(customer_id):
            return False
        named = [self.named_at[object_id] for object_id in object_ids if object_id in self.named_at]
        if any(iso(each) >= iso(asked_at) for each in named):
            return False
        keys = [(object_id, customer_id) for object_id in object_ids]
        replaced = self.events.get(self.ignored.get(customer_id, event_id))
        if replaced is not None and replaced.state is EventState.IGNORED:
            self.events[replaced.id] = replace(replaced, expires_at=(at + RETENTION).replace(microsecond=0))
        self.ignored[customer_id] = event_id
        self.payers |= dict.fromkeys(keys, event_id)
        self._close(event, at=at, note=note, state=EventState.IGNORED)
        kept = (at + RETENTION_UNLINKED).replace(microsecond=0)
        self.events[event_id] = replace(self.events[event_id], expires_at=kept)
        return True

    def reopen_payers_of(self, object_id: str, *, at: datetime) -> int:
        self.named_at[object_id] = at
        opened = 0
        for key in [each for each in self.payers if each[0] == object_id]:
            opened += self.reopen(self.payers[key], at=at, due_at=at)
            del self.payers[key]
        return opened

    def waiting_of(self, customer_id: str, state: EventState) -> list[str]:
        found = (event for event in self.events.values() if event.state is state)
        return [event.id for event in found if read_hint(event).customer_id == customer_id]

    def dismiss(self, event_id: str, *, at: datetime, note: str, entry: AuditEntry | None) -> bool:
        event = self.events.get(event_id)
        if event is None or event.state not in {EventState.UNHANDLED, EventState.UNLINKED, EventState.UNNAMED}:
            return False
        self._close(event, at=at, note=note, state=EventState.DISMISSED)
        self.audit += [entry] if entry else []
        return True

    def _close(self, event: InboxEvent, *, at: datetime, note: str, state: EventState) -> None:
        keep = RETENTION_UNLINKED if state in {EventState.UNLINKED, EventState.UNNAMED} else RETENTION
        self.events[event.id] = replace(
            event, handled_at=at, note=note, last_error="", state=state, expires_at=(at + keep).replace(microsecond=0)
        )
        self.due_at.pop(event.id, None)

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        event = self.events.get(event_id)
        if event is not None and event.handled_at is None:
            self.events[event_id] = replace(event, attempts=event.attempts + 1, last_error=error)

    def due(self, now: datetime, *, limit: int) -> list[DueEvent]:
        late = sorted((when, event_id) for event_id, when in self.due_at.items() if when < now)
        return [DueEvent(event_id, self.events[event_id].attempts) for _, event_id in late[:limit]]

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
        self.events[event_id] = replace(
            event,
            handled_at=None,
            note="",
            attempts=0,
            last_error="",
            state=EventState.UNHANDLED,
            expires_at=None,
        )
        self.due_at[event_id] = due_at
        return True

    def page(self, state: EventState, *, limit: int, start: dict[str, str] | None) -> InboxPage:
        of_state = [event for event in self.events.values() if event.state is state]
        if state is EventState.UNHANDLED:
            listed = sorted(of_state, key=lambda each: (self.due_at[each.id], each.id))
        elif state in {EventState.UNLINKED, EventState.UNNAMED}:
            listed = sorted(of_state, key=lambda each: (read_hint(each).customer_id, each.handled_at, each.id))
        else:
            listed = sorted(of_state, key=lambda each: (each.handled_at, each.id), reverse=True)
        first = [event.id for event in listed].index(start["id"]) + 1 if start else 0
        shown = listed[first : first + limit]
        more = first + limit < len(listed)
        return InboxPage(shown, {"id": shown[-1].id} if more else None)

    def forget(self, event_id: str) -> None:
        self.events.pop(event_id, None)
        self.due_at.pop(event_id, None)

    # Subscriptions

    def row(self, user_id: UserId) -> Row:
        return self.rows.get(user_id, Row())

    def limits(self, user_id: UserId) -> OwnLimits:
        return OwnLimits(self.row(user_id).subscription, self.budgets.get(user_id).max_cost_micros)

    def save(
        self,
        user_id: UserId,
        subscription: Subscription | None,
        *,
        seen: Row,
        at: datetime,
        event_id: str = "",
        note: str = "",
        notice: Notice | None = None,
        shown: Collection[str] = (),
        livemode: bool = False,
        paid: Paid = NOTHING,
        decisions: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        waits_of: str = "",
    ) -> bool:
        self._require(user_id)
        event = self.events.get(event_id)
        if self.row(user_id).version != seen.version:
            return False
        if event_id and (event is None or event.handled_at is not None):
            return False
        links = [self.customers.get(customer_id) for customer_id in {*shown, *decisions}]
        if any(link is None or link.user_id != user_id for link in links):
            return False
        for customer_id in {*shown, *decisions}:
            link = self.customers[customer_id]
            self.customers[customer_id] = link._replace(
                livemode=livemode if customer_id in shown else link.livemode,
                decisions=dict(decisions.get(customer_id, link.decisions)),
                version=link.version + 1,
            )
        looked_at, told = look_at(subscription, paid, at), told_of(subscription, at)
        self._write(user_id, subscription, seen, at=at, look_at=looked_at, paid=paid, told=told)
        self.notices += [notice] if notice else []
        if event_id:
            state = EventState.UNNAMED if waits_of else EventState.HANDLED
            self.close(event_id, at=at, note=note, state=state, user_id=user_id)
            if waits_of:
                self._close_earlier(event_id, waits_of, state, at=at)
        return True

    def _write(
        self,
        user_id: UserId,
        row: Subscription | None,
        seen: Row,
        *,
        at: datetime,
        look_at: datetime | None,
        paid: Paid = NOTHING,
        told: Told | None,
    ) -> None:
        self.rows[user_id] = Row(row, seen.version + 1, seen.created_at or iso(at), paid, told)
        self.looks.pop(user_id, None)
        if look_at is not None:
            self.looks[user_id] = look_at

    def due_looks(self, now: datetime, *, limit: int) -> list[Look]:
        late = sorted((when, user_id) for user_id, when in self.looks.items() if when < now)
        return [Look(user_id, f"{iso(when)}#{user_id}") for when, user_id in late[:limit]]

    def postpone_look(self, look: Look, *, until: datetime) -> bool:
        when = self.looks.get(look.user_id)
        if when is None or f"{iso(when)}#{look.user_id}" != look.due:
            return False
        row = self.rows[look.user_id]
        self.rows[look.user_id] = row._replace(version=row.version + 1)
        self.looks[look.user_id] = until
        return True

    def payers_of(self, object_id: str, *, but_at: datetime, start: dict[str, str] | None) -> Payers:
        listed = sorted((f"{iso(when)}#{user_id}", user_id) for user_id, when in self.looks.items())
        left = [each for each in listed if start is None or each[0] > start["sk"]]
        shown = left[: self.page_size]
        found = [user_id for _, user_id in shown if object_id in self.rows[user_id].paid.ids]
        last = {"sk": shown[-1][0]} if len(left) > self.page_size else None
        return Payers([user_id for user_id in found if self.looks[user_id] != but_at], last)

    def hasten_look(self, user_id: UserId, *, at: datetime) -> bool:
        if user_id not in self.looks:
            return False
        row = self.rows[user_id]
        self.rows[user_id] = row._replace(version=row.version + 1)
        self.looks[user_id] = at
        return True

    def purge(self, purge: PurgeAttempt) -> bool:
        for event_id in [event_id for event_id, user_id in self.about.items() if user_id == purge.user_id]:
            self.forget(event_id)
            del self.about[event_id]
        self.rows.pop(purge.user_id, None)
        self.looks.pop(purge.user_id, None)
        return True

    # Customers

    def link_of(self, customer_id: str) -> CustomerLink | None:
        return self.customers.get(customer_id)

    def links_of(self, user_id: UserId) -> list[CustomerLink]:
        found = sorted(self.customers.values(), key=lambda link: link.customer_id)
        return [link for link in found if user_id in {link.user_id, self.ending.get(link.customer_id)}]

    def link(
        self,
        customer_id: str,
        user_id: UserId,
        *,
        seen: CustomerLink | None,
        at: datetime,
        livemode: bool | None = None,
        entries: Sequence[AuditEntry] = (),
    ) -> bool:
        self._require(user_id)
        there = self.customers.get(customer_id)
        if (there.version if there else 0) != (seen.version if seen else 0):
            return False
        if seen is not None and seen.user_id is not None and seen.user_id in self.rows:
            row = self.rows[seen.user_id]
            held = row.subscription.all if row.subscription else ()
            left = together([each for each in held if each.stripe_customer_id != customer_id])
            self._write(seen.user_id, left, row, at=at, look_at=at, told=row.told)
        decisions = seen.decisions if seen else {}
        version = (seen.version if seen else 0) + 1
        self.customers[customer_id] = CustomerLink(customer_id, user_id, livemode, version, decisions=decisions)
        row = self.row(user_id)
        self._write(user_id, row.subscription, row, at=at, look_at=at, paid=row.paid, told=row.told)
        self.audit += entries
        return True

    def begin_ending(self, customer_id: str, user_id: UserId, *, at: datetime, deleted_at: datetime) -> bool:
        link = self.customers.get(customer_id)
        if link is None or user_id not in {link.user_id, self.ending.get(customer_id)}:
            return False
        taken = link._replace(user_id=None, deleted_at=deleted_at, ending=True)
        self.customers[customer_id] = taken._replace(version=link.version + 1)
        self.ending[customer_id] = user_id
        return True

    def end(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        if self.ending.get(customer_id) == user_id:
            del self.ending[customer_id]
            link = self.customers[customer_id]
            self.customers[customer_id] = link._replace(ending=False, version=link.version + 1)

    def _is_linked(self, customer_id: str) -> bool:
        link = self.customers.get(customer_id)
        return link is not None and link.user_id is not None

    def _require(self, user_id: UserId | None) -> None:
        if user_id in self.gone:
            raise AccountGone(user_id)
