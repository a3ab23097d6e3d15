"""Leases limit how many of something one holder may have open at once, over all processes.

A lease that nobody gives back, because its process died, expires at `until`; a holder stops by then,
or renews it before. karma.core.dynamo.leases stores them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from karma.core.records import Record


class Pool(Record):
    """A kind of lease, and the number of them that each holder may have at once."""

    name: str
    """Name in keys and metrics: lower case and `_`."""
    places: int
    longest: timedelta
    """Longest time from the start of a lease to its expiry."""
    widest: int = 0
    """Places of the holder that has most, where holders differ; 0: all have as many."""


class Lease(Record):
    """One place of a holder's pool, until it is given back or expires."""

    pool: Pool
    holder: str
    place: int
    until: datetime
    token: str
    """Unique to this lease, so that giving it back twice frees no later lease of the same place; that of a claimant is
    the same for all who take its place in one term."""
    before: str = ""
    """The lease of the same claimant that it took the place from, as it is stored; "": the place was free."""


class Claimant(Record):
    """Holds at most one place of a pool, and waits for one by its name where all are leased."""

    name: str
    """Sorts by whose turn comes first; has no `#`."""
    term: int
    """Counts up: a term has the place that an earlier one, or another process of its own, did not give back."""

    @property
    def token(self) -> str:
        """Return the token of its leases in this term, which `claimant_of` reads."""
        return f"{self.term}#{self.name}#"


def claimant_of(token: str) -> Claimant | None:
    """Return the claimant whose lease has a token; None: it is nobody's who can wait."""
    parts = token.split("#")
    return Claimant(parts[1], int(parts[0])) if len(parts) == 3 and not parts[2] and parts[0].isdigit() else None


class PoolIsFull(Exception):
    """All places of a holder are leased."""

    def __init__(self, free_at: datetime) -> None:
        """Make the error; `free_at` is when the first lease expires, if none is given back sooner."""
        super().__init__(f"every place is leased until {free_at.isoformat()}")
        self.free_at = free_at
