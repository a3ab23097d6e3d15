"""Makes the segment of an account, when a query has asked for it.

A message names the segment that the new one is to replace, so one that comes again changes nothing. What was begun is
published on condition that nobody has begun another one since; one builder at a time does so, until its time is over.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Final

from karma.core.clock import Clock, epoch_ms
from karma.core.ids import UserId, new_id
from karma.core.observability import logger
from karma.search.domain import MAX_ROWS
from karma.search.ports import SearchRows
from karma.search.segments.domain import MAX_SEGMENT_ROWS, SegmentFacts
from karma.search.segments.ports import SegmentEngine, SegmentObjects

BUILD_TIME: Final = timedelta(minutes=5)
"""Time of the function in which a segment is made; nobody begins another one meanwhile."""


class BuildOutcome(StrEnum):
    """Outcome of a request for a segment."""

    PUBLISHED = "published"
    NOT_NEEDED = "not_needed"
    """Another one counts by now, or is being made, or the account is gone."""
    TOO_SMALL = "too_small"
    """The account has so few objects that it needs none; it has none any more."""
    OVERTAKEN = "overtaken"
    """Another one was begun meanwhile, or the account was deleted."""


class SegmentBuilder:
    """Makes segments."""

    def __init__(
        self, rows: SearchRows, engine: SegmentEngine, objects: SegmentObjects, clock: Clock, *, above: int = MAX_ROWS
    ) -> None:
        """Make the builder of segments for accounts with `above` so many objects."""
        self._rows = rows
        self._engine = engine
        self._objects = objects
        self._clock = clock
        self._above = above

    def build(self, owner: UserId, *, instead_of: str) -> BuildOutcome:
        """Make an account's segment in the place of another one; "": it has none.

        Raises:
            Upstream: the database or S3 does not answer; it may be asked for again, once its time is over.
        """
        now, segment_id = self._clock.now(), new_id()
        until = now + BUILD_TIME
        if not self._rows.begin_segment(owner, segment_id, instead_of=instead_of, now=now, until=until):
            return BuildOutcome.NOT_NEEDED
        # The journal is kept from here on, so whatever is stored later is in it.
        read_at, head = self._clock.now(), self._rows.head(owner)
        rows, is_complete = self._rows.newest(owner, most=MAX_SEGMENT_ROWS)
        if len(rows) <= self._above:
            return self._without(owner, segment_id)
        data, size = self._engine.build(rows)
        facts = SegmentFacts(
            id=segment_id,
            changes=head.changes,
            read_ms=epoch_ms(read_at),
            rows=len(rows),
            is_complete=is_complete,
            size=size,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        self._objects.put(owner, segment_id, data)
        if not self._rows.publish_segment(owner, facts):
            self._objects.remove(owner, segment_id)
            return BuildOutcome.OVERTAKEN
        logger.info("search.segment_published", user_id=owner, segment_id=segment_id, rows=len(rows), size=len(data))
        # Also those of builders that died, and no one that may still be published: that would have been begun later.
        self._objects.remove_older(owner, segment_id)
        return BuildOutcome.PUBLISHED

    def _without(self, owner: UserId, segment_id: str) -> BuildOutcome:
        if not self._rows.end_segments(owner, segment_id):
            return BuildOutcome.OVERTAKEN
        self._objects.remove_older(owner, segment_id)
        return BuildOutcome.TOO_SMALL
