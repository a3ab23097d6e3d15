"""Webhooks that nobody here wrote: localstripe keeps the subscription and posts the events."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from karma.audit.domain import AuditEntry, AuditEvent
from karma.billing.customers import refresh_message
from karma.billing.domain import EventState
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import InboxRepository
from karma.core.ids import UserId
from karma.identity.accounts.repository.deletions import DeletionRepository
from tests.integration.billing.conftest import Billing
from tests.support.accounts import open_account
from tests.support.stack import Context, SqsEvent, Stack
from tests.support.stripe_peer import Posted, StripePeer

pytestmark = pytest.mark.req("R-K-19", "R-K-20", "R-C-29")


@pytest.fixture
def user(stack: Stack) -> str:
    return open_account()


@pytest.fixture
def sold(peer: StripePeer, billing: Billing, stripe_client: stripe.StripeClient, user: str) -> str:
    """Sell the team plan to a customer of ours; return the subscription's id."""
    billing.stripe_base = peer.url
    customer = stripe_client.v1.customers.create(params={"email": "buyer@example.com"})
    link(billing, customer.id, user)
    method = stripe_client.v1.payment_methods.create(
        params={"type": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}}
    )
    stripe_client.v1.payment_methods.attach(method.id, params={"customer": customer.id})
    stripe_client.v1.customers.update(customer.id, params={"invoice_settings": {"default_payment_method": method.id}})
    stripe_client.v1.plans.create(
        params={
            "id": "karma-team-month",
            "amount": 9900,
            "currency": "usd",
            "interval": "month",
            "product": {"name": "T"},
            "metadata": {"karma_plan": "team"},
        }
    )
    bought = stripe_client.v1.subscriptions.create(
        params={"customer": customer.id, "items": [{"plan": "karma-team-month"}]}
    )
    peer.wait_for("customer.subscription.created")
    peer.wait_for("invoice.payment_succeeded")
    return str(bought.id)


def link(billing: Billing, customer_id: str, user: str) -> None:
    """Link a customer as our checkout does, before it shows a page."""
    links, at = CustomerRepository(), datetime.now(UTC)
    assert links.link(customer_id, UserId(user), seen=None, at=at, livemode=False)


def deliver(billing: Billing, posted: list[Posted]) -> None:
    for each in posted:
        assert billing.post(each.body, each.headers)["statusCode"] == 200


def test_a_sale_becomes_the_subscription_of_its_user(peer: StripePeer, billing: Billing, sold: str, user: str) -> None:
    deliver(billing, peer.posted)
    assert billing.drain() == []
    row = billing.subscription(user)
    assert row is not None
    assert (row["plan"], row["status"], row["stripe_subscription_id"]) == ("team", "active", sold)
    assert row["current_period_start"] < row["current_period_end"]
    assert billing.open_events() == []


def test_a_cancellation_ends_the_subscription(
    peer: StripePeer, billing: Billing, sold: str, user: str, stripe_client: stripe.StripeClient
) -> None:
    deliver(billing, peer.posted)
    assert billing.drain() == []
    stripe_client.v1.subscriptions.cancel(sold)
    deliver(billing, peer.wait_for("customer.subscription.deleted"))
    assert billing.drain() == []
    row = billing.subscription(user)
    assert row is not None
    assert (row["status"], row["stripe_status"], row["plan"]) == ("canceled", "canceled", "team")


def test_repeats_and_any_order_change_nothing(
    peer: StripePeer, billing: Billing, sold: str, user: str, stripe_client: stripe.StripeClient
) -> None:
    stripe_client.v1.subscriptions.cancel(sold)
    peer.wait_for("customer.subscription.deleted")
    captured = list(peer.posted) * 3
    random.Random(7).shuffle(captured)
    for start in range(0, len(captured), 5):
        deliver(billing, captured[start : start + 5])
        assert billing.drain() == []
    row = billing.subscription(user)
    assert row is not None
    assert (row["status"], row["stripe_subscription_id"]) == ("canceled", sold)
    events = [item for item in billing.items() if item["type"] == "stripe_event"]
    assert len(events) == len(peer.posted)
    assert billing.open_events() == []


@pytest.mark.fault("F-15b", "F-16a", "F-18a")
def test_a_customer_whom_nobody_linked_waits_for_it(
    peer: StripePeer, billing: Billing, stripe_client: stripe.StripeClient, user: str
) -> None:
    """The product's metadata name the plan; the customer's metadata, which anybody may have written, name a user."""
    billing.stripe_base = peer.url
    customer = stripe_client.v1.customers.create(params={"email": "new@example.com", "metadata": {"user_id": user}})
    products: dict[str, Any] = {
        "ours": {"name": "P", "metadata": {"karma_plan": "pro"}},
        "theirs": {"name": "Karma Team"},
    }
    for plan, sold in products.items():
        stripe_client.v1.plans.create(
            params={
                "id": plan, "amount": 0, "currency": "usd", "interval": "month", "product": sold, "nickname": "team"
            }
        )  # fmt: skip
        stripe_client.v1.subscriptions.create(params={"customer": customer.id, "items": [{"plan": plan}]})
    peer.wait_for("customer.subscription.created", 2)
    deliver(billing, peer.posted)
    assert billing.drain() == []
    assert billing.subscription(user) is None
    assert billing.open_events() == []
    inbox = InboxRepository()
    unlinked = inbox.waiting_of(customer.id, EventState.UNLINKED)
    assert len(unlinked) == 1, "the latest event of the customer waits for all"
    assert {*unlinked} <= {each.id for each in peer.posted}
    link(billing, customer.id, user)
    assert billing.work([refresh_message(UserId(user))]) == []
    row = billing.subscription(user)
    assert row is not None
    assert (row["plan"], row["status"]) == ("pro", "active")
    assert billing.work(unlinked) == []
    assert inbox.waiting_of(customer.id, EventState.UNLINKED) == []


