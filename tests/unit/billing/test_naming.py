"""The name of a price decides the plan. Names come late, change and go: who pays keeps the plan that was sold, and
operators are told of the rest.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.billing.arrival import Arrival
from karma.billing.customers import CustomerLinking, RenewalCheck, user_of_message
from karma.billing.domain import EventState, hint_of
from karma.billing.naming import NOTHING, Paid, advice, decisions_kept, paid_for
from karma.billing.plans import NOT_OURS, PlanName, PriceHints, decision_of
from karma.billing.projector import EventProjector
from karma.billing.purge import stop_charging
from karma.core.ids import UserId
from tests.fakes.billing import MemoryBilling, MemoryQueue
from tests.fakes.payments import MemoryStripe
from tests.unit.billing.test_domain import FOREIGN, PRO, TEAM, stripe_subscription

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
YEAR = timedelta(days=365)
USERS = [UserId(f"01890000-0000-7000-8000-00000000000{letter}") for letter in "abc"]
ALICE, BOB, _CAROL = USERS
NAMES = ("", "pro", "team", NOT_OURS, "Pro ")
pytestmark = pytest.mark.fault("F-15d")


class Died(Exception):
    """The worker's process died."""


@dataclass
class World:
    """Users, each with a customer of the same letter, and prices whose names change while they are paid for."""

    moment: datetime = NOW
    store: MemoryBilling = field(default_factory=lambda: MemoryBilling(page_size=1))
    stripe: MemoryStripe = field(default_factory=MemoryStripe)
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    named: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("price_1", "price_2"), ""))
    number: int = 0

    def __post_init__(self) -> None:
        self.projector = EventProjector(
            inbox=self.store, subscriptions=self.store, customers=self.store, payments=self.stripe, clock=self
        )
        self.lookout = RenewalCheck(subscriptions=self.store, queue=self.queue, clock=self)
        self.desk = CustomerLinking(customers=self.store, queue=self.queue, clock=self)
        for user in USERS:
            assert self.desk.opened(customer(user), user, livemode=False)

    def now(self) -> datetime:
        return self.moment

    def arrive(self, event_type: str, **data: Any) -> str:
        self.number += 1
        event_id = f"evt_{self.number}"
        body = json.dumps({"id": event_id, "type": event_type, "livemode": False, "data": data})
        self.store.store(Arrival(event_id, event_type, body), received_at=self.moment, due_at=self.moment)
        return event_id

    def buy(self, user: UserId, price_id: str, **changes: Any) -> str:
        sold = stripe_subscription(
            id=f"sub_{user[-1]}",
            customer_id=customer(user),
            prices=(self.price(price_id),),
            current_period_end=NOW + YEAR,
        )
        self.stripe.subscriptions[sold.id] = replace(sold, **changes)
        return self.arrive("customer.subscription.updated", object={"id": sold.id, "customer": customer(user)})

    def price(self, price_id: str) -> PriceHints:
        return PriceHints(price_id=price_id, product_id=f"prod_of_{price_id}", metadata_plan=self.named[price_id])

    def name(self, price_id: str, name: str, *, by_product: bool = False) -> str:
        """Change what a price says, everywhere at once, as in Stripe; the event of it is returned."""
        before, self.named[price_id] = self.named[price_id], name
        for each in list(self.stripe.subscriptions.values()):
            prices = tuple(self.price(price.price_id) for price in each.prices)
            self.stripe.subscriptions[each.id] = replace(each, prices=prices)
        shown = {"id": f"prod_of_{price_id}" if by_product else price_id, "metadata": {"karma_plan": name}}
        kind = "product.updated" if by_product else "price.updated"
        return self.arrive(kind, object=shown, previous_attributes={"metadata": {"karma_plan": before}})

    def work(self, bodies: list[str] | None = None) -> None:
        for body in bodies if bodies is not None else self.drained():
            user_id = user_of_message(body)
            self.projector.handle(body) if user_id is None else self.projector.refresh(user_id)

    def drained(self) -> list[str]:
        bodies, self.queue.bodies = self.queue.bodies, []
        return bodies

    def sweep(self, after: timedelta = MINUTE) -> None:
        """Handle what is open, and look at whom a sweep sends, a little later."""
        self.work([each.event_id for each in self.store.due(self.moment + MINUTE, limit=100)])
        self.moment += after
        self.lookout.send_due()
        self.work()
        self.work([each.event_id for each in self.store.due(self.moment + MINUTE, limit=100)])

    def plan(self, user: UserId) -> PlanName:
        row = self.store.row(user).subscription
        return row.entitled_plan(self.moment) if row else PlanName.FREE

    def in_state(self, state: EventState) -> list[str]:
        return [event.id for event in self.store.events.values() if event.state is state]


