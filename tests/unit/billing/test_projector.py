"""The projector ends in the state that Stripe shows, whatever happens on the way.

One file of more than 450 lines: one Stripe in memory, and every order in which it may speak.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.audit.domain import AuditEvent
from karma.billing.arrival import Arrival
from karma.billing.customers import CustomerLinked, CustomerLinking, RenewalCheck, user_of_message
from karma.billing.domain import LATE_NEWS, EventState, Pause, Subscription, SubscriptionStatus, projection, told_of
from karma.billing.plans import NOT_OURS, PlanName
from karma.billing.projector import EventProjector, SubscriptionBusy
from karma.billing.purge import BillingPurge, PaymentsOfOtherMode
from karma.core.errors import Upstream, ValidationFailed
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.identity.transactional import AccountGone
from karma.notices.domain import NoticeType
from tests.fakes.billing import MemoryBilling, MemoryQueue
from tests.fakes.payments import MemoryStripe
from tests.unit.billing.test_domain import FOREIGN, PRO, STATUSES, TEAM, stripe_subscription

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ALICE = UserId("01890000-0000-7000-8000-00000000000a")
BOB = UserId("01890000-0000-7000-8000-00000000000b")
ADMIN = UserId("01890000-0000-7000-8000-00000000000c")


class Clock:
    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> datetime:
        return self.moment


class World:
    """A user, whose customer is cus_1, and Stripe's objects."""

    def __init__(self, *, linked: bool = True) -> None:
        self.clock = Clock()
        self.store = MemoryBilling()
        self.stripe = MemoryStripe(customers={"cus_1", "cus_2"})
        self.queue = MemoryQueue()
        self.projector = EventProjector(
            inbox=self.store,
            subscriptions=self.store,
            customers=self.store,
            payments=self.stripe,
            clock=self.clock,
        )
        self.desk = CustomerLinking(customers=self.store, queue=self.queue, clock=self.clock)
        self.lookout = RenewalCheck(subscriptions=self.store, queue=self.queue, clock=self.clock)
        self.purge = BillingPurge(
            subscriptions=self.store, customers=self.store, payments=self.stripe, clock=self.clock
        )
        self._number = 0
        if linked:
            assert self.desk.opened("cus_1", ALICE, livemode=False)

    def arrive(self, event_type: str = "customer.subscription.updated", *, envelope: Any = None, **obj: Any) -> str:
        self._number += 1
        event_id = f"evt_{self._number}"
        shown = {"id": "sub_1", "customer": "cus_1", **obj}
        body = json.dumps(
            {"id": event_id, "type": event_type, "livemode": False, "data": {"object": shown}, **(envelope or {})}
        )
        self.store.store(Arrival(event_id, event_type, body), received_at=NOW, due_at=NOW)
        return event_id

    def hear(self, *args: Any, **obj: Any) -> str:
        return self.projector.handle(self.arrive(*args, **obj))

    def sell(self, subscription_id: str = "sub_1", **changes: Any) -> None:
        before = self.stripe.subscriptions.get(subscription_id, stripe_subscription(id=subscription_id))
        self.stripe.subscriptions[subscription_id] = replace(before, **changes)

    def subscription(self, user: UserId = ALICE) -> Subscription:
        found = self.store.row(user).subscription
        assert found is not None
        return found

    def work(self) -> None:
        """Carry out every message that waits."""
        while self.queue.bodies:
            body = self.queue.bodies.pop(0)
            user_id = user_of_message(body)
            self.projector.handle(body) if user_id is None else self.projector.refresh(user_id)

    def state(self, event_id: str) -> EventState:
        return self.store.events[event_id].state

    def delete(self, user_id: UserId = ALICE, *, requested_at: datetime | None = None) -> bool:
        self.store.gone.add(user_id)
        at = requested_at or self.clock.now()
        return self.purge.purge_account(
            PurgeAttempt(user_id=user_id, requested_at=at, ends_at=float("inf"), settled=True)
        )


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


def test_an_event_brings_the_row_to_what_stripe_shows() -> None:
    world = World()
    world.sell()
    event_id = world.arrive()
    assert world.projector.handle(event_id) == "team active"
    assert world.subscription().stripe_subscription_id == "sub_1"
    assert world.store.events[event_id].handled_at == NOW
    assert world.projector.handle(event_id) == "handled before"


