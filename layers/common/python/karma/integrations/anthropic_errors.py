"""Maps failures of the Messages API to error codes: by status, by type, or by the exception of the SDK."""

from __future__ import annotations

from collections.abc import Mapping

from karma.core.observability import count, logger
from karma.integrations.context_window import is_too_long
from karma.integrations.retry_after import asks_to_repeat, pause_of
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed

_ERROR_TYPES: Mapping[str, ModelErrorCode] = {
    "overloaded_error": ModelErrorCode.MODEL_OVERLOADED,
    "rate_limit_error": ModelErrorCode.MODEL_RATE_LIMITED,
    "timeout_error": ModelErrorCode.MODEL_TIMEOUT,
    "api_error": ModelErrorCode.MODEL_UNAVAILABLE,
    "invalid_request_error": ModelErrorCode.MODEL_REJECTED,
    "request_too_large": ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
}

_STATUSES: Mapping[int, ModelErrorCode] = {
    400: ModelErrorCode.MODEL_REJECTED,
    408: ModelErrorCode.MODEL_TIMEOUT,
    413: ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
    422: ModelErrorCode.MODEL_REJECTED,
    429: ModelErrorCode.MODEL_RATE_LIMITED,
    504: ModelErrorCode.MODEL_TIMEOUT,
    529: ModelErrorCode.MODEL_OVERLOADED,
}

_OURS = frozenset({401, 402, 403, 404})
"""Statuses whose cause only an operator can correct: key, bill, permission, the model's name."""


def failure_of(exc: Exception, *, usage: Usage) -> ModelFailed | None:
    """Return what an exception of the SDK or its transport means, and whether to repeat; None for any other exception.

    `usage` is what the call has reported before.
    """
    code = meaning_of(exc)
    if code is None:
        return None
    import anthropic

    if isinstance(exc, anthropic.APIStatusError):
        headers = exc.response.headers
        is_transient = code.may_pass and asks_to_repeat(exc.status_code, headers)
        return ModelFailed(code, usage=usage, is_transient=is_transient, retry_after_s=pause_of(headers))
    # A wrong address or client is ours to correct: asking again does not.
    is_ours = code is ModelErrorCode.MODEL_UNAVAILABLE and not isinstance(exc, anthropic.APIConnectionError)
    return ModelFailed(code, usage=usage, is_transient=code.may_pass and not is_ours)


def meaning_of(exc: Exception) -> ModelErrorCode | None:
    """Return the code for an exception of the SDK or its transport; None for any other exception."""
    import anthropic
    import httpx2

    if isinstance(exc, anthropic.APITimeoutError | httpx2.TimeoutException):
        return ModelErrorCode.MODEL_TIMEOUT
    if isinstance(exc, anthropic.APIConnectionError):
        return ModelErrorCode.MODEL_UNAVAILABLE
    if isinstance(exc, anthropic.APIStatusError):
        code = code_of(exc.status_code, exc.type, exc.body)
        if exc.status_code in _OURS:
            _report(exc)
        return code
    if isinstance(exc, httpx2.UnsupportedProtocol | httpx2.InvalidURL | anthropic.AnthropicError):
        _report(exc)
        return ModelErrorCode.MODEL_UNAVAILABLE
    if isinstance(exc, httpx2.HTTPError | httpx2.StreamError | httpx2.CookieConflict):
        return ModelErrorCode.MODEL_STREAM_CUT
    return None


def _report(exc: Exception) -> None:
    logger.error("model.misconfigured", cause=type(exc).__name__)
    count("UnhandledError")


def code_of(status: int, error_type: object, body: object) -> ModelErrorCode:
    """Return the code of an error that the API answered, or sent in a stream that began with 200."""
    if is_too_long(status, body):
        return ModelErrorCode.CONTEXT_WINDOW_EXCEEDED
    if isinstance(error_type, str) and error_type in _ERROR_TYPES:
        return _ERROR_TYPES[error_type]
    if status in _STATUSES:
        return _STATUSES[status]
    # Other causes (key, billing, permission) are the operator's: the log has them, the caller does not see them.
    return ModelErrorCode.MODEL_UNAVAILABLE
