"""The webhook as Lambda calls it: what is kept, what is refused, and that a crash anywhere is repaired."""

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from karma.billing.repository.customers import CustomerRepository
from karma.core.ids import UserId
from tests.integration.billing.conftest import Billing
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import WEBHOOK_SECRET, Stack
from tests.support.stripe_peer import StripePeer

pytestmark = pytest.mark.req("R-C-29")

EVENT = {"id": "evt_1", "object": "event", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}}
RAW = json.dumps(EVENT).encode()


def signature(body: bytes, *, secret: str = WEBHOOK_SECRET, age_s: int = 0) -> str:
    header: str = stripe.WebhookSignature.generate_signature_header(
        body.decode("utf-8", "replace"), secret, timestamp=int(time.time()) - age_s
    )
    return header


def signed(body: bytes = RAW, **how: Any) -> dict[str, str]:
    return {"Stripe-Signature": signature(body, **how)}


Headers = Callable[[], dict[str, str]]
"""Parameters are made when tests are collected; what carries a time is made when the request is."""


def header(text: str) -> Headers:
    """Return the given signature header; `{now}` in it stands for the time of the request."""
    return lambda: {"Stripe-Signature": text.replace("{now}", str(int(time.time())))}


def signing(body: bytes = RAW, **how: Any) -> Headers:
    return lambda: signed(body, **how)


def stored(billing: Billing) -> list[str]:
    return sorted(item["pk"] for item in billing.items())


def queued(stack: Stack) -> list[str]:
    sqs, queue = stack.aws("sqs"), stack.queues["inbox"]
    bodies: list[str] = []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            bodies.append(message["Body"])
    return bodies


def test_a_signed_event_is_kept_and_acknowledged(billing: Billing) -> None:
    answer = billing.post(RAW, signed())
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"received": True})
    assert stored(billing) == ["STRIPE_EVT#evt_1"]
    assert queued(billing.stack) == ["evt_1"]


def test_a_base64_body_is_the_same_event(billing: Billing) -> None:
    text = base64.b64encode(RAW).decode()
    assert billing.post(None, signed(), body=text, isBase64Encoded=True)["statusCode"] == 200
    assert stored(billing) == ["STRIPE_EVT#evt_1"]


def test_either_of_two_secrets_is_accepted_while_they_rotate(billing: Billing) -> None:
    arn = billing.stack.secrets["stripe_webhook"]
    value = json.dumps({"secrets": ["whsec_next", WEBHOOK_SECRET]})
    billing.stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=value)
    for secret in ("whsec_next", WEBHOOK_SECRET):
        assert billing.post(RAW, signed(secret=secret))["statusCode"] == 200


@pytest.mark.fault("F-18b")
def test_a_secret_that_was_rolled_is_read_once_more(billing: Billing) -> None:
    assert billing.post(RAW, signed())["statusCode"] == 200
    arn = billing.stack.secrets["stripe_webhook"]
    value = json.dumps({"secrets": ["whsec_next"]})
    billing.stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=value)
    assert billing.post_again(RAW, signed(secret="whsec_next"))["statusCode"] == 200
    assert billing.post_again(RAW, signed())["statusCode"] == 400


@pytest.mark.parametrize("value", ['{"secrets": []}', '{"secrets": [""]}', "{}", '{"secrets": "x"}'])
def test_without_a_secret_the_endpoint_is_off(billing: Billing, value: str) -> None:
    arn = billing.stack.secrets["stripe_webhook"]
    billing.stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=value)
    answer = billing.post(RAW, {"Stripe-Signature": f"t={int(time.time())},v1=00"})
    assert answer["statusCode"] == 503
    assert not stored(billing)


def test_a_table_that_fails_asks_stripe_to_come_again(billing: Billing) -> None:
    billing.stack.aws("dynamodb").delete_table(TableName=billing.stack.tables["billing"])
    answer = billing.post(RAW, signed())
    assert answer["statusCode"] == 503
    assert answer["headers"]["retry-after"] == "60"
    assert not queued(billing.stack)


def hostile(name: str, status: int, body: object, headers: Headers, /, **event: Any) -> Any:
    return pytest.param(status, body, headers, event, id=name)


