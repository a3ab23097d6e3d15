"""Declarations of billing for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import EventState, project
from karma.billing.ports import CustomerLink
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.daily_budgets import DailyBudgetRepository
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.repository.usage import UsageRepository
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from tests.fakes.billing import MemoryBilling, MemoryDailyBudgets
from tests.fakes.usage import MemoryUsage
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.plans import allowance, limited, take
from tests.support.rows import DAY, LATER, NOW, AccountRows
from tests.unit.billing.test_domain import stripe_subscription


class BillingRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.arrivals = ArrivalRepository()
        self.inbox = InboxRepository()
        self.subscriptions = SubscriptionRepository()

    @cached_property
    def usage(self) -> UsageRepository:
        return UsageRepository()

    @property
    def taken(self) -> PurgeAttempt:
        """Return the purge of an account that has taken something of its plan."""
        take(limited(self.ada.id))
        return self.purge()

    @property
    def event_id(self) -> str:
        return f"evt_{self.id}"

    @property
    def arrival(self) -> Arrival:
        return Arrival(self.event_id, "invoice.paid", '{"type": "invoice.paid", "data": {}}')

    @cached_property
    def event(self) -> str:
        self.arrivals.store(self.arrival, received_at=NOW, due_at=NOW)
        return self.event_id

    @property
    def subscription(self) -> Any:
        return replace(
            project(stripe_subscription(), user_id=self.ada.id),
            stripe_subscription_id=f"sub_{self.id}",
            stripe_customer_id=f"cus_{self.id}",
        )

    def subscribe(self) -> bool:
        seen = self.subscriptions.row(self.ada.id)
        return self.subscriptions.save(self.ada.id, self.subscription, seen=seen, event_id=self.event, at=NOW)

    @property
    def customers(self) -> CustomerRepository:
        return CustomerRepository()

    @cached_property
    def customer(self) -> CustomerLink:
        assert self.customers.link(f"cus_{self.id}", self.ada.id, seen=None, at=NOW, livemode=True)
        link = self.customers.link_of(f"cus_{self.id}")
        assert link is not None
        return link

    @cached_property
    def unlinked(self) -> str:
        assert self.inbox.close_unlinked(self.event, f"cus_of_nobody_{self.id}", at=NOW, note="")
        return self.event

    def ignore_payer(self, event: str) -> bool:
        return self.inbox.ignore_payer(event, f"cus_of_nobody_{self.id}", [self.price], asked_at=NOW, at=NOW, note="")

    def limit_day(self, max_cost_micros: int) -> bool:
        budgets = DailyBudgetRepository()
        seen = budgets.get(self.ada.id)
        return budgets.save(self.ada.id, max_cost_micros, seen=seen, used=7, at=NOW, entry=self.entry)

    @property
    def price(self) -> str:
        return f"price_{self.id}"

    @cached_property
    def ignored(self) -> str:
        assert self.ignore_payer(self.event)
        return self.event


FAKES: Fakes = {
    MemoryBilling: (ArrivalRepository, InboxRepository, SubscriptionRepository, CustomerRepository),
    MemoryDailyBudgets: (DailyBudgetRepository,),
    MemoryUsage: (UsageRepository,),
}


def _saved_row(r: BillingRows, link: CustomerLink) -> bool:
    return r.subscriptions.save(
        r.ada.id,
        r.subscription,
        seen=r.subscriptions.row(r.ada.id),
        event_id=r.event_id,
        at=NOW,
        shown=[link.customer_id],
    )


SCENARIOS = Scenarios[BillingRows](
    BillingRows,
    {
        "ArrivalRepository.store": lambda r: lambda: r.arrivals.store(r.arrival, received_at=NOW, due_at=NOW),
        "InboxRepository.get": made(lambda r: r.event, lambda r, event: r.inbox.get(event)),
        "InboxRepository.close": made(
            lambda r: (r.event, r.ada), lambda r, n: r.inbox.close(n[0], at=LATER, note="", user_id=n[1].id)
        ),
        "InboxRepository.forget": made(lambda r: r.event, lambda r, event: r.inbox.forget(event)),
        "InboxRepository.record_failure": made(
            lambda r: r.event, lambda r, event: r.inbox.record_failure(event, error="E", at=NOW)
        ),
        "InboxRepository.due": made(lambda r: r.event, lambda r, _: r.inbox.due(LATER, limit=5)),
        "InboxRepository.postpone": made(lambda r: r.event, lambda r, event: r.inbox.postpone(event, until=LATER)),
        "InboxRepository.reopen": made(lambda r: r.event, lambda r, event: r.inbox.reopen(event, at=NOW, due_at=NOW)),
        "InboxRepository.page": made(
            lambda r: r.event, lambda r, _: r.inbox.page(EventState.UNHANDLED, limit=5, start=None)
        ),
        "InboxRepository.close_unlinked": made(
            lambda r: r.event,
            lambda r, event: r.inbox.close_unlinked(event, f"cus_of_nobody_{r.id}", at=LATER, note=""),
        ),
        "InboxRepository.ignore_payer": made(lambda r: r.event, lambda r, event: r.ignore_payer(event)),
        "InboxRepository.reopen_payers_of": made(
            lambda r: r.ignored, lambda r, _: r.inbox.reopen_payers_of(r.price, at=LATER)
        ),
        "InboxRepository.waiting_of": made(
            lambda r: r.unlinked, lambda r, _: r.inbox.waiting_of(f"cus_of_nobody_{r.id}", EventState.UNLINKED)
        ),
        "InboxRepository.dismiss": made(
            lambda r: (r.unlinked, r.entry), lambda r, n: r.inbox.dismiss(n[0], at=LATER, note="", entry=n[1])
        ),
        "SubscriptionRepository.row": made(lambda r: r.ada, lambda r, ada: r.subscriptions.row(ada.id)),
        "SubscriptionRepository.limits": made(
            lambda r: (r.subscribe(), r.limit_day(5)), lambda r, _: r.subscriptions.limits(r.ada.id)
        ),
        "DailyBudgetRepository.get": made(lambda r: r.limit_day(5), lambda r, _: DailyBudgetRepository().get(r.ada.id)),
        "DailyBudgetRepository.save": made(lambda r: (r.ada, r.entry), lambda r, _: r.limit_day(5)),
        "SubscriptionRepository.save": made(lambda r: (r.customer, r.event), lambda r, n: _saved_row(r, n[0])),
        "SubscriptionRepository.due_looks": made(
            lambda r: r.customer, lambda r, _: r.subscriptions.due_looks(LATER, limit=5)
        ),
        "SubscriptionRepository.postpone_look": made(
            lambda r: (r.customer, r.subscriptions.due_looks(LATER, limit=5)[0]),
            lambda r, n: r.subscriptions.postpone_look(n[1], until=LATER),
        ),
        "SubscriptionRepository.payers_of": made(
            lambda r: r.customer, lambda r, _: r.subscriptions.payers_of("price_1", but_at=NOW, start=None)
        ),
        "SubscriptionRepository.hasten_look": made(
            lambda r: r.customer, lambda r, _: r.subscriptions.hasten_look(r.ada.id, at=LATER)
        ),
        "CustomerRepository.link_of": made(lambda r: r.customer, lambda r, link: r.customers.link_of(link.customer_id)),
        "CustomerRepository.links_of": made(lambda r: r.customer, lambda r, _: r.customers.links_of(r.ada.id)),
        "CustomerRepository.link": made(
            lambda r: (r.customer, r.subscribe(), r.root, r.entry),
            lambda r, n: r.customers.link(n[0].customer_id, n[2].id, seen=n[0], at=LATER, entries=[n[3]]),
        ),
        "CustomerRepository.begin_ending": made(
            lambda r: r.customer,
            lambda r, link: r.customers.begin_ending(link.customer_id, r.ada.id, at=NOW, deleted_at=NOW),
        ),
        "CustomerRepository.end": made(
            lambda r: (r.customer, r.customers.begin_ending(r.customer.customer_id, r.ada.id, at=NOW, deleted_at=NOW)),
            lambda r, n: r.customers.end(n[0].customer_id, r.ada.id, at=NOW),
        ),
        "SubscriptionRepository.purge": made(
            lambda r: (r.subscribe(), r.purge()), lambda r, n: r.subscriptions.purge(n[1])
        ),
        "UsageRepository.carry": made(
            lambda r: (r.taken, UserId(new_id())), lambda r, n: r.usage.carry(n[0].user_id, n[1], at=NOW)
        ),
        "UsageRepository.has_seat": made(lambda r: r.ada, lambda r, ada: r.usage.has_seat(ada.id, ada.id)),
        "UsageRepository.read": made(lambda r: r.ada, lambda r, ada: r.usage.read(allowance(ada.id))),
        "UsageRepository.read_day": made(lambda r: r.ada, lambda r, ada: r.usage.read_day(ada.id, NOW)),
        "UsageRepository.purge": made(lambda r: r.taken, lambda r, purge: r.usage.purge(purge, at=NOW)),
    },
)


def _event(world: World, _: str, __: Mapping[str, str]) -> str:
    now = datetime.now(UTC)
    event_id = "evt_" + new_id().replace("-", "")
    arrival = Arrival(event_id, "invoice.paid", '{"type": "invoice.paid", "data": {}}')
    ArrivalRepository().store(arrival, received_at=now, due_at=now)
    return event_id


def _customer(world: World, owner: str, _: Mapping[str, str]) -> str:
    customer_id = "cus_" + new_id().replace("-", "")
    links = CustomerRepository()
    assert links.link(customer_id, world.person(owner).id, seen=None, at=datetime.now(UTC))
    return customer_id


OBJECTS: Objects = {"event_id": _event, "customer_id": _customer}

SHARED = {"event_id", "customer_id"}

BODIES: Bodies = {
    "POST /api/v1/billing/inbox/{event_id}/dismiss": lambda *_: {"reason": "a test"},
    "PUT /api/v1/usage/budget": lambda *_: {"max_cost_micros": 10**12},
    "PUT /api/v1/billing/customers/{customer_id}/link": lambda world, owner: {"user_id": world.person(owner).id},
}


def _handled(rows: BillingRows) -> None:
    event = rows.event
    assert rows.inbox.close(event, at=NOW, note="", user_id=rows.ada.id)
    assert not rows.inbox.close(event, at=NOW + 365 * DAY, note="")
    assert rows.arrivals.store(rows.arrival, received_at=NOW + 365 * DAY, due_at=NOW) is Stored.CLOSED


def _reopened(rows: BillingRows) -> None:
    assert rows.ignored
    rows.inbox.reopen_payers_of("price_of_nobody", at=NOW)
    assert rows.inbox.reopen(rows.event, at=NOW, due_at=NOW)


def _ended(rows: BillingRows) -> None:
    rows.customers.begin_ending(rows.customer.customer_id, rows.ada.id, at=NOW, deleted_at=NOW)
    rows.customers.end(rows.customer.customer_id, rows.ada.id, at=NOW)


OUTLIVES = Checks[BillingRows](
    BillingRows,
    {
        # A repeat of an event that was handled stays handled.
        "stripe_event": _handled,
        # A note for the purge of its account, which takes an event that is gone for deleted.
        "own_event": _handled,
        # Events about a deleted account are dropped, as long as it is known that it was one.
        "customer_link": _ended,
        # Known far longer than an event is handled, and older than whatever Stripe is asked later.
        "price_naming": _reopened,
        # Opens an event, which is then read anew.
        "unlinked_payer": _reopened,
    },
)
