from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.billing.domain import (
    GRACE,
    LATE_NEWS,
    Concern,
    StripeSubscription,
    Subscription,
    SubscriptionStatus,
    deleted,
    free_subscription,
    hint_of,
    preference,
    project,
    status_of,
    user_named_by,
)
from karma.billing.plans import PlanName, PriceHints, catalog_at, plan_at, plan_named_by
from karma.core.ids import UserId, new_id

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USER = UserId("01890000-0000-7000-8000-000000000001")


def stripe_subscription(**changes: Any) -> StripeSubscription:
    values: dict[str, Any] = {
        "id": "sub_1",
        "customer_id": "cus_1",
        "status": "active",
        "created": NOW,
        "current_period_start": NOW,
        "current_period_end": NOW + timedelta(days=30),
        "cancel_at_period_end": False,
        "cancel_at": None,
        "canceled_at": None,
        "trial_end": None,
        "price": PriceHints(price_id="price_1", lookup_key="karma_team_month"),
        "user_id": "",
    }
    return StripeSubscription(**{**values, **changes})


@pytest.mark.req("R-K-19")
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("active", "active"),
        ("trialing", "trialing"),
        ("past_due", "past_due"),
        ("unpaid", "past_due"),
        ("incomplete", "past_due"),
        ("paused", "past_due"),
        ("incomplete_expired", "canceled"),
        ("canceled", "canceled"),
        ("invented_later", "past_due"),
    ],
)
def test_each_of_stripes_statuses_is_one_of_ours(theirs: str, ours: str) -> None:
    assert status_of(theirs) is SubscriptionStatus(ours)


@pytest.mark.parametrize(
    ("status", "at", "plan"),
    [
        ("active", NOW, PlanName.TEAM),
        ("trialing", NOW, PlanName.TEAM),
        ("active", NOW + timedelta(days=30) + LATE_NEWS, PlanName.FREE),
        ("past_due", NOW + GRACE - timedelta(seconds=1), PlanName.TEAM),
        ("past_due", NOW + GRACE, PlanName.FREE),
        ("unpaid", NOW, PlanName.FREE),
        ("incomplete", NOW, PlanName.FREE),
        ("paused", NOW, PlanName.FREE),
        ("canceled", NOW, PlanName.FREE),
        ("invented_later", NOW, PlanName.FREE),
    ],
)
def test_access_lasts_as_the_table_says(status: str, at: datetime, plan: PlanName) -> None:
    assert project(stripe_subscription(status=status), user_id=USER).entitled_plan(at) is plan


def test_a_deleted_subscription_is_canceled_and_keeps_its_dates() -> None:
    row = project(stripe_subscription(), user_id=USER)
    gone = deleted(row)
    assert gone.status is SubscriptionStatus.CANCELED
    assert gone.current_period_end == row.current_period_end
    assert gone.entitled_plan(NOW) is PlanName.FREE


@given(
    st.lists(st.tuples(st.sampled_from(["active", "canceled", "paused"]), st.integers(0, 3), st.text("ab", min_size=1)))
)
def test_the_preferred_subscription_does_not_depend_on_order(shapes: list[tuple[str, int, str]]) -> None:
    found = [
        stripe_subscription(id=name, status=status, created=NOW + timedelta(days=day)) for status, day, name in shapes
    ]
    ranks = sorted(map(preference, found))
    assert ranks == sorted(map(preference, reversed(found)))
    if found:
        best = max(found, key=preference)
        assert best.status == "active" or all(each.status != "active" for each in found)


@pytest.mark.req("R-K-20")
def test_free_lasts_a_calendar_month() -> None:
    row = free_subscription(USER, datetime(2026, 12, 31, 23, tzinfo=UTC))
    assert (row.current_period_start, row.current_period_end) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert row.plan is PlanName.FREE
    assert row.cancel_at_period_end is False


