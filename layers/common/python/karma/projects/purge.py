"""The step of projects in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import Step
from karma.projects.repository import ProjectRepository


def purge() -> Step:
    """Offer the end of memberships and invitations."""
    return ProjectRepository()
