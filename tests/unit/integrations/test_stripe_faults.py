"""Every error class of Stripe's library, raised at every call of the gateway, and times that no calendar has."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from background import inbox as worker
from karma.billing.arrival import Arrival
from karma.billing.projector import EventProjector
from karma.core.clock import SystemClock
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.integrations import stripe as adapter
from karma.integrations.stripe import PaymentsUnreadable, StripeGateway
from tests.fakes.billing import MemoryBilling

PASSING = {"APIConnectionError", "APIError", "RateLimitError"}
OUR_KEY = {"AuthenticationError", "PermissionError"}
"""Errors of our key; all others mean that Stripe refuses the request."""
RAISED = [
    kind
    for kind in vars(stripe._error).values()
    if inspect.isclass(kind) and issubclass(kind, stripe.StripeError) and kind.__name__ != "StripeErrorWithParamCode"
]
CUSTOMER = {"id": "cus_1", "object": "customer"}
ITEM = {"id": "si_1", "object": "subscription_item", "price": {"id": "price_1", "product": "prod_1"}}
PAST_DUE = {
    "id": "sub_1",
    "object": "subscription",
    "customer": "cus_1",
    "status": "past_due",
    "created": 1_000,
    "items": {"object": "list", "data": [ITEM], "has_more": True, "url": "/v1/subscription_items"},
}
ROUTES = {
    "subscriptions.list": "get /v1/subscriptions",
    "subscriptions.cancel": "delete /v1/subscriptions/sub_1",
    "subscription_items.list": "get /v1/subscription_items",
    "invoices.list": "get /v1/invoices",
    "charges.list": "get /v1/charges",
    "products.retrieve": "get /v1/products/prod_1",
    "customers.retrieve": "get /v1/customers/cus_1",
    "customers.delete": "delete /v1/customers/cus_1",
}
"""Function of the library by request, for each that the gateway makes."""


class Stripe:
    """Stands in for the library's transport; `fault` is raised by the request `at`."""

    def __init__(self) -> None:
        self.at = ""
        self.fault: Exception | None = None
        self.subscriptions: list[dict[str, Any]] = [PAST_DUE]
        self.items: list[dict[str, Any]] = [ITEM]
        self.invoices: list[dict[str, Any]] = []
        self.requests: list[str] = []

    def request(self, method: str, url: str, *_: Any, **__: Any) -> tuple[str, int, dict[str, str]]:
        asked = f"{method} {url.removeprefix('https://api.stripe.com').partition('?')[0]}"
        self.requests.append(asked)
        if self.fault is not None and asked == self.at:
            raise self.fault
        listed = {
            "get /v1/subscriptions": self.subscriptions,
            "get /v1/subscription_items": self.items,
            "get /v1/invoices": self.invoices,
            "get /v1/charges": [],
        }.get(asked)
        answer = CUSTOMER if listed is None else {"object": "list", "data": listed, "has_more": False, "url": "/v1/x"}
        return json.dumps(answer), 200, {}


@pytest.fixture(scope="module")
def peer() -> Iterator[Stripe]:
    found = Stripe()
    logging.disable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")
        patch.setattr(
            stripe.RequestsClient, "request_with_retries", lambda _, method, url, *a, **k: found.request(method, url)
        )
        yield found
    logging.disable(logging.NOTSET)


@pytest.fixture
def gateway(peer: Stripe) -> StripeGateway:
    vars(peer).update(vars(Stripe()))
    return StripeGateway(api_key=lambda: "sk_test_x")


def calls_of(gateway: StripeGateway, peer: Stripe) -> dict[str, Callable[[], object]]:
    """One use of the gateway for each request that it makes."""

    def read() -> object:
        peer.subscriptions = [PAST_DUE]
        return gateway.subscriptions_of("cus_1", livemode=False)

    def ask_for_the_customer() -> object:
        peer.subscriptions = []
        return gateway.subscriptions_of("cus_1", livemode=None)

    return {
        "subscriptions.list": read,
        "subscriptions.cancel": lambda: gateway.cancel("sub_1"),
        "subscription_items.list": read,
        "invoices.list": read,
        "charges.list": lambda: gateway.buys_else("cus_1", ["sub_1"]),
        "products.retrieve": read,
        "customers.retrieve": ask_for_the_customer,
        "customers.delete": lambda: gateway.delete_customer("cus_1"),
    }


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as exc:  # noqa: BLE001  whatever it is, the test looks at it
        return exc


def made(kind: type[stripe.StripeError], status: int | None) -> stripe.StripeError:
    needed = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    found = kind(**dict.fromkeys(needed, "x"))  # type: ignore[arg-type]
    found.http_status = status
    return found


@pytest.mark.fault("F-09a")
def test_every_call_of_the_library_is_tried(gateway: StripeGateway, peer: Stripe) -> None:
    named = {".".join(found) for found in re.findall(r"\.v1\.(\w+)\.(\w+)", inspect.getsource(adapter))}
    assert named == ROUTES.keys()
    for name, call in calls_of(gateway, peer).items():
        peer.requests.clear()
        call()
        assert ROUTES[name] in peer.requests


