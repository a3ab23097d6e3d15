"""DynamoDB's errors in our words, translated by code at the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import botocore.exceptions
from pynamodb.exceptions import PynamoDBException

from karma.core.errors import StorageThrottled, StorageUnavailable

_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)
_UNAVAILABLE = frozenset({"InternalServerError", "InternalServerErrorException", "ServiceUnavailable"})
_NO_ANSWER = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
)


class ConditionFailed(Exception):
    """The item was not in the state that the write asked for. Repositories turn it into a domain error."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Translate what PynamoDB, or the client itself, raises.

    Raises:
        ConditionFailed: a condition was false; nothing was written.
        StorageThrottled, StorageUnavailable: the write may be tried again.
        PynamoDBException, ClientError: any other code, untouched.
    """
    try:
        yield
    except PynamoDBException as exc:
        code = exc.cause_response_code
        if code == "ConditionalCheckFailedException":
            raise ConditionFailed from exc
        if code in _THROTTLED:
            raise StorageThrottled("The database is busy; try again") from exc
        if code in _UNAVAILABLE or isinstance(exc.cause, _NO_ANSWER):
            raise StorageUnavailable("The database did not answer; try again") from exc
        raise
    except botocore.exceptions.ClientError as exc:
        code = exc.response["Error"]["Code"]
        if code in _THROTTLED:
            raise StorageThrottled("The database is busy; try again") from exc
        if code in _UNAVAILABLE:
            raise StorageUnavailable("The database did not answer; try again") from exc
        raise
    except _NO_ANSWER as exc:
        raise StorageUnavailable("The database did not answer; try again") from exc
