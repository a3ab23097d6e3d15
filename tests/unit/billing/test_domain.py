"""Statuses, plans and access as they follow from what Stripe shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.domain import (
    LATE_NEWS,
    RETRIES,
    Hint,
    Pause,
    StripeSubscription,
    Subscription,
    SubscriptionStatus,
    free_subscription,
    hint_of,
    plan_of,
    project,
    projection,
    status_of,
    together,
)
from karma.billing.plans import CATALOGS, PlanName, PriceHints, catalog_at, plan_at, plan_named_by, rank
from karma.core.ids import UserId

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USER = UserId("01890000-0000-7000-8000-000000000001")

DAY = timedelta(days=1)
PERIOD = timedelta(days=30)
PRO = PriceHints(price_id="price_p", lookup_key="karma_pro_month")
TEAM = PriceHints(price_id="price_t", lookup_key="karma_team_month")
FOREIGN = PriceHints(price_id="price_team_pro", lookup_key="team", metadata_plan="Team")
"""Price of another product of the same Stripe account."""
STATUSES = ("active", "trialing", "past_due", "unpaid", "incomplete", "incomplete_expired", "paused", "canceled")
"""Stripe's eight statuses."""


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
        "prices": (TEAM,),
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


FAILED = NOW + 3 * DAY
"""Moment at which an invoice in the middle of the period failed, such as an upgrade's."""
GRACE_ENDS = FAILED + RETRIES + LATE_NEWS
PERIOD_ENDS = NOW + PERIOD


@pytest.mark.fault("F-15c", "F-17a")
@pytest.mark.parametrize("status", [*STATUSES, "invented_later"])
@pytest.mark.parametrize("pause", [None, "keep_as_draft", "mark_uncollectible", "void"])
@pytest.mark.parametrize("cancels", [None, "at", "at period end"])
def test_access_lasts_as_the_table_says(status: str, pause: str | None, cancels: str | None) -> None:
    lasts = {
        "active": PERIOD_ENDS + LATE_NEWS,
        "trialing": PERIOD_ENDS + LATE_NEWS,
        "past_due": GRACE_ENDS,
    }.get(status, NOW)
    ends = {None: lasts, "at": NOW + 9 * DAY, "at period end": PERIOD_ENDS}[cancels]
    until = NOW if pause == "void" else min(lasts, ends)
    row = project(
        stripe_subscription(
            status=status,
            unpaid_since=FAILED if status == "past_due" else None,
            cancel_at=NOW + 9 * DAY if cancels == "at" else None,
            cancel_at_period_end=cancels == "at period end",
            pause=Pause(behavior=pause, resumes_at=None) if pause else None,
        ),
        user_id=USER,
    )
    moments = sorted({NOW, FAILED, NOW + 9 * DAY, PERIOD_ENDS, lasts, NOW + 400 * DAY})
    for moment in [*moments, *(moment - timedelta(seconds=1) for moment in moments[1:])]:
        assert row.entitled_plan(moment) is (PlanName.TEAM if moment < until else PlanName.FREE), moment


@pytest.mark.fault("F-15c")
def test_a_pause_that_is_over_gives_access_again() -> None:
    pause = Pause(behavior="void", resumes_at=NOW + DAY)
    row = project(stripe_subscription(pause=pause), user_id=USER)
    assert row.entitled_plan(NOW) is PlanName.FREE
    assert row.entitled_plan(NOW + DAY) is PlanName.TEAM


@pytest.mark.fault("F-15c")
@pytest.mark.parametrize(
    ("told", "cancel_at", "at_period_end"),
    [
        ({}, None, False),
        ({"cancel_at_period_end": True}, PERIOD_ENDS, True),
        ({"cancel_at": PERIOD_ENDS}, PERIOD_ENDS, True),
        ({"cancel_at": NOW + DAY}, NOW + DAY, False),
        ({"cancel_at": NOW + DAY, "cancel_at_period_end": True}, NOW + DAY, False),
        ({"cancel_at": NOW, "status": "canceled"}, None, False),
    ],
)
def test_a_cancellation_that_is_coming_is_told_however_it_was_asked_for(
    told: dict[str, Any], cancel_at: datetime | None, at_period_end: bool
) -> None:
    row = project(stripe_subscription(**told), user_id=USER)
    assert (row.cancel_at, row.cancel_at_period_end) == (cancel_at, at_period_end)