def test_the_state_is_read_from_stripe_and_not_from_the_event() -> None:
    world = World()
    world.sell(status="canceled")
    world.hear(status="active")
    assert world.subscription().status is SubscriptionStatus.CANCELED


def test_an_account_is_told_once_of_each_plan_and_status_that_is_new() -> None:
    world = World()
    world.sell()
    for _ in range(2):
        world.hear()
    world.sell(status="past_due")
    world.hear()
    world.sell(cancel_at=NOW)
    world.hear()
    assert [(each.user_id, each.type, dict(each.data)) for each in world.store.notices] == [
        (ALICE, NoticeType.SUBSCRIPTION_CHANGED, {"plan": "team", "status": "active"}),
        (ALICE, NoticeType.SUBSCRIPTION_CHANGED, {"plan": "team", "status": "past_due"}),
        (ALICE, NoticeType.SUBSCRIPTION_CHANGED, {"plan": "free", "status": "past_due"}),
    ]


@pytest.mark.fault("F-15g")
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "status": st.sampled_from(["active", "past_due", "unpaid", "paused", "canceled", "trialing"]),
                "pause": st.sampled_from([None, Pause(behavior="void", resumes_at=None)]),
                "cancel_at": st.sampled_from([None, NOW - timedelta(days=1), NOW + timedelta(days=3)]),
            },
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 30), min_size=6, max_size=6),
)
def test_the_last_notice_tells_the_plan_and_status_that_hold(changes: list[dict[str, Any]], days: list[int]) -> None:
    """Also where nothing but access has changed, or nothing but the time."""
    world = World()
    for change, passed in zip([{}, *changes], days, strict=False):
        world.sell(**change)
        world.clock.moment += timedelta(days=passed)
        world.hear()
        told = world.store.notices[-1].data if world.store.notices else {"plan": "free", "status": "active"}
        row = world.subscription()
        assert told == {"plan": row.entitled_plan(world.clock.now()).value, "status": row.status.value}


_GOES = {"a customer goes": "cus_2", "the customer goes": "cus_1"}
_BYSTANDERS = st.sampled_from(["a customer comes", *_GOES, "a look is moved", "nothing"])


@pytest.mark.fault("F-15h")
@given(
    st.lists(
        st.tuples(st.sampled_from(["active", "past_due", "canceled"]), st.integers(0, 30), _BYSTANDERS),
        min_size=1,
        max_size=5,
    )
)
@example([("past_due", 0, "nothing"), ("past_due", 18, "a customer comes")])
@example([("active", 0, "nothing"), ("active", 0, "the customer goes")])
def test_whoever_else_writes_the_row_hides_no_notice(steps: list[tuple[str, int, str]]) -> None:
    """Other writes of a row than the projection's: links that come and go, and looks that are moved."""
    world = World()
    for status, passed, bystander in steps:
        world.sell(status=status)
        world.hear()
        world.clock.moment += timedelta(days=passed)
        if bystander in {"a customer comes", *_GOES}:
            customer_id = _GOES.get(bystander, "cus_2")
            link = world.store.link_of(customer_id)
            to, whose = BOB if bystander in _GOES else ALICE, link.user_id if link else None
            world.desk.relink(customer_id, to, from_user_id=whose, actor_id=ADMIN)
        if bystander == "a look is moved":
            world.store.hasten_look(ALICE, at=world.clock.now())
        world.queue.bodies.clear()
        for user_id in (ALICE, BOB):
            world.projector.refresh(user_id)
            notices = [each.data for each in world.store.notices if each.user_id == user_id]
            told = notices[-1] if notices else {"plan": "free", "status": "active"}
            row = world.store.row(user_id).subscription
            holds = told_of(row, world.clock.now())
            assert told == {"plan": holds.plan.value, "status": holds.status.value}
            assert all(one != other for one, other in pairwise(notices))


@pytest.mark.fault("F-15a")
@pytest.mark.parametrize("heard_of", ["sub_1", "sub_2"])
def test_cancelling_one_of_two_leaves_the_others_plan(heard_of: str) -> None:
    world = World()
    world.sell("sub_1", prices=(PRO,))
    world.sell("sub_2")
    world.hear(id="sub_2")
    world.sell("sub_2", status="canceled")
    world.hear("customer.subscription.deleted", id=heard_of)
    assert (world.subscription().plan, world.subscription().status) == (PlanName.PRO, SubscriptionStatus.ACTIVE)


