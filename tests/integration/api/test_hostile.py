"""Hostile requests: each gets its error, stores nothing, and none is a 500."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from tests.integration.api.conftest import PASSWORD, Api
from tests.support import on_demand
from tests.support.stack import Stack

EVENT = json.loads((Path(__file__).parents[2] / "events" / "http_api_v2.json").read_text())
REGISTER = "/api/v1/auth/register"
JSON = {"content-type": "application/json"}
GOOD = {"email": "eve@example.com", "password": PASSWORD, "name": "Eve"}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Hostile:
    status: int
    code: str
    method: str = "POST"
    path: str = REGISTER
    body: str | bytes | None = None
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    query: str = ""
    known: bool = False
    """Sent with a good token."""


def good(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


def hostile_get(path: str, status: int, code: str, **headers: str) -> Hostile:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Hostile(status, code, "GET", path, headers=sent)


DEVICES = "/api/v1/devices"


def device(**changes: object) -> str:
    sound = {"name": "Oven", "model": "EOS-3A", "mac": "aa-bb-cc-00-11-22", "serial_number": "EOS-1"}
    return json.dumps({**sound, **changes})


NONE = b64url(b'{"alg":"none","typ":"JWT","kid":"k1"}') + "." + b64url(b'{"sub":"x","exp":9999999999}') + "."
ME = "/api/v1/users/me"

CASES: dict[str, Hostile] = {
    # Bodies that are no JSON
    "broken json": Hostile(400, "INVALID_JSON", body='{"email": '),
    "json with a comment": Hostile(400, "INVALID_JSON", body='{"email": 1 /* x */}'),
    "NaN": Hostile(400, "INVALID_JSON", body='{"email": NaN}'),
    "Infinity": Hostile(400, "INVALID_JSON", body='{"email": -Infinity}'),
    "nested a thousand deep and more": Hostile(422, "VALIDATION_ERROR", body="[" * 5000 + "]" * 5000),
    "nested in objects": Hostile(422, "VALIDATION_ERROR", body='{"a":' * 5000 + "1" + "}" * 5000),
    "invalid utf-8": Hostile(400, "INVALID_JSON", body=b'{"email": "\xff\xfe"}'),
    "utf-16": Hostile(400, "INVALID_JSON", body=good().encode("utf-16")),
    "lone surrogate": Hostile(400, "INVALID_JSON", body='{"name": "\\ud800"}'),
    "two byte order marks": Hostile(400, "INVALID_JSON", body=b"\xef\xbb\xbf" * 2 + good().encode()),
    "a byte order mark alone": Hostile(400, "INVALID_JSON", body=b"\xef\xbb\xbf"),
    "two values": Hostile(400, "INVALID_JSON", body="{}{}"),
    # Bodies of another type or size
    "form": Hostile(
        415, "UNSUPPORTED_MEDIA_TYPE", body="email=1", headers={"content-type": "application/x-www-form-urlencoded"}
    ),
    "no content type": Hostile(415, "UNSUPPORTED_MEDIA_TYPE", body=good(), headers={}),
    "content type with a line break": Hostile(
        415, "UNSUPPORTED_MEDIA_TYPE", body=good(), headers={"content-type": "text/plain\r\nx: application/json"}
    ),
    "ten megabytes": Hostile(413, "PAYLOAD_TOO_LARGE", body='"' + "x" * 10_000_000 + '"'),
    "a byte too many": Hostile(413, "PAYLOAD_TOO_LARGE", body=" " * (1024 * 1024 + 1)),
    "announced as huge": Hostile(413, "PAYLOAD_TOO_LARGE", body="{}", headers={**JSON, "content-length": "99999999"}),
    # JSON of another shape
    "number of 30 digits": Hostile(422, "VALIDATION_ERROR", body='{"email": ' + "9" * 30 + "}"),
    "empty body": Hostile(422, "VALIDATION_ERROR", body=None),
    "null": Hostile(422, "VALIDATION_ERROR", body="null"),
    "list": Hostile(422, "VALIDATION_ERROR", body="[]"),
    "number of 4,000 digits": Hostile(400, "INVALID_JSON", body='{"email": ' + "9" * 4000 + "}"),
    "huge exponent": Hostile(400, "INVALID_JSON", body='{"email": 1e400}'),
    "unknown field": Hostile(422, "VALIDATION_ERROR", body=good(role="admin")),
    "wrong types": Hostile(422, "VALIDATION_ERROR", body=good(password=["x"] * 8)),
    "nul in the name": Hostile(422, "VALIDATION_ERROR", body=good(name="Eve\x00")),
    "line break in the name": Hostile(422, "VALIDATION_ERROR", body=good(name="Eve\r\nX: 1")),
    "nul in the address": Hostile(422, "VALIDATION_ERROR", body=good(email="eve@example.com\x00")),
    "address with a key separator": Hostile(422, "VALIDATION_ERROR", body=good(email="USER#1")),
    "password of 129 characters": Hostile(422, "VALIDATION_ERROR", body=good(password="x" * 129)),
    "name of 256 characters": Hostile(422, "VALIDATION_ERROR", body=good(name="x" * 256)),
    # Paths and methods
    "unknown route": hostile_get("/api/v1/nowhere", 404, "NOT_FOUND"),
    "nul in the path": hostile_get("/api/v1/plans%00", 404, "NOT_FOUND"),
    "line break in the path": hostile_get("/api/v1/plans%0d%0aset-cookie:%20a=b", 404, "NOT_FOUND"),
    "invalid utf-8 in the path": hostile_get("/api/v1/%ff%fe", 404, "NOT_FOUND"),
    "dots in the path": hostile_get("/api/v1/../v1/users/me", 404, "NOT_FOUND"),
    "double slash": hostile_get("//api/v1/users/me", 404, "NOT_FOUND"),
    "slash at the end": hostile_get("/api/v1/users/me/", 404, "NOT_FOUND"),
    "unknown method": Hostile(405, "METHOD_NOT_ALLOWED", "BREW", ME),
    "key separator in an id": Hostile(404, "NOT_FOUND", "DELETE", "/api/v1/api-keys/a%23b", known=True),
    "nul in an id": Hostile(404, "NOT_FOUND", "DELETE", "/api/v1/api-keys/%00", known=True),
    "very long id": Hostile(404, "NOT_FOUND", "DELETE", "/api/v1/api-keys/" + "a" * 8000, known=True),
    # Credentials
    "alg none": hostile_get(ME, 401, "UNAUTHORIZED", authorization="Bearer " + NONE),
    "token with a line break": hostile_get(ME, 401, "UNAUTHORIZED", authorization="Bearer a\r\nb.c.d"),
    "token that is binary": hostile_get(ME, 401, "UNAUTHORIZED", authorization="Bearer \x00\xff.\xfe.\xfd"),
    "token with a deep header": hostile_get(
        ME, 401, "UNAUTHORIZED", authorization=f"Bearer {b64url(b'[' * 1400)}.e30.e30"
    ),
    "token of 100 KB": hostile_get(ME, 401, "UNAUTHORIZED", authorization="Bearer " + "a" * 100_000),
    "basic": hostile_get(ME, 401, "UNAUTHORIZED", authorization="Basic YTpi"),
    "unknown api key": hostile_get(ME, 401, "UNAUTHORIZED", x_api_key="karma_unknown"),
    "api key with a separator": hostile_get(ME, 401, "UNAUTHORIZED", x_api_key="karma_#\r\n\x00"),
    # Devices, commands, runs
    "device with a huge number": Hostile(422, "VALIDATION_ERROR", path=DEVICES, body=device(tags=10**25), known=True),
    "device of another owner": Hostile(422, "VALIDATION_ERROR", path=DEVICES, body=device(user_id="me"), known=True),
    "device with a separator": Hostile(
        422, "VALIDATION_ERROR", path=DEVICES, body=device(serial_number="EOS#1"), known=True
    ),
    "device with a topic for a name": Hostile(
        422, "VALIDATION_ERROR", path=DEVICES, body=device(serial_number="../+/#"), known=True
    ),
    "device with a line break": Hostile(
        422, "VALIDATION_ERROR", path=DEVICES, body=device(serial_number="EOS-1\r\n"), known=True
    ),
    "device with a certificate request that is none": Hostile(
        422, "VALIDATION_ERROR", path=DEVICES, body=device(csr="-----BEGIN CERTIFICATE REQUEST-----"), known=True
    ),
    "command to nobody's device": Hostile(
        404, "NOT_FOUND", path=f"{DEVICES}/x/commands", body='{"command": "a"}', known=True
    ),
    "command with a huge time": Hostile(
        422, "VALIDATION_ERROR", path=f"{DEVICES}/x/commands", body='{"command": "a", "ttl_s": 1e18}', known=True
    ),
    "command with parameters that are a list": Hostile(
        422, "VALIDATION_ERROR", path=f"{DEVICES}/x/commands", body='{"command": "a", "params": []}', known=True
    ),
    "cursor that we did not sign": Hostile(
        400, "INVALID_CURSOR", "GET", DEVICES, query="cursor=eyJwayI6IlVTRVIjMSJ9.AAAA", known=True
    ),
    "page of 5,000 digits": Hostile(422, "VALIDATION_ERROR", "GET", DEVICES, query="page=" + "9" * 5000, known=True),
    "query that is not utf-8": Hostile(422, "VALIDATION_ERROR", "GET", DEVICES, query="status=%ff%fe", known=True),
    "replay of nobody's event": Hostile(
        403, "FORBIDDEN", path="/api/v1/billing/inbox/evt_1%23META/replay", body=None, known=True
    ),
    # Requests that would be good
    "idempotency key with a nul": Hostile(
        400, "INVALID_IDEMPOTENCY_KEY", body=good(), headers={**JSON, "idempotency-key": "a\x00"}
    ),
    "expiry in year 10000": Hostile(
        422, "VALIDATION_ERROR", path="/api/v1/api-keys", body='{"name": "x", "expires_at": 1e300}', known=True
    ),
    "expiry without a zone": Hostile(
        422,
        "VALIDATION_ERROR",
        path="/api/v1/api-keys",
        body='{"name": "x", "expires_at": "2030-01-01T00:00:00"}',
        known=True,
    ),
}


@pytest.fixture
def everything(stack: Stack, stored: Callable[[str], list[Any]]) -> Callable[[], Any]:
    """Return a function for all that the function could have stored: items, things, certificates, messages."""

    def read() -> Any:
        iot, sqs = stack.aws("iot"), stack.aws("sqs")
        counted = ["ApproximateNumberOfMessages"]
        return (
            {table: stored(table) for table in stack.tables},
            iot.list_things()["things"],
            iot.list_certificates()["certificates"],
            [
                dict.fromkeys(counted, "0")
                if on_demand.is_owed(url)
                else sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counted)["Attributes"]
                for url in stack.queues.values()
            ],
        )

    return read


@pytest.mark.req("R-M-41", "R-A-42")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_is_refused_and_stores_nothing(
    case: Hostile, api: Api, everything: Callable[[], Any], written: Callable[[], str]
) -> None:
    headers = dict(case.headers)
    if case.known:
        user = api.register()
        headers["authorization"] = "Bearer " + api.log_in(user["email"])["access_token"]
    before = everything()
    written()

    answer = api.raw(event_of(case, headers))

    assert (answer.status, answer.code) == (case.status, case.code), answer.text
    assert everything() == before
    assert answer.headers["x-request-id"] == EVENT["requestContext"]["requestId"]
    assert float(answer.headers["x-process-time"]) >= 0
    assert all("\r" not in value and "\n" not in value for value in answer.headers.values())
    logged = written()
    assert "request.handled" in logged
    assert "UnhandledError" not in logged
    assert PASSWORD not in logged
    assert headers.get("authorization", PASSWORD) not in logged


@pytest.mark.parametrize("path", ["/api/v1/users/me", "/api/runs"])
def test_a_token_that_is_not_ours_or_not_of_now_opens_nothing(
    api: Api, stack: Stack, everything: Callable[[], Any], path: str
) -> None:
    user_id = api.register()["id"]
    ring = KeyRing.parse(stack.secret_values["auth"])
    stranger = KeyRing.parse({"current": "k1", "k1": "another key of more than thirty-two characters"})
    renamed = KeyRing.parse({"current": "k2", "k2": stack.secret_values["auth"]["k1"]})
    now = datetime.now(UTC)
    sound = tokens.issue(user_id, ring=ring, now=now)
    header, claims, signature = sound.split(".")
    before = everything()
    for wrong in (
        tokens.issue(user_id, ring=ring, now=now + timedelta(hours=1)),
        tokens.issue(user_id, ring=ring, now=now + timedelta(days=3650)),
        tokens.issue(user_id, ring=ring, now=now - timedelta(hours=1)),
        tokens.issue(user_id, ring=stranger, now=now),
        tokens.issue(user_id, ring=renamed, now=now),
        f"{NONE.split('.')[0]}.{claims}.",
        f"{NONE.split('.')[0]}.{claims}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-4]}AAAA",
        f"{header}.{b64url(b'{}')}.{signature}",
        f"{sound}.{signature}",
    ):
        answer = api.call("GET", path, authorization=f"Bearer {wrong}")
        assert answer.status == 401
        assert "Invalid authentication credentials" in answer.text
    assert api.call("GET", path, authorization=f"Bearer {sound}").status == 200
    assert everything() == before


@pytest.mark.req("R-A-38", "R-A-39")
@pytest.mark.parametrize(
    ("method", "query", "status", "kind"),
    [
        ("GET", "limit=x", 422, "ValidationError"),
        ("GET", "limit=-1&offset=-1", 422, "ValidationError"),
        ("GET", "offset=" + "9" * 30, 400, "InvalidRequest"),
        ("POST", "", 405, "MethodNotAllowed"),
    ],
)
def test_agio_s_routes_answer_in_agio_s_shape(ada: Api, method: str, query: str, status: int, kind: str) -> None:
    answer = ada.call(method, "/api/runs", query=query)
    error = answer.json["error"]
    assert (answer.status, set(answer.json), error["type"]) == (status, {"error"}, kind)
    if status == 422:
        assert error["message"] == "Request validation failed"
        assert error["details"]
    else:
        assert error["path"] == "/api/runs"


@pytest.mark.req("R-A-38", "R-A-40")
def test_an_unexpected_failure_of_agio_s_routes_says_nothing(
    ada: Api, stack: Stack, written: Callable[[], str]
) -> None:
    stack.aws("dynamodb").delete_table(TableName=stack.tables["agents"])
    answer = ada.call("GET", "/api/runs")
    assert answer.status == 500
    error = {"type": "InternalServerError", "message": "An unexpected error occurred", "path": "/api/runs"}
    assert answer.json == {"error": error}
    assert "Traceback" in written()


def event_of(case: Hostile, headers: dict[str, str]) -> dict[str, Any]:
    event: dict[str, Any] = copy.deepcopy(EVENT)
    event["rawPath"] = event["requestContext"]["http"]["path"] = case.path
    event["requestContext"]["http"]["method"] = case.method
    event["rawQueryString"] = case.query
    event.pop("queryStringParameters")
    event["headers"] |= headers
    if "content-length" not in headers:
        del event["headers"]["content-length"]
    if isinstance(case.body, bytes):
        event["body"], event["isBase64Encoded"] = base64.b64encode(case.body).decode(), True
    elif case.body is not None:
        event["body"] = case.body
    return event


def test_there_are_thirty_and_more() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"headers": {"host": "a:b"}}, 404, id="host with a port that is none"),
        pytest.param({"headers": {"host": "a:1:2"}}, 404, id="host with two ports"),
        pytest.param({"headers": {"host": "evil.example.com", "x-forwarded-port": "x"}}, 404, id="forwarded port"),
        pytest.param({"headers": {}}, 404, id="no headers"),
        pytest.param({"headers": {"x-a": "\ud800"}}, 404, id="header with half a character"),
        pytest.param({"headers": {"x-\u00e4": "1"}}, 404, id="header name beyond ASCII"),
        pytest.param({"headers": {"x-a": "\u2603"}}, 404, id="header beyond latin-1"),
        pytest.param({"rawQueryString": "a=\ud800"}, 404, id="query with half a character"),
        pytest.param({"body": "\ud800"}, 404, id="body with half a character"),
        pytest.param({"body": "A", "isBase64Encoded": True}, 404, id="body that is no whole base64"),
        pytest.param({"body": "\u00e9", "isBase64Encoded": True}, 404, id="base64 beyond ASCII"),
        pytest.param({"cookies": ["\x00", "a=b; c"]}, 404, id="cookies"),
        pytest.param({"body": "%%%", "isBase64Encoded": True}, 404, id="body that is not base64"),
    ],
)
def test_an_event_that_the_gateway_would_hardly_send_is_answered(api: Api, change: dict[str, Any], status: int) -> None:
    event = copy.deepcopy(EVENT)
    event["requestContext"]["http"]["path"] = event["rawPath"] = "/nowhere"
    answer = api.raw({**event, **change})
    assert answer.status == status


@pytest.mark.parametrize(("body", "encoded"), [('{"name": "\ud800"}', False), ("e30", True), ("\u00e9", True)])
def test_a_body_that_is_no_text_is_no_json(api: Api, everything: Callable[[], Any], body: str, encoded: bool) -> None:
    event = event_of(Hostile(0, ""), dict(JSON))
    answer = api.raw({**event, "body": body, "isBase64Encoded": encoded})
    assert (answer.status, answer.code) == (400, "INVALID_JSON")
    assert not any(everything()[0].values())
