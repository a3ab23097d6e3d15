"""The gateway with Stripe's own library, against a server that keeps Stripe's rules."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from karma.billing.domain import Pause, StripeSubscription, plan_of
from karma.billing.plans import PlanName
from karma.integrations.stripe import PaymentsDisabled, PaymentsUnavailable, StripeGateway
from tests.support.stripe_server import StripeServer, serving

MakeGateway = Callable[..., StripeGateway]

MEMBER = {"metadata": {"karma_plan": "pro"}}


@pytest.fixture(scope="module")
def server() -> Iterator[StripeServer]:
    with serving() as stripe:
        yield stripe


@pytest.fixture
def stripe(server: StripeServer) -> StripeServer:
    for held in (server.customers, server.items, server.products, server.subscriptions, server.invoices):
        held.clear()
    server.requests.clear()
    server.failing = server.expanded = 0
    server.names_payments = True
    server.customer()
    return server


@pytest.fixture
def gateway(stripe: StripeServer) -> MakeGateway:
    return lambda key="sk_test_x": StripeGateway(api_key=lambda: key, api_base=stripe.url)


def found(gateway: StripeGateway) -> list[StripeSubscription]:
    answer = gateway.subscriptions_of("cus_1", livemode=False)
    assert answer is not None
    return answer


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.fault("F-15a")
def test_every_page_and_every_status_is_read(stripe: StripeServer, gateway: MakeGateway) -> None:
    for number in range(205):
        stripe.subscription(f"sub_{number}", status="canceled" if number % 2 else "active")
    assert [each.id for each in found(gateway())] == [f"sub_{number}" for number in range(204, -1, -1)]
    assert stripe.requests == ["GET /v1/subscriptions"] * 3


@pytest.mark.fault("F-15b")
@pytest.mark.parametrize(
    ("items", "plan"),
    [
        ([{"lookup_key": "other"}, {"lookup_key": "karma_pro_month"}], PlanName.PRO),
        ([{"lookup_key": "karma_team_month"}, {"lookup_key": "karma_pro_month"}], PlanName.TEAM),
        ([{"lookup_key": "karma_pro_month"}, {"lookup_key": "karma_team_month"}], PlanName.TEAM),
        ([{"lookup_key": "other"}] * 14 + [{"lookup_key": "karma_pro_year"}], PlanName.PRO),
        ([{"price": {"lookup_key": "karma_team_month"}, "quantity": 0}], None),
        ([{"metadata": {"karma_plan": "enterprise"}}], PlanName.ENTERPRISE),
        ([{"product": "prod_ours"}], PlanName.PRO),
        ([{"product": "prod_ours", "metadata": {"karma_plan": "team"}}], PlanName.TEAM),
        ([{"product": "prod_gone"}], None),
        ([{"product": "prod_ours", "metadata": {"karma_plan": "none"}}], None),
        ([{"lookup_key": "karma_pro_month", "metadata": {"karma_plan": "none"}}], None),
        ([{"product": {"id": "prod_whole", "metadata": {"karma_plan": "team"}}}], PlanName.TEAM),
        ([{"nickname": "Karma Team", "id": "price_team"}], None),
        ([{"metadata": {"plan": "team"}}], None),
        ([], None),
    ],
)
def test_a_plan_is_what_the_price_or_its_product_says(
    stripe: StripeServer, gateway: MakeGateway, items: list[Any], plan: PlanName | None
) -> None:
    stripe.products["prod_other"] = {"id": "prod_other", "livemode": False, "metadata": {"plan": "team"}}
    stripe.products["prod_ours"] = {"id": "prod_ours", "livemode": False, **MEMBER}
    stripe.subscription(items=[{**item} for item in items], metadata={"karma_plan": "enterprise", "plan": "team"})
    [subscription] = found(gateway())
    assert plan_of(subscription) is plan
    shown = [each.get("product", "prod_other") for each in items if each.get("quantity") != 0]
    named = [each["id"] if isinstance(each, dict) else each for each in shown]
    assert [price.product_id for price in subscription.prices] == named
    assert len([each for each in stripe.requests if "/products/" in each]) <= 1


@pytest.mark.fault("F-15c")
@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"cancel_at": 9_000}, {"cancel_at": at(9_000)}),
        ({"cancel_at_period_end": True}, {"cancel_at_period_end": True}),
        ({"pause_collection": None}, {"pause": None}),
        ({"pause_collection": {"behavior": "void"}}, {"pause": Pause(behavior="void", resumes_at=None)}),
        (
            {"pause_collection": {"behavior": "keep_as_draft", "resumes_at": 7_000}},
            {"pause": Pause(behavior="keep_as_draft", resumes_at=at(7_000))},
        ),
        ({"items": [{"price": {}, "current_period_end": end} for end in (30, 20)]}, {"current_period_end": at(20)}),
        ({"current_period_start": 1, "current_period_end": 5}, {"current_period_end": at(5)}),
    ],
)
def test_a_cancellation_or_change_that_is_coming_is_read(
    stripe: StripeServer, gateway: MakeGateway, told: dict[str, Any], shown: dict[str, Any]
) -> None:
    stripe.subscription(**told)
    [subscription] = found(gateway())
    assert {name: getattr(subscription, name) for name in shown} == shown


DAY = 86_400
MONTHS = [{"status": "paid", "finalized_at": (month + 2) * 30 * DAY} for month in range(6)]


def invoice(
    stripe: StripeServer, *, of: str = "sub_1", created: int = 1, finalized_at: int | None = None, **told: Any
) -> None:
    """Make an invoice; Stripe lists the newest first."""
    held = {"id": f"in_{len(stripe.invoices)}", "object": "invoice", "of": of, "attempted": True, "total": 2_000}
    made = {"created": finalized_at or created, "status_transitions": {"finalized_at": finalized_at}}
    stripe.invoices.append({**held, **made, **told})
    stripe.invoices.sort(key=lambda each: each["created"], reverse=True)


@pytest.mark.fault("F-17a")
@pytest.mark.parametrize(
    ("invoices", "since"),
    [
        ([{"status": "open", "finalized_at": 500}, {"status": "open", "finalized_at": 900}], 500),
        ([{"status": "paid", "finalized_at": 100}, {"status": "open", "finalized_at": 900}], 900),
        ([{"status": "open", "finalized_at": 300, "attempted": False}, {"status": "open", "finalized_at": 900}], 900),
        ([{"status": "open", "due_date": 700, "attempted": False}], 700),
        ([{"status": "void", "finalized_at": 100}], None),
        ([{"status": "open", "finalized_at": 5_000 - n} for n in range(120)], 4_881),
        # Left open long ago, and paid for since then.
        (
            [{"status": "open", "finalized_at": 30 * DAY}, *MONTHS, {"status": "open", "finalized_at": 240 * DAY}],
            240 * DAY,
        ),
        ([{"status": "open", "finalized_at": 30 * DAY}, *MONTHS], None),
    ],
)
def test_grace_counts_from_the_oldest_invoice_that_failed(
    stripe: StripeServer, gateway: MakeGateway, invoices: list[Any], since: int | None
) -> None:
    for each in invoices:
        invoice(stripe, **each)
    stripe.subscription(status="past_due")
    [subscription] = found(gateway())
    assert subscription.unpaid_since == (None if since is None else at(since))


FAILED: dict[str, Any] = {"status": "open"}
SETTLED: list[dict[str, Any]] = [
    {"status": "paid"},
    {"status": "paid", "total": 0, "billing_reason": "subscription_cycle"},
    {"status": "uncollectible"},
]
NEITHER: list[dict[str, Any]] = [
    {"status": "void"},
    {"status": "draft", "attempted": False},
    {"status": "open", "attempted": False},
    {"status": "paid", "total": 0, "billing_reason": "subscription_update"},
    {"status": "paid", "total": -500, "billing_reason": "subscription_update"},
]


@pytest.mark.fault("F-17a")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from([FAILED, *SETTLED, *NEITHER]), max_size=9), min_size=1, max_size=3))
def test_grace_counts_from_the_present_run_of_unpaid_invoices(
    stripe: StripeServer, gateway: MakeGateway, histories: list[list[dict[str, Any]]]
) -> None:
    """Each subscription of a customer has a history of its own, told month by month."""
    stripe.subscriptions.clear()
    stripe.invoices.clear()
    expected: dict[str, datetime | None] = {}
    for number, history in enumerate(histories):
        name, since = f"sub_{number}", None
        stripe.subscription(name, status="past_due")
        for month, said in enumerate(history, start=1):
            invoice(stripe, of=name, finalized_at=month * 30 * DAY + number, **said)
            if said in SETTLED:
                since = None
            elif said is FAILED:
                since = since or at(month * 30 * DAY + number)
        expected[name] = since
    assert {each.id: each.unpaid_since for each in found(gateway())} == expected


@pytest.mark.fault("F-16b")
@pytest.mark.parametrize("key", ["sk_test_x", "rk_test_x", "sk_live_x", "rk_live_x"])
@pytest.mark.parametrize("exists", [None, False, True], ids=["nowhere", "test", "live"])
@pytest.mark.parametrize("known", [None, False, True], ids=["unknown", "test", "live"])
def test_a_missing_customer_is_gone_only_in_the_keys_own_mode(
    stripe: StripeServer, gateway: MakeGateway, key: str, exists: bool | None, known: bool | None
) -> None:
    stripe.customers.clear()
    if exists is not None:
        stripe.customer(livemode=exists)
        stripe.subscription(livemode=exists)
    live = "live" in key
    answer = gateway(key).subscriptions_of("cus_1", livemode=known)
    assert gateway(key).livemode is live
    if known is not None and known is not live:
        assert answer is None
        assert stripe.requests == []
    elif exists is live:
        assert [each.id for each in answer or ()] == ["sub_1"]
    else:
        assert answer == (None if known is None else [])


@pytest.mark.fault("F-16b")
def test_a_customer_without_subscriptions_is_there(gateway: MakeGateway) -> None:
    assert gateway().subscriptions_of("cus_1", livemode=None) == []
    assert gateway().subscriptions_of("cus_2", livemode=None) is None


@pytest.mark.fault("F-16b")
@pytest.mark.parametrize("key", ["", "sk_x", "whsec_1", "sk_test_live_x"])
def test_a_key_that_names_no_mode_is_not_used(stripe: StripeServer, gateway: MakeGateway, key: str) -> None:
    with pytest.raises(PaymentsDisabled):
        gateway(key).subscriptions_of("cus_1", livemode=None)
    assert stripe.requests == []


@pytest.mark.fault("F-17b")
def test_ending_twice_is_ending_once(stripe: StripeServer, gateway: MakeGateway) -> None:
    stripe.subscription()
    for _ in range(2):
        gateway().cancel("sub_1")
        gateway().delete_customer("cus_1")
    assert [each["status"] for each in stripe.subscriptions] == ["canceled"]
    assert stripe.customers == {}


_OURS = {"of": "sub_1", "parent": {"subscription_details": {"subscription": "sub_1"}}}
_PAID = {"payments": {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_1"}}]}}
_ONE_CHARGE = {"payments": {"data": [{"payment": {"type": "charge", "charge": "ch_1"}}]}}


@pytest.mark.fault("F-17d")
@pytest.mark.parametrize(
    ("invoices", "charges", "expected"),
    [
        ([], [], False),
        ([{**_OURS, **_PAID}], [("ch_1", "pi_1")], False),
        ([{**_OURS, **_ONE_CHARGE}], [("ch_1", None)], False),
        ([{**_OURS, **_PAID}], [("ch_1", "pi_1"), ("ch_2", "pi_1")], False),
        ([{"of": "sub_1", "subscription": "sub_1", "payment_intent": "pi_1"}], [("ch_1", "pi_1")], False),
        ([{"of": "sub_1", "subscription": "sub_1", "charge": "ch_1"}], [("ch_1", None)], False),
        ([{**_OURS, **_PAID}], [("ch_1", "pi_1"), ("ch_2", "pi_2")], True),
        ([{**_OURS, **_PAID}], [("ch_1", "pi_1"), ("ch_2", None)], True),
        ([_OURS], [("ch_1", "pi_1")], True),
        ([], [("ch_1", None)], True),
        ([{**_OURS, **_PAID}, {"of": "", "parent": None, **_ONE_CHARGE}], [("ch_1", "pi_1")], True),
        (
            [{**_OURS, **_PAID}, {"of": "", "parent": {"subscription_details": {"subscription": "sub_2"}}}],
            [("ch_1", "pi_1")],
            True,
        ),
    ],
)
def test_whatever_else_a_customer_ever_bought_is_seen(
    stripe: StripeServer, gateway: MakeGateway, invoices: list[dict[str, Any]], charges: list[Any], expected: bool
) -> None:
    stripe.invoices = [{"id": f"in_{i}", **each} for i, each in enumerate(invoices)]
    stripe.charges = [{"id": charge, "payment_intent": intent} for charge, intent in charges]
    assert gateway().buys_else("cus_1", ["sub_1"]) is expected
    # On the last of several pages, too.
    older = {"of": "sub_1", "subscription": "sub_1", "payment_intent": "pi_0"}
    newer = {**_OURS, "payments": {"data": [{"payment": {"payment_intent": "pi_0"}}]}}
    more = older if any("subscription" in each for each in invoices) else newer
    stripe.invoices = [{"id": f"in_more_{i}", **more} for i in range(100)] + stripe.invoices
    stripe.charges = [{"id": f"ch_more_{i}", "payment_intent": "pi_0"} for i in range(100)] + stripe.charges
    assert gateway().buys_else("cus_1", ["sub_1"]) is expected
    assert gateway().buys_else("cus_404", ["sub_1"])


@pytest.mark.fault("F-17d")
@pytest.mark.parametrize(("other", "asked"), [([], 1), ([{"of": "sub_2", "subscription": "sub_2"}], 0)])
def test_payments_are_asked_for_last_and_a_refusal_keeps_the_customer(
    stripe: StripeServer, gateway: MakeGateway, other: list[dict[str, Any]], asked: int
) -> None:
    bills = [{"of": "sub_1", "subscription": "sub_1"}, *other]
    stripe.invoices = [{"id": f"in_{i}", **each} for i, each in enumerate(bills)]
    stripe.charges = [{"id": "ch_1", "payment_intent": "pi_1"}]
    stripe.names_payments = False
    assert gateway().buys_else("cus_1", ["sub_1"])
    assert stripe.expanded == asked


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500])
def test_a_question_that_stripe_cannot_answer_raises_payments_unavailable(
    stripe: StripeServer, gateway: MakeGateway, status: int
) -> None:
    stripe.failing = status
    with pytest.raises(PaymentsUnavailable):
        gateway().subscriptions_of("cus_1", livemode=False)
