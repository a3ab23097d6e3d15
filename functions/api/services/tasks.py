"""Services of tasks and subtasks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.tasks.service import TaskService


@cache
def service() -> TaskService:
    """Return the service of tasks."""
    from karma.tasks.repository import TaskRepository
    from karma.tasks.service import TaskService

    return TaskService(TaskRepository(), clock())
