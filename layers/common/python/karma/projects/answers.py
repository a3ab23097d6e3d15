"""Answers of the project routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from pydantic import Field

from karma.core.clock import iso
from karma.projects.domain import MAX_PROGRESS, Invitation, Membership, Project, ProjectRole, ProjectStatus
from karma.projects.shares import DeviceShare


class ProjectView(TypedDict):
    """A project, as the caller sees it."""

    id: str
    name: str
    description: str | None
    status: ProjectStatus
    progress: Annotated[int, Field(ge=0, le=MAX_PROGRESS)]
    owner_id: str
    """Id of the owner of longest standing, who pays for its seats."""
    role: ProjectRole
    """Role of the caller in it."""
    created_at: str
    updated_at: str
    version: int


def project_view(project: Project, role: ProjectRole) -> ProjectView:
    """Return a project in the shape of the API, for a member of that role."""
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "status": project.status,
        "progress": project.progress,
        "owner_id": project.owner_id,
        "role": role,
        "created_at": iso(project.created_at),
        "updated_at": iso(project.updated_at),
        "version": project.version,
    }


class ProjectData(TypedDict):
    """`GET /projects/{project_id}`."""

    project: ProjectView


class ProjectListData(TypedDict):
    """`GET /projects`; `page` and `page_size` unless a cursor or an offset was given."""

    projects: list[ProjectView]
    total: int
    total_capped: bool
    """True: `total` stopped counting at 1,000."""
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class MemberView(TypedDict):
    """A membership."""

    project_id: str
    user_id: str
    role: ProjectRole
    joined_at: str
    version: int


def member_view(member: Membership) -> MemberView:
    """Return a membership in the shape of the API."""
    return {
        "project_id": member.project_id,
        "user_id": member.user_id,
        "role": member.role,
        "joined_at": iso(member.joined_at),
        "version": member.version,
    }


class MemberData(TypedDict):
    """`PATCH /projects/{project_id}/members/{user_id}`."""

    member: MemberView


class MemberListData(TypedDict):
    """`GET /projects/{project_id}/members`; `page` and `page_size` unless a cursor or an offset was given."""

    members: list[MemberView]
    total: int
    total_capped: bool
    """True: `total` stopped counting at 1,000."""
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class InvitationView(TypedDict):
    """An invitation, as those see it who manage the project's members."""

    id: str
    """User id of who is invited, or the SHA-256 of an e-mail address."""
    project_id: str
    user_id: str | None
    email: str | None
    role: ProjectRole
    invited_by: str
    invited_at: str
    expires_at: str
    declined: bool


def invitation_view(invitation: Invitation) -> InvitationView:
    """Return an invitation in the shape of the API, for those who manage the project's members."""
    return {
        "id": invitation.invitee,
        "project_id": invitation.project_id,
        "user_id": invitation.user_id,
        "email": invitation.email,
        "role": invitation.role,
        "invited_by": invitation.invited_by,
        "invited_at": iso(invitation.invited_at),
        "expires_at": iso(invitation.expires_at),
        "declined": invitation.declined,
    }


class InvitationData(TypedDict):
    """`POST /projects/{project_id}/invitations` by `user_id`."""

    invitation: InvitationView


class InvitationListData(TypedDict):
    """`GET /projects/{project_id}/invitations`."""

    invitations: list[InvitationView]
    total: int


class ReceivedInvitationView(TypedDict):
    """An invitation, as the invited person sees it."""

    project_id: str
    project_name: str
    role: ProjectRole
    invited_by: str
    invited_at: str
    expires_at: str


def received_invitation_view(invitation: Invitation, project: Project) -> ReceivedInvitationView:
    """Return an invitation in the shape of the API, for the invited person."""
    return {
        "project_id": invitation.project_id,
        "project_name": project.name,
        "role": invitation.role,
        "invited_by": invitation.invited_by,
        "invited_at": iso(invitation.invited_at),
        "expires_at": iso(invitation.expires_at),
    }


class ReceivedInvitationListData(TypedDict):
    """`GET /invitations`."""

    invitations: list[ReceivedInvitationView]
    total: int


class DeviceShareView(TypedDict):
    """A device that a project shows to its members."""

    project_id: str
    device_id: str
    owner_id: str
    shared_at: str


def device_share_view(share: DeviceShare) -> DeviceShareView:
    """Return a share of a device in the shape of the API."""
    return {
        "project_id": share.project_id,
        "device_id": share.device_id,
        "owner_id": share.owner_id,
        "shared_at": iso(share.shared_at),
    }


class DeviceShareData(TypedDict):
    """`POST /projects/{project_id}/devices`."""

    share: DeviceShareView


class DeviceShareListData(TypedDict):
    """`GET /devices/{device_id}/projects`."""

    shares: list[DeviceShareView]
    total: int
