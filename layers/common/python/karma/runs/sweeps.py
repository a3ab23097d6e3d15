"""Scheduled work on runs: ending those that were paused for longer than they may be."""

from __future__ import annotations

from typing import Final

from karma.core.clock import Clock
from karma.core.sweeping import sweep_each
from karma.runs.domain import RunKey
from karma.runs.ending import end_expired
from karma.runs.ports import Runs

RUNS_A_SWEEP: Final = 100


def end_expired_pauses(store: Runs, clock: Clock) -> int:
    """Cancel runs that nobody resumed in time, from the longest paused on; return how many were ended."""

    def end(key: RunKey) -> int:
        run = store.run(key)
        return run is not None and end_expired(store, run, clock.now())

    due = store.paused_before(clock.now(), limit=RUNS_A_SWEEP)
    return sweep_each("runs", due, end, name=lambda key: key.run_id, clock=clock)
