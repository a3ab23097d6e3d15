"""A run's end by the stream's real records, through both functions, to a real receiver; and deaths on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from karma.audit.domain import NOWHERE
from karma.core.clock import SystemClock
from karma.core.ids import UserId, new_id
from karma.integrations.guard import is_public_or_loopback
from karma.integrations.kms import KmsSeal
from karma.integrations.sqs import SqsQueue
from karma.webhooks.domain import DEFAULT, Delivery, DeliveryError, DeliveryStatus, DisabledReason
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository
from karma.webhooks.secrets import SigningSecrets
from karma.webhooks.service import NewWebhook, OutgoingWebhooks, ShownWebhook
from tests.contexts.runs import begin, record
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import VAULT_KEY, Context, Drain, SqsEvent, Stack
from tests.support.webhook_receiver import Receiver, receiver

Records = list[dict[str, Any]]


class Told:
    """An account with webhooks, and the functions that tell them, each by its own variables."""

    def __init__(self, stack: Stack, context: Context, sqs_event: SqsEvent, drain: Drain) -> None:
        self.stack, self.context, self.sqs_event, self.drain = stack, context, sqs_event, drain
        self.user = UserId(new_id())
        stack.use("events")
        open_account(self.user)
        self.service = OutgoingWebhooks(
            WebhookRepository(),
            DeliveryRepository(),
            SigningSecrets(KmsSeal(VAULT_KEY)),
            SqsQueue(stack.queues["webhooks"]),
            SystemClock(),
            known_types=lambda: ["run.finished", "run.failed"],
            is_allowed=is_public_or_loopback,
            loopback=True,
        )

    def create(self, url: str, *events: str) -> ShownWebhook:
        wanted = NewWebhook(url=url, events=events or ("*",), description="")
        return self.service.create(self.user, wanted, source=NOWHERE)

    def events(self, records: Records) -> list[str]:
        from background.events import lambda_handler

        self.stack.use("events")
        answer = lambda_handler({"Records": records}, self.context)
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]

    def work(self, count: int = 1) -> None:
        from background.webhooks import lambda_handler

        self.stack.use("webhooks")
        for message in self.drain(self.stack.queues["webhooks"], count):
            assert lambda_handler(self.sqs_event([message]), self.context) == {"batchItemFailures": []}

    def only(self, shown: ShownWebhook) -> Delivery:
        [delivery] = DeliveryRepository().page(self.user, shown.webhook.id, below="", limit=5)
        return delivery


@pytest.fixture
def told(stack: Stack, lambda_context: Context, sqs_event: SqsEvent, drain: Drain) -> Told:
    return Told(stack, lambda_context, sqs_event, drain)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def test_the_end_of_a_run_comes_signed_and_once(told: Told, server: Receiver, streamed: Callable[[], Records]) -> None:
    shown = told.create(f"{server.url}/ok")
    other = told.create(f"{server.url}/ok?other", "run.failed")
    record(told.user, "r1", agent="karma")
    begin(told.user, "r2", agent="karma")
    records = streamed()
    for start in range(0, len(records), 4):
        assert told.events(records[start:]) == []
    told.work()
    [got] = server.got
    body = Verifier(shown.secret).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(other.secret).verify(got.body, got.headers)
    delivery = told.only(shown)
    assert (body["type"], body["timestamp"]) == ("run.finished", "2026-11-21T12:00:02.000Z")
    assert body["data"] == {
        "run_id": "r1",
        "thread_id": "thread-of-r1",
        "parent_run_id": None,
        "schedule_id": None,
        "agent_id": "karma",
        "agent_version": 3,
        "status": "finished",
        "error_code": None,
        "turns": 1,
        "usage": {"provider": "anthropic", "model": "m", "inputTokens": 3, "totalTokens": 5},
        "cost_micros": 40,
        "started_at": "2026-11-21T12:00:00.000Z",
        "finished_at": "2026-11-21T12:00:02.000Z",
    }
    assert (got.headers["webhook-id"], delivery.status) == (delivery.id, DeliveryStatus.SUCCEEDED)
    assert [each.status_code for each in delivery.attempts] == [204]


def test_both_secrets_sign_after_a_rotation(told: Told, server: Receiver) -> None:
    first = told.create(f"{server.url}/ok")
    second = told.service.rotate(told.user, first.webhook.id, source=NOWHERE)
    assert first.secret != second.secret
    told.service.try_out(told.user, first.webhook.id)
    told.work()
    [got] = server.got
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    for secret in (first.secret, second.secret):
        assert Verifier(secret).verify(got.body, got.headers)["type"] == "webhook.test"


def test_the_end_of_a_run_comes_to_its_own_address_once(
    told: Told, server: Receiver, streamed: Callable[[], Records]
) -> None:
    secret = told.service.rotate(told.user, DEFAULT, source=NOWHERE).secret
    record(told.user, "r1", webhook=f"{server.url}/ok?token=t")
    begin(told.user, "r2", webhook=f"{server.url}/ok?token=u")
    records = streamed()
    for start in range(0, len(records), 4):
        assert told.events(records[start:]) == []
    told.work()
    [got] = server.got
    assert got.path == "/ok?token=t"
    body = Verifier(secret).verify(got.body, got.headers)
    assert (body["type"], body["data"]["run_id"]) == ("run.finished", "r1")
    [delivery] = DeliveryRepository().page(told.user, DEFAULT, below="", limit=5)
    assert (delivery.id, delivery.status) == (got.headers["webhook-id"], DeliveryStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/status/500", 500, DeliveryError.STATUS),
        ("/redirect", 301, DeliveryError.REDIRECTED),
        ("/reset", None, DeliveryError.UNREACHABLE),
        ("/busy", 429, DeliveryError.STATUS),
    ],
)
def test_a_failure_is_shown_and_tried_again(
    told: Told, server: Receiver, path: str, status: int | None, error: DeliveryError
) -> None:
    shown = told.create(server.url + path)
    told.service.try_out(told.user, shown.webhook.id)
    told.work()
    delivery = told.only(shown)
    assert [(each.status_code, each.error) for each in delivery.attempts] == [(status, error)]
    assert delivery.status is DeliveryStatus.PENDING
    assert delivery.due_at is not None
    if path == "/busy":
        assert delivery.due_at > datetime.now(UTC) + timedelta(seconds=110)
        return
    told.service.change(told.user, shown.webhook.id, {"url": f"{server.url}/ok"}, source=NOWHERE)
    told.service.redeliver(told.user, shown.webhook.id, delivery.id)
    told.work(2)
    again = told.only(shown)
    assert (again.status, again.attempt_count) == (DeliveryStatus.SUCCEEDED, 2)
    assert len({got.headers["webhook-id"] for got in server.got}) == 1


def test_one_that_hangs_holds_up_nobody_else(told: Told, server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from karma.integrations import webhooks

    hurried = dict(webhooks.WebhookPosts.__init__.__kwdefaults__ or {}) | {"time_s": 0.5}
    monkeypatch.setattr(webhooks.WebhookPosts.__init__, "__kwdefaults__", hurried)
    slow, quick = told.create(f"{server.url}/hang"), told.create(f"{server.url}/ok")
    for shown in (slow, quick):
        told.service.try_out(told.user, shown.webhook.id)
    told.work(2)
    assert told.only(quick).status is DeliveryStatus.SUCCEEDED
    assert [each.error for each in told.only(slow).attempts] == [DeliveryError.TIMED_OUT]


def test_410_disables_it_and_leaves_a_notice(told: Told, server: Receiver) -> None:
    shown = told.create(f"{server.url}/status/410")
    told.service.try_out(told.user, shown.webhook.id)
    told.work()
    stored = told.service.get(told.user, shown.webhook.id)
    assert (stored.is_enabled, stored.disabled_reason) == (False, DisabledReason.GONE)
    items = told.stack.aws("dynamodb").scan(TableName=told.stack.tables["identity"])["Items"]
    [notice] = [each for each in items if each["type"] == {"S": "notice"}]
    assert notice["kind"] == {"S": "webhook_disabled"}
    assert json.loads(notice["data"]["S"]) == {"webhook_id": shown.webhook.id}


def test_a_deleted_webhook_is_cleared(told: Told, server: Receiver) -> None:
    shown = told.create(f"{server.url}/status/500")
    told.service.try_out(told.user, shown.webhook.id)
    told.work()
    told.service.delete(told.user, shown.webhook.id, source=NOWHERE)
    told.work()
    items = told.stack.aws("dynamodb").scan(TableName=told.stack.tables["realtime"])["Items"]
    assert [item["type"]["S"] for item in items] == ["webhook_list"]


def test_a_table_that_is_away_brings_the_batch_back(told: Told, streamed: Callable[[], Records]) -> None:
    from background.events import lambda_handler

    record(told.user, "r1")
    records = streamed()
    told.stack.use("events", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    answer = lambda_handler({"Records": records}, told.context)
    assert answer == {"batchItemFailures": [{"itemIdentifier": records[0]["dynamodb"]["SequenceNumber"]}]}


def test_a_record_that_nobody_can_read_keeps_none_before_it(
    told: Told, server: Receiver, streamed: Callable[[], Records]
) -> None:
    shown = told.create(f"{server.url}/ok")
    record(told.user, "r1")
    image = {"type": {"S": "run"}, "status": {"S": "finished"}, "pk": {"S": "RUN#x#y"}}
    keys = {"pk": {"S": "RUN#x#y"}, "sk": {"S": "HEAD"}}
    bad = {"eventName": "MODIFY", "dynamodb": {"Keys": keys, "SequenceNumber": "900", "NewImage": image}}
    assert told.events([*streamed(), bad]) == ["900"]
    assert told.only(shown).type == "run.finished"


def _alike(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item without its moments, of which each attempt of a test has its own."""
    sk = item["sk"]
    # Of a receiver that is gone a process that died has told, and the next one cancels what it meant to send.
    if item.get("status") == "cancelled":
        item = {**item, "status": "failed", "attempt_count": 1, "round": 1}
    return {**item, "sk": "#".join([*sk.split("#")[:2], sk.rpartition("#")[2]]) if sk.startswith("DUE#") else sk}