def method(name: str) -> dict[str, Any]:
    return {"requestContext": {"http": {"method": name, "path": "/webhooks/stripe"}}}


_WRONG = "0" * 64


@pytest.mark.parametrize(
    ("status", "body", "headers", "event"),
    [
        hostile("no header", 400, RAW, dict),
        hostile("no headers at all", 400, RAW, dict, headers={}),
        hostile("empty header", 400, RAW, header("")),
        hostile("garbage header", 400, RAW, header("\x00;;=,,=,t")),
        hostile("unicode header", 400, RAW, header("t={now},v1=☃\ud800")),
        hostile("header of 1 MB", 400, RAW, header("t={now}," + "v1=00," * 170_000)),
        hostile("CRLF in the header", 400, RAW, header(f"t={{now}}\r\nX-A: b,v1={_WRONG}")),
        hostile("no timestamp", 400, RAW, header(f"v1={_WRONG}")),
        hostile("no signature", 400, RAW, header("t={now}")),
        hostile("other scheme only", 400, RAW, header(f"t={{now}},v0={_WRONG}")),
        hostile("wrong signature", 400, RAW, header(f"t={{now}},v1={_WRONG}")),
        hostile("huge timestamp", 400, RAW, header(f"t={'9' * 4000},v1={_WRONG}")),
        hostile("timestamp of 5,000 digits", 400, RAW, header(f"t={'9' * 5000},v1={_WRONG}")),
        hostile("negative timestamp", 400, RAW, header(f"t=-1,v1={_WRONG}")),
        hostile("timestamp that is no number", 400, RAW, header(f"t=1e9,v1={_WRONG}")),
        hostile("wrong secret", 400, RAW, signing(secret="whsec_other")),
        hostile("empty secret", 400, RAW, signing(secret="")),
        hostile("old", 400, RAW, signing(age_s=301 + 30)),
        hostile("future", 400, RAW, signing(age_s=-(301 + 30))),
        hostile("second timestamp is ours", 400, RAW, lambda: {"Stripe-Signature": f"t=1,{signature(RAW)}"}),
        hostile("altered body", 400, RAW + b" ", signing()),
        hostile("signature of another body", 400, RAW, signing(b"{}")),
        hostile("broken JSON, signed", 400, b'{"id": ', signing(b'{"id": ')),
        hostile("empty body, signed", 400, b"", signing(b"")),
        hostile("a list, signed", 400, b"[]", signing(b"[]")),
        hostile("NaN, signed", 400, b'{"id": NaN}', signing(b'{"id": NaN}')),
        hostile("deep JSON, signed", 400, b"[" * 50_000, signing(b"[" * 50_000)),
        hostile("no data, signed", 400, b'{"id":"evt_1","type":"a"}', signing(b'{"id":"evt_1","type":"a"}')),
        hostile(
            "key injection in the id, signed",
            400,
            b'{"id":"evt_1#META","type":"a","data":{"object":{}}}',
            signing(b'{"id":"evt_1#META","type":"a","data":{"object":{}}}'),
        ),
        hostile(
            "huge number as id, signed",
            400,
            b'{"id":1' + b"0" * 400 + b',"type":"a","data":{"object":{}}}',
            signing(b'{"id":1' + b"0" * 400 + b',"type":"a","data":{"object":{}}}'),
        ),
        hostile("thin event, signed", 400, b'{"id":"evt_1","object":"v2.core.event","type":"v1.a"}',
                signing(b'{"id":"evt_1","object":"v2.core.event","type":"v1.a"}')),
        hostile("invalid UTF-8", 400, b"\xff\xfe{}", header(f"t={{now}},v1={_WRONG}")),
        hostile("lone surrogate", 400, None, signing(), body='{"id": "\ud800"}'),
        hostile("invalid base64", 400, None, signing(), body="%%%", isBase64Encoded=True),
        hostile("base64 beyond ASCII", 400, None, signing(), body="é", isBase64Encoded=True),
        hostile("10 MB", 413, b"x" * 10_000_000, signing()),
        hostile("10 MB of base64", 413, None, signing(), body="A" * 10_000_000, isBase64Encoded=True),
        hostile("just over 1 MB of wide text", 413, "é" * 600_000, signing()),
        hostile("no body", 400, None, signing()),
        hostile("GET", 405, RAW, signing(), **method("GET")),
        hostile("PUT", 405, RAW, signing(), **method("PUT")),
        hostile("no method", 405, RAW, signing(), requestContext={"http": {"method": ""}}),
    ],
)  # fmt: skip
def test_hostile_requests_store_nothing(
    billing: Billing, status: int, body: object, headers: Headers, event: dict[str, Any]
) -> None:
    answer = billing.post(body, headers(), **event)
    assert answer["statusCode"] == status
    error = json.loads(answer["body"])["error"]
    assert error["code"]
    assert WEBHOOK_SECRET not in answer["body"]
    assert not stored(billing)
    assert not queued(billing.stack)