@pytest.mark.fault("F-17a")
@pytest.mark.parametrize("days", [1, 14, 60])
def test_grace_lasts_as_long_as_stripe_is_set_to_retry(days: int) -> None:
    failed = stripe_subscription(status="past_due", unpaid_since=FAILED)
    row = project(failed, user_id=USER, retries=timedelta(days=days))
    assert row.grace_until == FAILED + timedelta(days=days) + LATE_NEWS
    assert project(replace(failed, unpaid_since=None), user_id=USER).grace_until == NOW + RETRIES + LATE_NEWS


SETS = st.lists(
    st.builds(
        stripe_subscription,
        id=st.sampled_from(["sub_1", "sub_2", "sub_3", "sub_4"]),
        status=st.sampled_from(STATUSES) | st.sampled_from(["active", "past_due"]),
        created=st.integers(0, 3).map(lambda day: NOW + day * DAY),
        prices=st.lists(st.sampled_from([PRO, TEAM, FOREIGN]), max_size=3).map(tuple),
        cancel_at=st.sampled_from([None, NOW + 2 * DAY]),
        unpaid_since=st.sampled_from([None, NOW - 10 * DAY]),
        pause=st.sampled_from([None, Pause(behavior="void", resumes_at=None)]),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)


@pytest.mark.fault("F-15a", "F-15b")
@settings(max_examples=300)
@given(SETS, st.integers(0, 40), st.data())
def test_the_whole_set_decides_in_any_order(found: list[StripeSubscription], day: int, data: st.DataObject) -> None:
    """The largest plan of those that give access holds; each item of each subscription counts, nothing foreign does."""
    row, at = projection(found, user_id=USER), NOW + day * DAY
    assert row == projection(data.draw(st.permutations(found)), user_id=USER)
    ours = [each for each in found if {PRO, TEAM} & {*each.prices}]
    assert (row is None) == (not ours)
    if row is None:
        return
    giving = [each for each in ours if project(each, user_id=USER).gives_access(at)]
    plans = [PlanName.TEAM if TEAM in each.prices else PlanName.PRO for each in giving]
    assert row.entitled_plan(at) is max(plans, key=rank, default=PlanName.FREE)
    assert {each.stripe_subscription_id for each in row.all} <= {each.id for each in ours}


@pytest.mark.fault("F-15a")
@pytest.mark.parametrize("newest_first", [True, False])
def test_the_largest_active_plan_wins_over_the_newest(newest_first: bool) -> None:
    team = stripe_subscription(id="sub_team")
    pro = stripe_subscription(id="sub_pro", prices=(PRO,), created=NOW + DAY)
    row = projection([pro, team] if newest_first else [team, pro], user_id=USER)
    assert row is not None
    assert (row.plan, row.stripe_subscription_id) == (PlanName.TEAM, "sub_team")
    rest = projection([replace(team, status="canceled"), pro], user_id=USER)
    assert rest is not None
    assert (rest.plan, rest.status, rest.others) == (PlanName.PRO, SubscriptionStatus.ACTIVE, ())


@pytest.mark.fault("F-15a")
def test_the_largest_plan_that_gives_access_holds_until_it_gives_none() -> None:
    """The one that is shown is paid; the larger one is unpaid, and gives its plan while its grace lasts."""
    team = stripe_subscription(id="sub_team", status="past_due", unpaid_since=NOW)
    row = projection([team, stripe_subscription(id="sub_pro", prices=(PRO,))], user_id=USER)
    assert row is not None
    grace_ends = NOW + RETRIES + LATE_NEWS
    assert row.plan is PlanName.PRO
    assert row.entitled_plan(grace_ends - DAY) is PlanName.TEAM
    assert row.entitled_plan(grace_ends) is PlanName.PRO


@pytest.mark.fault("F-17a")
@given(SETS, st.integers(0, 90))
def test_stripe_is_asked_before_access_ends_and_ever_more_rarely(found: list[StripeSubscription], day: int) -> None:
    row, now = projection(found, user_id=USER), NOW + day * DAY
    if row is None or all(each.over for each in row.all):
        assert row is None or row.look_at(now) is None
        return
    look = row.look_at(now)
    assert look is not None
    assert look > now
    for each in row.all:
        if each.over or each.cancel_at is not None or each.pause is not None:
            continue
        if each.gives_access(NOW):
            assert each.gives_access(each.own_look_at(NOW)), "the first look comes before access ends"
        if each.gives_access(now):
            at = each.own_look_at(now)
            assert each.gives_access(at) or at - now >= timedelta(hours=6)
    assert together(row.all) == row


@pytest.mark.req("R-K-20")
def test_free_lasts_a_calendar_month() -> None:
    row = free_subscription(USER, datetime(2026, 12, 31, 23, tzinfo=UTC))
    assert (row.current_period_start, row.current_period_end) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert row.plan is PlanName.FREE
    assert row.cancel_at_period_end is False


@pytest.mark.fault("F-15b")
@pytest.mark.parametrize(
    ("hints", "plan"),
    [
        (PriceHints(metadata_plan="enterprise", lookup_key="karma_pro_month"), PlanName.ENTERPRISE),
        (PriceHints(lookup_key="karma_pro_year"), PlanName.PRO),
        (PriceHints(metadata_plan="gold", lookup_key="karma_pro_year"), PlanName.PRO),
        (PriceHints(lookup_key="karma_team_2031"), None),
        (PriceHints(lookup_key="KARMA_PRO_YEAR"), None),
        (PriceHints(lookup_key=" karma_pro_year"), None),
        (PriceHints(price_id="karma_pro_month"), None),
        (PriceHints(price_id="pro-monthly"), None),
        (PriceHints(metadata_plan="Team"), None),
        (PriceHints(metadata_plan=" team"), None),
        (PriceHints(metadata_plan="free"), None),
        (PriceHints(), None),
    ],
)
def test_a_price_names_its_plan_exactly(hints: PriceHints, plan: PlanName | None) -> None:
    assert plan_named_by(hints) is plan


@pytest.mark.fault("F-15b")
def test_every_price_that_was_ever_sold_names_its_plan() -> None:
    sold = [(price.lookup_key, plan.name) for each in CATALOGS for plan in each.plans for price in plan.prices]
    assert len(sold) >= 4
    for lookup_key, name in sold:
        assert plan_of(stripe_subscription(prices=(FOREIGN, PriceHints(lookup_key=lookup_key)))) is name


def test_every_catalog_has_every_plan_in_order() -> None:
    for moment in (NOW, datetime(1999, 1, 1, tzinfo=UTC)):
        assert [plan.name for plan in catalog_at(moment).plans] == list(PlanName)
    assert plan_at(PlanName.FREE, NOW).limits.devices


@pytest.mark.fault("F-16a")
@pytest.mark.parametrize(
    ("event_type", "obj", "expected"),
    [
        ("customer.subscription.updated", {"id": "sub_1", "customer": "cus_1"}, ("cus_1", "sub_1")),
        ("customer.subscription.deleted", {"id": "sub_1", "customer": {"id": "cus_1"}}, ("cus_1", "sub_1")),
        ("customer.updated", {"id": "cus_1", "metadata": {"user_id": "u"}}, ("cus_1", "")),
        (
            "invoice.paid",
            {"customer": "cus_1", "parent": {"subscription_details": {"subscription": "sub_2"}}},
            ("cus_1", "sub_2"),
        ),
        ("invoice.payment_succeeded", {"subscription": "sub_3", "customer": "cus_1"}, ("cus_1", "sub_3")),
        (
            "checkout.session.completed",
            {"subscription": "sub_1", "customer": "cus_1", "client_reference_id": USER, "metadata": {"user_id": USER}},
            ("cus_1", "sub_1"),
        ),
    ],
)
def test_an_event_says_what_to_look_at_and_nothing_of_a_user(
    event_type: str, obj: dict[str, object], expected: tuple[str, ...]
) -> None:
    hint = hint_of(event_type, {"data": {"object": obj}})
    assert hint.concerns_us
    assert (hint.customer_id, hint.subscription_id) == expected
    assert USER not in str(hint)


@pytest.mark.parametrize(
    ("event_type", "obj"),
    [
        ("product.created", {"id": "prod_1"}),
        ("charge.refunded", {"id": "ch_1", "customer": "cus_1"}),
        ("checkout.session.completed", {"id": "cs_1", "customer": None}),
        ("customer.subscription.updated", {"id": "sub_1", "customer": 7}),
        ("customer.subscription.updated", {"id": "sub_1", "customer": "cus#1/../x"}),
    ],
)
def test_events_of_other_types_are_ignored(event_type: str, obj: dict[str, object]) -> None:
    assert not hint_of(event_type, {"data": {"object": obj}}).concerns_us


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
def test_an_event_with_any_object_is_read_without_an_error(event_type: str, obj: dict[str, object]) -> None:
    for event in ({"data": {"object": obj}}, {"data": obj}, {"data": None, "account": obj, "livemode": obj}, {}):
        assert isinstance(hint_of(event_type, event), Hint)


def test_equal_subscriptions_give_equal_rows() -> None:
    row: Subscription = project(stripe_subscription(), user_id=USER)
    assert row == project(stripe_subscription(), user_id=USER)
