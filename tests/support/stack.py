"""One account of the embedded engine as a test sees it: what functions are given there, and the events they get."""

from __future__ import annotations

import functools
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from infra.catalog import FUNCTIONS
from karma.core import aws as karma_aws
from local.engine import Broker, Engine

AUTH_KEY = "integration-tests-signing-key-0123456789"
VAULT_KEY = "alias/test-vault"
WEBHOOK_SECRET = "whsec_integration"
HANDLER_PACKAGES = (
    "api",
    "agent_stream",
    "device_ingest",
    "billing_webhook",
    "background",
    "previews",
    "realtime",
    "segments",
)


class Context(LambdaContext):
    """Context that Lambda passes beside the event, with 29 seconds left."""

    _function_name = "integration"
    _memory_limit_in_mb = 512
    _invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:integration"
    _function_version = "$LATEST"
    _log_group_name = "/aws/lambda/integration"
    _log_stream_name = "integration"

    def __init__(self) -> None:
        self._aws_request_id = str(uuid.uuid4())
        self._deadline = time.monotonic() + 29

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]  # Powertools' stand-in has no state
        return max(0, int((self._deadline - time.monotonic()) * 1000))


class HttpEvent(Protocol):
    """The fixture `http_event`: makes the event of an HTTP API."""

    def __call__(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        source_ip: str = "203.0.113.7",
    ) -> dict[str, Any]: ...


class SqsEvent(Protocol):
    """The fixture `sqs_event`: makes the event of an SQS mapping."""

    def __call__(self, messages: Sequence[Any], *, receive_count: int = 1) -> dict[str, Any]: ...


class Drain(Protocol):
    """The fixture `drain`: receives and deletes messages of a queue."""

    def __call__(self, queue_url: str, count: int = 1, *, deadline_s: float = 10) -> list[dict[str, Any]]: ...


@dataclass
class Stack:
    """One account's tables, queues and secrets, and the environments of the functions over them."""

    account: str
    engine: Engine
    tables: Mapping[str, str]
    queues: Mapping[str, str]
    bucket: str
    secrets: Mapping[str, str]
    secret_values: Mapping[str, Mapping[str, Any]]
    aws: Callable[[str], Any]
    monkeypatch: pytest.MonkeyPatch
    _set: set[str] = field(default_factory=set)

    @property
    def broker(self) -> Broker:
        """Return the MQTT broker; every engine of these tests has one."""
        assert self.engine.broker is not None
        return self.engine.broker

    def environment(self, function: str) -> dict[str, str]:
        """Return the variables that the deployed function has beside Powertools' own."""
        return {name: self._value(name) for name in FUNCTION_VARIABLES[function]}

    def _value(self, variable: str) -> str:
        match = re.fullmatch(r"([A-Z_]+)_(TABLE|QUEUE_URL|SECRET_ARN)", variable)
        if variable in _FIXED:
            return _FIXED[variable]
        if match:
            made = {"TABLE": self.tables, "QUEUE_URL": self.queues, "SECRET_ARN": self.secrets}
            return made[match[2]][match[1].lower()]
        broker = self.engine.broker
        return {
            "FILES_BUCKET": self.bucket,
            "MQTT_HOST": broker.host if broker else "",
            "MQTT_PORT": str(broker.port) if broker else "",
            "BASIC_INGEST_RULE": "karma_test_data",
            "MQTT_CA_PEM": broker.ca_path.read_text() if broker else "",
            "IOT_DATA_ENDPOINT": self.engine.endpoint_url,
            "FIRMWARE_ROLE_ARN": f"arn:aws:iam::{self.account}:role/firmware",
        }[variable]

    def use(self, function: str, **overrides: str) -> None:
        """Switch to a function: exactly its variables, fresh clients, no cached composition root."""
        for name in self._set:
            self.monkeypatch.delenv(name, raising=False)
        values = {**self.environment(function), **overrides}
        self._set = set(values)
        for name, value in values.items():
            self.monkeypatch.setenv(name, value)
        forget_process_state()


_FIXED = {
    "VAULT_KEY_ARN": VAULT_KEY,
    "MCP_LOOPBACK": "1",
    "WEBHOOK_LOOPBACK": "1",
    "PUBLIC_URL": "https://app.example.com",
    "MAIL_SENDER": "Karma <no-reply@example.com>",
    "MAIL_CONFIGURATION_SET": "test",
    "DEVICE_POLICY_NAME": "karma-device",
    "CLAIM_POLICY_NAME": "karma-claim",
    "PROVISIONING_TEMPLATE": "karma-fleet",
    "WEBSOCKET_URL": "ws://localhost/live",
    "ORIGIN_SECRET_ARN": "",
    "API_URL": "https://api.example.com",
    "FRONTEND_ORIGINS": "https://app.example.com,https://beta.example.com:8443",
    "GITHUB_URL": "http://127.0.0.1:9",
    "GITHUB_API_URL": "http://127.0.0.1:9",
    "GOOGLE_ISSUER": "http://127.0.0.1:9",
    "MODEL_BASE_URL": "http://127.0.0.1:9",
    "MODEL_ID": "claude-sonnet-5-5",
    "STRIPE_API_BASE": "http://127.0.0.1:9",
    "PAYMENT_RETRY_DAYS": "14",
    "EXECUTION_WORKERS": "50",
}
FUNCTION_VARIABLES: Mapping[str, Sequence[str]] = {
    name.removeprefix("background."): spec.environment for name, spec in FUNCTIONS.items()
}


def forget_process_state() -> None:
    """Drop AWS clients and everything that functions keep between invocations."""
    karma_aws.reset()
    # A copy, made in one step: a function may still import something in a thread.
    for name in [name for name in sys.modules.copy() if name.startswith(HANDLER_PACKAGES)]:
        for clear in _caches(name, len(vars(sys.modules[name]))):
            clear()


@functools.cache
def _caches(module: str, names: int) -> list[Callable[[], None]]:
    """Return the functions that clear a module's caches; `names` is its number of names, which grows while it is
    imported."""
    values = vars(sys.modules[module]).copy().values()
    return [clear for value in values if callable(clear := getattr(value, "cache_clear", None))]
