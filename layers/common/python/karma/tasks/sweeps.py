"""Scheduled work on tasks: finishing deletions that a crash interrupted."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.tasks.ports import Tasks

GRACE: Final = timedelta(minutes=2)
"""Age of a deletion before a sweep finishes it, longer than any request takes."""
TASKS_A_SWEEP: Final = 100


def finish_deletions(store: Tasks, clock: Clock) -> int:
    """Delete the remaining data of deleted tasks, from the oldest on; return how many were finished.

    One that fails is logged, counted and left for next time.
    """
    done = 0
    for gone in store.gone(before=clock.now() - GRACE, limit=TASKS_A_SWEEP):
        try:
            store.remove(gone)
            done += 1
        except Upstream as exc:
            logger.warning("sweep.task_left", task_id=gone.task_id, cause=type(exc).__name__)
            count("TaskSweepFailed")
    return done
