"""Leases: how many of something one holder may have open at once, over all processes.

A lease that nobody gives back, because its process died, ends by itself at `until`; whoever holds one longer than that
has to stop by then. karma.core.dynamo.leases keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Pool:
    """So many leases at once for each holder."""

    name: str
    """Lower case and `_`: it stands in keys and metrics."""
    places: int
    longest: timedelta
    """No lease is longer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One place of a holder's pool, until it is given back or its time is over."""

    pool: Pool
    holder: str
    place: int
    until: datetime
    token: str
    """Unlike that of every other lease, so that giving one back twice frees nobody else's."""


class PoolIsFull(Exception):
    """Every place of a holder is leased."""

    def __init__(self, free_at: datetime) -> None:
        """`free_at`: when the first lease ends by itself, if none is given back sooner."""
        super().__init__(f"every place is leased until {free_at.isoformat()}")
        self.free_at = free_at
