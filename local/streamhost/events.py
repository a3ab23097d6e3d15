"""Converts HTTP requests to function URL events, version 2.0 (AWS: Lambda, "Request and response payloads")."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from local.streamhost.http1 import RequestHead

_TEXT_TYPES = frozenset({"application/json", "application/javascript", "application/xml"})


def function_url_event(
    request: RequestHead, body: bytes, *, source_ip: str, request_id: str, trace_id: str, now: datetime
) -> bytes:
    """Return the event as JSON."""
    path, _, query = request.target.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    cookies = [part.strip() for part in headers.pop("cookie", "").split(";") if part.strip()]
    headers.setdefault("x-forwarded-for", source_ip)
    headers |= {"x-forwarded-proto": "http", "x-forwarded-port": "80", "x-amzn-trace-id": trace_id}
    host = headers.get("host", "localhost")
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    text = _as_text(body, headers.get("content-type", ""))
    event: dict[str, object] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": host,
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": path,
                "protocol": request.version,
                "sourceIp": source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": now.astimezone(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": round(now.timestamp() * 1000),
        },
        "isBase64Encoded": bool(body) and text is None,
    }
    if cookies:
        event["cookies"] = cookies
    if parameters:
        event["queryStringParameters"] = parameters
    if body:
        event["body"] = base64.b64encode(body).decode("ascii") if text is None else text
    return json.dumps(event, separators=(",", ":")).encode()


def _as_text(body: bytes, content_type: str) -> str | None:
    """Return the body as text if its type says so and it is UTF-8; None: it must be base64."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None
