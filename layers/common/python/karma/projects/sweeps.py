"""The scheduled sweep of projects: finishes deletions and moves of seats that requests have begun and not ended.

Called every minute; each call does a bounded amount of work and may be repeated.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.core.clock import Clock
from karma.core.ids import ProjectId
from karma.core.sweeping import sweep_each
from karma.projects.ports import Projects

GRACE: Final = timedelta(minutes=2)
"""Time before the sweep goes on with what a request began; longer than a request may take."""
PROJECTS_A_SWEEP: Final = 20
MEMBERSHIPS_A_PROJECT: Final = 5_000


def finish_deletions(store: Projects, clock: Clock) -> int:
    """Go on with deleted projects; return how many are finished."""

    def go_on(project_id: ProjectId) -> int:
        return store.finish_delete(project_id, most=MEMBERSHIPS_A_PROJECT)

    due = store.unfinished(before=clock.now() - GRACE, limit=PROJECTS_A_SWEEP)
    return sweep_each("projects", due, go_on, name=str, clock=clock)


def finish_moves(store: Projects, clock: Clock) -> int:
    """Go on with projects whose seats move to another plan; return how many are done."""

    def go_on(project_id: ProjectId) -> int:
        return store.move_seats(project_id, most=MEMBERSHIPS_A_PROJECT)

    due = store.unmoved(before=clock.now() - GRACE, limit=PROJECTS_A_SWEEP)
    return sweep_each("seats", due, go_on, name=str, clock=clock)
