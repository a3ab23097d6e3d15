"""Removes the runs of a deleted thread, in goes of bounded time, also while one of them still writes.

1. A run that is not over is asked to end; its writer alone knows what it has spent. One that has not ended
   `GRACE` after the request is ended by the next segment of its log, which its writer's next write then meets.
2. It is unlisted: its item refuses the id to another run, and its last segment refuses late writes.
3. Everything else of it is deleted.
4. When nothing that ran at the request can still write, what refused late writes goes, too.

Each step finds what the ones before it left, so a go that died is followed by another that finds less.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from karma.conversations.domain import ThreadChanged, ThreadKey
from karma.core.clock import Clock
from karma.core.ids import RunId
from karma.core.purge import PurgeAttempt
from karma.runs.attachment_repository import AttachmentRepository
from karma.runs.domain import TRANSITIONS, OwnershipLost, Run
from karma.runs.ending import cancel_lost
from karma.runs.holdings import free_place
from karma.runs.ports import Executions
from karma.runs.removal_repository import RemovedRun, RunRemovalRepository
from karma.runs.repository import RunRepository

GRACE: Final = timedelta(seconds=5)
"""Time that the writer of a run has to end it by itself: it reads wishes once a second."""
_REASON: Final = "Its thread was deleted"
_TRIES = 5


class RunsRemoval:
    """Removes the runs of deleted threads."""

    def __init__(
        self, *, store: RunRepository, removals: RunRemovalRepository, executions: Executions, clock: Clock
    ) -> None:
        self._store = store
        self._executions = executions
        self._removals = removals
        self._attachments = AttachmentRepository()
        self._clock = clock

    def remove(self, thread: ThreadKey, *, newest: RunId | None, purge: PurgeAttempt) -> bool:
        """Remove a thread's runs; True when nothing is left of them but what refuses late writes.

        After `purge.settled` that is removed, too. `newest` is as `Thread.last_run_id`.
        """
        if not all(self._each_ended(thread, newest, purge)):
            return False
        for found in self._removals.runs(thread, newest=newest):
            if purge.over():
                return False
            if not found.is_unlisted:
                self._removals.unlist(found.run, at=self._clock.now())
            # No writer of it is left, and its steps tell which attachments its subagents name.
            for attachment_id in self._removals.attachments(found.run.key):
                if purge.over():
                    return False
                self._attachments.release(thread, attachment_id)
            if not self._removals.empty(found.run.key, purge, keep_last=True):
                return False
        return not purge.settled or forget(self._removals, thread, purge)

    def _each_ended(self, thread: ThreadKey, newest: RunId | None, purge: PurgeAttempt) -> Iterator[bool]:
        for found in self._removals.runs(thread, newest=newest):
            yield not purge.over() and (found.is_unlisted or self._is_ended(found, purge))

    def _is_ended(self, found: RemovedRun, purge: PurgeAttempt) -> bool:
        run: Run | None = found.run
        for _ in range(_TRIES):
            tail = self._store.tail(found.run.key)
            if run is None or tail is None or not TRANSITIONS[run.status]:
                return True
            now = self._clock.now()
            if now < purge.requested_at + GRACE and not tail.is_expired(now):
                return False
            try:
                cancel_lost(self._store, tail, run, now, reason=_REASON)
            except (OwnershipLost, ThreadChanged):
                run = self._store.run(found.run.key)
                continue
            free_place(self._store, self._executions, tail, at=now)
            return True
        return False


def forget(removals: RunRemovalRepository, thread: ThreadKey, purge: PurgeAttempt) -> bool:
    """Delete the last that there is of a thread's unlisted runs; False when the time of `purge` ended before."""
    for keys in removals.unlisted(thread):
        if not all(removals.empty(key, purge, keep_last=False) for key in keys):
            return False
        removals.forget(keys)
    return True