@pytest.mark.fault("F-15b")
def test_another_product_of_the_same_stripe_account_gives_nothing() -> None:
    world = World()
    world.sell(prices=(replace(FOREIGN, metadata_plan=NOT_OURS),))
    assert world.hear() == "no subscription"
    assert world.store.row(ALICE).subscription is None


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
    world.hear()
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
    world.hear()

    def meanwhile() -> None:
        row = world.store.rows[ALICE]
        world.store.rows[ALICE] = row._replace(version=row.version + 1)

    world.stripe.after_read = meanwhile
    event_id = world.arrive()
    with pytest.raises(SubscriptionBusy):
        world.projector.handle(event_id)
    assert world.store.events[event_id].handled_at is None


_COIN: st.SearchStrategy[bool] = st.booleans()
_PRICES = st.lists(st.sampled_from([PRO, TEAM, FOREIGN]), min_size=1, max_size=3).map(tuple)
_CHANGE = st.fixed_dictionaries(
    {
        "subscription_id": st.sampled_from(["sub_1", "sub_2", "sub_3"]),
        "customer_id": st.just("cus_1"),
        "status": st.sampled_from(STATUSES),
        "prices": _PRICES,
        "cancel_at": st.sampled_from([None, NOW + DAY]),
        "created": st.integers(0, 2).map(lambda day: NOW + day * DAY),
    }
)


@pytest.mark.fault("F-15a")
@settings(max_examples=150)
@given(st.lists(_CHANGE, min_size=1, max_size=6), st.data())
def test_any_history_ends_in_what_stripe_shows(changes: list[dict[str, Any]], data: st.DataObject) -> None:
    """Events are lost, doubled, permuted, and handled inside each other's fetches; one comes through in the end.

    Two customers of one user, one of them of somebody else's products too.
    """
    world = World()
    assert world.desk.opened("cus_2", ALICE, livemode=False)
    coming = list(changes)
    waiting: list[str] = []
    depth = 0

    def change() -> None:
        one = dict(coming.pop(0))
        subscription_id = one.pop("subscription_id")
        one["customer_id"] = "cus_2" if subscription_id == "sub_3" else "cus_1"
        world.sell(subscription_id, **one)
        for _ in range(data.draw(st.integers(0, 2))):  # lost, told, told twice
            waiting.append(world.arrive(id=subscription_id, customer=one["customer_id"]))

    def meanwhile() -> None:
        nonlocal depth
        if depth < 2 and coming and bool(data.draw(_COIN)):
            change()
        if depth < 2 and waiting and bool(data.draw(_COIN)):
            depth += 1
            take()
            depth -= 1

    def take() -> None:
        event_id = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        try:
            world.projector.handle(event_id)
        except SubscriptionBusy:
            waiting.append(event_id)

    world.stripe.on_fetch = world.stripe.after_read = meanwhile
    while coming:
        change()
        if waiting:
            take()
    world.stripe.on_fetch = world.stripe.after_read = lambda: None
    waiting.append(world.arrive())
    while waiting or world.store.due_at:
        waiting += [event_id for event_id in world.store.due_at if event_id not in waiting]
        take()
    assert world.store.row(ALICE).subscription == projection(world.stripe.subscriptions.values(), user_id=ALICE)
    assert not world.store.due_at


