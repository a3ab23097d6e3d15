"""Bodies of the project routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from karma.core.schemas import Body, Version, Whole, judged, left_out, line
from karma.identity.accounts import emails
from karma.projects.domain import (
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_PROGRESS,
    ProjectRole,
    ProjectStatus,
)

Name = Annotated[str, line(MAX_NAME_CHARS)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)]
Progress = Annotated[Whole, Field(ge=0, le=MAX_PROGRESS)]
"""Percent, 0 to 100."""


class CreateProjectRequest(Body):
    """A new project."""

    name: Name = Field(examples=["Greenhouse"])
    description: Description | None = None
    status: ProjectStatus = ProjectStatus.ACTIVE
    progress: Progress = 0


class ChangeProjectRequest(Body):
    """Changes of a project; absent fields stay as they are."""

    name: Name = left_out()
    description: Description | None = None
    """null removes it."""
    status: ProjectStatus = left_out()
    progress: Progress = left_out()
    version: Version | None = None
    """Of the project that was read; `If-Match` goes before it."""


class InviteRequest(Body):
    """Invitation of an account by its id, or of whoever proves an e-mail address."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    email: Annotated[str, StringConstraints(min_length=3, max_length=320), judged(emails.mailable)] | None = None
    """In place of `user_id`."""
    role: ProjectRole = ProjectRole.MEMBER

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return that somebody must be named, and in one way only."""
        named = [name for name in ("user_id", "email") if given.get(name) is not None]
        if len(named) > 1:
            return [("email", "not together with user_id")]
        return () if named else [("user_id", "is required, or email")]


class ChangeMemberRequest(Body):
    """A member's new role."""

    role: ProjectRole
    version: Version | None = None
    """Of the membership that was read; `If-Match` goes before it."""


class ShowDeviceRequest(Body):
    """A device that a project is to show to its members."""

    device_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
