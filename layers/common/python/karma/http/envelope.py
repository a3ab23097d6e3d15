"""The two shapes of an answer: the envelope of `/api/v1`, and Agio's bare bodies under `/api`.

Framework-free: functions/api and functions/agent_stream both present with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Literal

from karma.core.errors import AppError, UnsupportedMediaType, ValidationFailed
from karma.core.freeform import render

Style = Literal["envelope", "agio"]


def style_of(path: str) -> Style:
    """Choose the presenter by prefix: `/api/v1/...` and everything outside `/api` is wrapped, `/api/...` is Agio's."""
    if path == "/api" or (path.startswith("/api/") and not path.startswith("/api/v1/")):
        return "agio"
    return "envelope"


def phrase(status: int) -> str:
    """Name a status as RFC 9110 does, on every Python: `Content Too Large`."""
    return _RENAMED.get(status) or HTTPStatus(status).phrase


_RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Phrases for which Python before 3.13 has the names of older RFCs."""


def success(data: object, *, now_ms: int) -> bytes:
    """Render `{"success": true, "data": ..., "timestamp": ms}`."""
    return render({"success": True, "data": data, "timestamp": now_ms})


def failure(error: AppError, *, path: str, request_id: str, now_ms: int) -> bytes:
    """Render an error in the style of its path; see errors.py for codes."""
    if style_of(path) == "agio":
        agio: dict[str, object] = {"type": _agio_type(error), "message": error.message}
        if error.details is not None:
            agio["details"] = error.details
        agio["path"] = path
        return render({"error": agio})
    body = {
        "code": error.code,
        "type": type(error).__name__,
        "message": error.message,
        "details": error.details if error.details is not None else {},
        "path": path,
        "request_id": request_id,
    }
    return render({"success": False, "error": body, "timestamp": now_ms})


def unknown_parameters(given: Iterable[str], known: Collection[str]) -> list[tuple[str, str]]:
    """List the query parameters that a route does not have, each with an error message; [] when it has them all.

    At most 20 of them, by at most 64 characters each, so that the answer does not grow with the request.
    """
    taken = ", ".join(sorted(known)) or "none"
    names = list(dict.fromkeys(name[:_NAME_CHARS] for name in given if name not in known))
    return [(name, f"unknown query parameter; this route takes: {taken}") for name in names[:_NAMES]]


def repeated_parameters(given: Iterable[str], known: Collection[str]) -> list[tuple[str, str]]:
    """List the parameters of a route that a query has more than once, each with an error message.

    Each has one value: to take one of several and drop the others would filter by something else than was asked for.
    """
    return [
        (name, "given more than once; a query parameter has one value")
        for name, times in Counter(given).items()
        if times > 1 and name in known
    ]


def completed(headers: Iterable[tuple[bytes, bytes]], *, request_id: str, took_s: float) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with those that every answer has: caches store no caller's answer."""
    given = list(headers)
    names = dict(given)
    if b"cache-control" not in names:
        given.append((b"cache-control", b"no-store"))
    if b"x-request-id" not in names:
        given.append((b"x-request-id", request_id.encode()))
    if b"x-process-time" not in names:
        given.append((b"x-process-time", b"%.6f" % took_s))
    return given


def require_json(content_type: str, content_encoding: str) -> None:
    """Refuse a body that is not JSON, in another charset than UTF-8's, or compressed.

    Raises:
        UnsupportedMediaType: the body is one of these.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("The body must be application/json")
    require_plain(content_encoding)
    declared = _CHARSET.search(content_type)
    if declared and declared[1].lower() not in _CHARSETS:
        raise UnsupportedMediaType(f"The body must be in UTF-8, not in the charset {declared[1][:40]}")


def require_plain(content_encoding: str) -> None:
    """Refuse a compressed body.

    Raises:
        UnsupportedMediaType: the body has a Content-Encoding; `Accept-Encoding` of the answer says what is accepted.
    """
    if content_encoding.strip().lower() in {"", "identity"}:
        return
    error = UnsupportedMediaType(f"The body must not be encoded, but Content-Encoding is {content_encoding[:40]}")
    error.headers["Accept-Encoding"] = "identity"
    raise error


def require_unconditional(given: Mapping[str, str]) -> None:
    """Refuse conditions on a route that has no object with a version.

    Args:
        given: headers of the request by name, in small letters; "" for those that it does not have.

    Raises:
        ValidationFailed: the request has one of `UNTAKEN`.
    """
    for name, why in UNTAKEN.items():
        if given.get(name):
            raise ValidationFailed.of(name, why)


UNTAKEN = {
    "if-match": "is not taken by this route: what it does is of no version",
    "if-none-match": "is not taken by this route: it makes nothing under a name that could be there",
}
"""Conditions of a change, and why a route refuses them that takes them not: passed over, they would not have held."""

_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)
_CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii"}
_NAMES = 20
_NAME_CHARS = 64


class InternalError(AppError):
    """A bug. The cause is in the log under the request id, never in the answer."""

    def __init__(self) -> None:
        super().__init__("An unexpected error occurred")


def _agio_type(error: AppError) -> str:
    if isinstance(error, ValidationFailed):
        return "ValidationError"
    return "InternalServerError" if isinstance(error, InternalError) else type(error).__name__


__all__ = [
    "UNTAKEN",
    "InternalError",
    "Style",
    "completed",
    "failure",
    "phrase",
    "repeated_parameters",
    "require_json",
    "require_plain",
    "require_unconditional",
    "style_of",
    "success",
    "unknown_parameters",
]
