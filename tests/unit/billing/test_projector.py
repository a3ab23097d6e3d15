"""The projector ends in the state that Stripe shows, whatever happens on the way."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.arrival import Arrival
from karma.billing.domain import StripeCustomer, Subscription, SubscriptionStatus
from karma.billing.plans import PlanName, PriceHints
from karma.billing.projector import EventProjector, SubscriptionBusy
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.notices.domain import NoticeType
from tests.fakes.billing import MemoryBilling, MemoryStripe
from tests.unit.billing.test_domain import stripe_subscription

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ALICE = UserId("01890000-0000-7000-8000-00000000000a")
BOB = UserId("01890000-0000-7000-8000-00000000000b")


class Clock:
    def now(self) -> datetime:
        return NOW


class World:
    """A user, a customer, and what Stripe shows."""

    def __init__(self) -> None:
        self.store = MemoryBilling()
        self.stripe = MemoryStripe(customers={"cus_1": StripeCustomer(id="cus_1", user_id=ALICE)})
        self.projector = EventProjector(
            inbox=self.store,
            subscriptions=self.store,
            payments=self.stripe,
            clock=Clock(),
            was_deleted=self.store.gone.__contains__,
        )
        self._number = 0

    def arrive(self, event_type: str = "customer.subscription.updated", **obj: Any) -> str:
        self._number += 1
        event_id = f"evt_{self._number}"
        shown = {"id": "sub_1", "customer": "cus_1", **obj}
        body = json.dumps({"id": event_id, "type": event_type, "data": {"object": shown}})
        self.store.store(Arrival(event_id, event_type, body), received_at=NOW, due_at=NOW)
        return event_id

    def sell(self, subscription_id: str = "sub_1", **changes: Any) -> None:
        before = self.stripe.subscriptions.get(subscription_id, stripe_subscription(id=subscription_id))
        self.stripe.subscriptions[subscription_id] = replace(before, **changes)

    def subscription(self, user: UserId = ALICE) -> Subscription:
        found = self.store.row(user).subscription
        assert found is not None
        return found


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


def test_an_event_brings_the_row_to_what_stripe_shows() -> None:
    world = World()
    world.sell()
    event_id = world.arrive()
    assert world.projector.handle(event_id) == "team active"
    assert world.subscription().stripe_subscription_id == "sub_1"
    assert world.store.customers == {"cus_1": ALICE}
    assert world.store.guards == {"sub_1": ALICE}
    assert world.store.events[event_id].handled_at == NOW
    assert world.projector.handle(event_id) == "handled before"


def test_the_event_is_not_believed() -> None:
    world = World()
    world.sell(status="canceled")
    world.projector.handle(world.arrive(status="active"))
    assert world.subscription().status is SubscriptionStatus.CANCELED


def test_a_subscription_that_stripe_deleted_is_canceled() -> None:
    world = World()
    world.sell()
    world.projector.handle(world.arrive())
    world.stripe.subscriptions.clear()
    world.projector.handle(world.arrive("customer.subscription.deleted"))
    assert world.subscription().status is SubscriptionStatus.CANCELED
    assert world.subscription().plan is PlanName.TEAM


def test_an_account_is_told_once_of_each_plan_and_status_that_is_new() -> None:
    world = World()
    world.sell()
    for _ in range(2):
        world.projector.handle(world.arrive())
    world.sell(status="past_due")
    world.projector.handle(world.arrive())
    world.sell(cancel_at=NOW)
    world.projector.handle(world.arrive())

    assert [(each.user_id, each.type, dict(each.data)) for each in world.store.notices] == [
        (ALICE, NoticeType.SUBSCRIPTION_CHANGED, {"plan": "team", "status": "active"}),
        (ALICE, NoticeType.SUBSCRIPTION_CHANGED, {"plan": "team", "status": "past_due"}),
    ]


def test_an_old_subscription_does_not_hide_the_new_one() -> None:
    world = World()
    world.sell("sub_1", status="canceled")
    world.sell("sub_2", created=NOW + timedelta(days=1), price=PriceHints(lookup_key="karma_pro_month"))
    for subscription_id in ("sub_1", "sub_2", "sub_1"):
        world.projector.handle(world.arrive(id=subscription_id))
    assert world.subscription().stripe_subscription_id == "sub_2"
    assert world.subscription().plan is PlanName.PRO


def test_a_customer_without_a_user_is_kept_for_a_person_and_healed_by_the_link() -> None:
    world = World()
    world.stripe.customers.clear()
    world.sell()
    event_id = world.arrive()
    assert world.projector.handle(event_id).startswith("unlinked")
    assert event_id in world.store.unlinked
    assert not world.store.rows
    assert world.projector.handle(world.arrive("customer.updated", id="cus_1", metadata={"user_id": ALICE})) == (
        "team active"
    )
    assert world.subscription().status is SubscriptionStatus.ACTIVE


def test_checkout_links_the_user_that_it_was_made_for() -> None:
    world = World()
    world.stripe.customers.clear()
    world.sell()
    world.projector.handle(
        world.arrive("checkout.session.completed", id="cs_1", subscription="sub_1", client_reference_id=ALICE)
    )
    assert world.subscription().plan is PlanName.TEAM


def test_the_first_link_of_a_customer_stays() -> None:
    world = World()
    world.sell()
    world.projector.handle(world.arrive())
    world.projector.handle(world.arrive("checkout.session.completed", subscription="sub_1", client_reference_id=BOB))
    assert BOB not in world.store.rows


@pytest.mark.req("R-K-20")
def test_a_subscription_belongs_to_one_user() -> None:
    world = World()
    world.sell()
    world.projector.handle(world.arrive())
    world.store.customers["cus_2"] = BOB
    world.sell(customer_id="cus_2")
    event_id = world.arrive(customer="cus_2")
    assert "another user" in world.projector.handle(event_id)
    assert BOB not in world.store.rows
    assert event_id in world.store.unlinked


@pytest.mark.parametrize("event_type", ["product.created", "customer.created", "invoice.paid", "payout.paid"])
def test_what_concerns_no_subscription_is_closed(event_type: str) -> None:
    world = World()
    event_id = world.arrive(event_type, id="cus_1")
    assert world.projector.handle(event_id) in {"nothing to do", "no subscription"}
    assert world.store.events[event_id].handled_at == NOW


def test_a_stripe_that_does_not_answer_leaves_the_event_open() -> None:
    world = World()
    world.sell()
    event_id = world.arrive()
    world.stripe.down = True
    with pytest.raises(Upstream):
        world.projector.handle(event_id)
    assert world.store.events[event_id].handled_at is None
    world.stripe.down = False
    assert world.projector.handle(event_id) == "team active"


def test_an_event_that_is_gone_is_not_an_error() -> None:
    assert World().projector.handle("evt_404") == "unknown"


def test_a_worker_with_old_news_fetches_again() -> None:
    """A fetches, Stripe changes, B projects the change, A must not write what it fetched."""
    world = World()
    world.sell()
    world.projector.handle(world.arrive())
    first, second = world.arrive(), world.arrive()

    def meanwhile() -> None:
        world.stripe.after_read = lambda: None
        world.sell(status="canceled")
        world.projector.handle(second)

    world.stripe.after_read = meanwhile
    world.projector.handle(first)
    assert world.subscription().status is SubscriptionStatus.CANCELED


def test_a_row_that_never_rests_leaves_the_event_open() -> None:
    world = World()
    world.sell()
    world.projector.handle(world.arrive())

    def meanwhile() -> None:
        row = world.store.rows[ALICE]
        world.store.rows[ALICE] = row._replace(version=row.version + 1)

    world.stripe.after_read = meanwhile
    event_id = world.arrive()
    with pytest.raises(SubscriptionBusy):
        world.projector.handle(event_id)
    assert world.store.events[event_id].handled_at is None


_COIN: st.SearchStrategy[bool] = st.booleans()
_STATUSES = st.sampled_from(["active", "trialing", "past_due", "unpaid", "incomplete", "paused", "canceled"])
_KINDS = st.sampled_from(
    ["customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted"]
)


@settings(max_examples=150)
@given(st.data())
def test_any_order_and_any_repeats_end_in_the_same_state(data: st.DataObject) -> None:
    """Given the same objects at Stripe, a set of events has one outcome, with changes in the middle too."""
    shown = data.draw(st.dictionaries(st.sampled_from(["sub_1", "sub_2", "sub_3"]), _STATUSES, min_size=1))
    kinds = data.draw(st.lists(st.tuples(_KINDS, st.sampled_from(sorted(shown))), max_size=4))
    told = [("customer.subscription.updated", each) for each in shown] + kinds

    outcomes = []
    for order in (told, data.draw(st.permutations(told)), data.draw(st.permutations(told + told[:2]))):
        world = World()
        before = data.draw(st.lists(st.sampled_from(sorted(shown)), max_size=2))
        for subscription_id in before:  # earlier states, projected or not, must leave no trace
            world.sell(subscription_id, status=data.draw(_STATUSES))
            world.projector.handle(world.arrive(id=subscription_id))
        for index, (subscription_id, status) in enumerate(sorted(shown.items())):
            world.sell(subscription_id, status=status, created=NOW + timedelta(days=index))
        for kind, subscription_id in order:
            event_id = world.arrive(kind, id=subscription_id)
            for _ in range(data.draw(st.integers(1, 2))):
                world.projector.handle(event_id)
        outcomes.append(world.subscription())
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(max_examples=150)
@given(st.lists(_STATUSES, min_size=1, max_size=4), st.data())
def test_workers_that_interleave_end_in_the_last_state(statuses: list[str], data: st.DataObject) -> None:
    """Each change of Stripe's object sends an event; its worker runs inside any fetch of an earlier one."""
    world = World()
    waiting: list[str] = []
    coming = list(statuses)

    def change() -> None:
        if coming:
            world.sell(status=coming.pop(0))
            waiting.append(world.arrive())

    def meanwhile() -> None:
        if data.draw(_COIN):
            change()
        if data.draw(_COIN) and waiting:
            world.projector.handle(waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))

    world.stripe.on_fetch = world.stripe.after_read = meanwhile
    change()
    while coming or waiting:
        if not waiting:
            change()
        event_id = waiting.pop()
        try:
            world.projector.handle(event_id)
        except SubscriptionBusy:
            waiting.insert(0, event_id)
    assert world.subscription().stripe_status == statuses[-1]


