"""Items of projects in the table `work`, and their conversion to and from domain objects.

| item | pk | sk | gsi1pk | gsi1sk |
| --- | --- | --- | --- | --- |
| project | PROJECT#<id> | PROJECT | - | - |
| one whose seats move to another plan | PROJECT#<id> | PROJECT | PROJECTS#MOVING | <moment>#<id> |
| its tombstone | PROJECT#<id> | PROJECT | PROJECTS#DELETING | <moment>#<id> |
| membership | PROJECT#<id> | MEMBER#<user> | USER#<user> | PROJECT#<id> |
| invitation to an account | PROJECT#<id> | INVITE#<user> | USER#<user> | INVITE#<id> |
| invitation to an address | PROJECT#<id> | INVITE#<sha256> | INVITED#<sha256> | INVITE#<id> |
| when somebody left or declined | PROJECT#<id> | LEFT#<user> | USER#<user> | LEFT#<id> |
| an invitation, by who made it | USER#<user> | INVITED#<project>#<invitee> | - | - |
| what an Idempotency-Key made | USER#<user> | REQUEST#<token> | - | - |

A membership is one item: by its key in the project, by its index key in the person's list. Ids sort by time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import ProjectId, UserId
from karma.projects.domain import Invitation, Membership, Part, Project, ProjectRole, ProjectStatus

_PROJECT: Final = "PROJECT"
_SHARES: Final = "SHARES"
PROJECT_PREFIX: Final = "PROJECT#"
MEMBER_PREFIX: Final = "MEMBER#"
DELETING: Final = "PROJECTS#DELETING"
"""Partition of gsi1 with the tombstones, by the moment of deletion."""
MOVING: Final = "PROJECTS#MOVING"
"""Partition of gsi1 with the projects whose seats are moving to another plan, by when that began."""
INVITE_PREFIX: Final = "INVITE#"
INVITED_PREFIX: Final = "INVITED#"
LEFT_PREFIX: Final = "LEFT#"
DEVICE_PREFIX: Final = "DEVICE#"


class ProjectsItem(Item):
    """Base of the items of projects in the table `work`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "work"


class ProjectItem(ProjectsItem, discriminator="project"):
    """A project."""

    project_id = UnicodeAttribute()
    name = UnicodeAttribute()
    description = UnicodeAttribute(null=True)
    status = UnicodeAttribute()
    progress = NumberAttribute()
    owners = JSONAttribute()
    """User ids, in the order in which they became owners."""
    deleting_at = UnicodeAttribute(null=True)
    """Moment of deletion; null: not deleted."""


class MemberItem(ProjectsItem, discriminator="project_member"):
    """A membership; `created_at` is when the person joined."""

    project_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    role = UnicodeAttribute()
    accepted_at = UnicodeAttribute(null=True)
    changed_at = UnicodeAttribute(null=True)
    seat_of = UnicodeAttribute(null=True)


class SharesItem(ProjectsItem, discriminator="project_shares"):
    """Number of changes of the devices that a project shows, which is the item's version: devices.py."""

    project_id = UnicodeAttribute()


class LeftItem(ProjectsItem, discriminator="project_left"):
    """Moment at which a membership ended or an invitation was declined, kept while an earlier one could be accepted."""

    user_id = UnicodeAttribute()
    left_at = UnicodeAttribute()
    refused_until = UnicodeAttribute(null=True)


class InvitationItem(ProjectsItem, discriminator="project_invitation"):
    """An invitation; `created_at` is when the person was asked last."""

    project_id = UnicodeAttribute()
    user_id = UnicodeAttribute(null=True)
    email = UnicodeAttribute(null=True)
    role = UnicodeAttribute()
    invited_by = UnicodeAttribute()
    invited_at = UnicodeAttribute()
    valid_until = UnicodeAttribute()
    declined_at = UnicodeAttribute(null=True)


class InvitedItem(ProjectsItem, discriminator="project_invited"):
    """Reference from an inviter to an invitation, for the deletion of the inviter's account."""


class ProjectRequestItem(RequestAttributes, ProjectsItem, discriminator="project_request"):
    """Project that a request with an Idempotency-Key has created."""


def project_key(project_id: ProjectId) -> Key:
    """Return the key of a project."""
    return Key(f"{PROJECT_PREFIX}{project_id}", _PROJECT)


def member_key(project_id: ProjectId, user_id: UserId) -> Key:
    """Return the key of a membership."""
    return Key(f"{PROJECT_PREFIX}{project_id}", f"{MEMBER_PREFIX}{user_id}")


def shares_key(project_id: ProjectId) -> Key:
    """Return the key of the item that counts the changes of the devices that a project shows."""
    return Key(f"{PROJECT_PREFIX}{project_id}", _SHARES)


