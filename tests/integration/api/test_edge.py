from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from tests.integration.api.conftest import Api
from tests.support.stack import Stack

PUBLIC = {
    "GET /api/v1/shares/{token}",
    "GET /",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "GET /api/v1/auth/oauth/{provider}/start",
    "GET /api/v1/auth/oauth/{provider}/callback",
    "POST /api/v1/auth/oauth/exchange",
    "POST /api/v1/auth/verify-email",
    "POST /api/v1/auth/forgot-password",
    "POST /api/v1/auth/reset-password",
    "GET /api/v1/health",
    "GET /api/v1/health/detailed",
    "GET /api/v1/health/{component}",
    "GET /api/health",
    "GET /api/v1/plans",
}


def routes() -> Iterator[tuple[str, APIRoute]]:
    from api.app import build

    for route in build().routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in sorted(route.methods or ()):
                yield f"{method} {route.path}", route


class TestRoutes:
    @pytest.mark.req("R-M-36")
    def test_every_one_but_the_public_asks_for_a_caller(self, api: Api) -> None:
        from karma.http.openapi import permissions

        open_ones = {name for name, route in routes() if not list(permissions(route.dependant))}
        assert open_ones == PUBLIC & {name for name, _ in routes()}

    @pytest.mark.req("R-M-36", "R-K-31")
    def test_every_one_but_the_public_answers_401_without_a_token(self, api: Api) -> None:
        for name, _ in routes():
            if name in PUBLIC:
                continue
            method, path = name.split(" ")
            answer = api.call(method, path.replace("{", "").replace("}", ""))
            assert answer.status == 401, name
            assert "Authentication required" in answer.text, name

    @pytest.mark.req("R-M-20", "R-K-06", "R-A-01")
    def test_every_one_is_versioned_but_agio_s(self, api: Api) -> None:
        paths = {route.path for _, route in routes()}
        assert all(path.startswith(("/api/v1/", "/api/")) or path == "/" for path in paths)

    def test_every_one_is_a_coroutine_and_reads_its_body_strictly(self, api: Api) -> None:
        import inspect

        for name, route in routes():
            assert inspect.iscoroutinefunction(route.endpoint), name
            assert route.body_field is None, name


class TestDocs:
    @pytest.mark.req("R-M-21", "R-A-44")
    @pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/openapi.json"])
    def test_stand_at_the_root(self, api: Api, path: str) -> None:
        answer = api.call("GET", path)
        assert answer.status == 200
        assert answer.headers["x-request-id"]

    def test_describe_every_route_and_its_errors(self, api: Api) -> None:
        document = api.call("GET", "/openapi.json").json
        assert document["openapi"].startswith("3.1")
        for name, route in routes():
            method, path = name.split(" ")
            operation = document["paths"][path][method.lower()]
            assert "500" in operation["responses"], name
            if name not in PUBLIC:
                assert operation["security"] == [{"bearer": []}, {"api_key": []}], name
                assert "401" in operation["responses"], name
            if "requestBody" in operation:
                assert {"400", "413", "415", "422"} <= set(operation["responses"]), name
            agio = path.startswith("/api/") and not path.startswith("/api/v1/")
            error = operation["responses"]["500"]["content"]["application/json"]["schema"]["$ref"]
            assert error.endswith("/AgioError" if agio else "/Error"), name
            assert route.path == path

    def test_refer_only_to_what_they_define(self, api: Api) -> None:
        text = api.call("GET", "/openapi.json").text
        document = json.loads(text)
        for reference in set(_references(document)):
            target: Any = document
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]