def customer(user: UserId) -> str:
    return f"cus_{user[-1]}"


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


@pytest.mark.parametrize("by_product", [False, True])
def test_who_bought_before_the_name_has_the_plan_a_minute_after_it(by_product: bool) -> None:
    world = World()
    sold = [world.buy(user, "price_1") for user in USERS]
    world.sweep()
    assert world.in_state(EventState.UNNAMED) == sold
    note = world.store.events[sold[0]].note
    assert "price_1" in note
    assert "karma_plan" in note
    world.moment += 90 * DAY
    for _ in range(2):
        world.name("price_1", "pro", by_product=by_product)
        world.sweep()
        assert [world.plan(user) for user in USERS] == [PlanName.PRO] * 3
        assert world.in_state(EventState.UNNAMED) == []
        assert set(sold) <= set(world.in_state(EventState.HANDLED))


def test_a_name_that_no_event_tells_of_is_found_within_minutes_then_within_a_day() -> None:
    world = World()
    world.buy(ALICE, "price_1")
    world.sweep()
    world.store.events.pop(world.name("price_1", "pro"))
    world.store.due_at.clear()
    world.sweep(after=6 * MINUTE)
    assert world.plan(ALICE) is PlanName.PRO
    paid = Paid(unnamed=("price_1",), unnamed_since=NOW)
    for later, soonest, latest in ((timedelta(), MINUTE, 10 * MINUTE), (YEAR, timedelta(hours=6), DAY)):
        at = paid.look_at(NOW + later)
        assert at is not None
        assert soonest <= at - (NOW + later) <= latest
    assert NOTHING.look_at(NOW) is None


@pytest.mark.parametrize("lost", ["", "Pro "])
def test_a_name_that_is_taken_off_takes_nothing_from_who_pays_until_an_operator_decides(lost: str) -> None:
    world = World()
    world.name("price_1", "pro")
    world.buy(ALICE, "price_1")
    world.sweep()
    world.name("price_1", lost)
    for year in range(1, 4):
        world.buy(ALICE, "price_1", current_period_end=NOW + year * YEAR, status="past_due" if year == 2 else "active")
        world.sweep()
        assert world.plan(ALICE) is PlanName.PRO
    world.name("price_1", NOT_OURS)
    world.sweep()
    assert world.plan(ALICE) is PlanName.FREE
    assert world.in_state(EventState.UNNAMED) == []


def test_who_pays_for_what_was_not_ours_has_the_plan_once_an_operator_decides_again() -> None:
    world = World()
    world.name("price_1", NOT_OURS)
    world.buy(ALICE, "price_1")
    world.sweep()
    assert world.store.row(ALICE).paid.unnamed == ()
    for name in ("pro", "team"):
        world.name("price_1", name)
        world.sweep()
        assert world.plan(ALICE) is PlanName(name)


def test_a_new_payer_of_a_price_that_lost_its_name_waits_for_an_operator() -> None:
    world = World()
    world.name("price_1", "pro")
    world.buy(ALICE, "price_1")
    world.sweep()
    world.name("price_1", "")
    bought = world.buy(BOB, "price_1")
    world.sweep()
    assert (world.plan(ALICE), world.plan(BOB)) == (PlanName.PRO, PlanName.FREE)
    assert world.in_state(EventState.UNNAMED) == [bought]


def test_what_was_sold_goes_with_its_customer() -> None:
    world = World()
    world.name("price_1", "team")
    world.buy(ALICE, "price_1")
    world.sweep()
    world.name("price_1", "")
    world.desk.relink(customer(ALICE), BOB, from_user_id=ALICE, actor_id=None)
    world.sweep()
    assert (world.plan(ALICE), world.plan(BOB)) == (PlanName.FREE, PlanName.TEAM)


def test_a_deletion_ends_what_was_ours_when_it_was_bought() -> None:
    world = World()
    world.name("price_1", "team")
    world.buy(ALICE, "price_1")
    world.sweep()
    world.name("price_1", "")
    link = world.store.link_of(customer(ALICE))
    assert link is not None
    stop_charging(world.stripe, link, deleted_at=NOW)
    assert [each.status for each in world.stripe.subscriptions.values()] == ["canceled"]


def test_an_unnamed_event_can_be_dismissed_and_leaves_when_its_subscription_ends() -> None:
    world = World()
    event_id = world.buy(ALICE, "price_1")
    world.sweep()
    assert world.store.dismiss(event_id, at=world.moment, note="a test", entry=None)
    second = world.buy(ALICE, "price_1")
    world.sweep()
    assert world.in_state(EventState.UNNAMED) == [second]
    world.buy(ALICE, "price_1", status="canceled")
    world.sweep()
    assert world.in_state(EventState.UNNAMED) == []
    assert world.store.row(ALICE).paid == NOTHING


