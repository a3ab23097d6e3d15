"""Maps failures of the Chat Completions API to error codes: by status, and by the type or code of the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from karma.core.observability import count, logger
from karma.integrations.context_window import is_too_long
from karma.integrations.retry_after import asks_to_repeat, pause_of
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelFailed

_STATUSES: Final[Mapping[int, ModelErrorCode]] = {
    400: ModelErrorCode.MODEL_REJECTED,
    408: ModelErrorCode.MODEL_TIMEOUT,
    413: ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
    422: ModelErrorCode.MODEL_REJECTED,
    429: ModelErrorCode.MODEL_RATE_LIMITED,
    503: ModelErrorCode.MODEL_OVERLOADED,
    504: ModelErrorCode.MODEL_TIMEOUT,
    529: ModelErrorCode.MODEL_OVERLOADED,
}
_NAMES: Final[Mapping[str, ModelErrorCode]] = {
    "content_policy_violation": ModelErrorCode.MODEL_REJECTED,
    "invalid_request_error": ModelErrorCode.MODEL_REJECTED,
    "badrequesterror": ModelErrorCode.MODEL_REJECTED,
    "overloaded_error": ModelErrorCode.MODEL_OVERLOADED,
    "service_unavailable": ModelErrorCode.MODEL_OVERLOADED,
    "rate_limit_exceeded": ModelErrorCode.MODEL_RATE_LIMITED,
    "rate_limit_error": ModelErrorCode.MODEL_RATE_LIMITED,
    "timeout": ModelErrorCode.MODEL_TIMEOUT,
}
"""Codes by the type or code of an error within a stream, in lower case."""
_OURS: Final = frozenset({401, 402, 403, 404})
"""Statuses whose cause only an operator can correct: key, bill, permission, the model's name or address."""
_UNPAID: Final = "insufficient_quota"


def failure_of_status(status: int, headers: Mapping[str, str], data: bytes) -> ModelFailed:
    """Return what an answer with an error status means, and whether to repeat the call."""
    body = _parsed(data)
    if is_too_long(status, body):
        return ModelFailed(ModelErrorCode.CONTEXT_WINDOW_EXCEEDED)
    if status in _OURS or _UNPAID in _names(body):
        report(f"status {status}")
        return ModelFailed(ModelErrorCode.MODEL_UNAVAILABLE)
    code = _STATUSES.get(status, ModelErrorCode.MODEL_UNAVAILABLE)
    is_transient = code.may_pass and asks_to_repeat(status, headers)
    return ModelFailed(code, is_transient=is_transient, retry_after_s=pause_of(headers))


def wants_newer_name(data: bytes) -> bool:
    """Tell whether a refusal is one of the older name of the limit of an answer, `max_tokens`."""
    body = _parsed(data)
    error = body.get("error") if isinstance(body, Mapping) else None
    return isinstance(error, Mapping) and "max_completion_tokens" in str(error.get("message"))


def wants_strict_form(data: bytes) -> bool:
    """Tell whether a refusal is Mistral's, or of a server with its templates, of an id of a call or an order of turns.

    Their codes differ by server; the words are of the library that all of them use, mistral-common.
    """
    told = data.decode(errors="replace").lower()
    return "unexpected role" in told or ("tool call id" in told and "length of 9" in told)


def code_in_stream(chunk: Mapping[str, Any]) -> ModelErrorCode:
    """Return the code of an error that came within a stream that began with 200."""
    if is_too_long(200, chunk):
        return ModelErrorCode.CONTEXT_WINDOW_EXCEEDED
    for name in _names(chunk):
        if name in _NAMES:
            return _NAMES[name]
        if name.isascii() and name.isdigit():
            return _STATUSES.get(int(name[:3]), ModelErrorCode.MODEL_UNAVAILABLE)
    return ModelErrorCode.MODEL_UNAVAILABLE


def meaning_of(exc: Exception) -> tuple[ModelErrorCode, bool] | None:
    """Return the code of an exception of the transport, and whether it may pass; None for any other exception."""
    import httpx2

    if isinstance(exc, httpx2.TimeoutException):
        return ModelErrorCode.MODEL_TIMEOUT, True
    if isinstance(exc, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        report(type(exc).__name__)
        return ModelErrorCode.MODEL_UNAVAILABLE, False
    if isinstance(exc, httpx2.ConnectError | httpx2.ProxyError):
        return ModelErrorCode.MODEL_UNAVAILABLE, True
    if isinstance(exc, httpx2.HTTPError | httpx2.StreamError | httpx2.CookieConflict):
        return ModelErrorCode.MODEL_STREAM_CUT, True
    return None


def report(cause: str) -> None:
    """Note what only an operator can correct."""
    logger.error("model.misconfigured", cause=cause)
    count("UnhandledError")


def _parsed(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _names(body: object) -> list[str]:
    found: list[str] = []
    while isinstance(body, Mapping):
        found += [str(body[key]).lower() for key in ("code", "type") if isinstance(body.get(key), str | int)]
        body = body.get("error")
    return found
