"""Conversion of a request's exceptions to one AppError each; the edge presents it in the style of the path.

| raised | becomes |
| --- | --- |
| AppError | itself |
| RequestValidationError | 422 VALIDATION_ERROR, one entry a field |
| anything else | 500 INTERNAL: a bug; logged with its traceback and counted as `UnhandledError` |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from karma.core.errors import MAX_TOLD, AppError, ValidationFailed
from karma.core.observability import count, logger
from karma.core.wording import worded
from karma.http.envelope import InternalError

_PLACES = frozenset({"body", "query", "path", "header", "cookie"})


def as_app_error(exc: Exception) -> AppError:
    """Return the public error of an exception; an unexpected one is logged and counted here, once."""
    if isinstance(exc, AppError):
        return exc
    if isinstance(exc, RequestValidationError):
        return _validation(exc.errors(), left_out=getattr(exc, "left_out", 0))
    logger.exception("request.failed")
    count("UnhandledError")
    return InternalError()


def _validation(errors: Iterable[Mapping[str, Any]], *, left_out: int) -> AppError:
    fields: dict[str, dict[str, str]] = {}
    for error in errors:
        location = [str(part) for part in error["loc"]]
        field = ".".join(location[1:] if len(location) > 1 and location[0] in _PLACES else location)
        # Not `input`: it repeats what the caller sent, passwords included.
        fields.setdefault(field, {"field": field, "message": worded(error), "type": error["type"]})
    told = list(fields.values())
    # Of many, only their number is told (karma.core.errors), for which any entry will do.
    more = [{"field": "", "message": "and others", "type": "too_many"}]
    return ValidationFailed(
        "Request validation failed", details=[*told, *more * (left_out if len(told) >= MAX_TOLD else bool(left_out))]
    )