@pytest.mark.parametrize("steps", range(6))
def test_a_worker_that_dies_half_way_is_repeated(steps: int) -> None:
    world = World()
    for user in USERS:
        world.buy(user, "price_1")
    world.sweep()
    world.moment += 90 * DAY
    event_id = world.name("price_1", "pro")
    left, whole = steps, world.store.hasten_look

    def dying(user_id: UserId, *, at: datetime) -> bool:
        nonlocal left
        if left == 0:
            raise Died
        left -= 1
        return whole(user_id, at=at)

    world.store.hasten_look = dying  # type: ignore[method-assign]
    if steps < len(USERS):
        with pytest.raises(Died):
            world.projector.handle(event_id)
        assert world.store.events[event_id].handled_at is None
    world.store.hasten_look = whole  # type: ignore[method-assign]
    world.sweep()
    assert [world.plan(user) for user in USERS] == [PlanName.PRO] * 3


def test_a_name_that_comes_while_stripe_is_asked_is_not_missed() -> None:
    world = World()
    world.buy(ALICE, "price_1")
    world.sweep()
    world.moment += 90 * DAY
    event_id = world.buy(ALICE, "price_1")

    def meanwhile() -> None:
        world.stripe.after_read = lambda: None
        world.projector.handle(world.name("price_1", "pro"))

    world.stripe.after_read = meanwhile
    world.projector.handle(event_id)
    assert world.plan(ALICE) is PlanName.PRO
    assert world.in_state(EventState.UNNAMED) == []


_CHANGES: dict[str, dict[str, Any]] = {"end": {"status": "canceled"}, "none of it": {"prices": ()}}
"""Changes of a subscription: it ends, or none of its prices is ours any more."""
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("name"), st.sampled_from(["price_1", "price_2"]), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("buy"), st.sampled_from(USERS), st.sampled_from(["price_1", "price_2"]), st.booleans()),
        st.tuples(st.sampled_from(["end", "none of it"]), st.sampled_from(USERS), st.just(""), st.booleans()),
    ),
    max_size=8,
)


@pytest.mark.fault("F-15e")
@settings(max_examples=60)
@given(_STEPS, st.data())
def test_any_history_gives_what_a_plain_model_says(steps: list[tuple[Any, ...]], data: st.DataObject) -> None:
    """Names come, go and move; sales, switches, renewals, ends and quantities of 0 between them.

    Events are doubled, come in any order, or are half-way dead. The model: a customer's price is what it says now, else
    what it said when it was last heard of for this customer, whatever the customer paid for meanwhile.
    """
    world = World()
    has: dict[UserId, str] = {}
    known: dict[UserId, dict[str, str]] = {user: {} for user in USERS}
    for kind, subject, value, told_twice in steps:
        if kind == "name":
            waiting = [world.name(subject, value, by_product=told_twice)]
        else:
            price_id = value or has.get(subject) or "price_1"
            waiting = [world.buy(subject, price_id, **_CHANGES.get(kind, {}))]
            has[subject] = price_id if kind == "buy" else ""
        waiting += waiting if told_twice else []
        if bool(data.draw(st.booleans(), label="dies")):
            _handled_by_a_dying_worker(world, waiting[0], after=data.draw(st.integers(0, 3), label="fetches"))
        world.work(data.draw(st.permutations(waiting)))
        world.sweep()
        if kind == "end" and (said := decision_of(world.price(price_id))):  # Stripe has told of what ended, too
            known[subject] |= {price_id: said}
        for user, price_id in has.items():
            said = decision_of(world.price(price_id)) if price_id else ""
            known[user] |= {price_id: said} if said else {}
            expected = known[user].get(price_id, "")
            plan = PlanName(expected) if expected not in {"", NOT_OURS} else PlanName.FREE
            assert world.plan(user) is plan, (user, price_id)
            assert bool(world.store.row(user).paid.unnamed) is (bool(price_id) and not expected)
    unnamed = {event_id for user in USERS if world.store.row(user).paid.unnamed for event_id in _of(world, user)}
    assert set(world.in_state(EventState.UNNAMED)) <= unnamed
    assert not world.store.due_at


def _of(world: World, user: UserId) -> list[str]:
    return world.store.waiting_of(customer(user), EventState.UNNAMED)


def _handled_by_a_dying_worker(world: World, event_id: str, *, after: int) -> None:
    left = after

    def dying() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died

    world.stripe.on_fetch = world.stripe.after_read = dying
    try:
        world.projector.handle(event_id)
    except Died:
        pass
    finally:
        world.stripe.on_fetch = world.stripe.after_read = lambda: None


_TURNS = st.sampled_from(["buy 1", "buy 2", "none of it", "end"])
_NAMINGS = st.sampled_from(["name 1", "name 1 team", "name 2", "name 2 pro", "name 1 none"])


