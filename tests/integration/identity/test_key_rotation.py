"""Keys are rotated in the engine's Secrets Manager while tokens of all of them are in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from karma.core import secrets
from karma.core.errors import StaleVersion
from karma.core.ids import UserId
from karma.identity.sessions import tokens
from karma.identity.sessions.rotation import PUBLISHED, RETIRED, advance
from karma.identity.sessions.signing_keys import KeyRing
from tests.integration.api.conftest import PASSWORD
from tests.support.clients import hooked
from tests.support.stack import Context, HttpEvent, Stack

ME = "/api/v1/users/me"
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def arn(stack: Stack) -> str:
    stack.use("api")
    return str(stack.secrets["auth"])


@pytest.fixture
def call(arn: str, http_event: HttpEvent, lambda_context: Context) -> Call:
    from api.handler import lambda_handler

    def ask(method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        return lambda_handler(http_event(method, path, body=body, headers=headers), lambda_context)

    return ask


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass for what is kept of secrets."""
    now = [1000.0]
    monkeypatch.setattr(secrets, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def reads(counted: list[str]) -> int:
    return counted.count("GetSecretValue")


@pytest.fixture
def asked(arn: str) -> Iterator[list[str]]:
    """Record the calls to Secrets Manager from now on."""
    found: list[str] = []

    def note(model: Any, **_: Any) -> None:
        found.append(model.name)

    with hooked("secretsmanager", "before-call.secrets-manager.*", note):
        yield found


class TestAnOperator:
    def test_moves_a_secret_only_from_the_version_that_was_seen(self, stack: Stack, arn: str) -> None:
        secret, version = secrets.read(arn)
        secrets.write(arn, {**secret, "k2": "x" * 32}, seen=version)
        with pytest.raises(StaleVersion):
            secrets.write(arn, {**secret, "k2": "y" * 32}, seen=version)
        now, newer = secrets.read(arn)
        assert now["k2"] == "x" * 32
        secrets.write(arn, {**now, "k3": "z" * 32}, seen=newer)
        with pytest.raises(StaleVersion):
            secrets.write(arn, {**secret, "k2": "y" * 32}, seen=version)
        assert secrets.get(arn)["k3"] == "z" * 32


class TestTokens:
    def test_of_every_key_work_through_a_whole_rotation(
        self, stack: Stack, call: Call, arn: str, passing: Callable[[float], None]
    ) -> None:
        registration = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
        assert call("POST", "/api/v1/auth/register", registration)["statusCode"] == 201
        credentials = {"email": "ada@example.com", "password": PASSWORD}
        manager, now = stack.aws("secretsmanager"), datetime.now(UTC)
        given: list[dict[str, Any]] = []

        def log_in() -> str:
            answer = call("POST", "/api/v1/auth/login", credentials)
            given.append(json.loads(answer["body"])["data"])
            return str(jwt.get_unverified_header(given[-1]["access_token"])["kid"])

        def rotate(at: datetime) -> None:
            """Rotate the keys as another process does: this one keeps its cached secret."""
            secret = json.loads(manager.get_secret_value(SecretId=arn)["SecretString"])
            after = advance(secret, now=at, new_key=lambda: "n" * 48)
            manager.put_secret_value(SecretId=arn, SecretString=json.dumps(after))

        def all_work() -> bool:
            return all(
                call("GET", ME, authorization=f"Bearer {each['access_token']}")["statusCode"] == 200 for each in given
            )

        assert log_in() == "k1"
        rotate(now)
        assert log_in() == "k1"
        assert all_work()
        passing(PUBLISHED.total_seconds())
        assert all_work()
        rotate(now + PUBLISHED)
        assert log_in() == "k1", "this process has read the secret before; it goes on with the old key"
        assert all_work()
        passing(301)
        assert log_in() == "k2"
        assert all_work()
        for each in given:
            refreshed = call("POST", "/api/v1/auth/refresh", {"refresh_token": each["refresh_token"]})
            assert refreshed["statusCode"] == 200
        rotate(now + PUBLISHED + RETIRED)
        assert all_work()
        passing(301)
        statuses = [call("GET", ME, authorization=f"Bearer {each['access_token']}")["statusCode"] for each in given]
        assert statuses == [401, 401, 401, 200], "a day after the promotion no honest token is signed with the old key"

    def test_of_a_key_that_this_process_has_not_seen_make_it_look_once(
        self, stack: Stack, call: Call, arn: str, passing: Callable[[float], None], asked: list[str]
    ) -> None:
        registration = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
        user = json.loads(call("POST", "/api/v1/auth/register", registration)["body"])["data"]["user"]
        ring = KeyRing.parse(stack.secret_values["auth"])
        newer = KeyRing(current="k2", keys={**ring.keys, "k2": "n" * 48})
        now = datetime.now(UTC)
        old, new = (tokens.issue(UserId(user["id"]), ring=each, now=now) for each in (ring, newer))
        forged = tokens.issue(UserId(user["id"]), ring=KeyRing(current="k9", keys={"k9": "f" * 48}), now=now)
        assert call("GET", ME, authorization=f"Bearer {old}")["statusCode"] == 200
        secret = {**stack.secret_values["auth"], "k2": "n" * 48}
        stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=json.dumps(secret))
        passing(31)
        asked.clear()
        assert call("GET", ME, authorization=f"Bearer {new}")["statusCode"] == 200
        assert reads(asked) == 1
        for _ in range(50):
            assert call("GET", ME, authorization=f"Bearer {forged}")["statusCode"] == 401
        assert reads(asked) == 1, "strangers cannot make us ask more often"
        passing(31)
        assert call("GET", ME, authorization=f"Bearer {forged}")["statusCode"] == 401
        assert reads(asked) == 2


class TestAnIdempotencyKey:
    def test_is_known_again_when_another_key_signs(
        self, stack: Stack, call: Call, arn: str, passing: Callable[[float], None]
    ) -> None:
        registration = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
        first = call("POST", "/api/v1/auth/register", registration, **{"idempotency-key": "once"})
        secret = {**stack.secret_values["auth"], "k2": "n" * 48, "current": "k2"}
        stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=json.dumps(secret))
        passing(301)
        again = call("POST", "/api/v1/auth/register", registration, **{"idempotency-key": "once"})
        assert (again["statusCode"], again["headers"]["idempotent-replayed"]) == (201, "true")
        assert json.loads(again["body"])["data"] == json.loads(first["body"])["data"]
