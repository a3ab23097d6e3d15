"""The step of tasks in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.tasks.repository import TaskRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's tasks and subtasks."""
    return TaskRepository()
