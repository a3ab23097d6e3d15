"""A deleted account's customer: what was bought before the deletion ends, and nothing else, whenever it is heard of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.billing.customers import CustomerLinked
from karma.billing.domain import EventState, StripeSubscription
from karma.billing.plans import PlanName, PriceHints
from karma.core.errors import Upstream
from karma.identity.transactional import AccountGone
from tests.unit.billing.test_domain import FOREIGN, PRO, TEAM, stripe_subscription
from tests.unit.billing.test_projector import ADMIN, ALICE, BOB, NOW, World

UNNAMED = PriceHints(price_id="price_u", product_id="prod_u")
PRICES = {"ours": PRO, "larger": TEAM, "theirs": FOREIGN, "unnamed": UNNAMED}
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


class Leaving(World):
    """A customer whose account is deleted at some moment, and who may buy before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.gone_at = NOW
        self.ended: set[str] = set()
        """Subscriptions that their product ended itself."""

    def buy(self, what: str, *, status: str = "active") -> None:
        number = len(self.stripe.subscriptions)
        at = self.clock.moment
        sold = stripe_subscription(id=f"sub_{number}", prices=(PRICES[what],), status=status, created=at)
        self.stripe.subscriptions[sold.id] = replace(sold, current_period_end=at + timedelta(days=400))
        self.arrive(id=sold.id)

    def hear(self) -> None:  # type: ignore[override]
        """Handle every event that is open, as the sweep has it done."""
        for event_id in list(self.store.due_at):
            self.projector.handle(event_id)

    def request(self) -> None:
        """Delete the account; the removal of its data comes later."""
        self.gone_at = self.clock.moment
        self.store.gone.add(ALICE)

    def bought_since(self) -> list[StripeSubscription]:
        return [each for each in self.stripe.subscriptions.values() if each.created > self.gone_at]


_WHAT = st.sampled_from(sorted(PRICES))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), _WHAT),
        st.tuples(st.just("end"), _WHAT),
        st.tuples(st.sampled_from(["hear", "buy once", "fail"]), st.just("")),
    ),
    max_size=4,
)


def _play(world: Leaving, steps: list[tuple[str, str]]) -> None:
    for kind, what in steps:
        world.clock.moment += HOUR
        if "cus_1" in world.stripe.deleted and kind != "hear":
            continue
        if kind == "buy":
            world.buy(what)
        elif kind == "end":  # as another product does with its own
            for each in list(world.stripe.subscriptions.values()):
                if each.prices == (PRICES[what],):
                    world.sell(each.id, status="canceled")
                    world.ended.add(each.id)
        elif kind == "buy once":
            world.stripe.bought_once.add("cus_1")
            world.arrive("invoice.paid", id="in_1")
        elif kind == "hear":
            world.hear()


@pytest.mark.fault("F-17c", "F-17d")
@settings(max_examples=120)
@given(_STEPS, _STEPS, _STEPS)
@example([("buy", "ours"), ("buy", "theirs"), ("hear", "")], [], [("buy", "larger")])
@example([("buy", "ours"), ("hear", "")], [("buy", "larger"), ("hear", "")], [])
@example([("buy", "ours"), ("buy", "theirs")], [], [("end", "theirs"), ("hear", "")])
@example([("buy", "ours"), ("buy once", "")], [], [("hear", "")])
@example([("buy", "theirs"), ("buy", "ours"), ("end", "theirs")], [], [])
@example([], [], [("buy", "ours")])
def test_only_what_is_older_than_the_deletion_ends(
    before: list[tuple[str, str]], during: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    """Whatever is bought before the request, until the customer is taken from the account, and after it."""
    world = Leaving()
    _play(world, before)
    world.clock.moment += HOUR
    world.request()
    _play(world, during)
    everything = list(world.stripe.subscriptions.values())
    if ("fail", "") in during:
        world.stripe.down = True
        with pytest.raises(Upstream):
            world.delete(requested_at=world.gone_at)
        world.stripe.down = False
    assert world.delete(requested_at=world.gone_at)
    was_ours_alone = bool(everything) and all(each.prices[0] in (PRO, TEAM) for each in everything)
    was_ours_alone = was_ours_alone and "cus_1" not in world.stripe.bought_once and not world.bought_since()
    assert ("cus_1" in world.stripe.deleted) is was_ours_alone
    _play(world, after)
    world.hear()
    assert ("cus_1" in world.stripe.deleted) is was_ours_alone, "an event deletes no customer"
    for each in world.stripe.subscriptions.values():
        goes_on = each.created > world.gone_at or each.prices[0] not in (PRO, TEAM)
        assert (each.status == "active") is (goes_on and each.id not in world.ended)
    since = [each for each in world.bought_since() if each.prices[0] in (PRO, TEAM)]
    _is_somebodys_again(world, since)


def _is_somebodys_again(world: Leaving, since: list[StripeSubscription]) -> None:
    """Require that what was bought since the deletion is seen by operators, who link it to the new account."""
    waiting = [each for each in world.store.events.values() if each.state is EventState.UNLINKED]
    assert bool(waiting) is bool(since)
    assert not world.store.due_at
    world.desk.relink("cus_1", BOB, from_user_id=None, actor_id=ADMIN)
    world.work()
    world.hear()
    live = [each for each in since if each.status == "active"]
    given = world.store.row(BOB).subscription
    largest = PlanName.TEAM if any(each.prices[0] is TEAM for each in live) else PlanName.PRO
    expected = largest if live else PlanName.FREE
    assert (given.entitled_plan(world.clock.now()) if given else PlanName.FREE) is expected
    assert not [each for each in world.store.events.values() if each.state is EventState.UNLINKED]


@pytest.mark.fault("F-17c")
def test_a_customer_is_linked_again_once_its_deletion_has_ended_what_it_paid_for() -> None:
    world = Leaving()
    world.buy("ours")
    world.hear()
    world.request()
    world.stripe.down = True
    with pytest.raises(Upstream):
        world.delete()
    with pytest.raises(CustomerLinked, match="being deleted"):
        world.desk.relink("cus_1", BOB, from_user_id=None, actor_id=ADMIN)
    world.stripe.down = False
    assert world.delete()
    with pytest.raises(AccountGone):
        world.desk.relink("cus_1", ALICE, from_user_id=None, actor_id=ADMIN)
    assert world.desk.relink("cus_1", BOB, from_user_id=None, actor_id=ADMIN).user_id == BOB


@pytest.mark.fault("F-17c")
def test_what_is_named_only_after_it_was_bought_again_is_heard_of() -> None:
    world = Leaving()
    world.request()
    assert world.delete()
    world.clock.moment += HOUR
    world.buy("unnamed")
    world.hear()
    [event] = world.store.events.values()
    assert event.state is EventState.IGNORED
    world.sell("sub_0", prices=(replace(UNNAMED, metadata_plan="team"),))
    named = {"id": "price_u", "metadata": {"karma_plan": "team"}, "customer": None}
    world.projector.handle(world.arrive("price.updated", **named))
    world.hear()
    assert world.state(event.id) is EventState.UNLINKED
