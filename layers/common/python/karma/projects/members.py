"""Use cases of a project's members: list, give another role, remove, leave. invitations.py has how they join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.billing.allowances import Metric, granted
from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import ProjectId, UserId, is_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.identity.accounts import emails
from karma.identity.domain import User
from karma.projects.access import AdmittedMember, ProjectAccess
from karma.projects.domain import ConsentNeeded, Membership, ProjectChanged, ProjectRole, owners_after
from karma.projects.permissions import ProjectPermission, needed_to_manage
from karma.projects.ports import Accounts, MemberChange, Projects
from karma.projects.service import (
    MAX_OFFSET_ROWS,
    PageQuery,
    finish_delete,
    require_shallow,
    require_version,
    settle_seats,
)


class MemberPage(Record, kw_only=True):
    """A page of members."""

    members: tuple[Membership, ...]
    total: int
    total_capped: bool
    """True: counting stopped at 1,000."""
    next_after: UserId | None


class MemberService:
    """Use cases of memberships."""

    def __init__(self, store: Projects, accounts: Accounts, clock: Clock) -> None:
        self._store = store
        self._access = ProjectAccess(store)
        self._accounts = accounts
        self._clock = clock

    def list(self, user_id: UserId, project_id: str, query: PageQuery) -> MemberPage:
        """Return a page of a project's members, by the age of their accounts.

        Raises:
            NotFound: the caller is no member.
            InvalidRequest: INVALID_PAGE, the page by number lies beyond 1,000 rows.
        """
        require_shallow(query)
        project = self._access.require(user_id, project_id, ProjectPermission.READ).project
        after = UserId(query.after) if query.after else None
        rows = self._store.of_project(project.id, limit=query.offset + query.limit, after=after)
        shown = rows.members[query.offset :]
        total = len(rows.members)
        if rows.more or after:
            total = max(total, self._store.count_of_project(project.id, most=MAX_OFFSET_ROWS))
        return MemberPage(
            members=tuple(shown),
            total=total,
            total_capped=total >= MAX_OFFSET_ROWS,
            next_after=shown[-1].user_id if rows.more and shown else None,
        )

    def change_role(
        self,
        user_id: UserId,
        project_id: str,
        member_id: str,
        role: ProjectRole,
        *,
        version: int | None = None,
        source: Source,
    ) -> Membership:
        """Give a member another role, and end open invitations to them; do nothing if they have the role.

        Raises:
            NotFound: the caller or the other person is no member.
            Forbidden: the caller may not change roles.
            LastOwnerStays: nobody would own the project any more.
            ConsentNeeded: the role is owner, which takes an invitation.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Membership:
            admitted = self._access.require(user_id, project_id, ProjectPermission.CHANGE_ROLES, *_others(member_id))
            before = _member(admitted, member_id)
            require_version(before.version, version)
            if before.role is role:
                return before
            if role is ProjectRole.OWNER:
                raise ConsentNeeded("Ownership takes the member's consent: invite them to be an owner")
            now = self._clock.now()
            after = replace(before, role=role, changed_at=now, version=before.version + 1)
            owners, seat = owners_after(admitted.project, before.user_id, role), None
            if before.user_id == admitted.project.owner_id:
                # Who stops paying needs a seat.
                after, seat = replace(after, seat_of=owners[0]), granted(owners[0], Metric.SEATS)
            named = {"from": before.role.value, "to": role.value}
            self._store.change_member(
                MemberChange(
                    project=admitted.project,
                    actor=admitted.member,
                    before=before,
                    after=after,
                    owners=owners,
                    seat=seat,
                    at=now,
                    entries=entries_of(
                        AuditEvent.PROJECT_ROLE_CHANGED, admitted.member, before, source, now, details=named
                    ),
                    closed=reached_by(self._accounts, before.user_id),
                )
            )
            settle_seats(self._store, admitted.project, owners)
            logger.info("project.role_changed", project_id=before.project_id, member_id=before.user_id, role=role.value)
            return after

        return repeat(once, on=(ProjectChanged,))

    def remove(
        self, user_id: UserId, project_id: str, member_id: str, *, version: int | None = None, source: Source
    ) -> None:
        """End a membership, and every open invitation to the person; everybody may end their own.

        Raises:
            NotFound: the caller or the other person is no member.
            Forbidden: the caller may not remove members of this role.
            LastOwnerStays: nobody would own the project any more.
            StaleVersion: `version` is not the stored one.
        """
        least = ProjectPermission.READ if member_id == user_id else ProjectPermission.MANAGE_MEMBERS

        def once() -> None:
            admitted = self._access.require(user_id, project_id, least, *_others(member_id))
            before = _member(admitted, member_id)
            if before.user_id != user_id:
                admitted.require(needed_to_manage(before.role))
            require_version(before.version, version)
            now, owners = self._clock.now(), owners_after(admitted.project, before.user_id, None)
            self._store.change_member(
                MemberChange(
                    project=admitted.project,
                    actor=admitted.member,
                    before=before,
                    after=None,
                    owners=owners,
                    at=now,
                    entries=entries_of(
                        AuditEvent.PROJECT_MEMBER_REMOVED,
                        admitted.member,
                        before,
                        source,
                        now,
                        details={"role": before.role.value},
                    ),
                    closed=reached_by(self._accounts, before.user_id),
                )
            )
            settle_seats(self._store, admitted.project, owners)
            logger.info("project.member_removed", project_id=before.project_id, member_id=before.user_id)

        repeat(once, on=(ProjectChanged,))

    def leave(self, user_id: UserId, project_id: str, *, may_hand_over: bool, source: Source) -> None:
        """End the caller's own membership, in any role, also one that they never accepted.

        The last owner makes another one first, or deletes the project. Whoever never accepted it, or has an account
        that may only read (`may_hand_over` False), can do neither: the project is deleted when they leave.

        Raises:
            NotFound: the caller is no member.
            LastOwnerStays: the caller is the last owner and could make another one.
            AccountGone: the caller's account is deleted.
        """

        def once() -> bool:
            admitted = self._access.require(user_id, project_id, ProjectPermission.READ)
            alone = admitted.project.owners == (user_id,)
            if not alone or (may_hand_over and admitted.member.has_consented(admitted.project)):
                return False
            self._store.begin_delete(admitted.project, actor=admitted.member, at=self._clock.now())
            return True

        if repeat(once, on=(ProjectChanged,)):
            count("ProjectDeleted")
            logger.info("project.deleted", project_id=project_id)
            finish_delete(self._store, ProjectId(project_id))
        else:
            self.remove(user_id, project_id, user_id, source=source)


