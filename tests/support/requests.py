"""Requests with an Idempotency-Key, for tests of services and stores."""

from __future__ import annotations

from datetime import datetime

from karma.core.requests import IdempotencyKey, RepeatableRequest, repeatable
from tests.support.rows import NOW


def key(value: str = "k") -> IdempotencyKey:
    """Return an Idempotency-Key of one caller and route."""
    return IdempotencyKey(caller="ada", route="/things", value=value)


def asked(value: str = "k", *what: object, at: datetime = NOW) -> RepeatableRequest:
    """Return a request under a key; with another `what` it asks for something else."""
    request = repeatable(key(value), *what, at=at)
    assert request is not None
    return request