TIMES = ("due_at", "asked_at", "gsi1sk", "attempts", "expires_at", "holder", "lease_until_ms")


def test_a_death_while_it_fans_out_is_repaired_by_the_redelivery(
    told: Told, server: Receiver, streamed: Callable[[], Records]
) -> None:
    shown, ended = told.create(f"{server.url}/ok"), told.create(f"{server.url}/ok", "run.failed")
    record(told.user, "r1")
    records = [each for each in streamed() if each["dynamodb"]["NewImage"]["type"] == {"S": "run"}]
    kept = told.stack.aws("dynamodb").scan(TableName=told.stack.tables["realtime"])["Items"]

    def seed() -> dict[str, Any]:
        for item in kept:
            told.stack.aws("dynamodb").put_item(TableName=told.stack.tables["realtime"], Item=item)
        return {"Records": records}

    told.stack.use("events")
    report = CrashTest(
        entry="background.events:lambda_handler",
        aws=told.stack.aws,
        tables=[told.stack.tables["realtime"]],
        ignore=("version", "created_at", "updated_at", *TIMES),
        normalise=_alike,
        seed=seed,
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert told.only(shown).status is DeliveryStatus.PENDING
    assert DeliveryRepository().page(told.user, ended.webhook.id, below="", limit=5) == []


@pytest.mark.parametrize("path", ["/ok", "/status/500", "/status/410"])
def test_a_death_while_it_delivers_is_repaired_once_its_lease_is_over(told: Told, server: Receiver, path: str) -> None:
    shown = told.create(server.url + path)
    told.service.try_out(told.user, shown.webhook.id)
    told.drain(told.stack.queues["webhooks"])
    table, dynamodb = told.stack.tables["realtime"], told.stack.aws("dynamodb")
    kept = dynamodb.scan(TableName=table)["Items"]
    [agenda] = [item for item in kept if item["type"] == {"S": "webhook_agenda"}]
    event = told.sqs_event([f"{told.user} {shown.webhook.id}"])

    def seed() -> dict[str, Any]:
        for item in kept:
            dynamodb.put_item(TableName=table, Item=item)
        return event

    def once_its_lease_is_over(event: dict[str, Any]) -> dict[str, Any]:
        dynamodb.update_item(
            TableName=table,
            Key={"pk": agenda["pk"], "sk": agenda["sk"]},
            UpdateExpression="SET lease_until_ms = :over",
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues={":over": {"N": "0"}},
        )
        return event

    told.stack.use("webhooks")
    CrashTest(
        entry="background.webhooks:lambda_handler",
        aws=told.stack.aws,
        tables=[table],
        # Failures in a row are a hint: a process that died has not told of its own.
        ignore=("version", "created_at", "updated_at", "failures", "failing_since", *TIMES),
        normalise=_alike,
        seed=seed,
        redeliver=once_its_lease_is_over,
        accept=lambda response: response == {"batchItemFailures": []},
        asks_others=True,
    ).run()
    assert len({got.headers["webhook-id"] for got in server.got}) == 1
