"""Leases limit how many of something one holder may have open at once, over all processes.

A lease that nobody gives back, because its process died, expires at `until`; a holder must stop by then.
karma.core.dynamo.leases stores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Pool:
    """A kind of lease, and the number of them that each holder may have at once."""

    name: str
    """Name in keys and metrics: lower case and `_`."""
    places: int
    longest: timedelta
    """Longest time from the start of a lease to its expiry."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One place of a holder's pool, until it is given back or expires."""

    pool: Pool
    holder: str
    place: int
    until: datetime
    token: str
    """Unique to this lease, so that giving it back twice frees no later lease of the same place."""


class PoolIsFull(Exception):
    """All places of a holder are leased."""

    def __init__(self, free_at: datetime) -> None:
        """Make the error; `free_at` is when the first lease expires, if none is given back sooner."""
        super().__init__(f"every place is leased until {free_at.isoformat()}")
        self.free_at = free_at
