from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from karma.core.clock import iso
from tests.integration.api.conftest import PASSWORD, Api
from tests.support.clients import hooked
from tests.support.stack import Stack

REGISTER = "/api/v1/auth/register"


@pytest.mark.req("R-K-09", "R-K-10", "R-K-24", "R-A-04")
def test_registering_stores_every_column_and_shows_no_password(api: Api, stored: Callable[[str], list[Any]]) -> None:
    user = api.register("Ada@Example.com")
    assert set(user) == {
        "id",
        "email",
        "name",
        "avatar",
        "role",
        "locale",
        "email_verified",
        "created_at",
        "updated_at",
    }
    assert (user["email"], user["role"], user["email_verified"], user["avatar"]) == (
        "ada@example.com",
        "user",
        False,
        None,
    )
    assert user["created_at"].endswith("Z")
    [item] = [each for each in stored("identity") if each["sk"] == {"S": "PROFILE"}]
    assert item["password_hash"]["S"].startswith("$argon2id$")
    assert PASSWORD not in repr(stored("identity"))


@pytest.mark.req("R-K-10")
@pytest.mark.fault("F-21b")
def test_an_address_registers_once_and_the_answer_does_not_tell(api: Api, stored: Callable[[str], list[Any]]) -> None:
    calls: list[tuple[str, ...]] = []
    answers = []
    for email in ("ada@example.com", "ADA@example.com", "eve@example.com"):
        made: list[str] = []

        def note(model: Any, made: list[str] = made, **_: Any) -> None:
            if model.name != "UpdateItem":  # of buckets: one call for whoever asks rarely, two for others
                made.append(model.name)

        with hooked("dynamodb", "before-call", note), hooked("sqs", "before-call", note):
            answers.append(api.call("POST", REGISTER, {"email": email, "password": PASSWORD, "name": "Somebody"}))
        calls.append(tuple(made))
    shapes = [
        (answer.status, sorted(answer.headers), {name: type(value) for name, value in answer.data["user"].items()})
        for answer in answers
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert calls[0] == calls[1] == calls[2]
    users = [answer.data["user"] for answer in answers]
    steady = {"email", "id", "created_at", "updated_at"}
    assert all(
        {name: user[name] for name in user.keys() - steady} == {name: users[0][name] for name in user.keys() - steady}
        for user in users
    )
    assert len({user["id"] for user in users}) == 3
    rows = [item["id"]["S"] for item in stored("identity") if item["sk"] == {"S": "PROFILE"}]
    assert sorted(rows) == sorted(user["id"] for user in (users[0], users[2]))


@pytest.mark.fault("F-21b")
@pytest.mark.parametrize(
    "password", ["password1", "12345678", "qwertyuiop", "Lovelace-1815", "ada@example.com", "Karma2026!"]
)
def test_a_password_that_is_guessed_first_is_refused_by_name(api: Api, password: str) -> None:
    answer = api.call("POST", REGISTER, {"email": "ada@example.com", "password": password, "name": "Ada Lovelace"})
    assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
    assert [entry["field"] for entry in answer.json["error"]["details"]] == ["password"]
    assert password not in answer.text


@pytest.mark.req("R-M-41")
def test_each_wrong_field_has_an_entry_without_what_was_sent(api: Api) -> None:
    answer = api.call("POST", REGISTER, {"email": 7, "password": "secret7", "name": " ", "extra": "secret8"})
    assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
    entries = answer.json["error"]["details"]
    assert sorted(entry["field"] for entry in entries) == ["email", "extra", "name", "password"]
    assert all(set(entry) == {"field", "message", "type"} for entry in entries)
    assert "secret" not in answer.text


@pytest.mark.req("R-K-33", "R-K-32")
def test_logging_in_gives_a_token_for_thirty_minutes(api: Api) -> None:
    user = api.register()
    tokens = api.log_in(user["email"])
    assert (tokens["token_type"], tokens["expires_in"], tokens["user"]) == ("bearer", 1800, user)
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["sub"] == user["id"]
    assert 1799 < claims["exp"] - claims["iat"] <= 1800, "`exp` is a whole second, `iat` is not"
    me = api.call("GET", "/api/v1/users/me", authorization="Bearer " + tokens["access_token"])
    assert me.data == {"user": user}


def test_a_wrong_password_and_an_unknown_address_answer_alike(api: Api) -> None:
    user = api.register()
    answers = [
        api.call("POST", "/api/v1/auth/login", {"email": email, "password": "wrong password"})
        for email in (user["email"], "nobody@example.com", "no address")
    ]
    assert {(answer.status, answer.json["error"]["message"]) for answer in answers} == {
        (401, "Invalid email or password")
    }


def test_an_imported_bcrypt_hash_logs_in_and_is_replaced(
    api: Api, stack: Stack, stored: Callable[[str], list[Any]]
) -> None:
    import bcrypt

    user = api.register()
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["identity"],
        Key={"pk": {"S": f"USER#{user['id']}"}, "sk": {"S": "PROFILE"}},
        UpdateExpression="SET password_hash = :h",
        ExpressionAttributeValues={":h": {"S": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}},
    )
    api.log_in(user["email"])
    [item] = [each for each in stored("identity") if each["sk"] == {"S": "PROFILE"}]
    assert item["password_hash"]["S"].startswith("$argon2id$")
    api.log_in(user["email"])


