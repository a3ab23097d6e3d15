"""Scheduled work on tasks: finishing deletions that a crash interrupted."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.core.clock import Clock
from karma.core.sweeping import sweep_each
from karma.tasks.ports import GoneTask, Tasks

GRACE: Final = timedelta(minutes=2)
"""Age of a deletion before a sweep finishes it, longer than any request takes."""
TASKS_A_SWEEP: Final = 100


def finish_deletions(store: Tasks, clock: Clock) -> int:
    """Delete the remaining data of deleted tasks, from the oldest on; return how many were finished."""

    def remove(gone: GoneTask) -> int:
        store.remove(gone)
        return 1

    due = store.gone(before=clock.now() - GRACE, limit=TASKS_A_SWEEP)
    return sweep_each("tasks", due, remove, name=lambda gone: gone.task_id, clock=clock)