@pytest.mark.parametrize(
    ("hints", "plan"),
    [
        (PriceHints(metadata_plan=" Enterprise ", lookup_key="karma_pro_month"), PlanName.ENTERPRISE),
        (PriceHints(lookup_key="karma_pro_year"), PlanName.PRO),
        (PriceHints(lookup_key="karma_team_2031"), PlanName.TEAM),
        (PriceHints(nickname="Karma Pro (monthly)"), PlanName.PRO),
        (PriceHints(price_id="pro-monthly"), PlanName.PRO),
        (PriceHints(product_id="prod_team"), PlanName.TEAM),
        (PriceHints(price_id="price_1Progress"), None),
        (PriceHints(metadata_plan="gold"), None),
        (PriceHints(), None),
    ],
)
def test_a_price_names_its_plan(hints: PriceHints, plan: PlanName | None) -> None:
    assert plan_named_by(hints) is plan


def test_whoever_pays_for_an_unknown_price_gets_the_smallest_paid_plan() -> None:
    assert project(stripe_subscription(price=PriceHints(price_id="price_x")), user_id=USER).plan is PlanName.PRO


def test_every_catalog_has_every_plan_in_order() -> None:
    for moment in (NOW, datetime(1999, 1, 1, tzinfo=UTC)):
        assert [plan.name for plan in catalog_at(moment).plans] == list(PlanName)
    assert plan_at(PlanName.FREE, NOW).limits.devices


@pytest.mark.parametrize(
    ("event_type", "obj", "expected"),
    [
        ("customer.subscription.updated", {"id": "sub_1", "customer": "cus_1"}, ("subscription", "sub_1", "cus_1", "")),
        (
            "customer.subscription.deleted",
            {"id": "sub_1", "customer": {"id": "cus_1"}},
            ("subscription", "sub_1", "cus_1", ""),
        ),
        ("customer.updated", {"id": "cus_1", "metadata": {"user_id": "u"}}, ("customer", "", "cus_1", "u")),
        (
            "invoice.paid",
            {"parent": {"subscription_details": {"subscription": "sub_2"}}},
            ("subscription", "sub_2", "", ""),
        ),
        (
            "invoice.payment_succeeded",
            {"subscription": "sub_3", "customer": "cus_1"},
            ("subscription", "sub_3", "cus_1", ""),
        ),
        ("invoice.paid", {"customer": "cus_1"}, ("nothing", "", "", "")),
        (
            "checkout.session.completed",
            {"subscription": "sub_1", "customer": "cus_1", "client_reference_id": "me", "metadata": {"user_id": "x"}},
            ("subscription", "sub_1", "cus_1", "me"),
        ),
        ("checkout.session.completed", {"customer": "cus_1"}, ("customer", "", "cus_1", "")),
        ("product.created", {"id": "prod_1"}, ("nothing", "", "", "")),
        ("customer.subscription.updated", {"id": "sub#1/../x", "customer": 7}, ("nothing", "", "", "")),
    ],
)
def test_an_event_says_what_to_look_at(event_type: str, obj: dict[str, object], expected: tuple[str, ...]) -> None:
    hint = hint_of(event_type, obj)
    assert (hint.concern, hint.subscription_id, hint.customer_id, hint.user_id) == expected


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.sampled_from(
        ["customer.subscription.updated", "invoice.paid", "checkout.session.expired", "customer.created", "x"]
    ),
    st.dictionaries(
        st.sampled_from(["id", "customer", "parent", "subscription", "metadata", "client_reference_id"]), _JSON
    ),
)
def test_no_object_breaks_the_reader(event_type: str, obj: dict[str, object]) -> None:
    assert hint_of(event_type, obj).concern in Concern


def test_only_an_id_of_ours_names_a_user() -> None:
    user = new_id()
    assert user_named_by("", "admin", "USER#1", user, new_id()) == user
    assert user_named_by("x") is None


def test_rows_are_values() -> None:
    row: Subscription = project(stripe_subscription(), user_id=USER)
    assert row == project(stripe_subscription(), user_id=USER)
