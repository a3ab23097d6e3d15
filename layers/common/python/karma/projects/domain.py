"""Projects, memberships and invitations: their states, roles, limits, and the rules of ownership.

Project   active | paused | completed | archived     status: from any to any, as its members say
          exists -> deleting -> (gone)               life: a tombstone, then its memberships are removed, then the
          tombstone

Invitation pending -> (accepted: gone, a membership in its place) | declined | (withdrawn: gone)
           after `INVITATION_TTL` it is over, whatever became of it; a declined one stays until then, so that "no" holds
           it is void for a person whose part in the project was decided since it was made: they joined, got another
           role, left or were removed. What was decided last holds, whatever was offered before

A project has one owner or more. The one of longest standing is its `owner_id`, whom its usage is billed to. Nobody
becomes a member, or an owner, but by accepting an invitation.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from karma.core.errors import Conflict, StaleVersion
from karma.core.ids import ProjectId, UserId
from karma.core.records import Record
from karma.identity.accounts import emails

MAX_NAME_CHARS: Final = 255
MAX_DESCRIPTION_CHARS: Final = 5_000
"""Longest description in characters; a page of a hundred projects fits into one answer, whatever the characters."""
MAX_PROGRESS: Final = 100
INVITATION_TTL: Final = timedelta(days=14)
MAX_INVITATIONS: Final = 100
"""Largest number of open invitations of a project."""
MAX_OWNERS: Final = 10
"""Largest number of owners of a project: all are in its item, and are released in the transaction that deletes it."""


class ProjectStatus(StrEnum):
    """Status of the work, as members set it."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class ProjectRole(StrEnum):
    """Role of a member; permissions.py says what each may do."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class LastOwnerStays(Conflict):
    """The change would leave the project without an owner: make another member an owner first, or delete it."""

    code = "LAST_OWNER"


class TooManyOwners(Conflict):
    """The project has as many owners as a project may have."""

    code = "TOO_MANY_OWNERS"


class ConsentNeeded(Conflict):
    """Nobody becomes an owner by another's decision: they are invited, and accept."""

    code = "CONSENT_NEEDED"


class InvitationDeclined(Conflict):
    """The invited person declined, and is not asked again until that invitation expires."""

    code = "INVITATION_DECLINED"


class TooManyInvitations(Conflict):
    """The project has as many open invitations as a project may have."""

    code = "TOO_MANY_INVITATIONS"


class ProjectChanged(StaleVersion):
    """Another request changed the project, the member or the caller's role since they were read: read them again."""


class Project(Record, kw_only=True):
    """A project."""

    id: ProjectId
    name: str
    description: str | None
    status: ProjectStatus
    progress: int
    """Percent, 0 to 100."""
    owners: tuple[UserId, ...]
    """User ids in the order in which they became owners; never empty."""
    deleting: bool = False
    """True: this is the tombstone of a deleted project; it is shown to nobody."""
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def owner_id(self) -> UserId:
        """Return the owner of longest standing."""
        return self.owners[0]

    def payer_of(self, user_id: UserId) -> UserId | None:
        """Return the user in whose plan a member has a seat; None for the owner who pays, who needs none."""
        return self.owner_id if user_id != self.owner_id else None


class Membership(Record, kw_only=True):
    """A person's role in a project; at most one for each person and project."""

    project_id: ProjectId
    user_id: UserId
    role: ProjectRole
    joined_at: datetime
    accepted_at: datetime | None = None
    """Moment at which the person accepted this role; None: they did not, as was possible before there were invitations.
    """
    seat_of: UserId | None = None
    """User in whose plan this membership takes a seat; None: it takes none, as that of the owner who pays."""
    changed_at: datetime | None = None
    """Moment of the last change; None: not changed since the person joined."""
    version: int

    def has_consented(self, project: Project) -> bool:
        """Tell whether the person agreed to this membership: they accepted an invitation, or made the project."""
        return self.accepted_at is not None or self.joined_at == project.created_at

    @property
    def decided_at(self) -> datetime:
        """Return the moment of the last change, or else of joining."""
        return self.changed_at or self.joined_at


class Part(Record, kw_only=True):
    """A person's past and present in one project: a membership, its end, a declined invitation."""

    member: Membership | None = None
    left_at: datetime | None = None
    """Moment at which a membership was ended by anyone, or an invitation declined; None: neither, or so long ago that
    no invitation from before is still open."""
    refused_until: datetime | None = None
    """Moment until which the person is not asked again, by any address or id, because they declined; None: never."""

    def is_refused(self, now: datetime) -> bool:
        """Tell whether the person declined an invitation that has not expired."""
        return self.refused_until is not None and now < self.refused_until

    def is_open(self, invitation: Invitation, now: datetime) -> bool:
        """Tell whether the person can accept an invitation to them, and would get more than they have.

        It is void when the person joined, got another role, left, was removed or declined after it was made.
        """
        since = self.member.decided_at if self.member else self.left_at
        if self.is_refused(now) or not invitation.is_open(now) or (since is not None and invitation.invited_at < since):
            return False
        return self.member is None or offers_more(self.member, invitation.role)


class Invitation(Record, kw_only=True):
    """An offer of a role in a project to a person, or to whoever proves an e-mail address."""

    project_id: ProjectId
    user_id: UserId | None
    """The invited account; None: whoever proves `email`, now or later."""
    email: str | None
    """Normalised e-mail address; None: an account is invited by id."""
    role: ProjectRole
    invited_by: UserId
    invited_at: datetime
    expires_at: datetime
    declined: bool = False

    @property
    def invitee(self) -> str:
        """Return the id of the invited person within the project: a user id, or the SHA-256 of an address."""
        return self.user_id or emails.digest(self.email or "")

    def is_open(self, now: datetime) -> bool:
        """Tell whether it was neither declined nor has expired."""
        return not self.declined and now < self.expires_at


def offers_more(member: Membership, role: ProjectRole) -> bool:
    """Tell whether an invitation offers a member ownership, the one role that a member must accept."""
    return role is ProjectRole.OWNER and member.role is not ProjectRole.OWNER


def owners_after(project: Project, user_id: UserId, role: ProjectRole | None) -> tuple[UserId, ...]:
    """Return the owners of a project after somebody gets a role in it, or leaves it (None).

    Raises:
        LastOwnerStays: nobody would own the project.
        TooManyOwners: more than `MAX_OWNERS` people would own the project.
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
    """Check that the project may have one more owner.

    Raises:
        TooManyOwners: the project has `MAX_OWNERS` owners.
    """
    if len(project.owners) >= MAX_OWNERS:
        raise TooManyOwners(f"A project has at most {MAX_OWNERS} owners")