class TestLinks:
    pytestmark = pytest.mark.fault("F-16a")

    @pytest.mark.parametrize(
        ("event_type", "claim"),
        [
            ("checkout.session.completed", {"id": "cs_1", "subscription": "sub_1", "client_reference_id": BOB}),
            ("customer.subscription.created", {"metadata": {"user_id": BOB}}),
            ("customer.updated", {"id": "cus_1", "metadata": {"user_id": BOB}}),
            ("invoice.paid", {"id": "in_1", "metadata": {"user_id": BOB}, "client_reference_id": BOB}),
        ],
    )
    @pytest.mark.parametrize("linked", [True, False])
    def test_nothing_in_an_event_makes_one(self, event_type: str, claim: dict[str, Any], linked: bool) -> None:
        world = World(linked=linked)
        world.sell()
        world.hear(event_type, **claim)
        assert BOB not in world.store.rows
        assert {link.user_id for link in world.store.customers.values()} == ({ALICE} if linked else set())

    def test_an_event_waits_until_an_administrator_links_its_customer(self) -> None:
        world = World(linked=False)
        world.sell()
        event_id = world.arrive()
        world.projector.handle(event_id)
        assert world.state(event_id) is EventState.UNLINKED
        link = world.desk.relink("cus_1", ALICE, from_user_id=None, actor_id=ADMIN)
        assert (link.user_id, link.livemode) == (ALICE, None)
        world.work()
        assert world.subscription().plan is PlanName.TEAM
        assert world.state(event_id) is EventState.UNHANDLED
        assert world.store.due_at[event_id] == NOW
        world.projector.handle(event_id)
        assert world.state(event_id) is EventState.HANDLED
        assert [(each.event, each.user_id, each.actor_id) for each in world.store.audit] == [
            (AuditEvent.BILLING_CUSTOMER_LINKED, ALICE, ADMIN)
        ]
        known = world.store.link_of("cus_1")
        assert known is not None
        assert known.livemode is False

    @pytest.mark.fault("F-18a")
    def test_a_customer_of_other_products_leaves_nothing_in_the_inbox(self) -> None:
        world = World(linked=False)
        world.sell(prices=(FOREIGN,))
        event_id = world.arrive()
        world.projector.handle(event_id)
        assert world.state(event_id) is EventState.IGNORED
        assert world.store.events[event_id].expires_at is not None

    def test_a_link_made_while_an_event_is_closed_is_not_missed(self) -> None:
        world = World(linked=False)
        world.sell()

        def meanwhile() -> None:
            world.stripe.after_read = lambda: None
            assert world.desk.opened("cus_1", ALICE, livemode=False)

        world.stripe.after_read = meanwhile
        assert world.hear() == "team active"

    def test_moving_one_takes_what_it_pays_for_at_once(self) -> None:
        world = World()
        world.sell()
        world.hear()
        for wrong in (None, ADMIN):
            with pytest.raises(CustomerLinked):
                world.desk.relink("cus_1", BOB, from_user_id=wrong, actor_id=ADMIN)
        world.queue.down = True
        world.desk.relink("cus_1", BOB, from_user_id=ALICE, actor_id=ADMIN)
        assert world.store.row(ALICE).subscription is None
        world.queue.down = False
        world.clock.moment += timedelta(minutes=1)
        assert world.lookout.send_due() == 2
        world.work()
        assert world.subscription(BOB).plan is PlanName.TEAM
        assert world.store.row(ALICE).subscription is None
        audit = {(each.event, each.user_id) for each in world.store.audit}
        assert audit == {(AuditEvent.BILLING_CUSTOMER_LINKED, BOB), (AuditEvent.BILLING_CUSTOMER_UNLINKED, ALICE)}
        world.desk.relink("cus_1", BOB, from_user_id=ALICE, actor_id=ADMIN)
        assert len(world.store.audit) == 2

    def test_two_administrators_do_not_overwrite_each_other(self) -> None:
        world = World(linked=False)
        seen = world.store.link_of("cus_1")
        assert world.store.link("cus_1", ALICE, seen=seen, at=NOW)
        assert not world.store.link("cus_1", BOB, seen=seen, at=NOW)
        with pytest.raises(CustomerLinked):
            world.desk.relink("cus_1", BOB, from_user_id=None, actor_id=ADMIN)

    def test_an_event_of_a_customer_that_moves_meanwhile_reaches_its_new_user(self) -> None:
        world = World()
        world.sell()

        def meanwhile() -> None:
            world.stripe.after_read = lambda: None
            world.desk.relink("cus_1", BOB, from_user_id=ALICE, actor_id=ADMIN)

        world.stripe.after_read = meanwhile
        assert world.hear() == "team active"
        assert world.subscription(BOB).plan is PlanName.TEAM
        assert world.store.row(ALICE).subscription is None

    @pytest.mark.parametrize(
        ("customer_id", "user_id", "refusal"),
        [("cus#1", ALICE, ValidationFailed), ("cus_1", "admin", ValidationFailed), ("cus_1", BOB, AccountGone)],
    )
    def test_what_cannot_be_linked_is_refused(self, customer_id: str, user_id: str, refusal: type[Exception]) -> None:
        world = World(linked=False)
        world.store.gone.add(BOB)
        with pytest.raises(refusal):
            world.desk.relink(customer_id, UserId(user_id), from_user_id=None, actor_id=ADMIN)
        assert not world.store.customers


