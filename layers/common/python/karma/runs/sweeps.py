"""Scheduled work on runs: ending those that were paused for longer than they may be."""

from __future__ import annotations

from typing import Final

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.runs.ending import end_expired
from karma.runs.ports import Runs

RUNS_A_SWEEP: Final = 100


def end_expired_pauses(store: Runs, clock: Clock) -> int:
    """Cancel runs that nobody resumed in time, from the longest paused on; return how many were ended.

    One that fails is logged, counted and left for next time.
    """
    ended = 0
    for key in store.paused_before(clock.now(), limit=RUNS_A_SWEEP):
        try:
            run = store.run(key)
            ended += run is not None and end_expired(store, run, clock.now())
        except Upstream as exc:
            logger.warning("sweep.run_left", run_id=key.run_id, cause=type(exc).__name__)
            count("RunSweepFailed")
    return ended
