"""Controls runs that go on: a request of their owner's cancels them.

Nobody but the process that executes a run writes to its log while its lease lasts. A request so leaves a wish beside
the log, which that process reads twice a second. Where the lease is over (the process is lost, or has handed the run
over and no other has begun), the request writes the end itself, behind the last segment and on condition that nobody
else did. Whichever process takes the run over reads the wishes first:

    request    1. wish    2. read the last segment    3. lease over: write the end, unless another process wrote first
    process    1. take over by the next segment       2. read the wishes, at once and twice a second

Whatever their order, one of the two sees the other. A run that ends by itself before its wish is heard stays as it
ended.
"""

from __future__ import annotations

import time

from karma.core.clock import Clock
from karma.core.ids import RunId, UserId
from karma.runs.domain import ENGINE_SCHEMA, OwnershipLost, Run, RunHasEnded, RunStatus, Wish
from karma.runs.ending import cancel_lost
from karma.runs.ports import Runs
from karma.runs.reading import RunReader

_TRIES = 3
_POLL_S = 0.25


class RunControl:
    """Controls the runs of one owner at a time."""

    def __init__(self, store: Runs, clock: Clock) -> None:
        self._store = store
        self._reader = RunReader(store)
        self._clock = clock

    def cancel(self, user_id: UserId, run_id: RunId, *, reason: str = "") -> Run:
        """Cancel a run, and return it as it is then: cancelled, or still running while its process stops it.

        A repeat changes nothing, and the first reason stays.

        Raises:
            NotFound: the user has no such run.
            RunHasEnded: the run has ended otherwise.
        """
        run = self._reader.get(user_id, run_id)
        if run.status is RunStatus.RUNNING:
            if self._store.wish(run.key, Wish.CANCEL, at=self._clock.now(), reason=reason):
                self._end_unless_executed(run)
            run = self._reader.get(user_id, run_id)
        if run.status not in {RunStatus.RUNNING, RunStatus.CANCELLED}:
            raise RunHasEnded(run)
        return run

    def settled(self, run: Run, *, within_s: float) -> Run:
        """Wait, blocking, for the end of a run that is being cancelled; return it as it is then, or after that time."""
        left_s = within_s
        while run.status is RunStatus.RUNNING and left_s > 0:
            time.sleep(_POLL_S)
            left_s -= _POLL_S
            run = self._reader.get(run.key.user_id, run.key.run_id)
        return run

    def _end_unless_executed(self, run: Run) -> None:
        """End a run whose lease is over; one that a process executes, or that a newer release began, is left to it."""
        if run.engine_schema > ENGINE_SCHEMA:
            return
        for _ in range(_TRIES):
            tail, now = self._store.tail(run.key), self._clock.now()
            if tail is None or tail.terminal or not tail.is_expired(now):
                return
            reason = self._store.wishes(run.key).get(Wish.CANCEL, "")
            try:
                cancel_lost(self._store, tail, run, now, reason=reason)
            except OwnershipLost:
                continue  # another process wrote first: it has ended the run, or takes it over
            return