def test_a_stripe_that_is_down_fails_only_its_own_messages(
    peer: StripePeer, billing: Billing, sold: str, user: str
) -> None:
    deliver(billing, peer.posted)
    billing.stripe_base = "http://127.0.0.1:9"
    by_type = {each.type: each.id for each in peer.posted}
    messages = [by_type["product.created"], by_type["customer.subscription.created"], "not an id"]
    assert len(billing.work(messages)) == 2
    assert f"STRIPE_EVT#{by_type['customer.subscription.created']}" in billing.open_events()
    assert f"STRIPE_EVT#{by_type['product.created']}" not in billing.open_events()
    failed = next(item for item in billing.items() if item["pk"].endswith(by_type["customer.subscription.created"]))
    assert failed["last_error"] == "PAYMENTS_UNAVAILABLE"
    billing.stripe_base = peer.url
    assert billing.drain() == []
    assert billing.subscription(user) is not None


def delete_account(peer: StripePeer, billing: Billing, user: str, sqs_event: SqsEvent, context: Context) -> datetime:
    deletions, at = DeletionRepository(), datetime.now(UTC)
    leaving = deletions.leaving(UserId(user))
    assert leaving is not None
    entry = AuditEntry(user_id=UserId(user), event=AuditEvent.DELETION_REQUESTED, at=at, actor_id=UserId(user))
    deletions.begin(leaving, entry=entry, due_at=at)
    billing.stack.use("deletion", STRIPE_API_BASE=peer.url)
    from background.deletion import lambda_handler

    assert lambda_handler(sqs_event([user]), context) == {"batchItemFailures": []}
    return at


@pytest.mark.parametrize("heard", [True, False], ids=["heard of before", "heard of after"])
def test_the_owner_of_a_deleted_account_is_no_customer_any_more(
    peer: StripePeer, billing: Billing, sold: str, user: str, sqs_event: SqsEvent, lambda_context: Context, heard: bool
) -> None:
    if heard:
        deliver(billing, peer.posted)
        assert billing.drain() == []
    delete_account(peer, billing, user, sqs_event, lambda_context)
    assert not [item for item in billing.items() if user in str(item)]
    # What Stripe tells of it still, is forgotten as well.
    deliver(billing, list(peer.posted))
    assert billing.drain() == []
    peer.wait_for("customer.deleted")
    assert not [item for item in billing.items() if user in str(item)]


@pytest.mark.fault("F-17c", "F-17d")
def test_what_is_bought_again_after_a_deletion_goes_on(
    peer: StripePeer,
    billing: Billing,
    sold: str,
    user: str,
    stripe_client: stripe.StripeClient,
    sqs_event: SqsEvent,
    lambda_context: Context,
    eventually: Callable[..., Any],
) -> None:
    """The customer pays for another product as well, and so is still there."""
    customer = str(stripe_client.v1.subscriptions.retrieve(sold).customer)
    plan: Any = {
        "id": "letters", "amount": 500, "currency": "usd", "interval": "month", "product": {"name": "N"}
    }  # fmt: skip
    stripe_client.v1.plans.create(params=plan)
    other = stripe_client.v1.subscriptions.create(params={"customer": customer, "items": [{"plan": "letters"}]})
    deleted_at = delete_account(peer, billing, user, sqs_event, lambda_context)
    # Stripe tells times in seconds.
    eventually(lambda: datetime.now(UTC) >= deleted_at + timedelta(seconds=1))
    again = stripe_client.v1.subscriptions.create(
        params={"customer": customer, "items": [{"plan": "karma-team-month"}]}
    )
    stripe_client.v1.subscriptions.cancel(other.id)
    peer.wait_for("customer.subscription.created", 3)
    peer.wait_for("customer.subscription.deleted", 2)
    deliver(billing, list(peer.posted))
    assert billing.drain() == []
    statuses = {each.id: each.status for each in _subscriptions(stripe_client, customer)}
    assert (statuses[sold], statuses[again.id]) == ("canceled", "active")
    assert "customer.deleted" not in peer.types()
    assert len(InboxRepository().waiting_of(customer, EventState.UNLINKED)) == 1
    comes_back = UserId(open_account())
    links = CustomerRepository()
    assert links.link(customer, comes_back, seen=links.link_of(customer), at=datetime.now(UTC), livemode=False)
    assert billing.work([refresh_message(comes_back)]) == []
    row = billing.subscription(comes_back)
    assert row is not None
    assert (row["plan"], row["status"], row["stripe_subscription_id"]) == ("team", "active", again.id)


def _subscriptions(stripe_client: stripe.StripeClient, customer: str) -> list[stripe.Subscription]:
    return stripe_client.v1.subscriptions.list(params={"customer": customer, "status": "all"}).data