class TestModesAndAccounts:
    pytestmark = pytest.mark.fault("F-16b")

    @pytest.mark.parametrize(
        ("envelope", "told"),
        [
            ({"account": "acct_1"}, "connected account acct_1"),
            ({"context": "acct_1"}, "connected account acct_1"),
            ({"livemode": True}, "live mode"),
        ],
    )
    def test_what_happens_elsewhere_changes_nothing(self, envelope: dict[str, Any], told: str) -> None:
        world = World()
        world.sell()
        event_id = world.arrive(envelope=envelope)
        assert told in world.projector.handle(event_id)
        assert world.state(event_id) is EventState.IGNORED
        assert world.store.row(ALICE).subscription is None
        assert world.stripe.fetches == 0

    def test_an_event_without_a_mode_is_not_of_a_live_key(self) -> None:
        world = World()
        world.stripe.livemode = True
        assert "test mode" in world.hear(envelope={"livemode": None})

    def test_a_key_of_the_other_mode_takes_nothing_away(self) -> None:
        world = World()
        world.sell()
        world.hear()
        world.stripe.livemode = True
        world.stripe.others.add("cus_1")
        assert world.projector.refresh(ALICE) == "team active"
        with pytest.raises(PaymentsOfOtherMode):
            world.delete()
        assert world.store.links_of(ALICE)
        world.stripe.livemode = False
        world.stripe.others.clear()
        assert world.delete()
        assert world.stripe.subscriptions["sub_1"].status == "canceled"

    def test_a_mode_that_stripe_has_shown_is_known_from_then_on(self) -> None:
        """So what goes after that is gone."""
        world = World(linked=False)
        world.sell()
        world.desk.relink("cus_1", ALICE, from_user_id=None, actor_id=ADMIN)
        world.work()
        assert [link.livemode for link in world.store.links_of(ALICE)] == [False]
        world.stripe.subscriptions.clear()
        world.stripe.customers.discard("cus_1")
        assert world.projector.refresh(ALICE) == "no subscription"

    def test_what_stripe_never_showed_is_not_taken_for_gone(self) -> None:
        world = World(linked=False)
        world.stripe.others.add("cus_1")
        world.desk.relink("cus_1", ALICE, from_user_id=None, actor_id=ADMIN)
        held = projection([stripe_subscription()], user_id=ALICE)
        row = world.store.row(ALICE)
        assert world.store.save(ALICE, held, seen=row, at=NOW)
        world.work()
        assert world.store.row(ALICE).subscription == held


class TestLooks:
    pytestmark = pytest.mark.fault("F-17a")

    def pass_time(self, world: World, until: datetime, happens: Callable[[], None] = lambda: None) -> None:
        while world.clock.moment < until:
            world.clock.moment += timedelta(hours=1)
            happens()
            world.lookout.send_due()
            world.work()

    def test_a_renewal_whose_event_never_came_is_found_before_access_ends(self) -> None:
        world = World()
        world.sell()
        world.hear()
        end = world.subscription().current_period_end
        world.clock.moment = end
        world.stripe.renew("sub_1")
        self.pass_time(world, end + LATE_NEWS)
        assert world.subscription().current_period_start == end
        assert world.subscription().entitled_plan(world.clock.moment) is PlanName.TEAM

    def test_a_payment_whose_event_never_came_is_found_before_grace_ends(self) -> None:
        world = World()
        world.sell(status="past_due", unpaid_since=NOW)
        world.hear()
        grace = world.subscription().grace_until
        assert grace is not None
        world.sell(status="active", unpaid_since=None)
        self.pass_time(world, grace)
        assert world.subscription().status is SubscriptionStatus.ACTIVE

    def test_a_lost_message_is_sent_again(self) -> None:
        world = World()
        world.sell()
        world.hear()
        world.clock.moment = world.subscription().current_period_end + timedelta(hours=2)
        assert world.lookout.send_due() == 1
        world.queue.bodies.clear()
        assert world.lookout.send_due() == 0
        world.clock.moment += timedelta(hours=1, minutes=1)
        assert world.lookout.send_due() == 1

    def test_what_does_not_change_is_asked_about_ever_more_rarely(self) -> None:
        world = World()
        world.sell(status="paused")
        world.hear()
        before = world.stripe.fetches
        self.pass_time(world, NOW + 100 * DAY)
        assert 10 < world.stripe.fetches - before < 30

    def test_what_is_over_is_not_asked_about(self) -> None:
        world = World()
        world.sell(status="canceled")
        world.hear()
        self.pass_time(world, NOW + 5 * DAY)
        assert not world.store.looks


