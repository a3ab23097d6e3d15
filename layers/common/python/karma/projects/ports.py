"""What projects need from outside; the second implementations are in tests/fakes/projects.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.audit.domain import AuditEntry
from karma.billing.allowances import Reservation
from karma.core.ids import ProjectId, UserId
from karma.identity.domain import User
from karma.mail.domain import Mail
from karma.projects.domain import Invitation, Membership, Part, Project


class Accounts(Protocol):
    """What is used of karma.identity.accounts.repository.users.UserRepository."""

    def find_by_email(self, email: str) -> User | None:
        """Find the owner of a normalised address."""
        ...

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, consistently."""
        ...


class Read(NamedTuple):
    """A project and some of its members, as they were together."""

    project: Project | None
    members: Mapping[UserId, Membership]


class Rows(NamedTuple):
    """Some memberships of a list, and whether more follow."""

    members: Sequence[Membership]
    more: bool


@dataclass(frozen=True, kw_only=True)
class MemberChange:
    """What happens to one membership, on what was read."""

    project: Project
    actor: Membership
    """Who does it; may be the member."""
    before: Membership | None
    """None: there is none yet."""
    after: Membership | None
    """None: it goes."""
    owners: tuple[UserId, ...]
    """Of the project, afterwards."""
    at: datetime
    entries: Sequence[AuditEntry]
    invitation: Invitation | None = None
    """Which is accepted by this, and goes."""
    seat: Reservation | None = None
    """Of a seat in the plan of `after.seat_of`, for who joins, or stops paying; not used if they have one."""
    closed: Sequence[str] = ()
    """Whom other invitations name that end with this: the member's id, the digest of the address they have proven."""


class ProjectStore(Protocol):
    """Projects at rest. All calls block; each write is one transaction."""

    def read(self, project_id: ProjectId, *user_ids: UserId) -> Read:
        """Read a project, its tombstone too, and those of the people who are members; consistently, in one call."""
        ...

    def create(self, project: Project, owner: Membership, *, request_token: str) -> None:
        """Store a new project with its first member, and let that account be held by it.

        Raises:
            AlreadyExists: this request made a project within 24 hours before; `made_by` names it.
            AccountGone: the account is deleted.
            HoldsTooMany: it owns as many as an account may own.
        """
        ...

    def made_by(self, user_id: UserId, request_token: str) -> ProjectId | None:
        """Return what a request made, consistently."""
        ...

    def change(self, before: Project, after: Project, *, actor: Membership) -> None:
        """Store name, description, status and progress of `after`, which has the next version.

        Raises:
            ProjectChanged: the project or the actor's role is not as it was read.
            AccountGone: the actor's account is deleted.
        """
        ...

    def change_member(self, change: MemberChange) -> None:
        """Store, change or remove a membership, and take or give back its seat; owners' accounts are held by projects.

        When one ends, the moment is kept (`parts`) for as long as invitations of before last; it goes when the person
        joins again.

        Raises:
            ProjectChanged: the project, the member, the actor's role or the invitation is not as it was read, or the
                person has left since they were invited.
            AlreadyExists: there is a membership already.
            QuotaExceeded: no seat is free in the plan of the owner who pays, and the person has none there.
            AccountGone: the actor's account is deleted, or that of somebody who would become a member or an owner.
        """
        ...

    def parts(self, user_id: UserId, project_ids: Sequence[ProjectId]) -> Mapping[ProjectId, Part]:
        """Read what a person has to do with each of some projects; consistently."""
        ...

    def invite(
        self,
        invitation: Invitation,
        *,
        actor: Membership,
        known: tuple[UserId, Membership | None] | None,
        entries: Sequence[AuditEntry],
        mails: Sequence[Mail],
    ) -> None:
        """Store an invitation with what tells of it, in the place of an earlier one to the same person.

        `known` is who is asked, where that is known by id or by a proven address, and their membership as it was read.

        Raises:
            ProjectChanged: the project is deleted, the actor's role or the membership of whom is asked is not as it
                was read; or the earlier one is not over, and was declined or offers a role that the actor may not give.
            AccountGone: the actor's account is deleted, or that of whom it names.
        """
        ...

    def invitations(self, project_id: ProjectId, *invitees: str) -> Sequence[Invitation]:
        """Read the invitations of a project to some, over or not, in that order; consistently."""
        ...

    def invitations_of(self, project_id: ProjectId) -> Sequence[Invitation]:
        """List a project's invitations, over or not: up to `MAX_INVITATIONS` and some."""
        ...

    def invitations_to(self, user_id: UserId, email: str | None) -> Sequence[Invitation]:
        """List up to 100 invitations to an account and to an address, over or not; eventually consistent."""
        ...

    def decline(self, invitation: Invitation, *, by: UserId, at: datetime, entry: AuditEntry) -> None:
        """Note that an open invitation is declined, and by whom; one that is not open stays as it is.

        The note of the person outlives the invitation, should that be withdrawn.
        """
        ...

    def withdraw(self, invitation: Invitation) -> None:
        """Remove an invitation; one that is not there is removed already."""
        ...

    def begin_delete(self, project: Project, *, actor: Membership, at: datetime) -> None:
        """Put the tombstone in the project's place, and let go of its owners' accounts.

        Raises:
            ProjectChanged, AccountGone: as `change`.
        """
        ...

    def finish_delete(self, project_id: ProjectId, *, most: int) -> bool:
        """Remove up to about `most` memberships of a deleted project with their seats, and last the tombstone.

        May be called again at any time, also beside itself; True when nothing is left.
        """
        ...

    def move_seats(self, project_id: ProjectId, *, most: int) -> bool:
        """Move up to `most` members' seats to the plan of the owner who pays now; True when none is left to move.

        Nothing is refused: whoever becomes that owner has the seats, even if the plan has fewer. May be called again
        at any time, also beside itself. False also when somebody changed the project or a member meanwhile.
        """
        ...

    def unmoved(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """List projects whose seats have been to move since before a moment, oldest first."""
        ...

    def unfinished(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """List tombstones from before a moment, oldest first."""
        ...

    def of_user(self, user_id: UserId, *, newest_first: bool, limit: int, after: ProjectId | None) -> Rows:
        """List a person's memberships by the age of the project, eventually consistent."""
        ...

    def count_of_user(self, user_id: UserId, *, most: int) -> int:
        """Count a person's memberships up to `most`."""
        ...

    def projects(self, ids: Sequence[ProjectId]) -> Mapping[ProjectId, Project]:
        """Read projects, tombstones left out."""
        ...

    def of_project(self, project_id: ProjectId, *, limit: int, after: UserId | None) -> Rows:
        """List a project's memberships by user id: by the age of the account."""
        ...

    def count_of_project(self, project_id: ProjectId, *, most: int) -> int:
        """Count a project's memberships up to `most`."""
        ...
