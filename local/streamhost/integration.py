"""Converts a function's answer to the HTTP response of a function URL.

streamed, Content-Type application/vnd.awslambda.http-integration-response
                         JSON prelude, 8 NULs, body       -> status, headers, cookies, body
streamed, any other      body                             -> 200, application/octet-stream, the bytes as they are
buffered                 JSON with statusCode             -> status, headers, cookies, body
                         any other JSON                   -> 200, application/json, the JSON
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
_SEPARATOR = bytes(8)
_PRELUDE_LIMIT = 65536
_EDGE_HEADERS = frozenset({"connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\r\n\0]")


class BadAnswer(ValueError):
    """The function's answer is not in the format that a function URL reads; its caller gets a 502."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers for the caller, cookies among them."""

    status: int
    headers: tuple[tuple[str, str], ...]


class PreludeReader:
    """Collects a streamed response up to the end of its prelude."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """Add bytes; once the separator has arrived, return the head and the bytes after it.

        Raises:
            BadAnswer: the prelude does not have Lambda's format, or is longer than 64 KiB.
        """
        self._buffer += data
        end = self._buffer.find(_SEPARATOR)
        if end < 0:
            if len(self._buffer) > _PRELUDE_LIMIT:
                raise BadAnswer("no separator within 64 KiB")
            return None
        head = _head(_json(bytes(self._buffer[:end])), "application/octet-stream")
        return head, bytes(self._buffer[end + len(_SEPARATOR) :])


def buffered_answer(payload: bytes) -> tuple[ResponseHead, bytes]:
    """Read the answer of a function that does not stream.

    Raises:
        BadAnswer: the payload is not JSON, or its parts have the wrong type.
    """
    answer = _json(payload)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return ResponseHead(200, (("content-type", "application/json"),)), payload
    body = answer.get("body") or ""
    if not isinstance(body, str):
        raise BadAnswer("body is not a string")
    try:
        data = base64.b64decode(body, validate=True) if answer.get("isBase64Encoded") else body.encode()
    except binascii.Error as exc:
        raise BadAnswer("body is not base64") from exc
    return _head(answer, "application/json"), data


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("not JSON") from exc


def _head(prelude: Any, default_type: str) -> ResponseHead:
    if not isinstance(prelude, dict):
        raise BadAnswer("the prelude is not an object")
    status = prelude.get("statusCode", 200)
    headers = prelude.get("headers") or {}
    cookies = prelude.get("cookies") or []
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise BadAnswer("statusCode is not a final HTTP status")
    if not isinstance(headers, dict) or not isinstance(cookies, list):
        raise BadAnswer("headers or cookies have the wrong type")
    pairs = [(name.lower(), str(value)) for name, value in headers.items() if name.lower() not in _EDGE_HEADERS]
    if all(name != "content-type" for name, _ in pairs):
        pairs.append(("content-type", default_type))
    pairs += [("set-cookie", str(cookie)) for cookie in cookies]
    for name, value in pairs:
        if not _NAME.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
            raise BadAnswer(f"header {name!r} is not a valid HTTP header")
    return ResponseHead(status, tuple(pairs))