@pytest.mark.fault("F-09a")
def test_every_class_at_every_call_says_whether_to_repeat_it(gateway: StripeGateway, peer: Stripe) -> None:
    wrong: list[str] = []
    for name, call in calls_of(gateway, peer).items():
        peer.at = ROUTES[name]
        for kind in RAISED:
            for status in (None, 409, 503):
                peer.fault = made(kind, status)
                passes = kind.__name__ in PASSING or status in (409, 503)
                expected = (
                    (503, "PAYMENTS_UNAVAILABLE", passes, passes)
                    if passes or kind.__name__ in OUR_KEY
                    else (502, "PAYMENTS_REFUSED", False, False)
                )
                error = outcome(call)
                if not (
                    isinstance(error, Upstream)
                    and (error.status, error.code, error.retryable, "Retry-After" in error.headers) == expected
                ):
                    wrong.append(f"{name}: {kind.__name__} with {status} became {error!r}")
    assert len(RAISED) > 25
    assert wrong == []


@pytest.mark.fault("F-09a")
@pytest.mark.parametrize("name", ROUTES)
def test_a_missing_object_is_gone_or_is_read_again(name: str, gateway: StripeGateway, peer: Stripe) -> None:
    peer.at = ROUTES[name]
    for status, code in ((404, None), (400, "resource_missing")):
        peer.fault = fault = made(stripe.InvalidRequestError, status)
        fault.code = code
        found = outcome(calls_of(gateway, peer)[name])
        if name in ("subscription_items.list", "invoices.list"):
            assert isinstance(found, Upstream), name
            assert (found.status, found.code, found.retryable) == (503, "PAYMENTS_UNAVAILABLE", True)
        else:
            assert not isinstance(found, Exception), name


ENDS = [-(2**63), -62_135_596_801, -62_135_596_800, -1, 0, 253_370_764_799, 253_370_764_800, 253_402_300_799, 2**63]
seconds = st.sampled_from(ENDS) | st.integers(-(10**13), 10**13) | st.integers()
TIMES = ("created", "current_period_start", "current_period_end", "cancel_at", "canceled_at", "trial_end")


def is_taken(value: int) -> bool:
    return -62_135_596_800 <= value < 253_370_764_800  # years 1 to 9998


@pytest.mark.fault("F-10a")
@given(
    where=st.sampled_from(
        [*TIMES, "pause", "item_start", "item_end", "invoice_due", "invoice_created", "invoice_finalized"]
    ),
    value=seconds,
    status=st.sampled_from(["active", "past_due", "canceled"]),
)
def test_a_time_that_no_calendar_has_waits_in_the_inbox(peer: Stripe, where: str, value: int, status: str) -> None:
    vars(peer).update(vars(Stripe()))
    priced: dict[str, Any] = {**ITEM, "price": {"id": "price_1", "lookup_key": "karma_team_month"}}
    sold: dict[str, Any] = {**PAST_DUE, "status": status, "items": {"object": "list", "data": [priced]}}
    invoice: dict[str, Any] = {"id": "in_1", "object": "invoice", "status": "open", "created": 1_000}
    match where.partition("_"):
        case "pause", _, _:
            sold["pause_collection"] = {"behavior": "void", "resumes_at": value}
        case "item", _, edge:
            priced[f"current_period_{edge}"] = value
        case "invoice", _, "due":
            invoice["due_date"] = value
        case "invoice", _, "created":
            invoice["created"] = value
        case "invoice", _, _:
            invoice["status_transitions"] = {"finalized_at": value}
        case _:
            sold[where] = value
    peer.subscriptions, peer.invoices = [sold], [invoice]
    is_read = not where.startswith("invoice") or status == "past_due"
    if where == "invoice_finalized" and value == 0:
        is_read = False

    store, user = MemoryBilling(), UserId("01890000-0000-7000-8000-00000000000a")
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    body = json.dumps({"id": "evt_1", "livemode": False, "data": {"object": {"id": "sub_1", "customer": "cus_1"}}})
    store.store(Arrival("evt_1", "customer.subscription.updated", body), received_at=now, due_at=now)
    assert store.link("cus_1", user, seen=None, livemode=False, at=now)
    projector = EventProjector(
        inbox=store,
        subscriptions=store,
        customers=store,
        payments=StripeGateway(api_key=lambda: "sk_test_x"),
        clock=SystemClock(),
    )
    with pytest.MonkeyPatch.context() as patch:
        given = worker.Services(projector=projector, inbox=store, clock=SystemClock())  # type: ignore[arg-type]
        patch.setattr(worker, "services", lambda: given)
        context: Any = type("Context", (), {"aws_request_id": "r"})
        event = {"Records": [{"messageId": "m", "body": "evt_1"}]}
        failed = worker.lambda_handler(event, context)["batchItemFailures"]
    kept = store.events["evt_1"]
    if is_taken(value) or not is_read:
        assert (failed, kept.last_error) == ([], "")
        row = store.row(user).subscription
        assert row is not None
        row.entitled_plan(now)
        row.look_at(now)
    else:
        assert failed == [{"itemIdentifier": "m"}]
        assert (kept.handled_at, kept.last_error) == (None, "PAYMENTS_UNREADABLE")


@pytest.mark.fault("F-10a")
@pytest.mark.parametrize("value", [1.5, "soon", {"at": 1}, [1]])
def test_a_time_that_is_no_number_of_seconds_is_unreadable(value: object, gateway: StripeGateway, peer: Stripe) -> None:
    peer.subscriptions = [{**PAST_DUE, "trial_end": value}]
    assert isinstance(outcome(lambda: gateway.subscriptions_of("cus_1", livemode=False)), PaymentsUnreadable)
