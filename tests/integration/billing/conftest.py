from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stack import WEBHOOK_SECRET, Context, HttpEvent, SqsEvent, Stack
from tests.support.stripe_peer import API_KEY, PeerUnavailable, StripePeer, running

if TYPE_CHECKING:
    from stripe import StripeClient


@pytest.fixture(scope="session")
def peer_process() -> Iterator[StripePeer]:
    try:
        with running(secret=WEBHOOK_SECRET) as peer:
            yield peer
    except PeerUnavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def peer(peer_process: StripePeer) -> StripePeer:
    peer_process.call("/_config/data", method="DELETE")
    peer_process.posted.clear()
    return peer_process


@pytest.fixture
def stripe_client(peer: StripePeer) -> StripeClient:
    import stripe

    return stripe.StripeClient(API_KEY, base_addresses={"api": peer.url})


@dataclass
class Billing:
    """The two functions of billing, called in process, and the table between them."""

    stack: Stack
    http_event: HttpEvent
    sqs_event: SqsEvent
    context: Context
    stripe_base: str = "http://127.0.0.1:9"

    def post(self, body: object, headers: dict[str, str], /, **changes: Any) -> dict[str, Any]:
        self.stack.use("billing_webhook")
        return self.post_again(body, headers, **changes)

    def post_again(self, body: object, headers: dict[str, str], /, **changes: Any) -> dict[str, Any]:
        """Post to the process that took the last event, which has the secrets of then cached."""
        from billing_webhook.handler import lambda_handler

        event = self.http_event("POST", "/webhooks/stripe", body=body, headers=headers)
        return lambda_handler({**event, **changes}, self.context)

    def drain(self) -> list[str]:
        """Give everything that is in the queue now to the worker; returns the ids of messages that failed."""
        queue, sqs = self.stack.queues["inbox"], self.stack.aws("sqs")
        failed: list[str] = []
        while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            failed += self.work(messages)
        return failed

    def work(self, messages: list[Any]) -> list[str]:
        self.stack.use("inbox", STRIPE_API_BASE=self.stripe_base)
        from background.inbox import lambda_handler

        answer = lambda_handler(self.sqs_event(messages), self.context)
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]

    def items(self) -> list[dict[str, Any]]:
        from boto3.dynamodb.types import TypeDeserializer

        read = TypeDeserializer().deserialize
        found = self.stack.aws("dynamodb").scan(TableName=self.stack.tables["billing"], ConsistentRead=True)["Items"]
        return [{name: read(value) for name, value in item.items()} for item in found]

    def subscription(self, user_id: str) -> dict[str, Any] | None:
        rows = [item for item in self.items() if (item["pk"], item["sk"]) == (f"USER#{user_id}", "SUBSCRIPTION")]
        return rows[0] if rows else None

    def open_events(self) -> list[str]:
        return [item["pk"] for item in self.items() if item["type"] == "stripe_event" and "handled_at" not in item]


@pytest.fixture
def billing(stack: Stack, http_event: HttpEvent, sqs_event: SqsEvent, lambda_context: Context) -> Billing:
    return Billing(stack, http_event, sqs_event, lambda_context)
