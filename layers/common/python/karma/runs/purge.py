"""Deletes the runs and threads of a deleted account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from karma.conversations.domain import ThreadKey
from karma.conversations.purge import empty_thread, threads_of
from karma.core.clock import Clock
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import delete_keys, empty
from karma.core.ids import UserId, new_id
from karma.core.observability import logger
from karma.core.purge import PurgeAttempt
from karma.runs import events
from karma.runs.domain import ACTIVE, ERROR_MESSAGES, OwnershipLost, Run, RunEnd, RunErrorCode, RunStatus, Segment
from karma.runs.ending import opened, read_log
from karma.runs.items import HEAD, RunsItem, run_id_pk, run_pk, segment_sk, user_pk
from karma.runs.removal import forget
from karma.runs.removal_repository import RunRemovalRepository
from karma.runs.repository import RunRepository
from karma.runs.wishes import Wish

WRITER_LIFE = timedelta(minutes=16)
"""Time after a run's end during which its process may still try to write: Lambda gives one 15 minutes."""
_REASON = "Its account was deleted"
_PAGE = 100
_TRIES = 5


class KeptAttachments(Protocol):
    """The store of attachments; integrations.s3.S3Attachments implements it."""

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """Remove up to `limit` of a user's attachments and return their number; fewer than `limit`: none is left."""
        ...


class RunsPurge:
    """Ends an account's runs, then deletes their logs, threads and rows.

    Until the account has settled, a run that has just ended keeps its row and its last segment: a writer that does not
    know of the end yet fails, since a segment is put on condition that there is none of its number.
    """

    name = "runs"

    def __init__(self, *, store: RunRepository, attachments: KeptAttachments, clock: Clock) -> None:
        self._store = store
        self._attachments = attachments
        self._clock = clock
        self._removals = RunRemovalRepository()

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete an account's runs; True when nothing is left except items that refuse late writes."""
        # All are ended before the first is deleted: their tools use objects that other steps delete.
        return (
            self.end_runs(purge)
            and self._each(purge, self._remove)
            and self._remove_threads(purge)
            and self._remove_attachments(purge)
            and self._remove_counters(purge)
        )

    def end_runs(self, purge: PurgeAttempt) -> bool:
        """End an account's runs; False when the time of `purge` ended before, or one goes on. See `_end`."""
        return self._each(purge, self._end)

    def _each(self, purge: PurgeAttempt, step: Callable[[Run, PurgeAttempt], bool]) -> bool:
        start: dict[str, str] | None = None
        done = True
        while True:
            page = self._store.runs(purge.user_id, limit=_PAGE, start=start)
            for run in page.runs:
                if purge.over():
                    return False
                done = step(run, purge) and done
            start = page.last
            if start is None:
                return done

    def _end(self, listed: Run, _: PurgeAttempt) -> bool:
        """End a run that is running or paused; False when its writer was first each time, and still executes it.

        Its process is asked to stop, besides: it would meet the end at its next write alone, and one whose model says
        nothing writes every ten seconds.
        """
        if listed.status not in ACTIVE:
            return True
        if listed.status is not RunStatus.QUEUED:
            self._store.wish(listed.key, Wish.CANCEL, at=self._clock.now(), reason=_REASON)
        for _attempt in range(_TRIES):
            run, tail = self._store.run(listed.key), self._store.tail(listed.key)
            if run is None or tail is None or run.status not in ACTIVE:
                return True  # the index is behind
            try:
                self._take_over(run, tail)
            except OwnershipLost:
                continue
            logger.info("run.ended_with_account", run_id=run.key.run_id)
            return True
        return False

    def _take_over(self, run: Run, tail: Segment) -> None:
        code = RunErrorCode.OWNER_LOST
        told = events.run_error(message=ERROR_MESSAGES[code], code=code)
        now = self._clock.now()
        last = Segment(
            key=run.key,
            n=tail.n + 1,
            writer=new_id(),
            epoch=tail.epoch + 1,
            lease_until=now,
            events=tuple(event.data for event in (*opened(read_log(self._store, run.key)).ending(), told)),
            terminal=True,
        )
        how = RunEnd(status=RunStatus.FAILED, was=run.status, at=now, error_code=code.value)
        self._store.finish(last, how, thread=ThreadKey(run.key.user_id, run.thread_id))

    def _remove(self, run: Run, purge: PurgeAttempt) -> bool:
        now = self._clock.now()
        over_for_long = run.finished_at is not None and now - run.finished_at >= WRITER_LIFE
        tail = None if purge.settled or over_for_long else self._store.tail(run.key)
        keep = {HEAD, segment_sk(tail.n)} if tail else {HEAD}
        removed = self._remove_thread(ThreadKey(run.key.user_id, run.thread_id), purge) and empty(
            RunsItem, run_pk(run.key), purge, keep=keep
        )
        if not removed:
            return False
        keys = [Key(run_id_pk(run.key.run_id), user_pk(run.key.user_id))]
        if tail is None:
            # Last: other items of a run are found by its row.
            keys.append(Key(run_pk(run.key), HEAD))
        delete_keys(RunsItem, keys)
        return True

    def _remove_threads(self, purge: PurgeAttempt) -> bool:
        """Delete the threads that no listed run names: deleted ones, and those without a run."""
        return all(not purge.over() and self._remove_thread(key, purge) for key in threads_of(purge.user_id))

    def _remove_thread(self, key: ThreadKey, purge: PurgeAttempt) -> bool:
        # First what is found by the thread alone.
        return forget(self._removals, key, purge) and empty_thread(key, purge)

    def _remove_attachments(self, purge: PurgeAttempt) -> bool:
        """Delete the attachments of the conversations; all runs have ended, and store no more."""
        while not purge.over():
            if self._attachments.remove_all(purge.user_id, limit=_PAGE) < _PAGE:
                return True
        return False

    def _remove_counters(self, purge: PurgeAttempt) -> bool:
        return empty(RunsItem, user_pk(purge.user_id), purge)
