"""Every exception that botocore can raise, as botocore would make it."""

from __future__ import annotations

import inspect
import string
from collections.abc import Iterator
from typing import Any

import botocore.exceptions
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

PASSING = {
    "CapacityNotAvailableError",
    "ChecksumError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "CredentialRetrievalError",
    "EndpointConnectionError",
    "FlexibleChecksumError",
    "HTTPClientError",
    "IncompleteReadError",
    "MetadataRetrievalError",
    "ProxyConnectionError",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "SSLError",
    "TokenRetrievalError",
}
"""Classes after which the same request may succeed; all others are our own configuration."""
_CHECKERS: Any = (ThrottledRetryableChecker, TransientRetryableChecker)
CODES = {
    *_CHECKERS[0]._THROTTLED_ERROR_CODES,
    *_CHECKERS[1]._TRANSIENT_ERROR_CODES,
    "InternalServerError",
    "InternalError",
    "ServiceUnavailable",
    "ExpiredTokenException",
}


def passes(kind: type[Exception]) -> bool:
    """Tell whether the same request may succeed after an exception of this class."""
    return kind.__name__ in PASSING or issubclass(kind, botocore.exceptions.ClientError)


def made(kind: type[Exception]) -> Iterator[Exception]:
    """Yield exceptions of a class as botocore would make them."""
    make: Any = kind
    if issubclass(kind, botocore.exceptions.ClientError):
        for code in sorted(CODES):
            yield make({"Error": {"Code": code, "Message": "m"}}, "Op")
        for status in (429, 500, 502, 503, 504):
            yield make({"Error": {"Code": "New"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op")
        return
    if issubclass(kind, botocore.exceptions.WaiterError):
        yield make("x", "x", {})
        return
    fields = {name: "x" for _, name, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if name}
    yield make(**fields)


RAISED = [
    kind
    for kind in vars(botocore.exceptions).values()
    if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
]
