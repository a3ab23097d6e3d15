"""Facts of a segment, and when there is to be another one. Frozen; no I/O."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from karma.core.records import Record

MAX_SEGMENT_ROWS: Final = 500_000
"""Objects of an account that are in its segment: the newest ones."""
JOURNAL_KEPT: Final = timedelta(days=3)
"""Time for which it is known what has changed behind a segment."""
MAX_AGE: Final = timedelta(days=2)
"""Age from which on a segment is not used: what has changed behind it may be forgotten soon."""
RENEWED_AFTER: Final = timedelta(days=1)
"""Age at which another one is asked for."""
MAX_CHANGED: Final = 20_000
"""Rows that have changed behind a segment up to which it is used."""
_RENEWED_FROM: Final = 1_000
_RENEWED_SHARE: Final = 50


class SegmentFacts(Record, kw_only=True):
    """A segment as the head of its account names it."""

    id: str
    """Ids of later segments are greater."""
    changes: int
    """Version of the account's rows (its head's number of changes) that are all in it: later ones may be."""
    read_ms: int
    """Moment before its rows were read; what was written later is in the journal, and may be in it."""
    rows: int
    is_complete: bool
    """False: the account has older objects."""
    size: int
    """Bytes of its files."""
    sha256: str
    """Of the object in S3."""

    def is_usable(self, now: datetime) -> bool:
        """Tell whether all that has changed behind it is known."""
        return now.timestamp() * 1000 - self.read_ms < MAX_AGE / timedelta(milliseconds=1)

    def should_be_renewed(self, now: datetime, *, changed: int) -> bool:
        """Tell whether another one is worth its cost, by the rows that have changed behind it."""
        age = timedelta(milliseconds=now.timestamp() * 1000 - self.read_ms)
        return changed > max(_RENEWED_FROM, self.rows // _RENEWED_SHARE) or (changed > 0 and age > RENEWED_AFTER)
