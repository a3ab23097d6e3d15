"""One engine a session, one AWS account a test: nothing to clean up, any order.

Handlers are called in process; `stack.use("api")` gives them the environment that the deployed function has.
"""

from __future__ import annotations

import base64
import functools
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from botocore.config import Config

import karma.core.observability  # noqa: F401  its logger keeps the standard output of now; a test's own is closed later
from karma.core.dynamo.tables import bind_names
from local.engine import Engine
from tests.support import clients, on_demand, passwords
from tests.support.stack import (
    AUTH_KEY,
    VAULT_KEY,
    WEBHOOK_SECRET,
    Context,
    Drain,
    HttpEvent,
    SqsEvent,
    Stack,
    forget_process_state,
)
from tests.support.storage_stacks import Storage, synthesized
from tests.support.stream_records import as_lambda_has_them

_CLIENT = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 2, "mode": "standard"})


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ring of unit tests and the deployed backend have the real ones."""
    passwords.make_cheap(monkeypatch)


@pytest.fixture(autouse=True)
def kept_clients() -> Iterator[None]:
    """Keep AWS clients between the tests of this ring."""
    with clients.kept():
        yield


@pytest.fixture
def account(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # Not the seeded generator of pytest-randomly: two tests would get the same account.
    number = str(random.SystemRandom().randrange(10**11, 10**12))
    for name, value in engine.client_environment(number).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STAGE", "test")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "integration")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")
    forget_process_state()
    yield number
    on_demand.forget()
    forget_process_state()


@pytest.fixture
def aws(account: str, engine: Engine) -> Callable[[str], Any]:
    return functools.partial(clients.client, config=_CLIENT, endpoint_url=engine.endpoint_url)


@pytest.fixture(scope="session")
def storage() -> Storage:
    """Return the tables and queues as the synthesized stacks define them."""
    return synthesized()


@pytest.fixture
def tables(aws: Callable[[str], Any], storage: Storage) -> Mapping[str, str]:
    owed = on_demand.tables(aws("dynamodb"), storage.tables, "test-")
    bind_names(owed)
    return owed


@pytest.fixture
def queues(aws: Callable[[str], Any], account: str, engine: Engine, storage: Storage) -> Mapping[str, str]:
    """Return the URLs of queues; the dead-letter queue of each is made with it."""

    def create(name: str) -> str:
        shape = storage.queues[name]
        attributes = dict(shape.attributes)
        if shape.dead_letters:
            got = aws("sqs").get_queue_attributes(QueueUrl=create(shape.dead_letters), AttributeNames=["QueueArn"])
            policy = {
                "deadLetterTargetArn": got["Attributes"]["QueueArn"],
                "maxReceiveCount": str(shape.max_receive_count),
            }
            attributes["RedrivePolicy"] = json.dumps(policy)
        made = aws("sqs").create_queue(QueueName=f"test-{name.replace('_', '-')}", Attributes=attributes)
        return str(made["QueueUrl"])

    def owe(name: str) -> str:
        url = f"{engine.endpoint_url}/{account}/test-{name.replace('_', '-')}"
        return on_demand.owe(url, lambda: create(name))

    return {name: owe(name) for name in storage.queues}


@pytest.fixture
def bucket(aws: Callable[[str], Any], account: str) -> str:
    name = f"test-files-{account}"

    def create() -> None:
        aws("s3").create_bucket(Bucket=name)
        aws("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    return on_demand.owe(name, create)


@pytest.fixture
def secret_values() -> Mapping[str, Mapping[str, Any]]:
    return {
        "auth": {"current": "k1", "k1": AUTH_KEY},
        "stripe_webhook": {"secrets": [WEBHOOK_SECRET]},
        "stripe_api": {"api_key": "sk_test_integration"},
        "model": {"api_key": "model-key"},
        "oauth": {"github": {"client_id": "github-client", "client_secret": "github-secret"}},
    }


@pytest.fixture
def secrets(
    aws: Callable[[str], Any], account: str, secret_values: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, str]:
    def owe(name: str) -> str:
        # Without the six characters that only the service knows: it finds a secret without them.
        arn = f"arn:aws:secretsmanager:us-east-1:{account}:secret:test/{name}"
        text = json.dumps(secret_values[name])
        return on_demand.owe(arn, lambda: aws("secretsmanager").create_secret(Name=f"test/{name}", SecretString=text))

    return {name: owe(name) for name in secret_values}


@pytest.fixture
def vault_key(aws: Callable[[str], Any]) -> str:
    """Return the alias of the key that encrypts what users give us."""

    def create() -> None:
        kms = aws("kms")
        kms.create_alias(AliasName=VAULT_KEY, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])

    return on_demand.owe(VAULT_KEY, create)


@pytest.fixture
def stack(
    vault_key: str,
    account: str,
    engine: Engine,
    tables: Mapping[str, str],
    queues: Mapping[str, str],
    bucket: str,
    secrets: Mapping[str, str],
    secret_values: Mapping[str, Mapping[str, Any]],
    aws: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Stack:
    return Stack(account, engine, tables, queues, bucket, secrets, secret_values, aws, monkeypatch)


@pytest.fixture
def lambda_context() -> Context:
    return Context()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Poll until the answer is truthy; fail with the last one."""

    def poll(attempt: Callable[[], Any], *, deadline_s: float = 10) -> Any:
        end = time.monotonic() + deadline_s
        while True:
            answer = attempt()
            if answer:
                return answer
            if time.monotonic() >= end:
                pytest.fail(f"still {answer!r} after {deadline_s} s")
            time.sleep(0.05)

    return poll