class TestRefresh:
    def test_rotates_and_a_repeat_at_once_gets_the_same_token(self, api: Api) -> None:
        first = api.log_in(api.register()["email"])["refresh_token"]
        answers = [api.call("POST", "/api/v1/auth/refresh", {"refresh_token": first}) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        second, again = (answer.data["refresh_token"] for answer in answers)
        assert first != second == again

    def test_with_a_token_that_was_used_before_ends_the_session(
        self, api: Api, stack: Stack, stored: Callable[[str], list[Any]]
    ) -> None:
        first = api.log_in(api.register()["email"])["refresh_token"]
        second = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": first}).data["refresh_token"]
        [used] = [item for item in stored("identity") if "used_at" in item]
        stack.aws("dynamodb").update_item(
            TableName=stack.tables["identity"],
            Key={"pk": used["pk"], "sk": used["sk"]},
            UpdateExpression="SET used_at = :then",
            ExpressionAttributeValues={":then": {"S": iso(datetime.now(UTC) - timedelta(seconds=11))}},
        )
        for token in (first, second):
            answer = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": token})
            assert (answer.status, answer.json["error"]["message"]) == (401, "Invalid authentication credentials")
        [event] = [item for item in stored("identity") if item.get("event") == {"S": "session.reuse_detected"}]
        assert event["address"] == {"S": "203.0.113.7"}

    def test_stores_hashes_only(self, api: Api, stored: Callable[[str], list[Any]]) -> None:
        token = api.log_in(api.register()["email"])["refresh_token"]
        assert token not in repr(stored("identity"))

    def test_ends_with_the_logout(self, api: Api) -> None:
        tokens = api.log_in(api.register()["email"])
        body = {"refresh_token": tokens["refresh_token"]}
        for _ in range(2):
            answer = api.call("POST", "/api/v1/auth/logout", body, authorization="Bearer " + tokens["access_token"])
            assert (answer.status, answer.text) == (204, "")
        assert api.call("POST", "/api/v1/auth/refresh", body).status == 401

    def test_ends_with_the_logout_everywhere_as_access_tokens_do(self, api: Api) -> None:
        email = api.register()["email"]
        sessions = [api.log_in(email) for _ in range(2)]
        here = api.as_(authorization="Bearer " + sessions[0]["access_token"])
        assert here.call("POST", "/api/v1/auth/logout-all").status == 204
        for tokens in sessions:
            answer = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]})
            assert answer.status == 401
            me = api.call("GET", "/api/v1/users/me", authorization="Bearer " + tokens["access_token"])
            assert me.status == 401
        me = api.call("GET", "/api/v1/users/me", authorization="Bearer " + api.log_in(email)["access_token"])
        assert me.status == 200

    def test_everywhere_tells_what_goes_on_without_a_session(self, api: Api) -> None:
        email = api.register(verified=True)["email"]

        def log_in() -> Api:
            return api.as_(authorization="Bearer " + api.log_in(email)["access_token"])

        def notices() -> list[Any]:
            found = log_in().call("GET", "/api/v1/notices").data["notices"]
            return [each for each in found if each["type"] == "access_stays"]

        assert log_in().call("POST", "/api/v1/auth/logout-all").status == 204
        assert notices() == [], "nothing does"
        here = log_in()
        schedule = {"name": "s", "cron": "0 9 * * *", "run": {"message": "Go"}}
        for more in ({}, {"enabled": False}):
            assert here.call("POST", "/api/v1/schedules", {**schedule, **more}).status == 201
        for _ in range(2):
            assert here.call("POST", "/api/v1/webhooks", {"url": "https://app.example.com/"}).status == 201
        assert here.call("POST", "/api/v1/auth/logout-all").status == 204
        assert here.call("POST", "/api/v1/auth/logout-all").status == 401
        [told] = notices()
        assert told["data"] == {"schedules": "1", "webhooks": "2", "mcp_servers": "0"}
        assert "2 webhooks" in told["text"]
        assert len(log_in().call("GET", "/api/v1/webhooks").data["webhooks"]) == 2

    @pytest.mark.parametrize("route", ["logout", "logout-all"])
    def test_is_not_ended_by_an_api_key(self, ada: Api, api: Api, route: str) -> None:
        key = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["key"]
        body = {"refresh_token": "x"} if route == "logout" else None
        answer = api.call("POST", f"/api/v1/auth/{route}", body, x_api_key=key)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert ada.call("GET", "/api/v1/users/me").status == 200

    def test_logging_out_needs_a_token(self, api: Api) -> None:
        answer = api.call("POST", "/api/v1/auth/logout", {"refresh_token": "x"})
        assert (answer.status, answer.json["error"]["message"]) == (401, "Authentication required")
        assert answer.headers["www-authenticate"] == "Bearer"


