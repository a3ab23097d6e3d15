"""Arrivals, inbox and subscriptions: one suite for the store in memory and for DynamoDB.

One file of more than 450 lines: an event, a row and a link are written together, on one set of stores.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import EventState, Pause, SubscriptionStatus, Told, projection, told_of
from karma.billing.naming import Paid
from karma.billing.plans import PlanName
from karma.billing.ports import Arrivals, CustomerLink, Customers, Inbox, Row, Subscriptions
from karma.billing.purge import Forgetting
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import RETENTION, RETENTION_UNLINKED, InboxRepository
from karma.billing.repository.items import SubscriptionItem
from karma.billing.repository.keys import subscription_key
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core.clock import iso, monotonic
from karma.core.dynamo.access import update
from karma.core.errors import PayloadTooLarge
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from tests.fakes.billing import MemoryBilling
from tests.support.accounts import open_account
from tests.support.stores import Database, Store
from tests.unit.billing.test_domain import PRO, stripe_subscription

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALICE = UserId("01890000-0000-7000-8000-00000000000a")
BOB = UserId("01890000-0000-7000-8000-00000000000b")


class Stores(NamedTuple):
    arrivals: Arrivals
    inbox: Inbox
    subscriptions: Subscriptions
    customers: Customers
    forgetting: Forgetting

    def arrive(self, event_id: str = "evt_1", *, due: datetime = NOW, customer: str = "cus_1") -> Stored:
        return self.arrivals.store(arrival(event_id, customer=customer), received_at=NOW, due_at=due)

    def state(self, event_id: str = "evt_1") -> EventState:
        event = self.inbox.get(event_id)
        assert event is not None
        return event.state

    def link(self, user: UserId = ALICE, *, seen: CustomerLink | None = None, at: datetime = NOW) -> bool:
        return self.customers.link("cus_1", user, seen=seen, at=at, livemode=True)


def arrival(event_id: str = "evt_1", *, text: str = "x", customer: str = "cus_1") -> Arrival:
    shown = {"text": text, "customer": customer}
    body = json.dumps({"id": event_id, "type": "invoice.paid", "data": {"object": shown}})
    return Arrival(event_id, "invoice.paid", body)


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryBilling()
        return Stores(memory, memory, memory, memory, memory)
    for user_id in (ALICE, BOB):
        open_account(user_id)
    rows = SubscriptionRepository()
    return Stores(ArrivalRepository(), InboxRepository(), rows, CustomerRepository(), rows)


class TestInbox:
    def test_an_event_is_stored_once_and_read_back(self, stores: Stores) -> None:
        assert stores.arrive() is Stored.NEW
        assert stores.arrive() is Stored.OPEN
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
        assert stores.inbox.close("evt_1", at=NOW, note="done")
        assert not stores.inbox.close("evt_1", at=NOW, note="again")
        assert not stores.inbox.close("evt_2", at=NOW, note="")
        assert stores.arrive() is Stored.CLOSED
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert (event.handled_at, event.note) == (NOW, "done")

    def test_only_late_open_events_are_due_oldest_first(self, stores: Stores) -> None:
        for name, due in (("evt_b", NOW), ("evt_a", NOW - MINUTE), ("evt_c", NOW + MINUTE), ("evt_d", NOW)):
            stores.arrive(name, due=due)
        stores.inbox.close("evt_d", at=NOW, note="")
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE / 2, limit=10)] == ["evt_a", "evt_b"]
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE / 2, limit=1)] == ["evt_a"]

    def test_a_postponed_event_is_due_later(self, stores: Stores) -> None:
        stores.arrive()
        assert stores.inbox.postpone("evt_1", until=NOW + MINUTE)
        assert stores.inbox.due(NOW + MINUTE, limit=10) == []
        assert [tuple(each) for each in stores.inbox.due(NOW + 2 * MINUTE, limit=10)] == [("evt_1", 1)]
        stores.inbox.close("evt_1", at=NOW, note="")
        assert not stores.inbox.postpone("evt_1", until=NOW)

    def test_failures_are_counted_while_open(self, stores: Stores) -> None:
        stores.arrive()
        stores.inbox.record_failure("evt_1", error="PAYMENTS_UNAVAILABLE", at=NOW)
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert (event.attempts, event.last_error) == (1, "PAYMENTS_UNAVAILABLE")
        stores.inbox.close("evt_1", at=NOW, note="")
        stores.inbox.record_failure("evt_1", error="LATE", at=NOW)
        event = stores.inbox.get("evt_1")
        assert event is not None
        assert event.last_error == ""

    def test_reopening_makes_it_due_again(self, stores: Stores) -> None:
        stores.arrive()
        stores.inbox.close("evt_1", at=NOW, note="done", state=EventState.IGNORED)
        assert stores.inbox.reopen("evt_1", at=NOW, due_at=NOW)
        assert not stores.inbox.reopen("evt_2", at=NOW, due_at=NOW)
        assert [each.event_id for each in stores.inbox.due(NOW + MINUTE, limit=10)] == ["evt_1"]
        assert stores.inbox.page(EventState.IGNORED, limit=10, start=None).events == []

    @pytest.mark.fault("F-18a")
    def test_pages_walk_what_waits_and_what_is_closed(self, stores: Stores) -> None:
        for number in range(6):
            stores.arrive(f"evt_{number}", due=NOW + number * MINUTE)
        for number in (3, 4, 5):
            stores.inbox.close(f"evt_{number}", at=NOW + number * MINUTE, note="", state=EventState.IGNORED)
        first = stores.inbox.page(EventState.UNHANDLED, limit=2, start=None)
        assert [event.id for event in first.events] == ["evt_0", "evt_1"]
        assert first.last
        second = stores.inbox.page(EventState.UNHANDLED, limit=2, start=first.last)
        assert [event.id for event in second.events] == ["evt_2"]
        ignored = stores.inbox.page(EventState.IGNORED, limit=5, start=None).events
        assert [event.id for event in ignored] == ["evt_5", "evt_4", "evt_3"]
        assert stores.inbox.page(EventState.HANDLED, limit=5, start=None).events == []

    @pytest.mark.fault("F-18a")
    @pytest.mark.parametrize("state", [EventState.HANDLED, EventState.IGNORED])
    def test_what_is_closed_is_listed_and_is_over_some_day(self, stores: Stores, state: EventState) -> None:
        stores.arrive()
        assert stores.inbox.close("evt_1", at=NOW, note="done", state=state, user_id=ALICE)
        [event] = stores.inbox.page(state, limit=5, start=None).events
        assert (event.id, event.state, event.note, event.expires_at) == ("evt_1", state, "done", NOW + RETENTION)

    @pytest.mark.fault("F-16a", "F-18a")
    def test_an_unlinked_event_waits_for_its_customer(self, stores: Stores) -> None:
        for name in ("evt_1", "evt_2"):
            stores.arrive(name)
            assert stores.inbox.close_unlinked(name, "cus_1", at=NOW, note="who")
        assert not stores.inbox.close_unlinked("evt_1", "cus_1", at=NOW, note="who")
        assert not stores.inbox.close_unlinked("evt_404", "cus_1", at=NOW, note="who")
        assert stores.inbox.waiting_of("cus_1", EventState.UNLINKED) == ["evt_2"]
        assert (
            stores.inbox.waiting_of("cus_2", EventState.UNLINKED)
            == stores.inbox.waiting_of("cus", EventState.UNLINKED)
            == []
        )
        [waiting] = stores.inbox.page(EventState.UNLINKED, limit=5, start=None).events
        assert (waiting.note, waiting.expires_at) == ("who", NOW + RETENTION_UNLINKED)
        [replaced] = stores.inbox.page(EventState.IGNORED, limit=5, start=None).events
        assert (replaced.id, replaced.expires_at) == ("evt_1", NOW + RETENTION)
        assert stores.inbox.reopen("evt_2", at=NOW, due_at=NOW)
        assert stores.inbox.waiting_of("cus_1", EventState.UNLINKED) == []

    @pytest.mark.fault("F-18c")
    def test_what_another_customer_or_a_later_event_waits_for_stays(self, stores: Stores) -> None:
        for name, customer, minutes in (("evt_2", "cus_1", 2), ("evt_3", "cus_2", 1), ("evt_1", "cus_1", 1)):
            stores.arrive(name, customer=customer)
            assert stores.inbox.close_unlinked(name, customer, at=NOW + minutes * MINUTE, note="who")
        waiting = [event.id for event in stores.inbox.page(EventState.UNLINKED, limit=5, start=None).events]
        assert waiting == ["evt_1", "evt_2", "evt_3"]

    @pytest.mark.fault("F-16a")
    def test_an_event_of_a_linked_customer_is_not_unlinked(self, stores: Stores) -> None:
        stores.arrive()
        assert stores.link()
        assert not stores.inbox.close_unlinked("evt_1", "cus_1", at=NOW, note="who")
        assert stores.state() is EventState.UNHANDLED

    @pytest.mark.fault("F-15f")
    def test_who_pays_without_a_link_is_heard_of_when_the_price_is_named(self, stores: Stores) -> None:
        def ignore(event_id: str, customer_id: str, *object_ids: str, asked_at: datetime = NOW) -> bool:
            return stores.inbox.ignore_payer(
                event_id, customer_id, object_ids, asked_at=asked_at, at=asked_at, note="other"
            )

        for number in range(1, 6):
            stores.arrive(f"evt_{number}")
        assert ignore("evt_1", "cus_1", "price_1", "prod_1")
        assert ignore("evt_2", "cus_1", "price_1", "prod_1")
        assert ignore("evt_3", "cus_3", "price_1", "prod_1")
        assert not ignore("evt_3", "cus_3", "price_1")
        assert not ignore("evt_404", "cus_3", "price_1")
        kept = {
            event.id: event.expires_at for event in stores.inbox.page(EventState.IGNORED, limit=5, start=None).events
        }
        assert kept == {"evt_1": NOW + RETENTION, "evt_2": NOW + RETENTION_UNLINKED, "evt_3": NOW + RETENTION_UNLINKED}
        assert stores.inbox.reopen_payers_of("price", at=NOW + MINUTE) == 0
        assert stores.inbox.reopen_payers_of("price_1", at=NOW + MINUTE) == 2
        states = [stores.state(f"evt_{number}") for number in range(1, 4)]
        assert states == [EventState.IGNORED, EventState.UNHANDLED, EventState.UNHANDLED]
        assert {each.event_id for each in stores.inbox.due(NOW + 2 * MINUTE, limit=9)} >= {"evt_2", "evt_3"}
        assert stores.inbox.reopen_payers_of("price_1", at=NOW + 2 * MINUTE) == 0
        assert stores.inbox.reopen_payers_of("prod_1", at=NOW + 2 * MINUTE) == 2
        for asked_at, closes in ((NOW, False), (NOW + 2 * MINUTE, False), (NOW + 3 * MINUTE, True)):
            assert ignore("evt_4", "cus_4", "price_1", "price_2", asked_at=asked_at) is closes
        assert stores.link()
        assert not ignore("evt_5", "cus_1", "price_3")
        assert stores.inbox.reopen_payers_of("price_3", at=NOW) == 0

    @pytest.mark.fault("F-18a")
    def test_what_waits_can_be_dismissed_once(self, stores: Stores) -> None:
        entry = AuditEntry(user_id=ALICE, event=AuditEvent.BILLING_EVENT_DISMISSED, at=NOW, actor_id=ALICE)
        for name in ("evt_open", "evt_unlinked", "evt_handled"):
            stores.arrive(name)
        stores.inbox.close_unlinked("evt_unlinked", "cus_1", at=NOW, note="who")
        stores.inbox.close("evt_handled", at=NOW, note="done")
        assert stores.inbox.dismiss("evt_open", at=NOW, note="a test", entry=entry)
        assert stores.inbox.dismiss("evt_unlinked", at=NOW, note="a test", entry=None)
        for name in ("evt_open", "evt_unlinked", "evt_handled", "evt_404"):
            assert not stores.inbox.dismiss(name, at=NOW, note="again", entry=None)
        found = stores.inbox.page(EventState.DISMISSED, limit=5, start=None).events
        assert {(event.id, event.note) for event in found} == {("evt_open", "a test"), ("evt_unlinked", "a test")}
        assert stores.inbox.due(NOW + MINUTE, limit=5) == []


class TestSubscriptions:
    def save(
        self, stores: Stores, user: UserId, *, seen: Row | None = None, event: str = "", at: datetime = NOW
    ) -> bool:
        if event:
            stores.arrive(event)
        pro = stripe_subscription(id="sub_2", prices=(PRO,))
        full = stripe_subscription(
            cancel_at=NOW, trial_end=NOW, status="past_due", pause=Pause(behavior="void", resumes_at=NOW)
        )
        row = projection([full, pro], user_id=user)
        return stores.subscriptions.save(user, row, seen=seen or Row(), event_id=event, at=at, note="note")

    @pytest.mark.req("R-K-19")
    def test_a_row_and_the_event_are_written_together(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        row = stores.subscriptions.row(ALICE).subscription
        assert row is not None
        assert row.others
        assert row == projection(
            [
                stripe_subscription(id="sub_2", prices=(PRO,)),
                stripe_subscription(
                    cancel_at=NOW, trial_end=NOW, status="past_due", pause=Pause(behavior="void", resumes_at=NOW)
                ),
            ],
            user_id=ALICE,
        )
        assert stores.state() is EventState.HANDLED

    @pytest.mark.req("R-K-19")
    def test_a_user_has_one_row_written_on_the_version_seen(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        assert not self.save(stores, ALICE, event="evt_2")
        assert stores.state("evt_2") is EventState.UNHANDLED
        seen = stores.subscriptions.row(ALICE)
        assert stores.subscriptions.save(ALICE, None, seen=seen, event_id="evt_2", at=NOW + MINUTE)
        assert not stores.subscriptions.save(ALICE, None, seen=seen, at=NOW + MINUTE)
        after = stores.subscriptions.row(ALICE)
        assert after == Row(None, seen.version + 1, seen.created_at, told=told_of(None, NOW))

    def test_a_deleted_account_leaves_no_row(self, stores: Stores) -> None:
        assert self.save(stores, ALICE, event="evt_1")
        purge = PurgeAttempt(user_id=ALICE, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
        assert stores.forgetting.purge(purge)
        assert stores.subscriptions.row(ALICE).subscription is None

    def test_an_unknown_event_closes_nothing(self, stores: Stores) -> None:
        assert not stores.subscriptions.save(ALICE, None, seen=Row(), event_id="evt_404", at=NOW)
        assert stores.subscriptions.row(ALICE) == Row()

    @pytest.mark.fault("F-17a")
    def test_a_row_is_due_when_stripe_is_to_be_asked(self, stores: Stores) -> None:
        assert self.save(stores, ALICE)
        row = stores.subscriptions.row(ALICE).subscription
        assert row is not None
        at = row.look_at(NOW)
        assert at is not None
        assert stores.subscriptions.due_looks(at, limit=5) == []
        [look] = stores.subscriptions.due_looks(at + MINUTE, limit=5)
        assert look.user_id == ALICE
        version = stores.subscriptions.row(ALICE).version
        assert stores.subscriptions.postpone_look(look, until=at + 2 * MINUTE)
        assert not stores.subscriptions.postpone_look(look, until=at + 3 * MINUTE)
        assert stores.subscriptions.row(ALICE).version == version + 1
        assert stores.subscriptions.due_looks(at + MINUTE, limit=5) == []
        assert stores.subscriptions.save(ALICE, None, seen=stores.subscriptions.row(ALICE), at=at)
        assert stores.subscriptions.due_looks(at + 9 * MINUTE, limit=5) == []

    @pytest.mark.fault("F-15d")
    def test_an_event_waits_for_the_name_of_what_is_paid_for(self, stores: Stores) -> None:
        assert stores.link()
        stores.arrive()
        seen = stores.subscriptions.row(ALICE)
        paid = Paid(ids=("price_1", "prod_1"), unnamed=("price_1",), unnamed_since=NOW)
        decisions = {"cus_1": {"price_2": "pro"}}
        assert stores.subscriptions.save(
            ALICE,
            None,
            seen=seen,
            at=NOW,
            event_id="evt_1",
            note="name",
            paid=paid,
            decisions=decisions,
            waits_of="cus_1",
        )
        assert stores.subscriptions.row(ALICE) == Row(None, seen.version + 1, seen.created_at, paid, told_of(None, NOW))
        assert stores.inbox.waiting_of("cus_1", EventState.UNNAMED) == ["evt_1"]
        assert stores.inbox.waiting_of("cus_1", EventState.UNLINKED) == []
        [event] = stores.inbox.page(EventState.UNNAMED, limit=5, start=None).events
        assert (event.note, event.handled_at, event.expires_at) == ("name", NOW, NOW + RETENTION_UNLINKED)
        [look] = stores.subscriptions.due_looks(NOW + 6 * MINUTE, limit=5)
        assert look.user_id == ALICE
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert link.decisions == decisions["cus_1"]
        assert stores.link(BOB, seen=link)
        moved = stores.customers.link_of("cus_1")
        assert moved is not None
        assert moved.decisions == decisions["cus_1"]
        assert stores.inbox.dismiss("evt_1", at=NOW, note="a test", entry=None)
        assert not stores.subscriptions.save(
            ALICE, None, seen=stores.subscriptions.row(ALICE), at=NOW, decisions={"cus_1": {}}
        )
        assert stores.subscriptions.save(BOB, None, seen=stores.subscriptions.row(BOB), at=NOW, decisions={"cus_1": {}})
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert link.decisions == {}

    @pytest.mark.fault("F-15d")
    def test_who_pays_for_a_price_is_found_and_looked_at_once(self, stores: Stores) -> None:
        for user, ids in ((ALICE, ("price_1", "prod_1")), (BOB, ("price_2", "prod_1"))):
            assert stores.subscriptions.save(user, None, seen=Row(), at=NOW, paid=Paid(ids=ids))

        def payers(object_id: str) -> list[UserId]:
            page = stores.subscriptions.payers_of(object_id, but_at=NOW, start=None)
            assert page.last is None
            return page.user_ids

        assert payers("price_1") == [ALICE]
        assert sorted(payers("prod_1")) == [ALICE, BOB]
        assert payers("prod") == payers("price_3") == []
        version = stores.subscriptions.row(ALICE).version
        for _ in range(2):
            assert stores.subscriptions.hasten_look(ALICE, at=NOW)
        assert stores.subscriptions.row(ALICE).version == version + 2
        assert payers("prod_1") == [BOB]
        assert [look.user_id for look in stores.subscriptions.due_looks(NOW + MINUTE, limit=5)] == [ALICE]
        assert stores.subscriptions.save(BOB, None, seen=stores.subscriptions.row(BOB), at=NOW)
        assert not stores.subscriptions.hasten_look(BOB, at=NOW)
        assert stores.subscriptions.payers_of("prod_1", but_at=NOW + MINUTE, start=None).user_ids == [ALICE]


class TestCustomers:
    pytestmark = pytest.mark.fault("F-16a")

    @pytest.mark.req("R-K-20")
    def test_a_customer_pays_for_one_user(self, stores: Stores) -> None:
        assert stores.customers.link_of("cus_1") is None
        assert stores.link()
        assert not stores.link(BOB)
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert (link.user_id, link.livemode) == (ALICE, True)
        assert stores.customers.links_of(ALICE) == [link]
        assert stores.customers.links_of(BOB) == []

    @pytest.mark.req("R-K-20")
    def test_a_customer_takes_along_what_it_pays_for(self, stores: Stores) -> None:
        assert stores.link()
        other = stripe_subscription(id="sub_2", customer_id="cus_2", prices=(PRO,))
        both = projection([stripe_subscription(), other], user_id=ALICE)
        assert stores.subscriptions.save(ALICE, both, seen=stores.subscriptions.row(ALICE), at=NOW)
        link = stores.customers.link_of("cus_1")
        assert stores.link(BOB, seen=link, at=NOW + MINUTE)
        assert not stores.link(ALICE, seen=link, at=NOW + MINUTE)
        assert stores.subscriptions.row(ALICE).subscription == projection([other], user_id=ALICE)
        assert stores.subscriptions.row(BOB).subscription is None
        assert [each.customer_id for each in stores.customers.links_of(BOB)] == ["cus_1"]
        assert stores.customers.links_of(ALICE) == []
        due = stores.subscriptions.due_looks(NOW + 2 * MINUTE, limit=5)
        assert {look.user_id for look in due} == {ALICE, BOB}

    @pytest.mark.fault("F-15h")
    def test_a_link_says_nothing_new_of_what_the_user_was_told(self, stores: Stores) -> None:
        owing = [stripe_subscription(customer_id=f"cus_{i}", id=f"sub_{i}", status="past_due") for i in (1, 2)]
        assert stores.link()
        assert stores.subscriptions.row(ALICE).told is None
        seen = stores.subscriptions.row(ALICE)
        assert stores.subscriptions.save(ALICE, projection(owing, user_id=ALICE), seen=seen, at=NOW)
        told = Told(PlanName.TEAM, SubscriptionStatus.PAST_DUE, 2)
        assert stores.subscriptions.row(ALICE).told == told
        later = NOW + timedelta(days=90)
        assert stores.customers.link("cus_3", ALICE, seen=None, at=later)
        assert stores.subscriptions.row(ALICE).told == told
        assert stores.link(BOB, seen=stores.customers.link_of("cus_1"), at=later)
        assert stores.subscriptions.row(ALICE).told == told
        assert stores.subscriptions.row(BOB).told is None

    def test_a_new_link_is_seen_by_whoever_read_the_row_before(self, stores: Stores) -> None:
        assert stores.subscriptions.save(ALICE, None, seen=Row(), at=NOW)
        seen = stores.subscriptions.row(ALICE)
        assert stores.link()
        assert not stores.subscriptions.save(ALICE, None, seen=seen, at=NOW)

    @pytest.mark.fault("F-16b")
    def test_a_customers_mode_is_learned(self, stores: Stores) -> None:
        assert stores.customers.link("cus_1", ALICE, seen=None, at=NOW)
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert link.livemode is None
        row = stores.subscriptions.row(ALICE)
        assert not stores.subscriptions.save(ALICE, None, seen=row, at=NOW, shown=["cus_2"], livemode=True)
        assert stores.subscriptions.save(ALICE, None, seen=row, at=NOW, shown=["cus_1"], livemode=False)
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert link.livemode is False

    @pytest.mark.fault("F-17b")
    def test_whose_account_is_deleted_keeps_no_customer(self, stores: Stores) -> None:
        assert stores.link()
        seen = stores.customers.link_of("cus_1")
        assert not stores.customers.begin_ending("cus_1", BOB, at=NOW, deleted_at=NOW)
        for _ in range(2):
            assert stores.customers.begin_ending("cus_1", ALICE, at=NOW, deleted_at=NOW)
            assert [each.user_id for each in stores.customers.links_of(ALICE)] == [None]
        assert not stores.link(BOB, seen=seen)
        stores.customers.end("cus_1", BOB, at=NOW)
        assert stores.customers.links_of(ALICE)
        for _ in range(2):
            stores.customers.end("cus_1", ALICE, at=NOW)
        assert stores.customers.links_of(ALICE) == []
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert (link.user_id, link.deleted_at, link.ending) == (None, NOW, False)

    @pytest.mark.fault("F-17c")
    def test_a_customer_of_a_deleted_account_is_nobody_s_until_it_is_linked_again(self, stores: Stores) -> None:
        assert stores.link()
        deleted_at = NOW - MINUTE
        assert stores.customers.begin_ending("cus_1", ALICE, at=NOW, deleted_at=deleted_at)
        for is_ending in (True, False):
            link = stores.customers.link_of("cus_1")
            assert link is not None
            assert (link.deleted_at, link.ending) == (deleted_at, is_ending)
            stores.customers.end("cus_1", ALICE, at=NOW)
        stores.arrive("evt_1")
        stores.arrive("evt_2")
        assert stores.inbox.ignore_payer("evt_1", "cus_1", ["price_1"], asked_at=NOW, at=NOW, note="")
        assert stores.inbox.close_unlinked("evt_2", "cus_1", at=NOW, note="")
        assert stores.link(BOB, seen=stores.customers.link_of("cus_1"))
        link = stores.customers.link_of("cus_1")
        assert link is not None
        assert (link.user_id, link.deleted_at, link.ending) == (BOB, None, False)
        assert not stores.inbox.close_unlinked("evt_2", "cus_1", at=NOW, note="")


@pytest.mark.fault("F-15h")
def test_a_row_of_an_earlier_release_told_what_it_gave_when_it_was_written(database: Database) -> None:
    open_account(ALICE)
    rows = SubscriptionRepository()
    row = projection([stripe_subscription(status="past_due")], user_id=ALICE)
    assert rows.save(ALICE, row, seen=Row(), at=NOW)
    key = subscription_key(ALICE)
    for at, plan in ((NOW, PlanName.TEAM), (NOW + timedelta(days=90), PlanName.FREE)):
        old = [SubscriptionItem.told_plan.remove(), SubscriptionItem.told_status.remove()]
        update(SubscriptionItem(key.pk, key.sk), [*old, SubscriptionItem.updated_at.set(iso(at))])
        assert rows.row(ALICE).told == Told(plan, SubscriptionStatus.PAST_DUE, 1)


def test_a_large_event_is_packed(database: Database) -> None:
    large = arrival(text="é" * 400_000)
    store, inbox = ArrivalRepository(), InboxRepository()
    assert store.store(large, received_at=NOW, due_at=NOW) is Stored.NEW
    assert store.store(large, received_at=NOW, due_at=NOW) is Stored.OPEN
    assert store.store(arrival(), received_at=NOW, due_at=NOW) is Stored.CONFLICT
    event = inbox.get("evt_1")
    assert event is not None
    assert event.body == large.body


def test_an_event_that_cannot_be_packed_is_refused(database: Database) -> None:
    noise = random.Random(1).randbytes(450_000).hex()
    with pytest.raises(PayloadTooLarge):
        ArrivalRepository().store(arrival(text=noise), received_at=NOW, due_at=NOW)
