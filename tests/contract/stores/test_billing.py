"""Arrivals, inbox and subscriptions: one suite for the store in memory and for DynamoDB."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import SubscriptionStatus, deleted, project
from karma.billing.ports import Arrivals, Inbox, Row, Subscriptions
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core.errors import PayloadTooLarge
from karma.core.ids import UserId
from karma.identity.parent import AccountGone
from tests.fakes.billing import MemoryBilling
from tests.support.accounts import open_account
from tests.support.stores import Database, Store
from tests.unit.billing.test_domain import stripe_subscription

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALICE = UserId("01890000-0000-7000-8000-00000000000a")
BOB = UserId("01890000-0000-7000-8000-00000000000b")


class Stores(NamedTuple):
    arrivals: Arrivals
    inbox: Inbox
    subscriptions: Subscriptions

    def arrive(self, event_id: str = "evt_1", *, due: datetime = NOW) -> Stored:
        return self.arrivals.store(arrival(event_id), received_at=NOW, due_at=due)


def arrival(event_id: str = "evt_1", *, text: str = "x") -> Arrival:
    body = json.dumps({"id": event_id, "type": "invoice.paid", "data": {"object": {"text": text}}})
    return Arrival(event_id, "invoice.paid", body)


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryBilling()
        return Stores(memory, memory, memory)
    for user_id in (ALICE, BOB):
        open_account(store.database.tables["identity"], user_id)
    table = store.database.tables["billing"]
    return Stores(ArrivalStore(table), InboxRepository(table), SubscriptionRepository(table))


class TestInbox:
    def test_an_event_is_stored_once_and_read_back(self, stores: Stores) -> None:
        assert stores.arrive() is Stored.NEW
        assert stores.arrive() is Stored.WAITING
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert (event.id, event.type, event.received_at, event.handled_at) == ("evt_1", "invoice.paid", NOW, None)
        assert event.body == arrival().body
        assert stores.inbox.get("evt_2") is None

    def test_the_first_of_two_events_under_one_id_is_kept(self, stores: Stores) -> None:
        stores.arrive()
        second = arrival(text="y")
        assert stores.arrivals.store(second, received_at=NOW, due_at=NOW) is Stored.CONFLICT
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert event.body == arrival().body

    def test_closing_works_once_and_is_seen_by_a_repeat(self, stores: Stores) -> None:
        stores.arrive()
        assert stores.inbox.mark_handled("evt_1", at=NOW, note="done", unlinked=False)
        assert not stores.inbox.mark_handled("evt_1", at=NOW, note="again", unlinked=False)
        assert not stores.inbox.mark_handled("evt_2", at=NOW, note="", unlinked=False)
        assert stores.arrive() is Stored.HANDLED
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert (event.handled_at, event.note) == (NOW, "done")

    def test_only_late_open_events_are_due_oldest_first(self, stores: Stores) -> None:
        for name, due in (("evt_b", NOW), ("evt_a", NOW - MINUTE), ("evt_c", NOW + MINUTE), ("evt_d", NOW)):
            stores.arrive(name, due=due)
        stores.inbox.mark_handled("evt_d", at=NOW, note="", unlinked=False)
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE / 2, limit=10)] == ["evt_a", "evt_b"]
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE / 2, limit=1)] == ["evt_a"]

    def test_a_postponed_event_is_due_later(self, stores: Stores) -> None:
        stores.arrive()
        assert stores.inbox.postpone("evt_1", until=NOW + MINUTE)
        assert stores.inbox.due(NOW + MINUTE, limit=10) == []
        assert [tuple(each) for each in stores.inbox.due(NOW + 2 * MINUTE, limit=10)] == [("evt_1", 1)]
        stores.inbox.mark_handled("evt_1", at=NOW, note="", unlinked=False)
        assert not stores.inbox.postpone("evt_1", until=NOW)

    def test_failures_are_counted_while_open(self, stores: Stores) -> None:
        stores.arrive()
        stores.inbox.record_failure("evt_1", error="PAYMENTS_UNAVAILABLE", at=NOW)
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert (event.attempts, event.last_error) == (1, "PAYMENTS_UNAVAILABLE")
        stores.inbox.mark_handled("evt_1", at=NOW, note="", unlinked=False)
        stores.inbox.record_failure("evt_1", error="LATE", at=NOW)
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert event.last_error == ""

    def test_reopening_makes_it_due_again(self, stores: Stores) -> None:
        stores.arrive()
        stores.inbox.mark_handled("evt_1", at=NOW, note="done", unlinked=True)
        assert stores.inbox.reopen("evt_1", at=NOW, due_at=NOW)
        assert not stores.inbox.reopen("evt_2", at=NOW, due_at=NOW)
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE, limit=10)] == ["evt_1"]
        assert stores.inbox.page(unlinked=True, limit=10, start=None).events == []

    def test_pages_walk_what_waits_and_what_has_no_user(self, stores: Stores) -> None:
        for number in range(5):
            stores.arrive(f"evt_{number}", due=NOW + number * MINUTE)
        stores.inbox.mark_handled("evt_4", at=NOW, note="", unlinked=True)
        first = stores.inbox.page(unlinked=False, limit=3, start=None)
        assert [event.id for event in first.events] == ["evt_0", "evt_1", "evt_2"]
        assert first.last
        second = stores.inbox.page(unlinked=False, limit=3, start=first.last)
        assert [event.id for event in second.events] == ["evt_3"]
        assert [event.id for event in stores.inbox.page(unlinked=True, limit=3, start=None).events] == ["evt_4"]


class TestSubscriptions:
    def save(self, stores: Stores, user: UserId, *, claim: bool = True, seen: Row | None = None, event: str) -> bool:
        stores.arrive(event)
        row = project(stripe_subscription(cancel_at=NOW, trial_end=NOW), user_id=user)
        return stores.subscriptions.save_and_close(
            row, seen=seen or Row(), claim=claim, event_id=event, at=NOW, note="note"
        )

    @pytest.mark.req("R-K-19", "R-K-20")
    def test_a_row_its_guard_and_the_event_are_written_together(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        row = stores.subscriptions.row(ALICE)
        assert row.subscription == project(stripe_subscription(cancel_at=NOW, trial_end=NOW), user_id=ALICE)
        assert stores.subscriptions.owner_of("sub_1") == ALICE
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert event.handled_at == NOW

    @pytest.mark.req("R-K-20")
    def test_a_stripe_subscription_has_one_owner(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        assert not self.save(stores, BOB, event="evt_2")
        assert stores.subscriptions.row(BOB) == Row()
        event = stores.inbox.get("evt_2")
        assert event is not None
        assert event.handled_at is None

    @pytest.mark.req("R-K-19")
    def test_a_user_has_one_row_written_on_the_version_seen(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        assert not self.save(stores, ALICE, claim=False, event="evt_2")
        seen = stores.subscriptions.row(ALICE)
        assert seen.subscription
        gone = deleted(seen.subscription)
        close: Callable[[], bool] = lambda: stores.subscriptions.save_and_close(  # noqa: E731
            gone, seen=seen, claim=False, event_id="evt_2", at=NOW + MINUTE, note=""
        )
        assert close()
        assert not close()
        after = stores.subscriptions.row(ALICE)
        assert after.subscription == replace(
            seen.subscription, status=SubscriptionStatus.CANCELED, stripe_status="canceled"
        )
        assert after.version == seen.version + 1
        assert after.created_at == seen.created_at

    def test_an_unknown_event_closes_nothing(self, stores: Stores) -> None:
        row = project(stripe_subscription(), user_id=ALICE)
        assert not stores.subscriptions.save_and_close(row, seen=Row(), claim=True, event_id="evt_404", at=NOW, note="")
        assert stores.subscriptions.row(ALICE) == Row()

    def test_a_customer_keeps_its_first_user(self, stores: Stores) -> None:
        assert stores.subscriptions.user_of_customer("cus_1") is None
        assert stores.subscriptions.link_customer("cus_1", ALICE, at=NOW)
        assert stores.subscriptions.link_customer("cus_1", ALICE, at=NOW)
        assert not stores.subscriptions.link_customer("cus_1", BOB, at=NOW)
        assert stores.subscriptions.user_of_customer("cus_1") == ALICE

    def test_a_customer_of_a_deleted_account_is_nobody_s(self, stores: Stores) -> None:
        assert stores.subscriptions.link_customer("cus_1", ALICE, at=NOW)
        stores.subscriptions.bury_customer("cus_1", BOB, at=NOW)
        assert stores.subscriptions.user_of_customer("cus_1") == ALICE
        for _ in range(2):
            stores.subscriptions.bury_customer("cus_1", ALICE, at=NOW)
        stores.subscriptions.bury_customer("cus_2", ALICE, at=NOW)
        for customer in ("cus_1", "cus_2"):
            with pytest.raises(AccountGone):
                stores.subscriptions.user_of_customer(customer)


def test_a_large_event_is_packed(database: Database) -> None:
    table = database.tables["billing"]
    large = arrival(text="é" * 400_000)
    store, inbox = ArrivalStore(table), InboxRepository(table)
    assert store.store(large, received_at=NOW, due_at=NOW) is Stored.NEW
    assert store.store(large, received_at=NOW, due_at=NOW) is Stored.WAITING
    assert store.store(arrival(), received_at=NOW, due_at=NOW) is Stored.CONFLICT
    event = inbox.get("evt_1")
    assert event is not None
    assert event.body == large.body


def test_an_event_that_cannot_be_packed_is_refused(database: Database) -> None:
    noise = random.Random(1).randbytes(450_000).hex()
    with pytest.raises(PayloadTooLarge):
        ArrivalStore(database.tables["billing"]).store(arrival(text=noise), received_at=NOW, due_at=NOW)
