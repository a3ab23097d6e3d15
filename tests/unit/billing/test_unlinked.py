"""Customers that nobody linked pay for prices that name no plan yet: no alarm before the name, and one after it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.billing.domain import EventState, read_hint
from karma.billing.plans import NOT_OURS, PlanName, decision_of
from karma.billing.repository.inbox import RETENTION
from karma.core.ids import UserId
from tests.unit.billing.test_naming import ALICE, Died, World, customer

DORA, EMIL = (UserId(f"01890000-0000-7000-8000-00000000000{letter}") for letter in "de")
"""Accounts that customers are not linked to."""
pytestmark = pytest.mark.fault("F-15f")


class Ticking(World):
    """A world whose clock advances at each reading."""

    def now(self) -> datetime:
        self.moment += timedelta(milliseconds=1)
        return self.moment

    def waits(self, user: UserId, state: EventState = EventState.UNLINKED) -> bool:
        found = (event for event in self.store.events.values() if event.state is state)
        return any(read_hint(event).customer_id == customer(user) for event in found)

    def sells(self, user: UserId) -> str:
        """Name what the customer pays for now and is ours; "" for nothing."""
        sold = self.stripe.subscriptions.get(f"sub_{user[-1]}")
        said = decision_of(sold.prices[0]) if sold and sold.status == "active" else ""
        return said if said != NOT_OURS else ""


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


_PRICES = st.sampled_from(["price_1", "price_2"])
_STEPS = st.one_of(
    st.tuples(st.just("buy"), st.sampled_from([DORA, EMIL]), _PRICES),
    st.tuples(st.just("end"), st.sampled_from([DORA, EMIL]), _PRICES),
    st.tuples(st.sampled_from(["price", "product"]), _PRICES, st.sampled_from(["", "pro", "team", NOT_OURS])),
)


@settings(max_examples=60)
@given(st.lists(_STEPS, min_size=2, max_size=8), st.sets(st.integers(0, 7), max_size=3), st.integers(0, 2))
@example([("buy", DORA, "price_1"), ("price", "price_1", "pro")], set(), 0)
@example([("buy", DORA, "price_1"), ("buy", EMIL, "price_1"), ("product", "price_1", "team")], {2}, 1)
@example([("buy", DORA, "price_1"), ("price", "price_1", NOT_OURS), ("price", "price_1", "pro")], set(), 0)
def test_who_is_linked_to_nobody_is_heard_of_once_what_they_pay_for_is_ours(
    steps: list[tuple[str, Any, str]], dies_at: set[int], after: int
) -> None:
    """Whatever the order of sales, ends and names; some of the names are followed by a worker that dies half-way."""
    world = Ticking()
    named = False
    for number, (kind, subject, value) in enumerate(steps):
        if kind in {"buy", "end"}:
            world.buy(subject, value, status="active" if kind == "buy" else "canceled")
        else:
            named = named or value in {"pro", "team"}
            event_id = world.name(subject, value, by_product=kind == "product")
            if number in dies_at:
                _followed_by_a_dying_worker(world, event_id, after=after)
        world.sweep()
        for user in (DORA, EMIL):
            assert world.waits(user) or not world.sells(user), "it is paid for, and nobody hears of it"
        assert named or not world.in_state(EventState.UNLINKED), "another product makes noise"
        assert not world.in_state(EventState.UNNAMED)
        assert not world.store.due_at
    expected = world.sells(DORA)
    world.desk.relink(customer(DORA), ALICE, from_user_id=None, actor_id=None)
    world.sweep()
    assert world.plan(ALICE) is (PlanName(expected) if expected else PlanName.FREE)
    assert not world.waits(DORA)


def _followed_by_a_dying_worker(world: World, event_id: str, *, after: int) -> None:
    left, whole = after, world.store.reopen

    def dying(event_id: str, *, at: datetime, due_at: datetime) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died
        return whole(event_id, at=at, due_at=due_at)

    world.store.reopen = dying  # type: ignore[method-assign]
    try:
        world.projector.handle(event_id)
    except Died:
        pass
    finally:
        world.store.reopen = whole  # type: ignore[method-assign]


@pytest.mark.parametrize("moment", ["before Stripe is asked", "once Stripe has read", "before it is closed"])
@pytest.mark.parametrize("by_product", [False, True])
def test_a_name_that_is_followed_while_an_event_is_handled_is_not_missed(moment: str, by_product: bool) -> None:
    world = Ticking()
    event_id = world.buy(DORA, "price_1")
    closing = world.store.ignore_payer

    def meanwhile() -> None:
        world.stripe.on_fetch = world.stripe.after_read = lambda: None
        world.store.ignore_payer = closing  # type: ignore[method-assign]
        world.projector.handle(world.name("price_1", "pro", by_product=by_product))

    def late(*given: Any, **named: Any) -> bool:
        meanwhile()
        return closing(*given, **named)

    if moment == "before it is closed":
        world.store.ignore_payer = late  # type: ignore[method-assign]
    elif moment == "once Stripe has read":
        world.stripe.after_read = meanwhile
    else:
        world.stripe.on_fetch = meanwhile
    world.projector.handle(event_id)
    world.sweep()
    assert world.in_state(EventState.UNLINKED) == [event_id]


def test_a_customer_that_is_linked_meanwhile_is_followed() -> None:
    world = Ticking()
    event_id = world.buy(DORA, "price_1")

    def meanwhile() -> None:
        world.stripe.after_read = lambda: None
        world.desk.relink(customer(DORA), ALICE, from_user_id=None, actor_id=None)

    world.stripe.after_read = meanwhile
    world.projector.handle(event_id)
    assert world.in_state(EventState.UNNAMED) == [event_id]
    assert world.store.row(ALICE).paid.unnamed == ("price_1",)


def test_the_note_says_what_has_to_be_named_and_so_does_the_naming() -> None:
    world = Ticking()
    world.buy(DORA, "price_1")
    world.sweep()
    [ignored] = world.in_state(EventState.IGNORED)
    assert world.store.events[ignored].note.endswith("names a plan: price_1, prod_of_price_1")
    event_id = world.name("price_1", "pro")
    world.sweep()
    assert world.store.events[event_id].note.endswith("customers without an account that are opened again: 1")


_HEARD = st.lists(
    st.tuples(st.sampled_from([ALICE, DORA, EMIL]), _PRICES, st.sampled_from(["active", "canceled"]), st.booleans()),
    min_size=1,
    max_size=12,
)


@pytest.mark.fault("F-18c")
@settings(max_examples=60)
@given(_HEARD, st.sampled_from(["", "pro"]), st.sampled_from(["", "pro"]))
@example([(DORA, "price_1", "active", True)] * 5, "", "")
@example([(DORA, "price_1", "active", True)] * 5, "pro", "")
@example([(ALICE, "price_1", "active", False)] * 5, "", "")
def test_one_event_of_a_customer_waits_however_many_come(
    heard: list[tuple[UserId, str, str, bool]], first: str, second: str
) -> None:
    """Whoever it is linked to, and whatever it pays for; a link or a name then opens this one alone."""
    world = Ticking()
    world.name("price_1", first)
    world.name("price_2", second)
    world.sweep()
    for user, price_id, status, is_handled_now in heard:
        event_id = world.buy(user, price_id, status=status)
        if is_handled_now:
            world.projector.handle(event_id)
    world.sweep()
    for user in (ALICE, DORA, EMIL):
        events = [event for event in world.store.events.values() if read_hint(event).customer_id == customer(user)]
        kept = [event for event in events if event.expires_at and event.expires_at > world.moment + 2 * RETENTION]
        waiting = [event for event in events if event.state in {EventState.UNLINKED, EventState.UNNAMED}]
        assert len(kept) <= 2, "one that waits, and the latest that was ignored"
        assert len(waiting) <= 1
    before = world.stripe.fetches
    world.desk.relink(customer(DORA), ALICE, from_user_id=None, actor_id=None)
    world.work()
    opened = [event_id for event_id in world.store.due_at if read_hint(world.store.events[event_id]).customer_id]
    assert len(opened) <= 1
    world.sweep()
    assert world.stripe.fetches - before <= 8, "two customers, asked about a few times"