class TestErrors:
    @pytest.mark.req("R-A-38", "R-A-01")
    def test_under_api_are_agio_s(self, api: Api) -> None:
        answer = api.call("GET", "/api/nowhere")
        assert answer.status == 404
        assert answer.json == {"error": {"type": "NotFound", "message": "No such route", "path": "/api/nowhere"}}

    @pytest.mark.parametrize("path", ["/api/agent", "/api/v1/agent", "/api/v1/llm/messages"])
    def test_of_a_path_of_the_stream_s_name_its_address_and_no_host(self, api: Api, path: str) -> None:
        answer = api.call("POST", path, host="evil.example")
        assert (answer.status, answer.json["error"]["details"]) == (404, {"served_at": "stream_url"})
        assert "stream_url" in answer.json["error"]["message"]
        assert not re.search(r"https?:|evil|lambda-url|cloudfront|execute-api", answer.text)

    @pytest.mark.req("R-M-20", "R-K-30")
    def test_under_api_v1_are_wrapped(self, api: Api) -> None:
        answer = api.call("GET", "/api/v1/nowhere")
        assert answer.status == 404
        assert set(answer.json) == {"success", "error", "timestamp"}
        assert set(answer.json["error"]) == {"code", "type", "message", "details", "path", "request_id"}

    def test_of_the_method_name_all_that_are_allowed(self, api: Api) -> None:
        answer = api.call("PUT", "/api/v1/api-keys")
        assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "GET, HEAD, POST"

    @pytest.mark.req("R-M-41", "R-M-38")
    def test_that_nobody_expected_say_nothing_and_are_logged(
        self, ada: Api, stack: Stack, written: Callable[[], str]
    ) -> None:
        stack.aws("dynamodb").delete_table(TableName=stack.tables["identity"])
        stack.use("api")
        written()
        answer = ada.call("GET", "/api/v1/users/me")
        assert (answer.status, answer.code) == (500, "INTERNAL")
        assert answer.json["error"]["message"] == "An unexpected error occurred"
        assert stack.tables["identity"] not in answer.text
        logged = written()
        assert "Traceback" in logged
        assert "UnhandledError" in logged

    @pytest.mark.req("R-M-38")
    def test_of_an_unreachable_database_are_503(self, ada: Api, stack: Stack) -> None:
        stack.monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")
        stack.use("api")
        answer = ada.call("GET", "/api/v1/users/me")
        assert (answer.status, answer.code) == (503, "STORAGE_UNAVAILABLE")


class TestTheLog:
    @pytest.mark.req("R-A-42", "R-M-28")
    def test_has_a_line_a_request_without_what_was_sent(self, ada: Api, written: Callable[[], str]) -> None:
        written()
        ada.call("DELETE", "/api/v1/api-keys/some-secret-id", query="token=hidden", user_agent="agent-x")
        [line] = [each for each in written().splitlines() if "request.handled" in each]
        entry = json.loads(line)
        assert (entry["method"], entry["route"], entry["status"]) == ("DELETE", "/api/v1/api-keys/{key_id}", 422)
        assert entry["level"] == "INFO"
        assert entry["request_id"]
        assert entry["user_id"]
        assert entry["duration_s"] >= 0
        for secret in ("hidden", "some-secret-id", ada.headers["authorization"], "agent-x"):
            assert secret not in line

    @pytest.mark.req("R-A-42")
    def test_forgets_a_caller_after_the_request(self, ada: Api, api: Api, written: Callable[[], str]) -> None:
        ada.call("GET", "/api/v1/users/me")
        written()
        api.call("GET", "/")
        assert "user_id" not in written()

    @pytest.mark.req("R-A-42")
    def test_and_the_answer_carry_the_gateway_s_id_not_the_caller_s(self, api: Api) -> None:
        answer = api.call("GET", "/", x_request_id="mine")
        assert answer.headers["x-request-id"] != "mine"


@pytest.mark.req("R-K-47")
class TestTheOrigin:
    @pytest.fixture
    def guarded(self, api: Api, stack: Stack) -> Api:
        manager = stack.aws("secretsmanager")
        arn = manager.create_secret(Name="test/origin", SecretString='{"secrets": ["new", "old"]}')["ARN"]
        stack.use("api", ORIGIN_SECRET_ARN=arn)
        return api

    @pytest.mark.parametrize("secret", ["new", "old"])
    def test_is_believed_with_either_secret(self, guarded: Api, secret: str) -> None:
        assert guarded.call("GET", "/", x_karma_origin=secret).status == 200

    @pytest.mark.parametrize("headers", [{}, {"x_karma_origin": "other"}, {"x_karma_origin": ""}])
    def test_is_refused_without(self, guarded: Api, headers: dict[str, str]) -> None:
        answer = guarded.call("GET", "/", **headers)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")

    def test_is_not_asked_for_where_there_is_no_secret(self, api: Api) -> None:
        assert api.call("GET", "/").status == 200


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@pytest.mark.fault("F-21c")
def test_no_answer_may_be_kept_by_a_cache(api: Api) -> None:
    """Tokens, keys, tickets, and whatever else is its caller's alone: whatever route answers, well or ill."""
    for name, _ in routes():
        method, path = name.split(" ")
        answer = api.call(method, path.replace("{", "").replace("}", ""))
        assert answer.headers.get("cache-control") == "no-store", f"a cache may keep what {name} answers"
    nowhere = api.call("GET", "/api/v1/nowhere")
    assert nowhere.headers.get("cache-control") == "no-store", "a cache may keep the answer of no route"
