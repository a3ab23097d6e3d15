"""Translates DynamoDB's errors, by their code, into errors of this code base."""

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
    """The item was not in the state that the write required. Repositories turn it into a domain error."""


@contextmanager
def storage_errors(sent: Callable[[], object] | None = None) -> Iterator[None]:
    """Translate errors of PynamoDB and of the DynamoDB client.

    Args:
        sent: returns the attributes or updates to write; by their size an item that is too large is told from other
            invalid requests, since DynamoDB has no error code for it.

    Raises:
        ConditionFailed: a condition was false; nothing was written.
        PayloadTooLarge: the item has more than 400 KB; nothing was written.
        StorageThrottled, StorageUnavailable: the write may be tried again (karma.core.faults).
        PynamoDBException, ClientError: DynamoDB refused the call with any other code; raised unchanged.
    """
    try:
        yield
    except PynamoDBException as exc:
        # Not `exc.cause_response_code`: it fails on causes whose `response` is None, as those of broken connections.
        raise_public(exc, exc.cause, sent)
    except AWS_FAULTS as exc:
        raise_public(exc, exc, sent)


def raise_public(exc: Exception, cause: BaseException | None, sent: Callable[[], object] | None = None) -> NoReturn:
    """Raise the public error for a failed call of DynamoDB, or `exc` itself when there is none.

    Args:
        exc: the exception that was raised.
        cause: the exception of botocore inside of it.
        sent: as in `storage_errors`.
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
    """Return the error of an item that is larger than DynamoDB stores."""
    return PayloadTooLarge("This is larger than the database holds in one piece")


def bytes_at_least(sent: object) -> int:
    """Measure attributes, or updates of them, at no less than DynamoDB does: types and placeholders count too."""
    if isinstance(sent, str):
        return len(sent.encode())
    if isinstance(sent, bytes | bytearray):
        return len(sent)
    if isinstance(sent, Mapping):
        return sum(bytes_at_least(name) + bytes_at_least(value) for name, value in sent.items())
    parts = getattr(sent, "values", sent)  # of PynamoDB's actions and their operands
    return sum(map(bytes_at_least, parts)) if isinstance(parts, Iterable) else 0
