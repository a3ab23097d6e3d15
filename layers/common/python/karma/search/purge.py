"""The step of search in the deletion of an account: functions/background/deletion.py gives it what it reaches."""

from __future__ import annotations

from typing import Final

from karma.core.purge import PurgeAttempt
from karma.search.repository import SearchRepository
from karma.search.segments.ports import SegmentObjects

_OBJECTS: Final = 100


class SearchPurge:
    """Removes an account's rows and segments."""

    name = "search"

    def __init__(self, rows: SearchRepository, objects: SegmentObjects) -> None:
        self._rows = rows
        self._objects = objects

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove all of it; True when it is done.

        The head goes first, without which no segment counts. One that is still being made is removed by whoever makes
        it, or, where that one dies, when all steps look again: a builder has no more than five minutes.

        Raises:
            Upstream: S3 or the database did not answer.
        """
        if not self._rows.purge_account(purge):
            return False
        while self._objects.remove_all(purge.user_id, limit=_OBJECTS) == _OBJECTS:
            if purge.over():
                return False
        return True
