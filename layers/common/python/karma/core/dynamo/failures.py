"""DynamoDB's errors in our words, translated by code at the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import botocore.exceptions
from pynamodb.exceptions import PynamoDBException

from karma.core.errors import PayloadTooLarge, StorageThrottled, StorageUnavailable

ITEM_BYTES = 400 * 1024
"""DynamoDB's limit on one item, names included."""

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
def storage_errors(sent: Callable[[], object] | None = None) -> Iterator[None]:
    """Translate what PynamoDB, or the client itself, raises.

    Args:
        sent: returns what was to be written; DynamoDB says in words only that an item is too large.

    Raises:
        ConditionFailed: a condition was false; nothing was written.
        PayloadTooLarge: so is the item; nothing was written.
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
        if code == "ValidationException" and sent is not None and bytes_at_least(sent()) > ITEM_BYTES:
            raise too_large() from exc
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


def too_large() -> PayloadTooLarge:
    """Return the error of an item that DynamoDB does not hold."""
    return PayloadTooLarge("This is larger than the database holds in one piece")


def bytes_at_least(sent: object) -> int:
    """Measure attributes, or updates of them, no smaller than DynamoDB does: types and placeholders count here too."""
    if isinstance(sent, str):
        return len(sent.encode())
    if isinstance(sent, bytes | bytearray):
        return len(sent)
    if isinstance(sent, Mapping):
        return sum(bytes_at_least(name) + bytes_at_least(value) for name, value in sent.items())
    parts = getattr(sent, "values", sent)  # of PynamoDB's actions and their operands
    return sum(map(bytes_at_least, parts)) if isinstance(parts, Iterable) else 0
