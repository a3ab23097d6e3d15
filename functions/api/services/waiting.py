"""Requests that wait for somebody else: each holds a process of the API, so that an account has few of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from api.services.process import clock
from karma.core.clock import monotonic

if TYPE_CHECKING:
    from karma.core.ids import UserId
    from karma.identity.limits import OpenRequests

MOST_S: Final = 22.0
"""Seconds behind which no request waits any more: the function, which has 29, writes and answers in the rest."""


@cache
def requests() -> OpenRequests:
    """Cap the requests of an account that wait at once."""
    from karma.core.dynamo.leases import DynamoLeases
    from karma.identity.limits import WAITING_REQUESTS, OpenRequests

    return OpenRequests(DynamoLeases(), clock(), pool=WAITING_REQUESTS)


@contextmanager
def held(user_id: UserId, *, seconds: float) -> Iterator[Callable[[], float]]:
    """Count a request that may wait for so many seconds while the block runs; 0: it does not wait, and is not counted.

    Yields what tells how long it may wait from now on: what the block did before took time of the function, too.

    Raises:
        RateLimited: the account has as many as it may; the block did not begin.
    """
    if not seconds:
        yield lambda: 0.0
        return
    until = monotonic() + MOST_S
    with requests().held(user_id):
        yield lambda: max(0.0, min(seconds, until - monotonic()))
