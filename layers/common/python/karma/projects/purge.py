"""The step of projects in the deletion of an account, run by functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.projects.repository.projects import ProjectRepository


def purge() -> PurgeStep:
    """Return the step that ends an account's memberships and invitations."""
    return ProjectRepository()
