"""Use cases of invitations: ask somebody, list, withdraw, accept, decline.

Nobody becomes a member, or an owner, unless they accept: whoever manages members invites, and the membership is written
in the transaction that removes the invitation. An invitation by address is to whoever has proven the address, now or
later. The inviter is not told whether anybody has, unless it is a member of the project. Joining, another role, leaving
and removal end every invitation to the person that was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.billing.allowances import Metric
from karma.billing.seats import Seats
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, QuotaExceeded
from karma.core.ids import ProjectId, UserId, is_id
from karma.core.observability import count, logger
from karma.core.ratelimit import Buckets
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.identity.accounts import emails
from karma.identity.domain import Caller
from karma.identity.limits import INVITATIONS, MAIL_INVITATION, refused
from karma.identity.transactional import AccountGone
from karma.mail.domain import Mail, MailKind
from karma.mail.service import OutboxRelay
from karma.projects.access import AdmittedMember, ProjectAccess, missing
from karma.projects.domain import (
    INVITATION_TTL,
    MAX_INVITATIONS,
    Invitation,
    InvitationDeclined,
    Membership,
    Part,
    Project,
    ProjectChanged,
    ProjectRole,
    TooManyInvitations,
    offers_more,
    owners_after,
    require_room_for_owner,
)
from karma.projects.members import entries_of, proven_email, reached_by
from karma.projects.permissions import ProjectPermission, allows, needed_to_manage
from karma.projects.ports import Accounts, MemberChange, Projects


class Received(Record, kw_only=True):
    """An invitation with its project, for the invited person."""

    invitation: Invitation
    project: Project


class InvitationService:
    """Use cases of invitations."""

    def __init__(
        self,
        store: Projects,
        accounts: Accounts,
        *,
        seats: Seats,
        outbox_relay: OutboxRelay,
        buckets: Buckets,
        clock: Clock,
    ) -> None:
        """Build the service.

        `buckets` limit invitations by sender, and the mails and notices about them by recipient.
        """
        self._seats = seats
        self._store = store
        self._access = ProjectAccess(store)
        self._accounts = accounts
        self._outbox_relay = outbox_relay
        self._buckets = buckets
        self._clock = clock

    # Asking

    def invite(
        self, user_id: UserId, project_id: str, invitee_id: str, role: ProjectRole, *, source: Source
    ) -> Invitation:
        """Invite an account to join, or a member to become an owner; a repeat replaces the invitation and its role.

        Raises:
            NotFound: the caller is no member, or the account does not exist.
            Forbidden: the caller may not add members of this role, or of the one that an open invitation offers them.
            AlreadyExists: the account is a member, and the role offered is not owner.
            InvitationDeclined: the person declined an invitation that has not expired.
            TooManyInvitations: the project has `MAX_INVITATIONS` open ones.
            TooManyOwners: an owner is invited, and the project has `MAX_OWNERS`.
            QuotaExceeded: no seat is free in the plan of the owner who pays, and the person has none there.
            RateLimited: the caller has invited too many people today.
        """

        def once() -> Invitation:
            admitted = self._enter(user_id, project_id, role)
            if not is_id(invitee_id):
                raise AccountGone
            invited = UserId(invitee_id)
            return self._ask(admitted, role, invited=invited, email=None, known=invited, source=source)

        return repeat(once, on=(ProjectChanged,))

    def invite_by_email(
        self, caller: Caller, project_id: str, email: str, role: ProjectRole, *, source: Source
    ) -> None:
        """Invite whoever proves an address; the caller learns whether an account has it only if that is a member.

        The caller's own address must be verified: otherwise made-up accounts have mail sent to strangers.

        Raises:
            Forbidden: EMAIL_NOT_VERIFIED, the caller's address is not verified.
            ValidationFailed: the text is no e-mail address that mail is sent to.
            QuotaExceeded: no seat is free in the plan of the owner who pays, even if the person has one there.
            AlreadyExists: a member of the project has proven the address, and the role offered is not owner.
            NotFound: the caller is no member.
            Forbidden, TooManyInvitations, TooManyOwners, RateLimited: as `invite`.
        """
        caller.require_verified()
        address = emails.mailable(email)

        def once() -> None:
            admitted = self._enter(caller.user_id, project_id, role)
            self._require_seat(admitted, None)
            owner = self._accounts.find_by_email(address)
            proven = owner.id if owner is not None and owner.email_verified else None
            try:
                self._ask(admitted, role, invited=None, email=address, known=proven, source=source)
            except InvitationDeclined:
                logger.info("project.not_asked_again", project_id=project_id)

        repeat(once, on=(ProjectChanged,))

    def _enter(self, user_id: UserId, project_id: str, role: ProjectRole) -> AdmittedMember:
        admitted = self._access.require(user_id, project_id, ProjectPermission.MANAGE_MEMBERS)
        admitted.require(needed_to_manage(role))
        if role is ProjectRole.OWNER:
            require_room_for_owner(admitted.project)
        return admitted

    def _require_seat(self, admitted: AdmittedMember, member_id: UserId | None) -> None:
        """Check that the plan has a seat for who is invited; the seat is taken only when they accept."""
        payer = admitted.project.owner_id
        try:
            self._seats.require_free(payer, member_id)
        except QuotaExceeded as exc:
            if admitted.member.user_id == payer:
                raise
            raise _no_seat() from exc

    def _ask(
        self,
        admitted: AdmittedMember,
        role: ProjectRole,
        *,
        invited: UserId | None,
        email: str | None,
        known: UserId | None,
        source: Source,
    ) -> Invitation:
        """Store an invitation; `known` is the invited account, known by its id or by the address that it has proven."""
        now, actor = self._clock.now(), admitted.member
        part = self._store.parts(known, [admitted.project.id])[admitted.project.id] if known else Part()
        member = part.member
        if member is not None and not offers_more(member, role):
            raise AlreadyExists("The account is a member already")
        if part.is_refused(now):
            raise _declined()
        if invited is not None and member is None:
            self._require_seat(admitted, invited)
        invitation = Invitation(
            project_id=admitted.project.id,
            user_id=invited,
            email=email,
            role=role,
            invited_by=actor.user_id,
            invited_at=now,
            expires_at=now + INVITATION_TTL,
        )
        standing = {e.invitee: e for e in self._store.invitations_of(admitted.project.id) if now < e.expires_at}
        earlier = standing.get(invitation.invitee)
        if earlier is not None:
            if earlier.declined:
                raise _declined()
            admitted.require(needed_to_manage(earlier.role))
        elif sum(each.is_open(now) for each in standing.values()) >= MAX_INVITATIONS:
            raise TooManyInvitations(f"A project has at most {MAX_INVITATIONS} open invitations")
        decision = self._buckets.take(INVITATIONS, actor.user_id, now=now)
        if not decision.allowed:
            raise refused(decision)
        entries = [_entry(AuditEvent.PROJECT_MEMBER_INVITED, actor.user_id, actor.user_id, invitation, source)]
        mails: list[Mail] = []
        if self._buckets.take(MAIL_INVITATION, invitation.invitee, now=now).allowed:
            mails.append(Mail(kind=MailKind.PROJECT_INVITATION, user_id=invited, to=email, created_at=now))
            if known is not None:
                received = AuditEvent.PROJECT_INVITATION_RECEIVED
                entries.append(_entry(received, known, actor.user_id, invitation, NOWHERE))
        else:  # they were told often enough; the invitation stands in their list all the same
            count("MailDropped", limit=MAIL_INVITATION.name)
        asked = (known, member) if known else None
        self._store.invite(invitation, actor=actor, known=asked, entries=entries, mails=mails)
        self._outbox_relay.dispatch(mails)
        count("ProjectMemberInvited")
        logger.info("project.member_invited", project_id=invitation.project_id, role=role.value)
        return invitation

    def list(self, user_id: UserId, project_id: str) -> Sequence[Invitation]:
        """List a project's invitations that are not over, for those who manage its members.

        Raises:
            NotFound: the caller is no member.
            Forbidden: the caller does not manage members.
        """
        project = self._access.require(user_id, project_id, ProjectPermission.MANAGE_MEMBERS).project
        now = self._clock.now()
        return [each for each in self._store.invitations_of(project.id) if now < each.expires_at]

    def withdraw(self, user_id: UserId, project_id: str, invitee: str) -> None:
        """Withdraw an invitation.

        Raises:
            NotFound: the caller is no member, or there is no such invitation.
            Forbidden: the caller may not add members of its role.
        """
        admitted = self._access.require(user_id, project_id, ProjectPermission.MANAGE_MEMBERS)
        found = self._store.invitations(admitted.project.id, invitee) if _is_invitee(invitee) else []
        if not found:
            raise _no_invitation()
        admitted.require(needed_to_manage(found[0].role))
        self._store.withdraw(found[0])

    # Answering

    def received(self, user_id: UserId) -> Sequence[Received]:
        """List the open invitations to an account, and to its address once that is proven; newest first."""
        now = self._clock.now()
        found = self._store.invitations_to(user_id, proven_email(self._accounts.read_user(user_id)))
        waiting = sorted((each for each in found if each.is_open(now)), key=_when_asked, reverse=True)
        ids = list(dict.fromkeys(each.project_id for each in waiting))
        parts = self._store.parts(user_id, ids) if ids else {}
        asked = [each for each in waiting if parts[each.project_id].is_open(each, now)]
        projects = self._store.projects(list(dict.fromkeys(each.project_id for each in asked))) if asked else {}
        return [
            Received(invitation=each, project=projects[each.project_id])
            for each in asked
            if each.project_id in projects
        ]

    def accept(self, user_id: UserId, project_id: str, *, source: Source) -> Membership:
        """Accept an invitation and become a member in its role, or an owner; a repeat returns the membership.

        The inviter must still be allowed to give the role. Of several invitations the newest counts, and all end; those
        made before the person last joined, left or was removed are void.

        Raises:
            NotFound: there is no open invitation to the caller.
            TooManyOwners: ownership is offered, and the project has `MAX_OWNERS` by now.
            QuotaExceeded: no seat is free in the plan of the owner who pays; the invitation stays.
            AccountGone: the caller's account is deleted.
            OwnsTooMany: the caller owns as many projects as an account may own; the invitation stays.
        """

        def once() -> Membership:
            found, part = self._open_invitations(user_id, project_id)
            inviters = dict.fromkeys(each.invited_by for each in found)
            project, members = self._store.read(ProjectId(project_id), user_id, *inviters)
            before = part.member
            if project is None or project.deleting:
                raise _no_invitation()
            for invitation in found:
                inviter = members.get(invitation.invited_by)
                if inviter is not None and allows(inviter.role, needed_to_manage(invitation.role)):
                    return self._join(project, inviter, before, invitation, user_id, source)
            if before is not None:
                return before
            raise _no_invitation()

        return repeat(once, on=(ProjectChanged, AlreadyExists))

    def _join(
        self,
        project: Project,
        inviter: Membership,
        before: Membership | None,
        invitation: Invitation,
        user_id: UserId,
        source: Source,
    ) -> Membership:
        now, role = self._clock.now(), invitation.role
        after = Membership(
            project_id=project.id,
            user_id=user_id,
            role=role,
            joined_at=now,
            accepted_at=now,
            seat_of=project.owner_id,
            version=1,
        )
        if before is not None:
            after = replace(before, role=role, accepted_at=now, changed_at=now, version=before.version + 1)
        event = AuditEvent.PROJECT_MEMBER_ADDED if before is None else AuditEvent.PROJECT_ROLE_CHANGED
        entries = entries_of(event, after, inviter, source, now, actor_id=user_id, details={"role": role.value})
        try:
            self._store.change_member(
                MemberChange(
                    project=project,
                    actor=inviter,
                    before=before,
                    after=after,
                    owners=owners_after(project, user_id, role) if role is ProjectRole.OWNER else project.owners,
                    at=now,
                    entries=entries,
                    invitation=invitation,
                    closed=reached_by(self._accounts, user_id),
                    seat=self._seats.reserve(project.owner_id) if before is None else None,
                )
            )
        except QuotaExceeded as exc:
            raise _no_seat() from exc
        count("ProjectMemberAdded")
        logger.info("project.member_added", project_id=project.id, member_id=user_id, role=role.value)
        return after

    def decline(self, user_id: UserId, project_id: str, *, source: Source) -> None:
        """Decline an invitation; the project cannot invite the caller again until it expires.

        Raises:
            NotFound: no invitation to the caller is open, nor declined and not yet expired.
        """
        now = self._clock.now()
        found, part = self._addressed(user_id, project_id)
        waiting = [each for each in found if part.is_open(each, now)]
        if not waiting and not part.is_refused(now):
            raise _no_invitation()
        for each in waiting:
            event = AuditEvent.PROJECT_INVITATION_DECLINED
            self._store.decline(each, by=user_id, at=now, entry=_entry(event, user_id, user_id, each, source))

    def _addressed(self, user_id: UserId, project_id: str) -> tuple[Sequence[Invitation], Part]:
        if not is_id(project_id):
            raise missing(project_id)
        project = ProjectId(project_id)
        found = self._store.invitations(project, *reached_by(self._accounts, user_id))
        return found, self._store.parts(user_id, [project])[project]

    def _open_invitations(self, user_id: UserId, project_id: str) -> tuple[Sequence[Invitation], Part]:
        """Return the invitations that the caller can accept, newest first, and the caller's part in the project."""
        found, part = self._addressed(user_id, project_id)
        now = self._clock.now()
        waiting = [each for each in found if part.is_open(each, now)]
        return sorted(waiting, key=_when_asked, reverse=True), part


def _when_asked(invitation: Invitation) -> datetime:
    return invitation.invited_at


def _is_invitee(text: str) -> bool:
    return is_id(text) or (len(text) == 64 and all(each in "0123456789abcdef" for each in text))


def _declined() -> InvitationDeclined:
    return InvitationDeclined("They declined; ask again when that invitation is over")


def _no_seat() -> QuotaExceeded:
    """Return the error for people whose plan it is not: it does not tell the plan's limit."""
    details = {"limit": Metric.SEATS.value, "plan": None, "allowed": None, "requested": 1, "resets_at": None}
    return QuotaExceeded("The plan of the project's owner has no free seat; only they can make room", details=details)


def _no_invitation() -> NotFound:
    return NotFound("There is no such invitation")


def _entry(event: AuditEvent, user_id: UserId, actor_id: UserId, invitation: Invitation, source: Source) -> AuditEntry:
    named = {"member_id": invitation.user_id} if invitation.user_id and user_id != invitation.user_id else {}
    return AuditEntry(
        user_id=user_id,
        event=event,
        at=invitation.invited_at,
        actor_id=actor_id,
        source=source,
        details={"project_id": invitation.project_id, "role": invitation.role.value, **named},
    )
