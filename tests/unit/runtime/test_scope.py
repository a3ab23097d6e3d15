"""An event of a function URL becomes an ASGI scope."""

from __future__ import annotations

import base64
import json

import pytest

from karma.core.runtime.client import Invocation
from karma.core.runtime.scope import Scope, UnsupportedEvent, to_request
from tests.fixtures.runtime.golden import url_event


def invocation(payload: bytes) -> Invocation:
    return Invocation("request-1", payload, 1_700_000_000_000, function_arn="arn:x", trace_id="Root=1-2-3")


def scope_of(payload: bytes) -> Scope:
    return to_request(invocation(payload)).scope


def body_of(payload: bytes) -> bytes:
    return to_request(invocation(payload)).body


def test_request_line_and_addresses() -> None:
    scope = scope_of(url_event(rawPath="/api/v1/runs/a%20b%2Fc", rawQueryString="after=3&q=%C3%BC&flag"))

    assert scope["method"] == "POST"
    assert scope["path"] == "/api/v1/runs/a b/c"
    assert scope["raw_path"] == b"/api/v1/runs/a%20b%2Fc"
    assert scope["query_string"] == b"after=3&q=%C3%BC&flag"
    assert scope["scheme"] == "https"
    assert scope["client"] == ("203.0.113.7", 0)
    assert scope["server"] == ("abc.lambda-url.us-east-1.on.aws", 443)
    assert scope["http_version"] == "1.1"


def test_headers_are_lower_case_bytes_and_cookies_are_one_header() -> None:
    payload = url_event(headers={"Content-Type": "text/plain", "X-Name": "Zoë"}, cookies=["a=1", "b=2"])

    assert scope_of(payload)["headers"] == [
        (b"content-type", b"text/plain"),
        (b"x-name", "Zoë".encode()),
        (b"cookie", b"a=1; b=2"),
    ]


def test_a_cookie_header_that_is_there_already_is_not_doubled() -> None:
    headers = scope_of(url_event(headers={"cookie": "a=1"}, cookies=["a=1"]))["headers"]

    assert headers == [(b"cookie", b"a=1")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, b""),
        ({"body": None}, b""),
        ({"body": '{"text": "für"}'}, '{"text": "für"}'.encode()),
        ({"body": base64.b64encode(bytes(range(256))).decode(), "isBase64Encoded": True}, bytes(range(256))),
    ],
)
def test_body(fields: dict[str, object], expected: bytes) -> None:
    assert body_of(url_event(**fields)) == expected


def test_what_lambda_knows_is_in_the_extensions() -> None:
    extensions = scope_of(url_event())["extensions"]

    assert extensions["karma.deadline"] == {"epoch_ms": 1_700_000_000_000}
    assert extensions["karma.invocation"]["request_id"] == "request-1"
    assert extensions["karma.invocation"]["function_arn"] == "arn:x"
    assert extensions["karma.invocation"]["trace_id"] == "Root=1-2-3"
    assert extensions["karma.invocation"]["request_context"]["http"]["sourceIp"] == "203.0.113.7"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"text"',
        json.dumps({"Records": [{"eventSource": "aws:sqs"}]}).encode(),
        url_event(requestContext={"http": {"path": "/"}}),
        url_event(requestContext={"http": {"method": 7}}),
        url_event(headers=["a"]),
        url_event(cookies="a=1"),
        url_event(body={"a": 1}),
        url_event(body="***", isBase64Encoded=True),
    ],
)
def test_anything_else_is_unsupported(payload: bytes) -> None:
    with pytest.raises(UnsupportedEvent):
        to_request(invocation(payload))