class TestADeletedAccount:
    def test_gets_no_row_and_its_event_is_forgotten(self) -> None:
        world = World()
        world.sell()
        world.projector.handle(world.arrive())
        world.store.gone.add(ALICE)
        event_id = world.arrive()
        version = world.store.row(ALICE).version
        assert world.projector.handle(event_id) == "the account was deleted"
        assert event_id not in world.store.events
        assert world.store.row(ALICE).version == version

    def test_is_not_charged_for_what_it_bought_before(self) -> None:
        world = World()
        world.sell(user_id=ALICE)
        world.store.gone.add(ALICE)
        world.projector.handle(world.arrive())
        assert world.stripe.subscriptions["sub_1"].status == "canceled"
        assert world.store.customers == {}

    def test_is_known_by_its_customer_when_nothing_else_names_it(self) -> None:
        world = World()
        world.store.gone.add(ALICE)
        world.sell(user_id=ALICE)
        world.projector.handle(world.arrive())
        world.stripe.subscriptions.clear()
        event_id = world.arrive("customer.subscription.deleted")
        assert world.projector.handle(event_id) == "the account was deleted"
        assert world.store.events == {}
        assert world.store.unlinked == set()

    def test_is_told_from_one_that_never_was(self) -> None:
        world = World()
        world.sell()
        world.projector = EventProjector(
            inbox=world.store,
            subscriptions=world.store,
            payments=world.stripe,
            clock=Clock(),
            was_deleted=lambda _: False,
        )
        world.store.gone.add(ALICE)
        event_id = world.arrive()
        assert world.projector.handle(event_id).startswith("unlinked")
        assert event_id in world.store.unlinked
        assert "cus_1" in world.stripe.customers
