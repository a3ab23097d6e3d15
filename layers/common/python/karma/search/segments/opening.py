"""Opens the segments that a process is asked for, and asks for those that there should be."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.observability import count, logger
from karma.search.segments.domain import SegmentFacts
from karma.search.segments.ports import Segment, SegmentEngine, SegmentObjects, SegmentRequests, SegmentUnusable

_ASKED_EVERY: Final = timedelta(minutes=1)
_KNOWN: Final = 1_000


class Segments:
    """Segments as a process has them. What it cannot have it tells nobody but the builder: a query goes on without."""

    def __init__(self, engine: SegmentEngine, objects: SegmentObjects, requests: SegmentRequests) -> None:
        self._engine = engine
        self._objects = objects
        self._requests = requests
        self._asked: dict[UserId, datetime] = {}
        self._unusable: dict[UserId, str] = {}

    def open(self, owner: UserId, facts: SegmentFacts, *, now: datetime) -> Segment:
        """Open an account's segment.

        Raises:
            SegmentUnusable: it is not there, or cannot be read; another one is asked for.
        """
        if self._unusable.get(owner) == facts.id:
            self.ask(owner, instead_of=facts.id, now=now)
            raise SegmentUnusable
        try:
            data = self._objects.read(owner, facts.id)
        except Upstream as exc:
            # It may be there, and is tried again by the next query.
            logger.warning("search.segment_unread", user_id=owner, segment_id=facts.id, cause=type(exc).__name__)
            raise SegmentUnusable from exc
        try:
            if data is None or hashlib.sha256(data).hexdigest() != facts.sha256:
                raise SegmentUnusable
            return self._engine.open(owner, data)
        except SegmentUnusable:
            self.give_up(owner, facts, now=now)
            raise

    def give_up(self, owner: UserId, facts: SegmentFacts, *, now: datetime) -> None:
        """Do without a segment that cannot be read, and ask for another one."""
        count("SegmentUnusable")
        logger.warning("search.segment_unusable", user_id=owner, segment_id=facts.id)
        if len(self._unusable) >= _KNOWN:
            self._unusable.clear()
        self._unusable[owner] = facts.id
        self.ask(owner, instead_of=facts.id, now=now)

    def ask(self, owner: UserId, *, instead_of: str, now: datetime) -> None:
        """Ask for a segment, once a minute at the most; where the queue does not answer, a later query asks."""
        asked = self._asked.get(owner)
        if asked is not None and now - asked < _ASKED_EVERY:
            return
        if len(self._asked) >= _KNOWN:
            self._asked.clear()
        try:
            self._requests.ask(owner, instead_of=instead_of)
        except Upstream as exc:
            logger.warning("search.segment_not_asked", user_id=owner, cause=type(exc).__name__)
            return
        self._asked[owner] = now
