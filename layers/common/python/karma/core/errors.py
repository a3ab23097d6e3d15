"""Every error that a caller may see; one handler a function turns it into the error envelope.

AppError(code, status, retryable)
├─ InvalidRequest 400        the request cannot be read (INVALID_JSON, INVALID_CURSOR, ...)
├─ ValidationFailed 422      a field of a readable request is wrong; one entry a field
├─ Unauthenticated 401       Forbidden 403       NotFound 404       MethodNotAllowed 405
├─ Conflict 409              AlreadyExists, StaleVersion, InvalidTransition, AlreadyCreated
├─ Gone 410                  PayloadTooLarge 413             UnsupportedMediaType 415
├─ QuotaExceeded 402         RateLimited 429 (names the limit and when it resets)
└─ Upstream 502/503/504      StorageThrottled, StorageUnavailable, ... : retryable
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

MAX_TOLD = 100
"""Entries of an answer's list of errors or of skipped parts at the most: it must not grow with the request."""
MAX_FOUND = 10_000
"""Entries that a reader collects at the most; then it stops."""
PARSER_REPORTS: Final[list[Callable[[str, Exception], None]]] = []
"""Tell of a parser, by its name, what it should not have raised (karma.core.foreign): parsers only compute."""
_FIELD_CHARS = 256
_MESSAGE_CHARS = 1024


def how_many_more(found: int) -> str:
    """Say how many of the found entries an answer leaves out, "" when it has them all."""
    if found <= MAX_TOLD:
        return ""
    return f"{'at least ' if found >= MAX_FOUND else ''}{found - MAX_TOLD} more"


def _told(entries: Sequence[object]) -> list[object]:
    told = [_short(each) for each in entries[:MAX_TOLD]]
    if more := how_many_more(len(entries)):
        told.append({"field": "", "message": f"and {more}", "type": "too_many"})
    return told


def _short(entry: object) -> object:
    if not isinstance(entry, Mapping):
        return entry
    limits = {"field": _FIELD_CHARS, "message": _MESSAGE_CHARS}
    return {name: value[: limits[name]] if name in limits else value for name, value in entry.items()}


