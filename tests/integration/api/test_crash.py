from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.api.test_idempotency import reopen
from tests.support.crash import CrashTest

ENTRY = "api.handler:lambda_handler"
FIRST_AND_LAST = {201, 409}
"""A repeat is answered like the first request, or told that it was carried out."""


def steady(item: dict[str, Any]) -> dict[str, Any] | None:
    """Compare what is stored, not the ids and salts that a repeat draws anew, nor records of requests and sessions."""
    kind = item.get("type")
    if kind in {None, "session", "refresh_token"}:
        return None
    kept = {name: value for name, value in item.items() if name in {"type", "email", "name", "role", "scopes"}}
    if kind in {"user", "email_guard"}:
        return {**kept, "pk": item["pk"] if kind == "email_guard" else "USER", "sk": item["sk"]}
    return {**kept, "pk": "API KEY", "sk": kind + (item["sk"] if item["sk"] == "KEY" else "")}


def test_registering_again_after_a_crash_leaves_one_account(
    stack: Any, http_event: Callable[..., dict[str, Any]]
) -> None:
    stack.use("api")
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=lambda: http_event("POST", "/api/v1/auth/register", body=body),
        normalise=steady,
        accept=lambda answer: answer["statusCode"] in FIRST_AND_LAST,
    ).run()
    assert report.points >= 2


def test_logging_in_again_after_a_crash_leaves_the_account(
    stack: Any, api: Api, http_event: Callable[..., dict[str, Any]]
) -> None:
    body = {"email": "ada@example.com", "password": PASSWORD}

    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        return http_event("POST", "/api/v1/auth/login", body=body)

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        normalise=steady,
        accept=lambda answer: answer["statusCode"] == 200,
    ).run()
    assert report.points >= 6


def test_making_an_api_key_again_after_a_crash_makes_one(
    stack: Any, api: Api, http_event: Callable[..., dict[str, Any]]
) -> None:
    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        token = api.log_in("ada@example.com")["access_token"]
        headers = {"authorization": f"Bearer {token}", "idempotency-key": "once"}
        return http_event("POST", "/api/v1/api-keys", body={"name": "ci"}, headers=headers)

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        reopen_if_open(stack)
        return event

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        redeliver=redeliver,
        normalise=steady,
        accept=lambda answer: answer["statusCode"] in FIRST_AND_LAST,
    ).run()
    assert report.points >= 8


def reopen_if_open(stack: Any) -> None:
    """Let the time of a record pass that a dead process left open: a client that repeats sooner gets 409."""
    table = stack.tables["identity"]
    items = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
    if any(item.get("state") == {"S": "INPROGRESS"} for item in items):
        reopen(stack, expired=True)