@pytest.fixture
def drain(aws: Callable[[str], Any]) -> Drain:
    """Receive and delete messages until `count` have come."""

    def receive(queue_url: str, count: int = 1, *, deadline_s: float = 10) -> list[dict[str, Any]]:
        end = time.monotonic() + deadline_s
        found: list[dict[str, Any]] = []
        while len(found) < count:
            answer = aws("sqs").receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=1 if count else 0,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            for message in answer.get("Messages", []):
                aws("sqs").delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message)
            if time.monotonic() >= end:
                pytest.fail(f"{len(found)} of {count} messages in {queue_url} after {deadline_s} s")
        return found

    return receive


@pytest.fixture
def sqs_event() -> SqsEvent:
    """Make the event that Lambda's SQS mapping sends, from bodies (text or JSON values) or received messages."""

    def make(messages: Sequence[Any], *, receive_count: int = 1) -> dict[str, Any]:
        records = []
        for message in messages:
            raw = message if isinstance(message, dict) and "Body" in message else {}
            body = raw.get("Body", message)
            records.append(
                {
                    "messageId": raw.get("MessageId", str(uuid.uuid4())),
                    "receiptHandle": raw.get("ReceiptHandle", "handle"),
                    "body": body if isinstance(body, str) else json.dumps(body),
                    "attributes": {
                        "ApproximateReceiveCount": str(receive_count),
                        "SentTimestamp": str(time.time_ns() // 1_000_000),
                        "SenderId": "000000000000",
                        "ApproximateFirstReceiveTimestamp": str(time.time_ns() // 1_000_000),
                    },
                    "messageAttributes": {},
                    "md5OfBody": "",
                    "eventSource": "aws:sqs",
                    "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:test",
                    "awsRegion": "us-east-1",
                }
            )
        return {"Records": records}

    return make


@pytest.fixture
def http_event() -> HttpEvent:
    """Make the event of an HTTP API (payload 2.0); a dict or list is sent as JSON, bytes as base64 where needed."""

    def make(
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        source_ip: str = "203.0.113.7",
    ) -> dict[str, Any]:
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        text: str | None = None
        encoded = False
        if isinstance(body, bytes):
            try:
                text = body.decode()
            except UnicodeDecodeError:
                text, encoded = base64.b64encode(body).decode(), True
        elif isinstance(body, str):
            text = body
        elif body is not None:
            text = json.dumps(body)
            sent.setdefault("content-type", "application/json")
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"host": "api.example.com", "x-forwarded-for": source_ip, **sent},
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "4b61726d",
                "domainName": "api.example.com",
                "domainPrefix": "api",
                "http": {
                    "method": method,
                    "path": path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": source_ip,
                    "userAgent": "integration",
                },
                "requestId": str(uuid.uuid4()),
                "routeKey": "$default",
                "stage": "$default",
                "time": "21/Nov/2026:00:00:00 +0000",
                "timeEpoch": time.time_ns() // 1_000_000,
            },
            "isBase64Encoded": encoded,
        }
        if text is not None:
            event["body"] = text
        return event

    return make


@pytest.fixture
def streamed(stack: Stack, aws: Callable[[str], Any]) -> Callable[..., list[dict[str, Any]]]:
    """Return what the stream of a table, if none is named of that of runs, has by now, as Lambda gives it."""

    def read(name: str = "agents") -> list[dict[str, Any]]:
        table = aws("dynamodb").describe_table(TableName=stack.tables[name])["Table"]
        streams = aws("dynamodbstreams")
        shards = streams.describe_stream(StreamArn=table["LatestStreamArn"])["StreamDescription"]["Shards"]
        found: list[dict[str, Any]] = []
        for shard in shards:
            iterator = streams.get_shard_iterator(
                StreamArn=table["LatestStreamArn"], ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )
            found += streams.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
        return as_lambda_has_them(found)

    return read
