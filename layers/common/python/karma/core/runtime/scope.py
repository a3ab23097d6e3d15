"""Function URL event, payload version 2.0, to ASGI scope. HTTP API events have the same shape and are served too.

Lambda's data beyond HTTP is in `scope["extensions"]`, which another server does not fill:

    karma.deadline    {"epoch_ms": int}  when Lambda stops the environment
    karma.invocation  {"request_id": str, "function_arn": str, "trace_id": str, "request_context": dict}
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from karma.core.records import Record
from karma.core.runtime.client import Invocation

# ASGI defines its dictionaries as open; this is the JSON edge of the module.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DEADLINE = "karma.deadline"
INVOCATION = "karma.invocation"
# 2.4: `send` raises OSError once the response cannot be delivered any more.
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_PATH_SAFE = "/%:@!$&'()*+,;=-._~"
_HTTPS_PORT = 443


class UnsupportedEvent(ValueError):
    """The payload is not an HTTP request in the function URL's format."""


class Request(Record):
    """An HTTP request as an ASGI app takes it."""

    request_id: str
    """Lambda's id of the invocation."""
    scope: Scope
    body: bytes


def to_request(invocation: Invocation) -> Request:
    """Read an invocation's event.

    Raises:
        UnsupportedEvent: the payload is not JSON, or not a function URL event.
    """
    event = _parse(invocation.payload)
    context = event["requestContext"]
    http = context["http"]
    headers = _headers(event)
    path = str(event.get("rawPath") or "/")
    scope: Scope = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": "1.1",
        "method": str(http["method"]).upper(),
        "scheme": _first(headers, b"x-forwarded-proto", "https"),
        "path": unquote(path),
        "raw_path": quote(path, safe=_PATH_SAFE).encode("ascii"),
        "query_string": str(event.get("rawQueryString") or "").encode("utf-8", "replace"),
        "root_path": "",
        "headers": headers,
        "client": (str(http.get("sourceIp") or ""), 0),
        "server": (_first(headers, b"host", str(context.get("domainName") or "localhost")), _HTTPS_PORT),
        "extensions": {
            DEADLINE: {"epoch_ms": invocation.deadline_ms},
            INVOCATION: {
                "request_id": invocation.request_id,
                "function_arn": invocation.function_arn,
                "trace_id": invocation.trace_id,
                "request_context": context,
            },
        },
    }
    return Request(invocation.request_id, scope, _body(event))


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise UnsupportedEvent("the payload is not JSON") from exc
    context = event.get("requestContext") if isinstance(event, dict) else None
    http = context.get("http") if isinstance(context, dict) else None
    if not isinstance(http, dict) or not isinstance(http.get("method"), str):
        raise UnsupportedEvent("the payload is not a function URL event: requestContext.http.method is missing")
    if not isinstance(event.get("headers") or {}, Mapping) or not isinstance(event.get("cookies") or [], list):
        raise UnsupportedEvent("the payload is not a function URL event: headers or cookies have another type")
    return dict(event)


def _headers(event: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return header pairs with names in lower case; the event's separate list of cookies becomes one header again."""
    pairs = [
        (str(name).lower().encode("latin-1", "replace"), str(value).encode("utf-8", "replace"))
        for name, value in (event.get("headers") or {}).items()
    ]
    cookies = event.get("cookies")
    if cookies and all(name != b"cookie" for name, _ in pairs):
        pairs.append((b"cookie", "; ".join(map(str, cookies)).encode("utf-8", "replace")))
    return pairs


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise UnsupportedEvent("the event's body is not a string")
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as exc:
        raise UnsupportedEvent("the event's body is not base64") from exc


def _first(headers: list[tuple[bytes, bytes]], name: bytes, default: str) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), default)