def left_key(project_id: ProjectId, user_id: UserId) -> Key:
    """Return the key of the item with the moment at which a membership ended."""
    return Key(f"{PROJECT_PREFIX}{project_id}", f"{LEFT_PREFIX}{user_id}")


def invitation_key(project_id: ProjectId, invitee: str) -> Key:
    """Return the key of an invitation."""
    return Key(f"{PROJECT_PREFIX}{project_id}", f"{INVITE_PREFIX}{invitee}")


def invited_key(user_id: UserId, project_id: str, invitee: str) -> Key:
    """Return the key of the item by which an inviter's invitations are found."""
    return Key(user_pk(user_id), f"{INVITED_PREFIX}{project_id}#{invitee}")


def address_pk(digest: str) -> str:
    """Return the index partition of the invitations to an e-mail address, by its SHA-256."""
    return f"{INVITED_PREFIX}{digest}"


def user_pk(user_id: UserId) -> str:
    """Return the partition of a person's requests, and of the index with their memberships."""
    return f"USER#{user_id}"


def tombstone_of(item: ProjectItem) -> ProjectId | None:
    """Return the id of the deleted project whose tombstone an item is; None: it is no tombstone."""
    project_id = ProjectId(item.project_id)
    return project_id if item.deleting_at and item.key == project_key(project_id) else None


def moving_of(item: ProjectItem) -> ProjectId | None:
    """Return the id of the project if its seats are moving to another plan; None: they are not."""
    project_id = ProjectId(item.project_id)
    return project_id if item.key == project_key(project_id) else None


def project_item(project: Project) -> ProjectItem:
    """Return a project as it is stored."""
    values: dict[str, Any] = {
        "project_id": project.id,
        "name": project.name,
        "description": project.description,
        "status": project.status.value,
        "progress": project.progress,
        "owners": list(project.owners),
    }
    return ProjectItem(
        *project_key(project.id), **values, created_at=iso(project.created_at), updated_at=iso(project.updated_at)
    )


def project_of(item: ProjectItem) -> Project:
    """Return a project as stored."""
    return Project(
        id=ProjectId(item.project_id),
        name=item.name,
        description=item.description,
        status=ProjectStatus(item.status),
        progress=int(item.progress),
        owners=tuple(UserId(owner) for owner in item.owners),
        deleting=item.deleting_at is not None,
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )


def member_item(member: Membership) -> MemberItem:
    """Return a membership as it is stored."""
    joined = iso(member.joined_at)
    return MemberItem(
        *member_key(member.project_id, member.user_id),
        project_id=member.project_id,
        user_id=member.user_id,
        role=member.role.value,
        accepted_at=iso(member.accepted_at) if member.accepted_at else None,
        changed_at=iso(member.changed_at) if member.changed_at else None,
        seat_of=member.seat_of,
        created_at=joined,
        updated_at=joined,
        gsi1pk=user_pk(member.user_id),
        gsi1sk=f"{PROJECT_PREFIX}{member.project_id}",
    )


def member_of(item: MemberItem) -> Membership:
    """Return a membership as stored."""
    return Membership(
        project_id=ProjectId(item.project_id),
        user_id=UserId(item.user_id),
        role=ProjectRole(item.role),
        joined_at=parse_iso(item.created_at or ""),
        accepted_at=parse_iso(item.accepted_at) if item.accepted_at else None,
        seat_of=UserId(item.seat_of) if item.seat_of else None,
        changed_at=parse_iso(item.changed_at) if item.changed_at else None,
        version=int(item.version),
    )


def part_of(member: ProjectsItem | None, left: ProjectsItem | None) -> Part:
    """Return a person's past and present in a project, from the two items that hold it."""
    return Part(
        member=member_of(member) if isinstance(member, MemberItem) else None,
        left_at=parse_iso(left.left_at) if isinstance(left, LeftItem) else None,
        refused_until=parse_iso(left.refused_until) if isinstance(left, LeftItem) and left.refused_until else None,
    )


def invitation_of(item: InvitationItem) -> Invitation:
    """Return an invitation as stored."""
    return Invitation(
        project_id=ProjectId(item.project_id),
        user_id=UserId(item.user_id) if item.user_id else None,
        email=item.email,
        role=ProjectRole(item.role),
        invited_by=UserId(item.invited_by),
        invited_at=parse_iso(item.invited_at),
        expires_at=parse_iso(item.valid_until),
        declined=item.declined_at is not None,
    )


def deletion(moment: datetime) -> int:
    """Return the epoch second after which DynamoDB may delete an item that expires at `moment`."""
    return epoch_ms(moment) // 1000
