"""Invitations to projects, and the moments at which people left or declined, before which none can be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pynamodb.expressions.update import Action

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, delete, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import ProjectId, UserId
from karma.identity.accounts import emails
from karma.identity.transactional import require_account
from karma.mail.domain import Mail
from karma.mail.transactional import add_mail
from karma.projects.domain import (
    INVITATION_TTL,
    MAX_INVITATIONS,
    Invitation,
    Membership,
)
from karma.projects.permissions import managed_by
from karma.projects.ports import MemberChange
from karma.projects.repository.conditions import changed, is_open, require_actor, there
from karma.projects.repository.items import (
    INVITE_PREFIX,
    LEFT_PREFIX,
    InvitationItem,
    InvitedItem,
    LeftItem,
    MemberItem,
    ProjectItem,
    ProjectsItem,
    address_pk,
    deletion,
    invitation_key,
    invitation_of,
    invited_key,
    left_key,
    member_key,
    project_key,
    user_pk,
)

_RECEIVED: Final = 100
"""Largest number of invitations that a person is shown."""


class InvitationRepository:
    """Invitations over DynamoDB; the part of Projects that is about them."""

    def invitations(self, project_id: ProjectId, *invitees: str) -> Sequence[Invitation]:
        """See Projects; one BatchGet."""
        keys = [invitation_key(project_id, each) for each in invitees]
        found = batch_get(InvitationItem, keys, consistent=True)
        return [invitation_of(found[key]) for key in keys if key in found]

    def invitations_of(self, project_id: ProjectId) -> Sequence[Invitation]:
        """See Projects; one Query, strongly consistent."""
        page = query(
            InvitationItem,
            project_key(project_id).pk,
            InvitationItem.sk.startswith(INVITE_PREFIX),
            limit=2 * MAX_INVITATIONS,
            consistent=True,
        )
        return [invitation_of(item) for item in page.items]

    def invitations_to(self, user_id: UserId, email: str | None) -> Sequence[Invitation]:
        """See Projects; one Query of the index, two with an address."""
        partitions = [user_pk(user_id), *([address_pk(emails.digest(email))] if email else [])]
        found: list[Invitation] = []
        for partition in partitions:
            mine = InvitationItem.gsi1sk.startswith(INVITE_PREFIX)
            page = query(InvitationItem, partition, mine, limit=_RECEIVED, forward=False, index=ProjectsItem.gsi1)
            found += [invitation_of(item) for item in page.items]
        return found[:_RECEIVED]

    def invite(
        self,
        invitation: Invitation,
        *,
        actor: Membership,
        known: tuple[UserId, Membership | None] | None,
        entries: Sequence[AuditEntry],
        mails: Sequence[Mail],
    ) -> None:
        """See Projects; one transaction of 5 or 6 items, and those that tell of it."""
        tx, at, item = Transaction(), iso(invitation.invited_at), InvitationItem
        invitee, project_id = invitation.invitee, invitation.project_id
        tx.check(ProjectItem, project_key(project_id), there(), on_fail=changed())
        require_actor(tx, actor)
        require_account(tx, actor.user_id)
        if invitation.user_id is not None:
            require_account(tx, invitation.user_id)
        if known is not None:
            user_id, member = known
            as_read = MemberItem.version == member.version if member else MemberItem.pk.does_not_exist()
            tx.check(MemberItem, member_key(project_id, user_id), as_read, on_fail=changed())
        ends = deletion(invitation.expires_at)
        partition = user_pk(invitation.user_id) if invitation.user_id else address_pk(invitee)
        tx.upsert(
            item(*invitation_key(project_id, invitee)),
            [
                item.project_id.set(project_id),
                item.user_id.set(invitation.user_id) if invitation.user_id else item.user_id.remove(),
                item.email.set(invitation.email) if invitation.email else item.email.remove(),
                item.role.set(invitation.role.value),
                item.invited_by.set(invitation.invited_by),
                item.invited_at.set(at),
                item.valid_until.set(iso(invitation.expires_at)),
                item.declined_at.remove(),
                item.created_at.set(at),
                item.updated_at.set(at),
                item.expires_at.set(ends),
                item.gsi1pk.set(partition),
                item.gsi1sk.set(f"{INVITE_PREFIX}{project_id}"),
            ],
            item.pk.does_not_exist()
            | (item.valid_until <= at)
            | (item.declined_at.does_not_exist() & item.role.is_in(*sorted(managed_by(actor.role)))),
            on_fail=changed(),
        )
        by = InvitedItem
        tx.upsert(
            by(*invited_key(actor.user_id, project_id, invitee)),
            [by.created_at.set(at), by.updated_at.set(at), by.expires_at.set(ends)],
        )
        for entry in entries:
            add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        tx.commit()

    def decline(self, invitation: Invitation, *, by: UserId, at: datetime, entry: AuditEntry) -> None:
        """See Projects; one transaction of 3 items."""
        tx, item = Transaction(), InvitationItem
        key = invitation_key(invitation.project_id, invitation.invitee)
        tx.update(item(*key), [item.declined_at.set(iso(at)), item.updated_at.set(iso(at))], is_open(at))
        refused_until = LeftItem.refused_until.set(iso(invitation.expires_at))
        note_leaving(tx, invitation.project_id, by, refused_until, at=at)
        add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return

    def withdraw(self, invitation: Invitation) -> None:
        """See Projects; one transaction of 2 items."""
        tx = Transaction()
        tx.delete(InvitationItem(*invitation_key(invitation.project_id, invitation.invitee)))
        tx.delete(InvitedItem(*invited_key(invitation.invited_by, invitation.project_id, invitation.invitee)))
        tx.commit()


def forget_leaving(tx: Transaction, change: MemberChange, user_id: UserId) -> None:
    """Remove the moment at which an earlier membership of a new member ended, unless they were invited before it."""
    item = LeftItem(*left_key(change.project.id, user_id))
    invited_at = change.invitation.invited_at if change.invitation else change.at
    tx.delete(item, LeftItem.pk.does_not_exist() | (LeftItem.left_at <= iso(invited_at)), on_fail=changed())


def note_leaving(tx: Transaction, project_id: ProjectId, user_id: UserId, *more: Action, at: datetime) -> None:
    """Store the moment at which somebody left or declined, for as long as an earlier invitation could be accepted."""
    stamp, item = iso(at), LeftItem
    tx.upsert(
        item(*left_key(project_id, user_id)),
        [
            item.user_id.set(user_id),
            item.left_at.set(stamp),
            item.created_at.set(stamp),
            item.updated_at.set(stamp),
            item.expires_at.set(deletion(at + INVITATION_TTL)),
            item.gsi1pk.set(user_pk(user_id)),
            item.gsi1sk.set(f"{LEFT_PREFIX}{project_id}"),
            *more,
        ],
    )


def use_up(tx: Transaction, invitation: Invitation, *, at: datetime) -> None:
    """Remove an invitation in the transaction that does what it offers, if it is as it was read."""
    item = InvitationItem(*invitation_key(invitation.project_id, invitation.invitee))
    as_read = (InvitationItem.role == invitation.role.value) & (InvitationItem.invited_by == invitation.invited_by)
    as_read &= InvitationItem.invited_at == iso(invitation.invited_at)
    tx.delete(item, as_read & is_open(at), on_fail=changed())
    tx.delete(InvitedItem(*invited_key(invitation.invited_by, invitation.project_id, invitation.invitee)))


def remove_if_made_by(project_id: ProjectId, invitee: str, user_id: UserId) -> None:
    """Remove an invitation unless somebody else has invited since, or it is gone."""
    item = InvitationItem(*invitation_key(project_id, invitee))
    try:
        delete(item, InvitationItem.invited_by == user_id)
    except ConditionFailed:  # it is gone, or somebody else has asked since
        return
