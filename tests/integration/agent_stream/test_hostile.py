"""Hostile requests: each gets its error, nothing is stored, and none is a 500."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from agent_stream.app import ROUTES
from karma.core.ids import new_id
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from tests.integration.agent_stream.conftest import Streams
from tests.support.asgi import Exchange, exchange
from tests.support.model_server import message, text

MB = 1024 * 1024


def deep(levels: int) -> bytes:
    return b'{"state":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"


BODIES: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("broken", b'{"messages": [', 400),
    ("not utf-8", b'{"threadId": "\xff\xfe"}', 400),
    ("lone surrogate", b'{"threadId": "\\ud800"}', 422),
    ("NaN", b'{"state": {"x": NaN}}', 400),
    ("trailing", b"{} {}", 400),
    ("deeper than we read", deep(200), 422),
    ("deeper than anybody reads", deep(100_000), 422),
    ("a list", b"[]", 422),
    ("null", b"null", 422),
    ("a number", b"17", 422),
    ("messages an object", b'{"messages": {}}', 422),
    ("message a string", b'{"messages": ["hi"]}', 422),
    ("role unknown", b'{"messages": [{"id": "1", "role": "root", "content": "x"}]}', 422),
    ("role a list", b'{"messages": [{"id": "1", "role": [], "content": "x"}]}', 422),
    ("content a number", b'{"messages": [{"id": "1", "role": "user", "content": 7}]}', 422),
    ("content part unknown", b'{"messages": [{"id": "1", "role": "user", "content": [{"type": "exec"}]}]}', 422),
    (
        "source unknown",
        b'{"messages": [{"id": "1", "role": "user", "content": [{"type": "image", "source": {"type": "path"}}]}]}',
        422,
    ),
    ("tool message without its call", b'{"messages": [{"id": "1", "role": "tool", "content": "x"}]}', 422),
    ("huge int as an id", b'{"threadId": 123456789012345678901234567890}', 422),
    ("id with our separator", b'{"threadId": "a#b"}', 422),
    ("id with a line break", b'{"runId": "a\\r\\nset-cookie: x=1"}', 422),
    ("id too long", b'{"runId": "' + b"x" * 129 + b'"}', 422),
    ("state too large", b'{"state": {"x": "' + b"y" * 200_000 + b'"}}', 422),
    ("tools an object", b'{"tools": {}}', 422),
    ("tool without a name", b'{"tools": [{"description": "x"}]}', 422),
    ("tool's schema not an object", b'{"tools": [{"name": "x", "parameters": {"type": "array"}}]}', 422),
    ("two tools of one name", b'{"tools": [{"name": "x"}, {"name": "x"}]}', 422),
    ("a tool of ours", b'{"tools": [{"name": "searchDatabase"}]}', 422),
    ("tool's schema a union", b'{"tools": [{"name": "x", "parameters": {"oneOf": [{"type": "object"}]}}]}', 422),
    (
        "two messages of one id",
        b'{"messages": [%s, %s]}' % ((b'{"id": "1", "role": "user", "content": "x"}',) * 2),
        422,
    ),
    ("context of numbers", b'{"context": [{"description": 1, "value": 2}]}', 422),
    ("another major version", b'{"protocolVersion": "2.0"}', 422),
    ("message too large", b'{"messages": [{"role": "user", "content": "' + b"z" * 300_000 + b'"}]}', 422),
    ("6 MB", b'{"x": "' + b"x" * (6 * MB) + b'"}', 413),
    ("10 MB", b" " * (10 * MB), 413),
]


@pytest.mark.parametrize(("body", "status"), [each[1:] for each in BODIES], ids=[each[0] for each in BODIES])
def test_a_hostile_body_gets_its_status_and_stores_nothing(streams: Streams, body: bytes, status: int) -> None:
    answer = streams.run(streams.make("POST", "/api/v1/agent", body=body, headers={"content-type": "application/json"}))

    assert answer.status == status
    error = answer.json["error"]
    assert error["code"] in {"INVALID_JSON", "VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"}
    if status == 422:
        assert all(entry["field"] and entry["message"] for entry in error["details"])
    assert streams.items() == []


def forged(claims: dict[str, Any], header: dict[str, Any]) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


def test_nobody_gets_in_without_a_token_that_is_ours(streams: Streams) -> None:
    now = datetime.now(UTC)
    ring = KeyRing.parse(streams.stack.secret_values["auth"])
    times = {"iss": "karma", "sub": streams.user_id, "iat": now.timestamp(), "exp": now.timestamp() + 900}
    credentials = [
        "",
        "Bearer",
        "Bearer x",
        f"Basic {streams.token}",
        f"Bearer {forged(times, {'alg': 'none', 'kid': 'k1'})}",
        f"Bearer {forged(times, {'alg': 'HS256', 'kid': 'k1'})}",
        f"Bearer {forged(times, {'alg': 'HS256', 'kid': ['k1']})}",
        f"Bearer {streams.token[:-2]}xx",
        f"Bearer {tokens.issue(streams.user_id, ring=ring, now=now + timedelta(hours=1))}",
        f"Bearer {tokens.issue(streams.user_id, ring=ring, now=now - timedelta(hours=1))}",
        "Bearer \r\nx: y",
        "Bearer " + "x" * 100_000,
    ]

    # Whatever else is wrong, 401 comes first.
    asked = [
        exchange("POST", "/api/agent", body=b"{broken", headers={"authorization": each} if each else {})
        for each in credentials
    ]
    assert [streams.run(each).status for each in asked] == [401] * len(credentials)
    assert asked[0].json == {
        "error": {"type": "Unauthenticated", "message": "Authentication required", "path": "/api/agent"}
    }
    assert {each.json["error"]["message"] for each in asked[1:]} == {"Invalid authentication credentials"}
    gone = tokens.issue(new_id(), ring=ring, now=now)  # type: ignore[arg-type]
    stranger = exchange("POST", "/api/agent", body={}, headers={"authorization": f"Bearer {gone}"})
    assert (streams.run(stranger).status, stranger.json["error"]["message"]) == (404, "User not found")
    assert streams.items() == []


def test_a_path_of_the_api_s_names_that_address_and_no_host(streams: Streams) -> None:
    answer = streams.make("GET", "/api/v1/threads", headers={"host": "evil.example"})
    assert streams.run(answer).status == 404
    error = answer.json["error"]
    assert (error["code"], error["details"]) == ("NOT_FOUND", {"served_at": "api_url"})
    assert "evil" not in str(answer.json)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/api/agent", {}, 405),
        ("DELETE", "/api/v1/agent", {}, 405),
        ("POST", "/api/v1/runs/x/events", {}, 405),
        ("GET", "/api/v1/runs/x/events", {}, 404),
        ("GET", "/api/v1/runs//events", {}, 404),
        ("GET", "/api/v1/runs/a/b/events", {}, 404),
        ("GET", "/api/v1/runs/%2e%2e/events", {}, 404),
        ("GET", f"/api/v1/runs/{'x' * 5000}/events", {}, 404),
        ("GET", "/nowhere\r\nx: y", {}, 404),
        ("POST", "/api/agent", {"content-type": "text/plain"}, 415),
        ("POST", "/api/agent", {"content-type": ""}, 415),
        ("POST", "/api/agent", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ("POST", "/api/agent", {"content-type": "application/json", "content-length": "9" * 30}, 413),
    ],
)
def test_a_hostile_request_gets_its_status(
    streams: Streams, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = streams.run(streams.make(method, path, body=b"{}", headers=headers))

    assert answer.status == status
    assert "error" in answer.json
    if status == 405:
        assert answer.answer_headers["allow"]
    assert streams.items() == []


@pytest.mark.fault("F-24g")
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity"])
def test_an_encoded_body_is_refused_by_its_header(streams: Streams, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = streams.run(streams.make("POST", "/api/v1/agent", body="\ufeff{}".encode(), headers=headers))

    if encoding == "identity":
        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (422, "messages")
    else:
        assert (answer.status, answer.answer_headers["accept-encoding"]) == (415, "identity")
        assert f"Content-Encoding is {encoding}" in answer.json["error"]["message"]


def test_more_than_one_transaction_holds_is_refused_by_its_bytes(streams: Streams) -> None:
    said = [{"id": f"u{i}", "role": "user", "content": "\u4e2d" * 80_000} for i in range(18)]
    body = orjson.dumps({"threadId": "t1", "messages": said})
    assert 4_000_000 < len(body) < 5_000_000

    answer = streams.run(streams.agent(body, headers={"content-type": "application/json"}))

    assert answer.status == 413
    assert streams.items() == []


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "\u0661"])
def test_a_hostile_position_is_refused(streams: Streams, after: str) -> None:
    assert streams.run(streams.make("GET", "/api/v1/runs/x/events", query=f"after={after}")).status == 422


def test_unknown_members_do_not_stop_a_run(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "unknown": {"x": 1},
        "protocolVersion": "1.9",
    }

    assert streams.run(streams.agent(body)).status == 200


@pytest.mark.fault("F-24r")
@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.method == "POST"])
def test_each_route_that_reads_a_body_wants_json_in_utf_8_and_no_condition(streams: Streams, path: str) -> None:
    def ask(**headers: str) -> Exchange:
        given = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return streams.run(streams.make("POST", path, body=b"[]", headers=given))

    for charset in ("utf-16", "ISO-8859-1", "'windows-1252'"):
        assert ask(content_type=f"application/json; charset={charset}").status == 415
    refused = ask(if_match='"3"')
    assert (refused.status, refused.json["error"]["details"][0]["field"]) == (422, "if-match")
    refused = ask(if_none_match="*")
    assert (refused.status, refused.json["error"]["details"][0]["field"]) == (422, "if-none-match")
    for told in (ask(content_type="application/json;charset=UTF-8"), refused):
        assert told.status in {400, 422}
        assert told.answer_headers["cache-control"] == "no-store"
        assert float(told.answer_headers["x-process-time"]) >= 0
        assert told.answer_headers["x-request-id"]
