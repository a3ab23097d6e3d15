from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.conftest import PASSWORD, Api, reopen
from tests.support.stack import Stack

REGISTER = "/api/v1/auth/register"
PROJECTS = "/api/v1/projects"


def body(email: str = "ada@example.com") -> dict[str, str]:
    return {"email": email, "password": PASSWORD, "name": "Ada"}


class TestARepeat:
    def test_gets_the_first_answer(self, api: Api, stored: Callable[[str], list[Any]]) -> None:
        first = api.call("POST", REGISTER, body(), idempotency_key="a")
        again = api.call("POST", REGISTER, body(), idempotency_key="a")
        assert (first.status, again.status) == (201, 201)
        assert again.data == first.data
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert len([item for item in stored("identity") if item["sk"] == {"S": "PROFILE"}]) == 1

    def test_with_another_body_is_refused(self, ada: Api) -> None:
        ada.call("POST", PROJECTS, {"name": "One"}, idempotency_key="a")
        answer = ada.call("POST", PROJECTS, {"name": "Two"}, idempotency_key="a")
        assert (answer.status, answer.code) == (409, "IDEMPOTENCY_KEY_REUSED")

    @pytest.mark.fault("F-21c")
    def test_of_strangers_with_the_same_key_is_a_request_of_each(self, api: Api) -> None:
        """Nobody knows who calls: whoever sends another body is another caller, and gets an answer of their own."""
        bodies = [body(), body("eve@example.com"), {**body("ida@example.com"), "locale": "zh"}]
        answers = [api.call("POST", REGISTER, each, idempotency_key="a") for each in bodies]
        assert [answer.status for answer in answers] == [201] * 3
        assert [answer.data["user"]["email"] for answer in answers] == [each["email"] for each in bodies]
        again = [api.call("POST", REGISTER, each, idempotency_key="a") for each in bodies]
        assert [answer.data for answer in again] == [answer.data for answer in answers]
        assert all(answer.headers["idempotent-replayed"] == "true" for answer in again)

    def test_of_a_failure_tries_again(self, ada: Api) -> None:
        path = f"{PROJECTS}/{new_id()}/invitations"
        for _ in range(2):
            answer = ada.call("POST", path, {"user_id": new_id()}, idempotency_key="a")
            assert (answer.status, answer.code) == (404, "NOT_FOUND")

    def test_shows_no_secret_twice(self, ada: Api, stored: Callable[[str], list[Any]]) -> None:
        first = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}, idempotency_key="a")
        again = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}, idempotency_key="a")
        assert (first.status, again.status, again.code) == (201, 409, "ALREADY_CREATED")
        assert again.json["error"]["details"] == {"id": first.data["api_key"]["id"]}
        assert first.data["key"] not in repr(stored("identity"))
        assert ada.call("GET", "/api/v1/api-keys").data["total"] == 1

    @pytest.mark.fault("F-21i")
    @pytest.mark.parametrize(
        ("path", "name", "large"),
        [
            (
                "/api/v1/tasks",
                "task",
                {"title": "Count", "subtasks": [{"title": "x", "description": "草" * 4_000}] * 30},
            ),
            ("/api/v1/avatars", "avatar", {"name": "Fern", "role": "gardener", "system_prompt": "\U0001f331" * 32_000}),
        ],
    )
    def test_of_a_request_with_a_large_answer_is_answered_too(
        self, ada: Api, path: str, name: str, large: dict[str, Any]
    ) -> None:
        answers = [ada.call("POST", path, large, idempotency_key="a") for _ in range(3)]
        assert [answer.status for answer in answers] == [201] * 3
        assert [answer.data for answer in answers] == [answers[0].data] * 3
        assert answers[2].headers["idempotent-replayed"] == "true"
        assert ada.call("GET", path).data["total"] == 1

    @pytest.mark.parametrize(
        ("path", "first", "other"),
        [
            (PROJECTS, {"name": "One"}, {"name": "Two"}),
            ("/api/v1/tasks", {"title": "One"}, {"title": "Two"}),
            ("/api/v1/avatars", {"name": "One", "role": "r"}, {"name": "Two", "role": "r"}),
            ("/api/v1/api-keys", {"name": "one"}, {"name": "two"}),
        ],
    )
    def test_with_another_body_after_the_first_died_is_refused(
        self, ada: Api, stack: Stack, path: str, first: dict[str, Any], other: dict[str, Any]
    ) -> None:
        """The record of the answer was never finished; that of the request says what was asked."""
        assert ada.call("POST", path, first, idempotency_key="a").status == 201
        reopen(stack, expired=True)
        answer = ada.call("POST", path, other, idempotency_key="a")
        assert (answer.status, answer.code) == (409, "IDEMPOTENCY_KEY_REUSED")

    def test_finds_what_was_made_for_as_long_as_the_answer_is_kept(
        self, ada: Api, stored: Callable[[str], list[Any]]
    ) -> None:
        """Of a large answer the record says only that it was given: what was made must be found until that ends."""
        ada.call("POST", "/api/v1/tasks", {"title": "Count", "description": "x"}, idempotency_key="a")
        [answer] = [item for item in stored("identity") if item["pk"]["S"].startswith("IDEMPOTENCY#")]
        [made] = [item for item in stored("work") if item["sk"]["S"].startswith("REQUEST#")]
        assert int(made["expires_at"]["N"]) > int(answer["expires_at"]["N"]) + 60

    def test_while_the_first_still_runs_is_refused(self, api: Api, stack: Stack) -> None:
        api.call("POST", REGISTER, body(), idempotency_key="a")
        reopen(stack, expired=False)
        answer = api.call("POST", REGISTER, body(), idempotency_key="a")
        assert (answer.status, answer.code) == (409, "REQUEST_IN_PROGRESS")

    def test_after_the_first_died_carries_it_out(self, api: Api, stack: Stack) -> None:
        api.call("POST", REGISTER, body(), idempotency_key="a")
        reopen(stack, expired=True)
        answer = api.call("POST", REGISTER, body(), idempotency_key="a")
        assert (answer.status, answer.data["user"]["email"]) == (201, "ada@example.com")
        assert "idempotent-replayed" not in answer.headers


class TestAKey:
    def test_belongs_to_its_caller(self, ada: Api, api: Api) -> None:
        eve = api.as_(authorization="Bearer " + api.log_in(api.register(verified=True)["email"])["access_token"])
        for caller in (ada, eve):
            assert caller.call("POST", "/api/v1/api-keys", {"name": "ci"}, idempotency_key="a").status == 201

    @pytest.mark.parametrize("key", ["", " ", "x" * 256, "\u00fc", "a\r\nb"])
    def test_must_be_printable_and_short(self, api: Api, key: str) -> None:
        answer = api.call("POST", REGISTER, body(), idempotency_key=key)
        assert (answer.status, answer.code) == (400, "INVALID_IDEMPOTENCY_KEY")

    def test_leaves_no_trace_of_the_password(self, api: Api, stored: Callable[[str], list[Any]]) -> None:
        import hashlib
        import json

        api.call("POST", REGISTER, body(), idempotency_key="a")
        seen = repr(stored("identity"))
        for guess in (PASSWORD, json.dumps(body()), json.dumps(body(), sort_keys=True)):
            assert guess not in seen
            assert hashlib.sha256(guess.encode()).hexdigest() not in seen
