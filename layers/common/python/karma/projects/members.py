"""Use cases of a project's members: add, list, give another role, remove, leave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import ProjectId, UserId, is_id
from karma.core.observability import count, logger
from karma.core.repeat import repeat
from karma.identity import emails
from karma.identity.audit import NOWHERE, AuditEntry, AuditEvent, Source
from karma.identity.parent import AccountGone
from karma.projects.domain import Membership, ProjectChanged, ProjectRole, owners_after, require_room_for_owner
from karma.projects.gate import Entry, Gate
from karma.projects.permissions import ProjectPermission, needed_to_manage
from karma.projects.ports import Accounts, MemberChange, ProjectStore
from karma.projects.service import MAX_OFFSET_ROWS, PageQuery, require_shallow, require_version


@dataclass(frozen=True, kw_only=True)
class MemberPage:
    """A page of members."""

    members: tuple[Membership, ...]
    total: int
    total_capped: bool
    """Counting stopped at 1,000."""
    next_after: UserId | None


class MemberService:
    """What members do with memberships."""

    def __init__(self, store: ProjectStore, accounts: Accounts, clock: Clock) -> None:
        self._store = store
        self._gate = Gate(store)
        self._accounts = accounts
        self._clock = clock

    def list(self, user_id: UserId, project_id: str, query: PageQuery) -> MemberPage:
        """Return a page of a project's members, by the age of their accounts.

        Raises:
            NotFound: the caller is no member.
            InvalidRequest: INVALID_PAGE; a page by number beyond 1,000 rows.
        """
        require_shallow(query)
        project = self._gate.enter(user_id, project_id, ProjectPermission.READ).project
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

    def add(
        self,
        user_id: UserId,
        project_id: str,
        member_id: str,
        role: ProjectRole,
        *,
        source: Source,
        request_token: str = "",
    ) -> Membership:
        """Make an account a member; a repeat with the same `request_token` returns what the first made.

        Raises:
            NotFound: the caller is no member; there is no such account.
            Forbidden: the caller may not add members of this role.
            AlreadyExists: it is a member.
            TooManyOwners: see there.
        """

        def once() -> Membership:
            entry = self._enter_to_add(user_id, project_id, role)
            if not is_id(member_id):
                raise AccountGone
            if UserId(member_id) == user_id:
                # The actor's own membership is checked by the transaction, which cannot also put it.
                raise AlreadyExists("The account is a member already")
            now, project = self._clock.now(), entry.project
            member = Membership(project_id=project.id, user_id=UserId(member_id), role=role, joined_at=now, version=1)
            owners = owners_after(project, member.user_id, role) if role is ProjectRole.OWNER else project.owners
            self._store.change_member(
                MemberChange(
                    project=project,
                    actor=entry.member,
                    before=None,
                    after=member,
                    owners=owners,
                    at=now,
                    entries=_entries(
                        AuditEvent.PROJECT_MEMBER_ADDED, entry.member, member, source, now, role=role.value
                    ),
                    request_token=request_token,
                )
            )
            return member

        try:
            made = repeat(once, on=(ProjectChanged,))
        except AlreadyExists:
            key = (ProjectId(project_id), UserId(member_id))
            earlier = self._store.added_by(request_token, *key) if request_token else None
            if earlier is None:
                raise
            return earlier
        count("ProjectMemberAdded")
        logger.info("project.member_added", project_id=made.project_id, member_id=made.user_id, role=role.value)
        return made

    def add_by_email(
        self,
        user_id: UserId,
        project_id: str,
        email: str,
        role: ProjectRole,
        *,
        source: Source,
        request_token: str = "",
    ) -> None:
        """Make the account of a verified address a member, if there is one; the caller is not told.

        An address that nobody has proven to be theirs finds nobody: it may be another person's.

        Raises:
            ValidationFailed: not an address.
            NotFound, Forbidden, TooManyOwners: as `add`, but nothing that depends on the address.
        """
        address = emails.normalise(email)
        entry = self._enter_to_add(user_id, project_id, role)
        if role is ProjectRole.OWNER:
            require_room_for_owner(entry.project)
        found = self._accounts.find_by_email(address)
        if found is None or not found.email_verified:
            return
        try:
            self.add(user_id, project_id, found.id, role, source=source, request_token=request_token)
        except (AlreadyExists, AccountGone):
            logger.info("project.member_not_added", project_id=project_id)

    def _enter_to_add(self, user_id: UserId, project_id: str, role: ProjectRole) -> Entry:
        entry = self._gate.enter(user_id, project_id, ProjectPermission.MANAGE_MEMBERS)
        entry.require(needed_to_manage(role))
        return entry

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
        """Give a member another role; the one that it has writes nothing.

        Raises:
            NotFound: the caller or the other is no member, or the account of a new owner is deleted.
            Forbidden: the caller may not change roles.
            LastOwnerStays, TooManyOwners: see there.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Membership:
            entry = self._gate.enter(user_id, project_id, ProjectPermission.CHANGE_ROLES, *_others(member_id))
            before = _member(entry, member_id)
            require_version(before.version, version)
            if before.role is role:
                return before
            now = self._clock.now()
            after = replace(before, role=role, version=before.version + 1)
            named = {"from": before.role.value, "to": role.value}
            self._store.change_member(
                MemberChange(
                    project=entry.project,
                    actor=entry.member,
                    before=before,
                    after=after,
                    owners=owners_after(entry.project, before.user_id, role),
                    at=now,
                    entries=_entries(AuditEvent.PROJECT_ROLE_CHANGED, entry.member, before, source, now, **named),
                )
            )
            logger.info("project.role_changed", project_id=before.project_id, member_id=before.user_id, role=role.value)
            return after

        return repeat(once, on=(ProjectChanged,))

    def remove(
        self, user_id: UserId, project_id: str, member_id: str, *, version: int | None = None, source: Source
    ) -> None:
        """End a membership; everybody may end their own.

        Raises:
            NotFound: the caller or the other is no member.
            Forbidden: the caller may not remove members of this role.
            LastOwnerStays: see there.
            StaleVersion: `version` is not the stored one.
        """
        least = ProjectPermission.READ if member_id == user_id else ProjectPermission.MANAGE_MEMBERS

        def once() -> None:
            entry = self._gate.enter(user_id, project_id, least, *_others(member_id))
            before = _member(entry, member_id)
            if before.user_id != user_id:
                entry.require(needed_to_manage(before.role))
            require_version(before.version, version)
            now = self._clock.now()
            self._store.change_member(
                MemberChange(
                    project=entry.project,
                    actor=entry.member,
                    before=before,
                    after=None,
                    owners=owners_after(entry.project, before.user_id, None),
                    at=now,
                    entries=_entries(
                        AuditEvent.PROJECT_MEMBER_REMOVED, entry.member, before, source, now, role=before.role.value
                    ),
                )
            )
            logger.info("project.member_removed", project_id=before.project_id, member_id=before.user_id)

        repeat(once, on=(ProjectChanged,))


def _others(member_id: str) -> tuple[UserId, ...]:
    return (UserId(member_id),) if is_id(member_id) else ()


def _member(entry: Entry, member_id: str) -> Membership:
    found = entry.others.get(UserId(member_id))
    if found is None:
        raise NotFound(f"Member {member_id[:64]} not found")
    return found


def _entries(
    event: AuditEvent, actor: Membership, member: Membership, source: Source, at: datetime, **details: str
) -> list[AuditEntry]:
    """Make what both logs say: the member's, and the actor's, which alone knows where the request came from."""
    told = {"project_id": member.project_id, **details}
    own = AuditEntry(
        user_id=actor.user_id,
        event=event,
        at=at,
        actor_id=actor.user_id,
        source=source,
        details={**told, "member_id": member.user_id},
    )
    if actor.user_id == member.user_id:
        return [own]
    about = AuditEntry(user_id=member.user_id, event=event, at=at, actor_id=actor.user_id, source=NOWHERE, details=told)
    return [own, about]
