"""Ports of projects; second implementations are in tests/fakes/projects.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.audit.domain import AuditEntry
from karma.billing.allowances import Reservation
from karma.core.ids import ProjectId, UserId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.identity.domain import User
from karma.mail.domain import Mail
from karma.projects.domain import Invitation, Membership, Part, Project


class Accounts(Protocol):
    """Accounts, as projects read them; implemented by karma.identity.accounts.repository.users.UserRepository."""

    def find_by_email(self, email: str) -> User | None:
        """Find the owner of a normalised address."""
        ...

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, strongly consistent; None: it does not exist."""
        ...


class Read(NamedTuple):
    """A project and some of its members, read at one moment."""

    project: Project | None
    members: Mapping[UserId, Membership]


class MemberSlice(NamedTuple):
    """Some memberships of a list, and whether more follow."""

    members: Sequence[Membership]
    more: bool


class MemberChange(Record, kw_only=True):
    """One change of a membership, with the state that was read before it."""

    project: Project
    actor: Membership
    """Membership of whoever makes the change; may be the changed one."""
    before: Membership | None
    """Membership as it was read; None: there is none yet."""
    after: Membership | None
    """Membership after the change; None: it ends."""
    owners: tuple[UserId, ...]
    """Owners of the project after the change."""
    at: datetime
    entries: Sequence[AuditEntry]
    invitation: Invitation | None = None
    """Invitation that is accepted by the change, and removed; None: none."""
    seat: Reservation | None = None
    """Reservation of a seat in the plan of `after.seat_of`, for a person who joins or stops paying; ignored if they
    have one there. None: no seat is needed.
    """
    closed: Sequence[str] = ()
    """Invitees whose other invitations end with the change: the member's id, the SHA-256 of their proven address."""


class Projects(Protocol):
    """Stored projects. All calls block; each write is one transaction."""

    def read(self, project_id: ProjectId, *user_ids: UserId) -> Read:
        """Read a project, also a tombstone, and the memberships of these people in it; consistently, in one call."""
        ...

    def create(self, project: Project, owner: Membership, *, request: RepeatableRequest | None) -> None:
        """Store a new project, the record of `request`, and its owner, whose account cannot be deleted meanwhile.

        Raises:
            AlreadyExists: a request with this key created a project within the last 25 hours; `made_by` names it.
            AccountGone: the account is deleted.
            OwnsTooMany: it owns as many as an account may own.
        """
        ...

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ProjectId | None:
        """Return the id of the project that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """
        ...

    def change(self, before: Project, after: Project, *, actor: Membership) -> None:
        """Store name, description, status and progress of `after`, whose version is one above that of `before`.

        Raises:
            ProjectChanged: the project or the actor's role is not as it was read.
            AccountGone: the actor's account is deleted.
        """
        ...

    def change_member(self, change: MemberChange) -> None:
        """Store, change or remove a membership with its seat; the account of an owner cannot be deleted.

        When one ends, the moment is kept (`parts`) until earlier invitations have expired or the person joins again.

        Raises:
            ProjectChanged: the project, the member, the actor's role or the invitation is not as it was read, or the
                person has left since they were invited.
            AlreadyExists: there is a membership already.
            QuotaExceeded: no seat is free in the plan of the owner who pays, and the person has none there.
            AccountGone: the actor's account is deleted, or that of somebody who would become a member or an owner.
        """
        ...

    def parts(self, user_id: UserId, project_ids: Sequence[ProjectId]) -> Mapping[ProjectId, Part]:
        """Read a person's past and present in each of some projects; consistently."""
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
        """Store an invitation, its audit entries and mails, and replace an earlier one to the same person.

        `known` is the invited account, known by id or by a proven address, with its membership as it was read.

        Raises:
            ProjectChanged: the project is deleted; the actor's role or the invited person's membership is not as it was
                read; or the earlier invitation has not expired, and was declined or offers a role that the actor may
                not give.
            AccountGone: the actor's account is deleted, or the invited one.
        """
        ...

    def invitations(self, project_id: ProjectId, *invitees: str) -> Sequence[Invitation]:
        """Read the invitations of a project to these invitees, also expired ones, in that order; consistently."""
        ...

    def invitations_of(self, project_id: ProjectId) -> Sequence[Invitation]:
        """List a project's invitations, also expired ones: `MAX_INVITATIONS` and some more at the most."""
        ...

    def invitations_to(self, user_id: UserId, email: str | None) -> Sequence[Invitation]:
        """List up to 100 invitations to an account and to an address, also expired ones; eventually consistent."""
        ...

    def decline(self, invitation: Invitation, *, by: UserId, at: datetime, entry: AuditEntry) -> None:
        """Note that an open invitation is declined, and by whom; do nothing if it is not open.

        The person's refusal is kept even if the invitation is withdrawn.
        """
        ...

    def withdraw(self, invitation: Invitation) -> None:
        """Remove an invitation; do nothing if there is none."""
        ...

    def begin_delete(self, project: Project, *, actor: Membership, at: datetime) -> None:
        """Replace the project by its tombstone, and stop counting it among the objects that its owners' accounts own.

        Raises:
            ProjectChanged: the project or the actor's role is not as it was read.
            AccountGone: the actor's account is deleted.
        """
        ...

    def finish_delete(self, project_id: ProjectId, *, most: int) -> bool:
        """Remove up to about `most` memberships of a deleted project with their seats, and last the tombstone.

        Return True when nothing is left. May be called again at any time, also beside itself.
        """
        ...

    def move_seats(self, project_id: ProjectId, *, most: int) -> bool:
        """Move up to `most` members' seats to the plan of the owner who pays now; return True when none is left.

        No seat is refused, even if the plan has fewer. May be called again at any time, also beside itself. Return
        False also when another request changed the project or a member meanwhile.
        """
        ...

    def unmoved(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """List projects whose seats have been moving since before a moment, oldest first."""
        ...

    def unfinished(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """List tombstones from before a moment, oldest first."""
        ...

    def of_user(self, user_id: UserId, *, newest_first: bool, limit: int, after: ProjectId | None) -> MemberSlice:
        """List a person's memberships by the age of the project, eventually consistent."""
        ...

    def count_of_user(self, user_id: UserId, *, most: int) -> int:
        """Count a person's memberships up to `most`."""
        ...

    def projects(self, ids: Sequence[ProjectId]) -> Mapping[ProjectId, Project]:
        """Read projects, without those that are deleted."""
        ...

    def of_project(self, project_id: ProjectId, *, limit: int, after: UserId | None) -> MemberSlice:
        """List a project's memberships by user id, which is the order of the accounts' age."""
        ...

    def count_of_project(self, project_id: ProjectId, *, most: int) -> int:
        """Count a project's memberships up to `most`."""
        ...
