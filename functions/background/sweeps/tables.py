"""Sweeps that finish deletions and moves which requests have begun, and what waited too long; they reach tables."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.projects.repository.projects import ProjectRepository
from karma.projects.sweeps import finish_deletions as finish_deletions_of_projects
from karma.projects.sweeps import finish_moves as finish_moves_of_seats
from karma.runs.repository import RunRepository
from karma.runs.sweeps import end_expired_pauses
from karma.tasks.repository import TaskRepository
from karma.tasks.sweeps import finish_deletions as finish_deletions_of_tasks

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    work_table: str
    agents_table: str
    billing_table: str


@cache
def services() -> Sweeps:
    """Build the sweeps of this function, once a process."""
    bind_tables(load(Settings))
    projects, tasks, clock = ProjectRepository(), TaskRepository(), SystemClock()
    return {
        # Former members give their seats back; those of a project that another plan pays for move to that plan.
        "projects": lambda: finish_deletions_of_projects(projects, clock) + finish_moves_of_seats(projects, clock),
        "tasks": lambda: finish_deletions_of_tasks(tasks, clock),
        "runs": lambda: end_expired_pauses(RunRepository(), clock),
    }


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run one sweep."""
    return run(services(), event, context)