class TestADeletedAccount:
    pytestmark = pytest.mark.fault("F-17b")

    def test_gets_no_row_and_its_event_is_forgotten(self) -> None:
        world = World()
        world.sell()
        world.hear()
        world.store.gone.add(ALICE)
        event_id = world.arrive()
        version = world.store.row(ALICE).version
        assert world.projector.handle(event_id) == "the account is being deleted"
        assert event_id in world.store.due_at, "what the customer buys from now on is not the deleted account's"
        assert world.store.row(ALICE).version == version
        assert world.projector.refresh(ALICE) == "the account was deleted"
        assert world.delete()
        assert world.projector.handle(event_id) == "the account was deleted"
        assert event_id not in world.store.events

    def test_stops_paying(self) -> None:
        world = World()
        world.sell("sub_1")
        world.sell("sub_2", prices=(PRO,))
        world.hear()
        assert world.delete()
        assert {each.status for each in world.stripe.subscriptions.values()} == {"canceled"}
        assert "cus_1" in world.stripe.deleted
        assert not world.store.rows
        assert ALICE not in str(world.store.customers)

    def test_is_not_charged_for_what_was_bought_before_and_heard_of_after(self) -> None:
        world = World()
        assert world.delete()
        world.sell()
        event_id = world.arrive()
        assert world.projector.handle(event_id) == "the account was deleted"
        assert world.stripe.subscriptions["sub_1"].status == "canceled"
        assert event_id not in world.store.events

    def test_leaves_what_the_customer_pays_somebody_else(self) -> None:
        world = World()
        world.sell("sub_1")
        world.sell("sub_2", prices=(FOREIGN,))
        world.hear()
        assert world.delete()
        assert world.stripe.subscriptions["sub_1"].status == "canceled"
        assert world.stripe.subscriptions["sub_2"].status == "active"
        assert "cus_1" not in world.stripe.deleted

    @pytest.mark.parametrize("when", ["before", "while it begins"])
    def test_leaves_a_customer_that_was_given_to_somebody_else(self, when: str) -> None:
        world = World()
        world.sell()
        world.hear()
        if when == "before":
            world.desk.relink("cus_1", BOB, from_user_id=ALICE, actor_id=ADMIN)
        else:
            begin = world.store.begin_ending

            def first_moved(customer_id: str, user_id: UserId, *, at: datetime, deleted_at: datetime) -> bool:
                world.desk.relink(customer_id, BOB, from_user_id=ALICE, actor_id=ADMIN)
                return begin(customer_id, user_id, at=at, deleted_at=deleted_at)

            world.store.begin_ending = first_moved  # type: ignore[method-assign]
        assert world.delete()
        world.work()
        assert world.stripe.subscriptions["sub_1"].status == "active"
        assert world.subscription(BOB).plan is PlanName.TEAM

    @pytest.mark.parametrize("fails_at", range(1, 5))
    def test_goes_on_where_stripe_failed(self, fails_at: int) -> None:
        world = World()
        world.sell()
        world.hear()
        left = fails_at

        def fail() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Upstream("Stripe did not answer; try again")

        world.stripe.on_fetch = fail
        with pytest.raises(Upstream):
            world.delete()
        with pytest.raises(CustomerLinked):
            world.desk.relink("cus_1", BOB, from_user_id=None, actor_id=ADMIN)
        assert world.delete()
        assert world.stripe.subscriptions["sub_1"].status == "canceled"
        assert not world.store.ending