class TestTheBearerToken:
    @pytest.mark.req("R-K-31")
    def test_of_a_user_who_is_gone(self, ada: Api, stack: Stack) -> None:
        me = ada.call("GET", "/api/v1/users/me").data["user"]
        stack.aws("dynamodb").delete_item(
            TableName=stack.tables["identity"], Key={"pk": {"S": f"USER#{me['id']}"}, "sk": {"S": "PROFILE"}}
        )
        stack.use("api")
        answer = ada.call("GET", "/api/v1/users/me")
        assert (answer.status, answer.json["error"]["message"]) == (404, "User not found")

    @pytest.mark.req("R-K-32", "R-A-32")
    @pytest.mark.parametrize(
        ("claims", "algorithm"),
        [({"iat": 600}, "HS256"), ({"nbf": 600}, "HS256"), ({"exp": -1}, "HS256"), ({}, "HS512"), ({}, "none")],
    )
    def test_that_we_would_not_make(
        self, ada: Api, secret_values: Mapping[str, Mapping[str, Any]], claims: dict[str, int], algorithm: str
    ) -> None:
        me = ada.call("GET", "/api/v1/users/me").data["user"]
        now = int(time.time())
        body = {"iss": "karma", "sub": me["id"], "iat": now, "exp": now + 600}
        body |= {name: now + offset for name, offset in claims.items()}
        key = secret_values["auth"]["k1"] * 2 if algorithm == "HS512" else secret_values["auth"]["k1"]
        token = jwt.encode(body, "" if algorithm == "none" else key, algorithm=algorithm, headers={"kid": "k1"})
        answer = ada.call("GET", "/api/v1/users/me", authorization="Bearer " + token)
        assert (answer.status, answer.json["error"]["message"]) == (401, "Invalid authentication credentials")


class TestApiKeys:
    @pytest.mark.req("R-A-33", "R-A-35")
    def test_open_what_their_scopes_name(self, ada: Api, api: Api) -> None:
        made = ada.call("POST", "/api/v1/api-keys", {"name": "ci", "scopes": ["api_key:read"]})
        assert made.status == 201
        by_key = api.as_(x_api_key=made.data["key"])
        listed = by_key.call("GET", "/api/v1/api-keys")
        (key,) = listed.data["api_keys"]
        assert key.pop("last_used_at") is not None  # by this very request
        assert key == {name: value for name, value in made.data["api_key"].items() if name != "last_used_at"}
        refused = by_key.call("POST", "/api/v1/realtime/ticket")
        assert (refused.status, refused.json["error"]["message"]) == (403, "Insufficient permissions")

    def test_are_stored_as_hashes(self, ada: Api, stored: Callable[[str], list[Any]]) -> None:
        made = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data
        assert made["key"].startswith(made["api_key"]["prefix"])
        assert made["key"] not in repr(stored("identity"))

    @pytest.mark.req("R-A-33")
    def test_are_useless_once_revoked(self, ada: Api, api: Api) -> None:
        made = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data
        by_key = api.as_(x_api_key=made["key"])
        assert by_key.call("GET", "/api/v1/users/me").status == 200
        assert ada.call("DELETE", f"/api/v1/api-keys/{made['api_key']['id']}").status == 204
        answer = by_key.call("GET", "/api/v1/users/me")
        assert (answer.status, answer.json["error"]["message"]) == (401, "Invalid API Key")
        assert ada.call("DELETE", f"/api/v1/api-keys/{made['api_key']['id']}").status == 404

    def test_are_found_by_their_owner_only(self, ada: Api, api: Api) -> None:
        made = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data
        eve = api.as_(authorization="Bearer " + api.log_in(api.register()["email"])["access_token"])
        assert eve.call("DELETE", f"/api/v1/api-keys/{made['api_key']['id']}").status == 404
        assert eve.call("GET", "/api/v1/api-keys").data["total"] == 0

    def test_make_no_keys(self, ada: Api, api: Api) -> None:
        made = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data
        answer = api.as_(x_api_key=made["key"]).call("POST", "/api/v1/api-keys", {"name": "more"})
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
