from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.api.conftest import Api
from tests.support.stack import Context, HttpEvent, SqsEvent, Stack


@dataclass(frozen=True)
class Received:
    """A mail as it lies in somebody's mailbox."""

    to: str
    subject: str
    text: str
    html: str
    sender: str

    @property
    def token(self) -> str:
        """Return the token in the link."""
        return self.text.partition("#token=")[2].split()[0]


def take_waiting(stack: Stack) -> list[dict[str, Any]]:
    """Take every message out of the queue of mails."""
    sqs, url = stack.aws("sqs"), stack.queues["mail"]
    found: list[dict[str, Any]] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        found += messages
    return found


@dataclass
class Post:
    """The way of a mail, from the queue to the mailbox."""

    stack: Stack
    context: Context
    sqs_event: SqsEvent

    def waiting(self) -> list[dict[str, Any]]:
        """Take every message out of the queue."""
        return take_waiting(self.stack)

    def handle(self, messages: list[Any]) -> list[str]:
        """Let the worker handle messages; return the ids of those that failed. The API is the function afterwards."""
        import background.mail  # noqa: F401  before use(): it clears what the module keeps

        self.stack.use("mail")
        from background.mail import lambda_handler

        answer = lambda_handler(self.sqs_event(messages), self.context)
        self.stack.use("api")
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]

    def deliver(self) -> list[Received]:
        """Have everything sent that waits; return all mails of this account so far."""
        assert self.handle(self.waiting()) == []
        return self.mailbox()

    def mailbox(self) -> list[Received]:
        """Read what the provider was given."""
        url = f"{self.stack.engine.endpoint_url}/_ministack/ses/messages?account={self.stack.account}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["messages"].get(self.stack.account, [])
        return [
            Received(
                to=",".join(each["To"]),
                subject=each["Subject"],
                text=each["BodyText"],
                html=each["BodyHtml"],
                sender=each["Source"],
            )
            for each in found
        ]

    def token_for(self, email: str) -> str:
        """Have everything sent, and take the token of the last link that went to an address."""
        [*_, last] = [each for each in self.deliver() if each.to == email and "#token=" in each.text]
        return last.token


@pytest.fixture
def api(stack: Stack, http_event: HttpEvent, lambda_context: Context) -> Api:
    stack.use("api")
    return Api(http_event, lambda_context)


@pytest.fixture
def post(stack: Stack, lambda_context: Context, sqs_event: SqsEvent) -> Post:
    stack.aws("sesv2").create_email_identity(EmailIdentity="example.com")
    return Post(stack, lambda_context, sqs_event)
