"""Token buckets limit how often somebody may do something, and tell when they may again.

A bucket is one number, the moment at which it will be full again (GCRA's "theoretical arrival time", ITU-T I.371): a
request moves it one interval ahead and is allowed unless that takes it further ahead than the bucket is large. So
there is nothing to refill, an absent bucket is a full one, and one conditional write decides (core/dynamo/buckets.py).
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

from karma.core.clock import epoch_ms
from karma.core.records import Record

_MILLISECOND = timedelta(milliseconds=1)
_IPV6_PREFIX = 64
_MAX_LOCAL = 10_000


class Limit(Record):
    """`amount` requests at once, and as many again spread over `per`."""

    name: str
    """Name in keys, headers and metrics: lower case and `_`."""
    amount: int
    per: timedelta

    @cached_property
    def interval_ms(self) -> int:
        """Milliseconds until the place of one request is free again."""
        return max(1, self.per // _MILLISECOND // self.amount)

    @cached_property
    def size_ms(self) -> int:
        """Milliseconds by which the moment at which the bucket is full may be ahead of now."""
        return self.amount * self.interval_ms


class Decision(Record):
    """Answer of a bucket to one request."""

    limit: Limit
    allowed: bool
    remaining: int
    """Requests that would be allowed now."""
    wait_s: int
    """Whole seconds until a request is allowed; 0 while some remain."""
    full_s: int
    """Whole seconds until the bucket is full again."""

    @classmethod
    def of(cls, limit: Limit, *, full_at_ms: int, now_ms: int, allowed: bool) -> Decision:
        """Describe a bucket as it is after the decision."""
        ahead_ms = max(0, full_at_ms - now_ms)
        remaining = max(0, (limit.size_ms - ahead_ms) // limit.interval_ms)
        wait_ms = 0 if remaining else ahead_ms - (limit.amount - 1) * limit.interval_ms
        return cls(limit, allowed, remaining, math.ceil(wait_ms / 1000), math.ceil(ahead_ms / 1000))

    def headers(self) -> Iterator[tuple[str, str]]:
        """Yield `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers, 8 and later)."""
        name = f'"{self.limit.name}"'
        yield "RateLimit-Policy", f"{name};q={self.limit.amount};w={math.ceil(self.limit.per.total_seconds())}"
        yield "RateLimit", f"{name};r={self.remaining};t={self.full_s if self.remaining else self.wait_s}"


class Buckets(Protocol):
    """A store of buckets."""

    def take(self, limit: Limit, key: str, *, now: datetime) -> Decision:
        """Take one request out of the bucket of `key`, which may be any text, if it has one."""
        ...

    def give_back(self, limit: Limit, key: str, *, now: datetime) -> None:
        """Put one request back; a full bucket stays as it is."""
        ...


class LocalBuckets:
    """Buckets of this process alone, the 10,000 used last: without I/O, but each process counts for itself."""

    def __init__(self) -> None:
        self._full_at_ms: OrderedDict[tuple[str, str], int] = OrderedDict()

    def take(self, limit: Limit, key: str, *, now: datetime) -> Decision:
        """Take one request out of the bucket of `key`, as `Buckets.take` does."""
        now_ms = epoch_ms(now)
        place = (limit.name, key)
        before = max(now_ms, self._full_at_ms.get(place, 0))
        allowed = before <= latest_ms(limit, now_ms)
        after = before + limit.interval_ms if allowed else before
        self._full_at_ms[place] = after
        self._full_at_ms.move_to_end(place)
        if len(self._full_at_ms) > _MAX_LOCAL:
            self._full_at_ms.popitem(last=False)
        return Decision.of(limit, full_at_ms=after, now_ms=now_ms, allowed=allowed)

    def give_back(self, limit: Limit, key: str, *, now: datetime) -> None:
        """Put one request back, as `Buckets.give_back` does."""
        place = (limit.name, key)
        if self._full_at_ms.get(place, 0) > epoch_ms(now):
            self._full_at_ms[place] -= limit.interval_ms


def latest_ms(limit: Limit, now_ms: int) -> int:
    """Return the latest moment, in epoch milliseconds, at which a bucket with room for one request is full again."""
    return now_ms + limit.size_ms - limit.interval_ms


def network_of(address: str | None) -> str:
    """Name the network that an IP address is counted as: IPv4 by address, IPv6 by /64, the share of one customer.

    Texts that are no address share the name "unknown".
    """
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _IPV6_PREFIX), strict=False))