def test_a_replay_stores_nothing_twice(billing: Billing) -> None:
    headers = signed()
    for _ in range(3):
        assert billing.post(RAW, headers)["statusCode"] == 200
    assert stored(billing) == ["STRIPE_EVT#evt_1"]


def test_a_crash_at_any_call_of_the_webhook_is_repaired_by_the_repeat(billing: Billing) -> None:
    billing.stack.use("billing_webhook")
    event = billing.http_event("POST", "/webhooks/stripe", body=RAW, headers=signed())
    report = CrashTest(
        entry="billing_webhook.handler:lambda_handler",
        aws=billing.stack.aws,
        tables=[billing.stack.tables["billing"]],
        seed=lambda: event,
        ignore=("version", "created_at", "updated_at", "gsi1sk"),
        other_state=lambda: set(queued(billing.stack)),
        accept=lambda answer: bool(answer["statusCode"] == 200),
    ).run()
    assert len(report.calls) == 3


def test_a_crash_at_any_call_of_the_worker_is_repaired_by_the_redelivery(
    billing: Billing, peer: StripePeer, stripe_client: stripe.StripeClient
) -> None:
    user = open_account()
    customer = stripe_client.v1.customers.create(params={})
    stripe_client.v1.plans.create(
        params={
            "id": "pro",
            "amount": 0,
            "currency": "usd",
            "interval": "month",
            "product": {"name": "P"},
            "metadata": {"karma_plan": "pro"},
        }
    )
    stripe_client.v1.subscriptions.create(params={"customer": customer.id, "items": [{"plan": "pro"}]})
    (posted,) = peer.wait_for("customer.subscription.created")

    def take_notices() -> list[tuple[str, str]]:
        identity, dynamodb = billing.stack.tables["identity"], billing.stack.aws("dynamodb")
        items = dynamodb.scan(TableName=identity, ConsistentRead=True)["Items"]
        notices = [item for item in items if item["type"]["S"] == "notice"]
        for item in notices:
            dynamodb.delete_item(TableName=identity, Key={"pk": item["pk"], "sk": item["sk"]})
        return [(item["pk"]["S"], item["kind"]["S"]) for item in notices]

    def told_once() -> list[tuple[str, str]]:
        notices = take_notices()
        assert notices == [(f"USER#{user}", "subscription_changed")]
        return notices

    def seed() -> dict[str, Any]:
        take_notices()
        links = CustomerRepository()
        if links.link_of(customer.id) is None:
            assert links.link(customer.id, UserId(user), seen=None, at=datetime.now(UTC), livemode=False)
        assert billing.post(posted.body, posted.headers)["statusCode"] == 200
        billing.stack.use("inbox", STRIPE_API_BASE=peer.url)
        return billing.sqs_event(queued(billing.stack))

    billing.stack.use("inbox", STRIPE_API_BASE=peer.url)
    report = CrashTest(
        asks_others=True,
        entry="background.inbox:lambda_handler",
        aws=billing.stack.aws,
        tables=[billing.stack.tables["billing"]],
        seed=seed,
        ignore=("version", "created_at", "updated_at", "handled_at", "expires_at", "gsi1sk"),
        other_state=told_once,
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    assert len(report.calls) >= 6
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
