"""The environment of the benchmarks: an engine with tables, queues, secrets, users, devices, and helper processes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3

from infra.catalog import FUNCTIONS
from karma.core.ids import UserId
from karma.core.observability import logger
from local.engine import MiniStack, ephemeral

ROOT = Path(__file__).resolve().parent.parent
WEBHOOK_SECRET = "whsec_benchmarks"  # noqa: S105  of a throw-away engine
ACCOUNT = "424242424242"
DEVICES = 20
STREAM_USERS = 4


@dataclass(frozen=True)
class Device:
    """A created device."""

    id: str
    serial: str
    certificate_id: str


@dataclass
class World:
    """One seeded account, with the addresses of its environment."""

    engine: MiniStack
    values: dict[str, str]
    """Every variable that any function has."""
    replay_url: str
    tokens: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)

    def environment(self, *, replayed: bool) -> dict[str, str]:
        """Return the variables for a child process; `replayed` points its AWS clients at the proxy."""
        roots = [str(ROOT / "layers/common/python"), str(ROOT / "functions"), str(ROOT)]
        own = {**os.environ, **self.values, "PYTHONPATH": os.pathsep.join(roots)}
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**own, "AWS_ENDPOINT_URL": self.replay_url} if replayed else own

    def client(self, service: str) -> Any:
        """Return a client of the engine that no function uses."""
        return _client(self.engine, service)


class Context:
    """Context object that Lambda passes beside the event."""

    function_name = "benchmark"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:benchmark"
    aws_request_id = "01890000-0000-7000-8000-000000000000"
    function_version = "$LATEST"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Return a long time."""
        return 29_000


def http_event(
    method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None, query: str = ""
) -> dict[str, Any]:
    """Make the event of an HTTP API or of a function URL, payload 2.0."""
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "bench", "content-type": "application/json", **(headers or {})},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "bench",
            "domainName": "bench",
            "domainPrefix": "bench",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "requestId": "bench",
            "routeKey": "$default",
            "stage": "$default",
            "time": "21/Nov/2026:00:00:00 +0000",
            "timeEpoch": 1_795_000_000_000,
        },
        "isBase64Encoded": False,
    }  # fmt: skip
    if body is not None:
        event["body"] = body.decode()
    return event


@contextmanager
def quiet() -> Iterator[None]:
    """Have the functions of this process log warnings alone, and to standard error; children learn it from `World`.

    By the logger itself: it read its level from the environment when it was imported, which may be before there is one.
    """
    handler, level = logger.registered_handler, logger.log_level
    assert isinstance(handler, logging.StreamHandler)  # noqa: S101  Powertools makes no other for us
    before = handler.setStream(sys.stderr) or sys.stderr
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # lines of metrics
            yield
    finally:
        logger.setLevel(level)
        handler.setStream(before)


@contextmanager
def seeded() -> Iterator[World]:
    """Start everything, seed it through the API, and stop it at the end."""
    with ExitStack() as stack:
        engine = stack.enter_context(ephemeral())
        values = _deploy(engine)
        model_url = stack.enter_context(helper("benchmarks.model"))
        replay_url = stack.enter_context(helper("benchmarks.replay", engine.endpoint_url))
        values["MODEL_BASE_URL"] = model_url
        world = World(engine, values, replay_url)
        # This process is a function as well, for seeding and for the warm measurements.
        os.environ.update(values)
        for path in ("layers/common/python", "functions"):
            sys.path.insert(0, str(ROOT / path))
        _seed(world)
        yield world


@contextmanager
def helper(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a module that prints its address and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=None if env is None else dict(env),
    )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _client(engine: MiniStack, service: str) -> Any:
    session = boto3.session.Session(ACCOUNT, "test", region_name=engine.region)
    return session.client(service, endpoint_url=engine.endpoint_url)  # type: ignore[call-overload]


