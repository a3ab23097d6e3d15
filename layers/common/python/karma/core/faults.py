"""Meaning of the errors that calls of AWS raise, and the answer to the caller: one table for every service.

| meaning | botocore raises | the caller gets |
| --- | --- | --- |
| BUSY: asked to slow down | ClientError with a code of `_BUSY`, or status 429 | the adapter's 503 with `Retry-After` |
| NO_ANSWER: a write may have been made | ClientError, code of `_PASSING` or status 5xx; `_NO_ANSWER` | likewise |
| MISCONFIGURED: nothing was sent, and nothing will be | every other BotoCoreError | its 503 without `Retry-After` |
| REFUSED: the service rejects the call as sent | ClientError with any other code | 500: it is a bug |

A misconfigured deployment is logged as an error and counted as `UnhandledError`, which raises the alarm.
Adapters know the codes of their own services (a missing object, a false condition) and look at them first.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import botocore.exceptions as raised

from karma.core.errors import Upstream
from karma.core.observability import count, logger

AWS_FAULTS: Final = (raised.BotoCoreError, raised.ClientError, raised.UndefinedModelAttributeError)
"""Base classes of all that botocore raises; the other classes of its module are warnings."""

_BUSY = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "OverLimit",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_PASSING = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IDPCommunicationError",
        "InternalError",
        "InternalException",
        "InternalFailure",
        "InternalFailureException",
        "InternalServerError",
        "InternalServerErrorException",
        "InternalServiceError",
        # Credentials of a role's session that the service does not know: just made, or just renewed elsewhere.
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "RequestExpired",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "UnrecognizedClientException",
    }
)
_NO_ANSWER = (
    raised.ConnectionError,
    raised.HTTPClientError,
    raised.ChecksumError,
    raised.FlexibleChecksumError,
    raised.IncompleteReadError,
    raised.CapacityNotAvailableError,
    raised.CredentialRetrievalError,
    raised.MetadataRetrievalError,
    raised.TokenRetrievalError,
)


class Meaning(StrEnum):
    """Meaning of a failed call for a repeat; see the table of this module."""

    BUSY = "busy"
    NO_ANSWER = "no_answer"
    MISCONFIGURED = "misconfigured"
    REFUSED = "refused"


def code_of(exc: BaseException | None) -> str:
    """Return the error code of a service's answer; "" when there was no answer."""
    if not isinstance(exc, raised.ClientError):
        return ""  # HTTPClientError has a `response` as well, which is None
    error = (exc.response or {}).get("Error") or {}
    return str(error.get("Code") or "")


def meaning_of(exc: BaseException) -> Meaning:
    """Classify an exception by the table of this module."""
    if isinstance(exc, raised.ClientError):
        code, status = code_of(exc), _status(exc)
        if code in _BUSY or status == 429 or code == "429":
            return Meaning.BUSY
        if code in _PASSING or status >= 500 or (code.isdecimal() and int(code) >= 500):
            return Meaning.NO_ANSWER
        return Meaning.REFUSED
    return Meaning.NO_ANSWER if isinstance(exc, _NO_ANSWER) else Meaning.MISCONFIGURED


def _status(exc: raised.ClientError) -> int:
    answered: Any = (exc.response or {}).get("ResponseMetadata") or {}
    if not answered and isinstance(exc.__cause__, raised.ClientError):  # PynamoDB's own keeps the code alone
        return _status(exc.__cause__)
    return int(answered.get("HTTPStatusCode") or 0)


def upstream_of(
    exc: BaseException, *, system: str, busy: type[Upstream], unavailable: type[Upstream]
) -> Upstream | None:
    """Return the public error of a failed call; None when the service refused it (REFUSED).

    Args:
        exc: the exception, one of `AWS_FAULTS`.
        system: name of the service in the message, such as "The database".
        busy: type of the error when the service asked to slow down.
        unavailable: type of the error when it did not answer or cannot be reached.
    """
    match meaning_of(exc):
        case Meaning.BUSY:
            return busy(f"{system} is busy; try again")
        case Meaning.NO_ANSWER:
            return unavailable(f"{system} did not answer; try again, with the same Idempotency-Key where there was one")
        case Meaning.MISCONFIGURED:
            logger.error("aws.misconfigured", system=system, cause=type(exc).__name__)
            count("UnhandledError")
            return unavailable(f"{system} cannot be reached", repeatable=False)
        case Meaning.REFUSED:
            return None