@pytest.mark.fault("F-15e")
@settings(max_examples=80)
@given(st.lists(_TURNS | _NAMINGS, min_size=4, max_size=12))
@example(["buy 1", "name 1", "buy 2", "buy 1"])
@example(["buy 1", "name 1", "none of it", "buy 1"])
@example(["buy 1", "name 1", "end", "name 2", "buy 2", "buy 1"])
@example(["end", "name 1", "buy 1"])
def test_who_comes_back_to_a_price_has_what_it_was_for_them(steps: list[str]) -> None:
    """The model: what a price said when Stripe last told of the customer's having it, unless it says something now."""
    world = World()
    world.named.update(price_1="team", price_2="pro")
    known: dict[str, str] = {}
    price_id, held = "", "price_1"
    for step in steps:
        kind, _, said = step.partition(" ")
        if kind == "name":
            number, _, name = said.partition(" ")
            world.name(f"price_{number}", name)
        else:
            price_id = f"price_{said}" if kind == "buy" else ""
            world.buy(ALICE, price_id or held, **_CHANGES.get(step, {}))
            held = price_id or held
        world.sweep()
        heard_of = held if step == "end" else price_id
        known[heard_of] = decision_of(world.price(heard_of)) or known.get(heard_of, "") if heard_of else ""
        now = known.get(price_id, "")
        assert world.plan(ALICE) is (PlanName(now) if now not in {"", NOT_OURS} else PlanName.FREE)
        assert bool(world.store.row(ALICE).paid.unnamed) is bool(price_id and not now)


@pytest.mark.fault("F-15e")
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["pro", "team"])), max_size=12), st.integers(0, 4))
def test_as_many_prices_are_remembered_as_there_is_room_for_the_latest_learned_last(
    bought: list[tuple[int, str]], room: int
) -> None:
    names: dict[str, str] = {}
    order: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("karma.billing.naming.MAX_DECISIONS", room)
        for number, name in bought:
            price_id = f"price_{number}"
            sold = stripe_subscription(prices=(PriceHints(price_id=price_id, metadata_plan=name),))
            names = decisions_kept(names, [sold])
            order = [each for each in order if each != price_id] + [price_id]
            assert list(names) == order[-max(room, 1) :]
            assert names[price_id] == name


@pytest.mark.parametrize(
    ("event_type", "obj", "before", "names"),
    [
        ("price.updated", {"metadata": {"karma_plan": "pro"}}, {"metadata": {}}, True),
        ("product.updated", {"metadata": {"karma_plan": NOT_OURS}}, {"metadata": {"karma_plan": "pro"}}, True),
        ("plan.updated", {"metadata": {"karma_plan": "team"}}, None, True),
        ("price.updated", {"lookup_key": "karma_pro_year"}, {"lookup_key": None}, True),
        ("price.updated", {"lookup_key": None}, {"lookup_key": "karma_pro_year"}, False),
        ("price.updated", {"lookup_key": "karma_pro_year"}, {"nickname": "Pro"}, False),
        ("price.updated", {"metadata": {"karma_plan": ["pro"]}, "lookup_key": 7}, {"metadata": {}}, False),
        ("price.updated", {"metadata": "pro"}, "metadata", False),
        ("price.created", {"metadata": {"karma_plan": "pro"}}, None, False),
        ("price.updated", {"id": "price/1", "metadata": {"karma_plan": "pro"}}, {"metadata": {}}, False),
    ],
)
def test_only_what_was_just_named_is_followed(
    event_type: str, obj: dict[str, Any], before: object, names: bool
) -> None:
    shown = {"object": {"id": "price_1", **obj}, "previous_attributes": before}
    hint = hint_of(event_type, {"data": shown, "livemode": False})
    assert (hint.named, hint.concerns_us) == (("price_1", True) if names else ("", False))


def test_not_ours_is_said_of_a_price_whatever_its_lookup_key() -> None:
    assert decision_of(replace(PRO, metadata_plan=NOT_OURS)) == NOT_OURS
    assert [decision_of(each) for each in (PRO, TEAM, FOREIGN)] == ["pro", "team", ""]


def test_an_unnamed_price_beside_a_named_one_is_an_addition_to_a_plan() -> None:
    both = stripe_subscription(prices=(PRO, FOREIGN))
    assert paid_for([both], before=NOTHING, at=NOW).unnamed == ()
    assert paid_for([replace(both, prices=())], before=NOTHING, at=NOW) == NOTHING


def test_advice_names_the_first_prices() -> None:
    text = advice(tuple(f"price_{number}" for number in range(7)))
    assert "price_4 and 2 more" in text
    assert "enterprise, pro, team" in text