def table_shape() -> dict[str, Any]:
    """Return the arguments of `CreateTable`, without the name."""
    keys = ["pk", "sk", "gsi1pk", "gsi1sk"]
    schema = [{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE") * 2, strict=True)]
    index = {"IndexName": "gsi1", "KeySchema": schema[2:], "Projection": {"ProjectionType": "ALL"}}
    return {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in keys],
        "KeySchema": schema[:2],
        "GlobalSecondaryIndexes": [index],
    }


def _deploy(engine: MiniStack) -> dict[str, str]:
    dynamodb, sqs, secrets = (_client(engine, name) for name in ("dynamodb", "sqs", "secretsmanager"))
    for name in map(str.lower, _wanted("TABLE")):
        dynamodb.create_table(TableName=f"bench-{name}", **table_shape())
    arns = {
        name: secrets.create_secret(Name=f"bench/{name}", SecretString=json.dumps(value))["ARN"]
        for name, value in {
            "auth": {"current": "k1", "k1": "benchmarks-signing-key-0123456789abcdef"},
            "stripe_webhook": {"secrets": [WEBHOOK_SECRET]},
            "model": {"api_key": "model-key"},
        }.items()
    }
    return {
        **engine.client_environment(ACCOUNT),
        **{f"{name}_TABLE": f"bench-{name.lower()}" for name in _wanted("TABLE")},
        **{f"{name.upper()}_SECRET_ARN": arn for name, arn in arns.items()},
        **{
            f"{name}_QUEUE_URL": sqs.create_queue(QueueName=f"bench-{name.lower().replace('_', '-')}")["QueueUrl"]
            for name in _wanted("QUEUE_URL")
        },
        "VAULT_KEY_ARN": _client(engine, "kms").create_key()["KeyMetadata"]["KeyId"],
        "FILES_BUCKET": "bench-files",
        "STAGE": "bench",
        "DEVICE_POLICY_NAME": (policy := _policy(engine)),
        "CLAIM_POLICY_NAME": policy,
        "MQTT_HOST": engine.mqtt_host,
        "MQTT_PORT": str(engine.mqtt_port),
        "MQTT_CA_PEM": engine.ca_path.read_text(),
        "IOT_DATA_ENDPOINT": engine.endpoint_url,
        "MODEL_ID": "claude-haiku-5-5",
        "POWERTOOLS_SERVICE_NAME": "bench",
        "POWERTOOLS_METRICS_NAMESPACE": "Karma",
        "POWERTOOLS_LOG_LEVEL": "WARNING",
    }


def _wanted(kind: str) -> list[str]:
    """Return the names of all functions' resources of a kind, as their settings begin: `AGENTS` of `AGENTS_TABLE`."""
    named = {name for spec in FUNCTIONS.values() for name in spec.environment}
    return sorted(name.removesuffix(f"_{kind}") for name in named if name.endswith(f"_{kind}"))


def _policy(engine: MiniStack) -> str:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}],
    }
    _client(engine, "iot").create_policy(policyName="bench-device", policyDocument=json.dumps(document))
    return "bench-device"


def _verify(user_id: UserId) -> None:
    """Let an account run agents without a mail."""
    from karma.core.dynamo.access import update
    from karma.identity.items import UserItem, user_key

    update(UserItem(*user_key(user_id)), [UserItem.email_verified.set(True)])


def _subscribe(user_id: UserId) -> None:
    """Put a user on the largest plan: a hundred runs within a minute are over the free one's rate limit."""
    from karma.billing.domain import SubscriptionStatus, free_subscription
    from karma.billing.plans import PlanName
    from karma.billing.ports import Row
    from karma.billing.repository.subscriptions import SubscriptionRepository

    now = datetime.now(UTC)
    plan = replace(
        free_subscription(user_id, now),
        plan=PlanName.ENTERPRISE,
        status=SubscriptionStatus.ACTIVE,
        stripe_status="active",
    )
    SubscriptionRepository().save(user_id, plan, seen=Row(), at=now)


def _seed(world: World) -> None:
    from api.handler import lambda_handler

    def call(method: str, path: str, body: object, token: str = "") -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        event = http_event(method, f"/api/v1{path}", body=json.dumps(body).encode(), headers=headers)
        answer = lambda_handler(event, Context())
        if answer["statusCode"] >= 300:
            raise RuntimeError(f"seeding: {method} {path} answered {answer['statusCode']}: {answer['body']}")
        data: dict[str, Any] = json.loads(answer["body"])["data"]
        return data

    for number in range(STREAM_USERS):
        who = {"email": f"bench{number}@example.com", "password": "Bench-marks-are-9-fine"}
        user = call("POST", "/auth/register", {**who, "name": f"Bench {number}"})["user"]
        _subscribe(UserId(user["id"]))
        _verify(UserId(user["id"]))
        world.tokens.append(call("POST", "/auth/login", who)["access_token"])
    for number in range(DEVICES):
        serial = f"EOS-BENCH-{number:03d}"
        body = {
            "name": f"Device {number}",
            "model": "EOS-3A",
            "mac": f"AA:BB:CC:00:11:{number:02X}",
            "serial_number": serial,
        }
        made = call("POST", "/devices", body, world.tokens[0])
        world.devices.append(Device(made["device"]["id"], serial, made["credentials"]["certificate_id"]))
