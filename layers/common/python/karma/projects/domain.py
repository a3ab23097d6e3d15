"""What a project and its members are: closed sets, limits, and who owns.

Project   active | paused | completed | archived     status: from any to any, as its members say
          it is there -> deleting -> (gone)          life: a tombstone first, then its memberships go, then it goes

Invitation pending -> (accepted: gone, a membership in its place) | declined | (withdrawn: gone)
           after `INVITATION_TTL` it is over, whatever became of it; a declined one stays until then, so that "no" holds
           it is void for a person whose part in the project was decided since it was made: they joined, got another
           role, left or were removed. What was decided last holds, whatever was offered before

A project has one owner or more. The one of longest standing is its `owner_id`, whom its usage is billed to. Nobody
becomes a member, or an owner, but by accepting an invitation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from karma.core.errors import Conflict, StaleVersion
from karma.core.ids import ProjectId, UserId
from karma.identity.accounts import emails

MAX_NAME_CHARS: Final = 255
MAX_DESCRIPTION_CHARS: Final = 5_000
"""A page of a hundred stays below what one answer may have, whatever the characters."""
MAX_PROGRESS: Final = 100
INVITATION_TTL: Final = timedelta(days=14)
MAX_INVITATIONS: Final = 100
"""Of a project, at one time."""
MAX_OWNERS: Final = 10
"""All owners stand in the project's item, and let go of it in the transaction that deletes it."""


class ProjectStatus(StrEnum):
    """How the work goes."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class ProjectRole(StrEnum):
    """What a member is; permissions.py says what each may do."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class LastOwnerStays(Conflict):
    """A project is never without an owner: another member becomes one first, or the project is deleted."""

    code = "LAST_OWNER"


class TooManyOwners(Conflict):
    """The project has as many owners as a project may have."""

    code = "TOO_MANY_OWNERS"


class ConsentNeeded(Conflict):
    """Nobody is made an owner: they are invited, and accept."""

    code = "CONSENT_NEEDED"


class InvitationDeclined(Conflict):
    """Who was invited said no; until that invitation is over they are not asked again."""

    code = "INVITATION_DECLINED"


class TooManyInvitations(Conflict):
    """The project has as many open invitations as a project may have."""

    code = "TOO_MANY_INVITATIONS"


class ProjectChanged(StaleVersion):
    """Another request changed the project, the member or the caller's role since they were read: read them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project."""

    id: ProjectId
    name: str
    description: str | None
    status: ProjectStatus
    progress: int
    """Percent."""
    owners: tuple[UserId, ...]
    """In the order in which they became owners; never empty."""
    deleting: bool = False
    """Its tombstone: shown to nobody."""
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def owner_id(self) -> UserId:
        """The owner of longest standing."""
        return self.owners[0]

    def payer_of(self, user_id: UserId) -> UserId | None:
        """Return in whose plan a member has a seat; None for the owner who pays, who needs none."""
        return self.owner_id if user_id != self.owner_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A person's part in a project; there is one for each pair of them."""

    project_id: ProjectId
    user_id: UserId
    role: ProjectRole
    joined_at: datetime
    accepted_at: datetime | None = None
    """When the person said yes to this role; None: before anybody was asked."""
    seat_of: UserId | None = None
    """In whose plan the person has a seat by this membership; None: in nobody's, such as the owner who pays."""
    changed_at: datetime | None = None
    """When it was changed last; None: not since the person joined."""
    version: int

    def has_consented(self, project: Project) -> bool:
        """Tell whether the person chose to be here: they accepted, or made the project."""
        return self.accepted_at is not None or self.joined_at == project.created_at

    @property
    def decided_at(self) -> datetime:
        """When it became what it is."""
        return self.changed_at or self.joined_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a person has to do with a project by now."""

    member: Membership | None = None
    left_at: datetime | None = None
    """When a membership ended, by the member or by somebody else, or the person declined; kept for as long as an
    invitation of before lasts."""
    refused_until: datetime | None = None
    """Until when the person is not asked again, by whichever address or id, because they declined."""

    def is_refused(self, now: datetime) -> bool:
        """Tell whether the person said no, and that still holds."""
        return self.refused_until is not None and now < self.refused_until

    def is_open(self, invitation: Invitation, now: datetime) -> bool:
        """Tell whether the person can accept an invitation to them, and has something to gain by it.

        What was decided about the person after it was made voids it, by whichever address or id it reaches them.
        """
        since = self.member.decided_at if self.member else self.left_at
        if self.is_refused(now) or not invitation.is_open(now) or (since is not None and invitation.invited_at < since):
            return False
        return self.member is None or offers_more(self.member, invitation.role)


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A question to a person, or to whoever proves an address, whether they want a role in a project."""

    project_id: ProjectId
    user_id: UserId | None
    """The account that is asked; None: whose address `email` is, now or later."""
    email: str | None
    """Normalised."""
    role: ProjectRole
    invited_by: UserId
    invited_at: datetime
    expires_at: datetime
    declined: bool = False

    @property
    def invitee(self) -> str:
        """Name who is asked within the project: a user id, or the SHA-256 of an address."""
        return self.user_id or emails.digest(self.email or "")

    def is_open(self, now: datetime) -> bool:
        """Tell whether it waits for an answer."""
        return not self.declined and now < self.expires_at


def offers_more(member: Membership, role: ProjectRole) -> bool:
    """Tell whether an invitation offers a member what takes consent: ownership."""
    return role is ProjectRole.OWNER and member.role is not ProjectRole.OWNER


def owners_after(project: Project, user_id: UserId, role: ProjectRole | None) -> tuple[UserId, ...]:
    """Return who owns a project once somebody has a role in it, or none (None) any more.

    Raises:
        LastOwnerStays: nobody would.
        TooManyOwners: more than `MAX_OWNERS` would.
    """
    if role is ProjectRole.OWNER:
        if user_id in project.owners:
            return project.owners
        require_room_for_owner(project)
        return (*project.owners, user_id)
    rest = tuple(owner for owner in project.owners if owner != user_id)
    if not rest:
        raise LastOwnerStays(
            "The last owner stays: invite a member, or somebody else, to own the project (POST"
            " /projects/{id}/invitations with role owner) and go once they have accepted, or delete the project"
        )
    return rest


def require_room_for_owner(project: Project) -> None:
    """Refuse one owner more.

    Raises:
        TooManyOwners: there are `MAX_OWNERS`.
    """
    if len(project.owners) >= MAX_OWNERS:
        raise TooManyOwners(f"A project has at most {MAX_OWNERS} owners")
