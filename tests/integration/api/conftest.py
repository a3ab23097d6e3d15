from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.support import on_demand
from tests.support.accounts import prove_address
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import Context, HttpEvent, Stack

PASSWORD = "correct horse battery"
ENTRY = "api.handler:lambda_handler"
SHOWN = ("type", "title", "name", "status", "completed_count", "value", "version", "avatar")
"""Attributes of stored items that a crash test compares."""


@dataclass
class Answer:
    """Parsed answer of `lambda_handler`."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        assert self.json["success"] is True
        return self.json["data"]

    @property
    def code(self) -> str:
        assert self.json["success"] is False
        return str(self.json["error"]["code"])


@dataclass
class Api:
    """The API function, called in process."""

    event: HttpEvent
    context: Context
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self, event: dict[str, Any]) -> Answer:
        from api.handler import lambda_handler

        answer = lambda_handler(event, self.context)
        return Answer(answer["statusCode"], answer["headers"], answer.get("body", ""))

    def call(self, method: str, path: str, body: object = None, *, query: str = "", **headers: str) -> Answer:
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.raw(self.event(method, path, body=body, headers=sent, query=query))

    def as_(self, **headers: str) -> Api:
        return Api(self.event, self.context, {name.replace("_", "-"): value for name, value in headers.items()})

    def register(self, email: str = "", *, verified: bool = False) -> dict[str, Any]:
        email = email or f"{uuid.uuid4()}@example.com"
        answer = self.call("POST", "/api/v1/auth/register", {"email": email, "password": PASSWORD, "name": "Ada"})
        assert answer.status == 201, answer.text
        user: dict[str, Any] = answer.data["user"]
        if verified:
            prove_address(user["id"])
        return {**user, "email_verified": verified}

    def log_in(self, email: str) -> dict[str, Any]:
        answer = self.call("POST", "/api/v1/auth/login", {"email": email, "password": PASSWORD})
        assert answer.status == 200, answer.text
        tokens: dict[str, Any] = answer.data
        return tokens


@pytest.fixture
def api(stack: Stack, http_event: HttpEvent, lambda_context: Context) -> Api:
    stack.use("api")
    return Api(http_event, lambda_context)


@pytest.fixture
def ada(api: Api) -> Api:
    """Return the API for a logged-in person with a verified address."""
    user = api.register(verified=True)
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return the output of the function, logs and metrics, since the last call."""
    from karma.core.observability import logger

    buffer = io.StringIO()
    # The logger took the standard output of the moment when it was made.
    monkeypatch.setattr(logger.registered_handler, "stream", buffer)

    def take() -> str:
        text = buffer.getvalue() + capsys.readouterr().out  # metrics are printed
        buffer.seek(0)
        buffer.truncate()
        return text

    return take


def _is_unused(item: dict[str, Any]) -> bool:
    return item.get("type") == {"S": "usage"} and item["value"] == {"N": "0"}


@pytest.fixture
def stored(stack: Stack) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function for all items of a table, without full buckets of rate limits."""

    def read(table: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if on_demand.is_owed(stack.tables[table]):
            return items
        for page in stack.aws("dynamodb").get_paginator("scan").paginate(TableName=stack.tables[table]):
            items += [item for item in page["Items"] if item.get("type") != {"S": "bucket"} and not _is_unused(item)]
        return items

    return read


def reopen(stack: Stack, *, expired: bool) -> None:
    """Put the one record back to where a process that died leaves it, before or after its time."""
    table = stack.tables["identity"]
    records = [
        item
        for page in stack.aws("dynamodb").get_paginator("scan").paginate(TableName=table)
        for item in page["Items"]
        if item["pk"]["S"].startswith("IDEMPOTENCY#")
    ]
    assert records
    for record in records:
        stack.aws("dynamodb").update_item(
            TableName=table,
            Key={"pk": record["pk"], "sk": record["sk"]},
            UpdateExpression="SET #s = :open, in_progress_expiration = :until REMOVE #d",
            ExpressionAttributeNames={"#s": "state", "#d": "data"},
            ExpressionAttributeValues={
                ":open": {"S": "INPROGRESS"},
                ":until": {"N": "1" if expired else "9999999999999"},
            },
        )


def reopen_if_open(stack: Stack) -> None:
    """Let the time of a record pass that a dead process left open: a client that repeats sooner gets 409."""
    table = stack.tables["identity"]
    items = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
    if any(item.get("state") == {"S": "INPROGRESS"} for item in items):
        reopen(stack, expired=True)


def forget_tries(stack: Stack) -> None:
    """Remove what processes that died have counted: taken places change the number of calls, tries use limits up."""
    table = stack.tables["identity"]
    for item in stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]:
        if item.get("sk") in ({"S": "HOLDINGS"}, {"S": "LEASES"}, {"S": "BUCKET"}):
            stack.aws("dynamodb").delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})


@pytest.fixture
def die(stack: Stack, ada: Api, http_event: HttpEvent) -> Callable[..., CrashReport]:
    """Let a request of ada's die before or after each of its AWS calls; its repeat ends in the same rows of a table."""

    def items(table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
        return found

    def held() -> list[dict[str, Any]]:
        return [item for item in items(stack.tables["identity"]) if item.get("sk") == {"S": "HOLDINGS"}]

    def rows(table: str) -> list[str]:
        """Return the stored items, without the ids and times that each repetition of the test makes anew."""
        shown = [[item[name] for name in SHOWN if name in item] for item in [*items(table), *held()]]
        return sorted(map(str, shown))

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        reopen_if_open(stack)
        return event

    def run(method: str, path: Callable[[], str], *, table: str, accept: set[int], body: object = None) -> CrashReport:
        def seed() -> dict[str, Any]:
            forget_tries(stack)
            return http_event(method, path(), body=body, headers={**ada.headers, "idempotency-key": new_id()})

        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables[table]],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=lambda: rows(stack.tables[table]),
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run
