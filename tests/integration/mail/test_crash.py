"""Requests about accounts, killed at each of their AWS calls and made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.passwords.hashes import Argon2Passwords
from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.mail.conftest import take_waiting
from tests.integration.mail.test_worker import account
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import HttpEvent, Stack

Crash = Callable[..., CrashReport]

ENTRY = "api.handler:lambda_handler"
NEW = "a better battery"


def steady(item: dict[str, Any]) -> dict[str, Any] | None:
    """Compare accounts, what was told about them and what is to be mailed; not ids, salts, sessions and buckets."""
    kind = item.get("type")
    if kind == "user":
        secret = item.get("password_hash", "")
        named = next((word for word in (PASSWORD, NEW) if Argon2Passwords().verify(secret, word)), "")
        shown = {name: item.get(name) for name in ("email", "email_verified", "name", "locale")}
        return {"pk": "USER", "sk": "PROFILE", "password": named, "ended": "sessions_from" in item, **shown}
    if kind == "email_guard":
        return {"pk": item["pk"], "sk": "GUARD"}
    if kind == "mail":
        return {"pk": "MAIL", "sk": item["kind"], "state": item["state"], "listed": "gsi1pk" in item}
    if kind == "one_time_token":
        return {"pk": item["pk"], "sk": "TOKEN", "used": "used_at" in item}
    if kind == "audit_entry":
        return {"pk": "AUDIT", "sk": item["event"]}
    if kind == "notice":
        return {"pk": "NOTICE", "sk": item["kind"]}
    return None


@pytest.fixture
def crash(stack: Stack, api: Api) -> Crash:
    def run(
        seed: Callable[[], dict[str, Any]], *accepted: int, mails_once: bool = False, count_alike: bool = True
    ) -> CrashReport:
        """`mails_once`: a repeat may write a mail again, so it is compared whether there is one."""

        def compared(item: dict[str, Any]) -> dict[str, Any] | None:
            return None if mails_once and item.get("type") == "mail" else steady(item)

        def is_mailed() -> bool:
            items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
            return any(item.get("type") == {"S": "mail"} for item in items)

        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=compared,
            other_state=is_mailed if mails_once else lambda: None,
            accept=lambda answer: answer["statusCode"] in accepted,
            count_alike=count_alike,
        ).run()

    return run


def test_a_registration_leaves_one_account_and_its_mail(crash: Crash, http_event: HttpEvent) -> None:
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    report = crash(lambda: http_event("POST", "/api/v1/auth/register", body=body), 201, mails_once=True)
    assert "sqs.SendMessage" in report.calls


def test_a_forgotten_password_leaves_a_mail(crash: Crash, http_event: HttpEvent) -> None:
    event = http_event("POST", "/api/v1/auth/forgot-password", body={"email": "ada@example.com"})
    report = crash(lambda: event, 202, count_alike=False)
    assert "sqs.SendMessage" in report.calls


@pytest.mark.parametrize(
    ("purpose", "path", "more"),
    [
        (Purpose.RESET_PASSWORD, "reset-password", {"password": NEW}),
        (Purpose.VERIFY_EMAIL, "verify-email", {}),
        (Purpose.CHANGE_EMAIL, "verify-email", {}),
    ],
)
def test_a_token_is_spent_with_what_it_allows(
    crash: Crash,
    stack: Stack,
    http_event: HttpEvent,
    purpose: Purpose,
    path: str,
    more: dict[str, str],
) -> None:
    now = datetime.now(UTC)

    def seed() -> dict[str, Any]:
        user = account(stack, moving_to="new@example.com")
        email = "new@example.com" if purpose is Purpose.CHANGE_EMAIL else user.email
        _, token = one_time.issue(purpose, user_id=user.id, email=email, asked_at=now, now=now)
        text = "a token that is the same each time"
        OneTimeRepository().create_token(type(token)(**{**vars(token), "hash": one_time.digest(text)}), now=now)
        return http_event("POST", f"/api/v1/auth/{path}", body={"token": text, **more})

    report = crash(seed, 204, 410)
    assert "dynamodb.TransactWriteItems" in report.calls


def logged_in(
    stack: Stack, api: Api, http_event: HttpEvent, method: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    api.register("ada@example.com")
    token = api.log_in("ada@example.com")["access_token"]
    take_waiting(stack)
    return http_event(method, path, body=body, headers={"authorization": f"Bearer {token}"})


def test_a_change_of_password_is_done_or_not(crash: Crash, stack: Stack, api: Api, http_event: HttpEvent) -> None:
    """A repeat of a change of password is told that the old session, or the old password, has ended."""
    body = {"current_password": PASSWORD, "password": NEW}
    path = "/api/v1/auth/change-password"
    report = crash(lambda: logged_in(stack, api, http_event, "POST", path, body), 200, 401, count_alike=False)
    assert len(report.calls) >= 3


def test_a_change_of_address_asks_once_more_at_most(
    crash: Crash, stack: Stack, api: Api, http_event: HttpEvent
) -> None:
    body = {"name": "Ada Lovelace", "email": "new@example.com", "current_password": PASSWORD}
    event = partial(logged_in, stack, api, http_event, "PATCH", "/api/v1/users/me", body)
    report = crash(event, 200, count_alike=False)
    assert len(report.calls) >= 3