class AppError(Exception):
    """An expected failure with a status of its own.

    `message` is public: it holds no secret, table name, stack or other person's data.
    """

    status: ClassVar[int] = 500
    code: str = "INTERNAL"
    retryable: bool = False

    def __init__(
        self, message: str, *, code: str | None = None, details: Mapping[str, object] | Sequence[object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details = _told(details) if isinstance(details, list) else details
        self.headers: dict[str, str] = {}


class InvalidRequest(AppError):
    """The request cannot be read at all."""

    status = 400
    code = "INVALID_REQUEST"


class ValidationFailed(AppError):
    """A readable request has wrong fields; `details` is a list of `{field, message, type}`, the first `MAX_TOLD`."""

    status = 422
    code = "VALIDATION_ERROR"

    @classmethod
    def of(cls, field: str, message: str) -> ValidationFailed:
        """Return the error of one wrong field, with a message that names the field's limit."""
        return cls("Request validation failed", details=[{"field": field, "message": message, "type": "value_error"}])

    @property
    def first(self) -> str:
        """Return the message about the first of the fields, without its name."""
        [entry, *_] = self.details or [{}]
        return str(entry["message"]) if isinstance(entry, Mapping) and "message" in entry else self.message

    def renamed(self, names: Mapping[str, str]) -> ValidationFailed:
        """Return the same error about fields that the caller knows by other names, given by the names here."""
        entries = [
            {**entry, "field": names.get(str(entry["field"]), entry["field"])} if isinstance(entry, Mapping) else entry
            for entry in self.details or []
        ]
        return ValidationFailed(self.message, details=entries)

    @classmethod
    def together(cls, *judges: Callable[[], object]) -> None:
        """Run several checks of one request, and report the entries of all of them.

        Raises:
            ValidationFailed: a check raised one; with the entries of all that did.
        """
        found: list[object] = []
        for judge in judges:
            try:
                judge()
            except ValidationFailed as exc:
                found += exc.details or []
        if found:
            raise cls("Request validation failed", details=found)


class Unauthenticated(AppError):
    """The request has no credential, or none that is valid."""

    status = 401
    code = "UNAUTHORIZED"


class Forbidden(AppError):
    """The caller is known, but not allowed to do this."""

    status = 403
    code = "FORBIDDEN"

    @classmethod
    def lacking(cls, permission: str, *, where: str = "") -> Forbidden:
        """Return the error that names the permission which the caller's role, or their key's scopes, lack."""
        details = {"permission": permission, "described_in": "docs/permissions.md"}
        return cls(f"Insufficient permissions{where}", details=details)


class NotFound(AppError):
    """The object does not exist, or is another account's."""

    status = 404
    code = "NOT_FOUND"


class MethodNotAllowed(AppError):
    """The path exists, the method does not."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class Conflict(AppError):
    """The object's state forbids the request."""

    status = 409
    code = "CONFLICT"


class AlreadyExists(Conflict):
    """A value that must be unique is in use."""

    code = "ALREADY_EXISTS"


class StaleVersion(Conflict):
    """The caller's change is based on an older version than the stored one."""

    code = "STALE_VERSION"


class PreconditionFailed(AppError):
    """The request's own condition does not hold: what it changes is not there, or what it makes is."""

    status = 412
    code = "PRECONDITION_FAILED"


class InvalidTransition(Conflict):
    """The object's state machine has no such transition."""

    code = "INVALID_TRANSITION"


class AlreadyCreated(Conflict):
    """A repeat of a request whose answer had a secret that is shown once; `details.id` names the created object."""

    code = "ALREADY_CREATED"


class Gone(AppError):
    """The object existed, and is deleted for good."""

    status = 410
    code = "GONE"


class PayloadTooLarge(AppError):
    """The body exceeds the stated limit."""

    status = 413
    code = "PAYLOAD_TOO_LARGE"


class UnsupportedMediaType(AppError):
    """The body is not of a type that the route reads."""

    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class QuotaExceeded(AppError):
    """The plan's limit is reached."""

    status = 402
    code = "QUOTA_EXCEEDED"


class RateLimited(AppError):
    """Too many requests; `Retry-After` says when to come back."""

    status = 429
    code = "RATE_LIMITED"

    def __init__(self, message: str, *, retry_after_s: int, limit: str = "") -> None:
        """Make the error; `limit` is the name of a rate limit (karma.identity.limits), "" for another kind."""
        named = {"limit": limit} if limit else {}
        super().__init__(message, details={**named, "retry_after_s": retry_after_s})
        self.headers["Retry-After"] = str(retry_after_s)


class Upstream(AppError):
    """A system that this one needs failed; the same request may succeed later."""

    status = 502
    code = "UPSTREAM_ERROR"
    retryable = True
    retry_after_s: ClassVar[int] = 0
    """Seconds after which a repeat may succeed, sent as `Retry-After`; 0: the header is left out."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | Sequence[object] | None = None,
        repeatable: bool = True,
    ) -> None:
        """Make the error; `repeatable` false: the same request fails until somebody has corrected the deployment."""
        super().__init__(message, code=code, details=details)
        if not repeatable:
            self.retryable = False
        if self.retry_after_s and repeatable:
            self.headers["Retry-After"] = str(self.retry_after_s)


class StorageThrottled(Upstream):
    """The database is throttling requests."""

    status = 503
    code = "STORAGE_THROTTLED"
    retry_after_s = 2


class StorageUnavailable(Upstream):
    """The database did not answer in time. A write may have been made: repeat it with the same Idempotency-Key."""

    status = 503
    code = "STORAGE_UNAVAILABLE"
    retry_after_s = 1


class UpstreamTimeout(Upstream):
    """A system that this one needs did not answer in time."""

    status = 504
    code = "UPSTREAM_TIMEOUT"
