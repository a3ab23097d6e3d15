"""The gateway with Stripe's own library, against a server that keeps Stripe's rules."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.billing.domain import Pause, StripeSubscription, plan_of
from karma.billing.plans import PlanName
from karma.integrations.stripe import PaymentsDisabled, PaymentsUnavailable, StripeGateway
from tests.support.stripe_server import StripeServer, serving

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
    server.failing = 0
    server.customer()
    return server


@pytest.fixture
def gateway(stripe: StripeServer) -> Callable[..., StripeGateway]:
    return lambda key="sk_test_x": StripeGateway(api_key=lambda: key, api_base=stripe.url)


def found(gateway: StripeGateway) -> list[StripeSubscription]:
    answer = gateway.subscriptions_of("cus_1", livemode=False)
    assert answer is not None
    return answer


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.fault("F-15a")
def test_every_page_and_every_status_is_read(stripe: StripeServer, gateway: Any) -> None:
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
        ([{"nickname": "Karma Team", "id": "price_team"}], None),
        ([{"metadata": {"plan": "team"}}], None),
        ([], None),
    ],
)
def test_a_plan_is_what_the_price_or_its_product_says(
    stripe: StripeServer, gateway: Any, items: list[Any], plan: PlanName | None
) -> None:
    stripe.products["prod_other"] = {"id": "prod_other", "livemode": False, "metadata": {"plan": "team"}}
    stripe.products["prod_ours"] = {"id": "prod_ours", "livemode": False, **MEMBER}
    stripe.subscription(items=[{**item} for item in items], metadata={"karma_plan": "enterprise", "plan": "team"})
    [subscription] = found(gateway())
    assert plan_of(subscription) is plan
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
def test_what_is_coming_is_read(
    stripe: StripeServer, gateway: Any, told: dict[str, Any], shown: dict[str, Any]
) -> None:
    stripe.subscription(**told)
    [subscription] = found(gateway())
    assert {name: getattr(subscription, name) for name in shown} == shown


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
    ],
)
def test_grace_counts_from_the_oldest_invoice_that_failed(
    stripe: StripeServer, gateway: Any, invoices: list[Any], since: int | None
) -> None:
    for number, each in enumerate(invoices):
        transitions = {"finalized_at": each.pop("finalized_at", None)}
        attempted = {"attempted": True, "created": 1, "status_transitions": transitions}
        stripe.invoices.append({"id": f"in_{number}", "object": "invoice", "of": "sub_1", **attempted, **each})
    stripe.subscription(status="past_due")
    [subscription] = found(gateway())
    assert subscription.unpaid_since == (None if since is None else at(since))


@pytest.mark.fault("F-16b")
@pytest.mark.parametrize("key", ["sk_test_x", "rk_test_x", "sk_live_x", "rk_live_x"])
@pytest.mark.parametrize("exists", [None, False, True], ids=["nowhere", "test", "live"])
@pytest.mark.parametrize("known", [None, False, True], ids=["unknown", "test", "live"])
def test_a_missing_customer_is_gone_only_in_the_keys_own_mode(
    stripe: StripeServer, gateway: Any, key: str, exists: bool | None, known: bool | None
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
        assert [each.id for each in answer] == ["sub_1"]
    else:
        assert answer == (None if known is None else [])


@pytest.mark.fault("F-16b")
def test_a_customer_without_subscriptions_is_there(gateway: Any) -> None:
    assert gateway().subscriptions_of("cus_1", livemode=None) == []
    assert gateway().subscriptions_of("cus_2", livemode=None) is None


@pytest.mark.fault("F-16b")
@pytest.mark.parametrize("key", ["", "sk_x", "whsec_1", "sk_test_live_x"])
def test_a_key_that_names_no_mode_is_not_used(stripe: StripeServer, gateway: Any, key: str) -> None:
    with pytest.raises(PaymentsDisabled):
        gateway(key).subscriptions_of("cus_1", livemode=None)
    assert stripe.requests == []


@pytest.mark.fault("F-17b")
def test_ending_twice_is_ending_once(stripe: StripeServer, gateway: Any) -> None:
    stripe.subscription()
    for _ in range(2):
        gateway().cancel("sub_1")
        gateway().delete_customer("cus_1")
    assert [each["status"] for each in stripe.subscriptions] == ["canceled"]
    assert stripe.customers == {}


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500])
def test_what_stripe_cannot_answer_is_not_known(stripe: StripeServer, gateway: Any, status: int) -> None:
    stripe.failing = status
    with pytest.raises(PaymentsUnavailable):
        gateway().subscriptions_of("cus_1", livemode=False)