def _others(member_id: str) -> tuple[UserId, ...]:
    return (UserId(member_id),) if is_id(member_id) else ()


def _member(admitted: AdmittedMember, member_id: str) -> Membership:
    found = admitted.others.get(UserId(member_id))
    if found is None:
        raise NotFound(f"Member {member_id[:64]} not found")
    return found


def reached_by(accounts: Accounts, user_id: UserId) -> tuple[str, ...]:
    """Return the invitees by which invitations name an account: its id, and the SHA-256 of its proven address."""
    email = proven_email(accounts.read_user(user_id))
    return (user_id, *([emails.digest(email)] if email else []))


def proven_email(user: User | None) -> str | None:
    """Return an account's e-mail address if it is proven, else None."""
    return user.email if user is not None and user.email_verified else None


def entries_of(
    event: AuditEvent,
    actor: Membership,
    other: Membership,
    source: Source,
    at: datetime,
    *,
    actor_id: UserId | None = None,
    details: Mapping[str, str],
) -> list[AuditEntry]:
    """Return the audit log entries of the actor and of the other member; only the actor's has the request's source.

    The membership is the other's, unless `actor_id` says that it is the actor's own.
    """
    member_id = actor_id or other.user_id
    told = {"project_id": other.project_id, **details}
    named = {**told, "member_id": member_id}
    own = AuditEntry(user_id=actor.user_id, event=event, at=at, actor_id=actor.user_id, source=source, details=named)
    if actor.user_id == other.user_id:
        return [own]
    about = AuditEntry(
        user_id=other.user_id,
        event=event,
        at=at,
        actor_id=actor.user_id,
        source=NOWHERE,
        details=told if member_id == other.user_id else named,
    )
    return [own, about]
