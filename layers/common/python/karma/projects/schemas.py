"""Bodies and answers of the project routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.schemas import Body, Data, Version, Whole, left_out
from karma.projects.domain import (
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_PROGRESS,
    ProjectRole,
    ProjectStatus,
)

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$"),
]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)]
Progress = Annotated[Whole, Field(ge=0, le=MAX_PROGRESS)]
"""Percent."""


class CreateProjectRequest(Body):
    """A new project."""

    name: Name = Field(examples=["Greenhouse"])
    description: Description | None = None
    status: ProjectStatus = ProjectStatus.ACTIVE
    progress: Progress = 0


class ChangeProjectRequest(Body):
    """What changes; what is absent stays."""

    name: Name = left_out()
    description: Description | None = None
    """null removes it."""
    status: ProjectStatus = left_out()
    progress: Progress = left_out()
    version: Version | None = None
    """Of the project that was read; `If-Match` goes before it."""


class InviteRequest(Body):
    """Who is asked: an account by its id, or whoever proves an address."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    email: Annotated[str, StringConstraints(min_length=3, max_length=320)] | None = None
    """In place of `user_id`."""
    role: ProjectRole = ProjectRole.MEMBER


class ChangeMemberRequest(Body):
    """A member's new role."""

    role: ProjectRole
    version: Version | None = None
    """Of the membership that was read; `If-Match` goes before it."""


class ProjectView(Data):
    """A project, as the caller sees it."""

    id: str
    name: str
    description: str | None
    status: ProjectStatus
    progress: Annotated[int, Field(ge=0, le=MAX_PROGRESS)]
    owner_id: str
    """The owner of longest standing, whom usage is billed to."""
    role: ProjectRole
    """The caller's."""
    created_at: str
    updated_at: str
    version: int


class ProjectData(Data):
    """`GET /projects/{project_id}`."""

    project: ProjectView


class ProjectListData(Data):
    """`GET /projects`; `page` and `page_size` unless a cursor or an offset was given."""

    projects: list[ProjectView]
    total: int
    total_capped: bool
    """Whether `total` stopped counting at 1,000."""
    limit: int
    next_cursor: str | None
    page: int | None = None
    page_size: int | None = None


class MemberView(Data):
    """A membership."""

    project_id: str
    user_id: str
    role: ProjectRole
    joined_at: str
    version: int


class MemberData(Data):
    """`PATCH /projects/{project_id}/members/{user_id}`."""

    member: MemberView


class MemberListData(Data):
    """`GET /projects/{project_id}/members`; `page` and `page_size` unless a cursor or an offset was given."""

    members: list[MemberView]
    total: int
    total_capped: bool
    """Whether `total` stopped counting at 1,000."""
    limit: int
    next_cursor: str | None
    page: int | None = None
    page_size: int | None = None


class InvitationView(Data):
    """An invitation, as those see it who manage the project's members."""

    id: str
    """A user id, or the SHA-256 of an address."""
    project_id: str
    user_id: str | None
    email: str | None
    role: ProjectRole
    invited_by: str
    invited_at: str
    expires_at: str
    declined: bool


class InvitationData(Data):
    """`POST /projects/{project_id}/invitations` by `user_id`."""

    invitation: InvitationView


class InvitationListData(Data):
    """`GET /projects/{project_id}/invitations`."""

    invitations: list[InvitationView]
    total: int


class ReceivedInvitationView(Data):
    """An invitation, as whoever is asked sees it."""

    project_id: str
    project_name: str
    role: ProjectRole
    invited_by: str
    invited_at: str
    expires_at: str


class ReceivedInvitationListData(Data):
    """`GET /invitations`."""

    invitations: list[ReceivedInvitationView]
    total: int
