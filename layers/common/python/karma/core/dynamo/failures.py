"""DynamoDB's errors in our words, translated by code at the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from pynamodb.exceptions import PynamoDBException

from karma.core.errors import PayloadTooLarge, StorageThrottled, StorageUnavailable
from karma.core.faults import AWS_FAULTS, code_of, upstream_of

ITEM_BYTES = 400 * 1024
"""DynamoDB's limit on one item, names included."""


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
        StorageThrottled, StorageUnavailable: the write may be tried again (karma.core.faults).
        PynamoDBException, ClientError: DynamoDB refused the call with any other code; untouched.
    """
    try:
        yield
    except PynamoDBException as exc:
        # Not `exc.cause_response_code`: it fails on causes whose `response` is None, as those of broken connections.
        raise_public(exc, exc.cause, sent)
    except AWS_FAULTS as exc:
        raise_public(exc, exc, sent)


def raise_public(exc: Exception, cause: BaseException | None, sent: Callable[[], object] | None = None) -> NoReturn:
    """Raise the public error of what a call of DynamoDB failed with, or `exc` itself when it has none.

    Args:
        exc: what was raised.
        cause: what botocore raised inside of it.
        sent: as of `storage_errors`.
    """
    if code_of(cause) == "ConditionalCheckFailedException":
        raise ConditionFailed from exc
    if isinstance(cause, AWS_FAULTS):
        public = upstream_of(cause, system="The database", busy=StorageThrottled, unavailable=StorageUnavailable)
        if public is not None:
            raise public from exc
    if code_of(cause) == "ValidationException" and sent is not None and bytes_at_least(sent()) > ITEM_BYTES:
        raise too_large() from exc
    raise exc


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
