"""Projects and memberships in the table `work` (items.py); access patterns are in docs/adr/0019-projects.md.

Projects, memberships, invitations and seats are written in the same transactions, and each of these relies on the
conditions of the others: conditions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from karma.audit.transactional import add_audit_entry
from karma.billing.transactional import take_seat
from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, count, delete, get, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import empty, pages
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import AlreadyExists
from karma.core.ids import ProjectId, UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.ownership import OwnedKind
from karma.identity.transactional import add_owned, remove_owned, require_account
from karma.projects.domain import (
    Membership,
    Part,
    Project,
    ProjectChanged,
    ProjectRole,
)
from karma.projects.ports import MemberChange, MemberSlice, Read
from karma.projects.repository.conditions import changed, require_actor, same_owners, there, unchanged
from karma.projects.repository.invitations import (
    InvitationRepository,
    forget_leaving,
    note_leaving,
    remove_if_made_by,
    use_up,
)
from karma.projects.repository.items import (
    DELETING,
    DEVICE_PREFIX,
    INVITE_PREFIX,
    INVITED_PREFIX,
    LEFT_PREFIX,
    MEMBER_PREFIX,
    MOVING,
    PROJECT_PREFIX,
    InvitationItem,
    LeftItem,
    MemberItem,
    ProjectItem,
    ProjectRequestItem,
    ProjectsItem,
    SharesItem,
    invitation_key,
    left_key,
    member_item,
    member_key,
    member_of,
    moving_of,
    part_of,
    project_item,
    project_key,
    project_of,
    shares_key,
    tombstone_of,
    user_pk,
)
from karma.projects.repository.seats import end_memberships, end_seats_of, move_seat

_BATCH: Final = 100
"""Largest number of items of one BatchGetItem."""
_MEMBERS_A_TRANSACTION: Final = 33
"""Memberships that one transaction ends: each with a seat, and the count of the plan that it is in."""


class ProjectRepository(InvitationRepository):
    """Projects over DynamoDB, with the seats of plans, and the projects' step in the deletion of an account."""

    name = "projects"
    """Name of the step in the deletion of an account."""

    # Reading

    def read(self, project_id: ProjectId, *user_ids: UserId) -> Read:
        """See Projects; one BatchGet."""
        users = dict.fromkeys(user_ids)
        keys = [project_key(project_id), *(member_key(project_id, user_id) for user_id in users)]
        found = batch_get(ProjectsItem, keys, consistent=True)
        project = found.get(keys[0])
        members = {UserId(item.user_id): member_of(item) for item in found.values() if isinstance(item, MemberItem)}
        return Read(project_of(project) if isinstance(project, ProjectItem) else None, members)

    def projects(self, ids: Sequence[ProjectId]) -> Mapping[ProjectId, Project]:
        """See Projects; one BatchGet a hundred, eventually consistent."""
        found: dict[ProjectId, Project] = {}
        for at in range(0, len(ids), _BATCH):
            items = batch_get(ProjectItem, [project_key(each) for each in ids[at : at + _BATCH]])
            found |= {ProjectId(item.project_id): project_of(item) for item in items.values() if not item.deleting_at}
        return found

    def of_user(self, user_id: UserId, *, newest_first: bool, limit: int, after: ProjectId | None) -> MemberSlice:
        """See Projects; one Query of the index."""
        start = None
        if after is not None:
            start = {
                **member_key(after, user_id)._asdict(),
                "gsi1pk": user_pk(user_id),
                "gsi1sk": f"{PROJECT_PREFIX}{after}",
            }
        page = query(
            ProjectsItem,
            user_pk(user_id),
            ProjectsItem.gsi1sk.startswith(PROJECT_PREFIX),
            limit=limit + 1,
            forward=not newest_first,
            start=start,
            index=ProjectsItem.gsi1,
        )
        return _rows(page.items, limit)

    def count_of_user(self, user_id: UserId, *, most: int) -> int:
        """See Projects; one Query of the index."""
        mine = ProjectsItem.gsi1sk.startswith(PROJECT_PREFIX)
        return count(ProjectsItem, user_pk(user_id), mine, most=most, index=ProjectsItem.gsi1)

    def of_project(self, project_id: ProjectId, *, limit: int, after: UserId | None) -> MemberSlice:
        """See Projects; one Query, strongly consistent."""
        page = query(
            ProjectsItem,
            project_key(project_id).pk,
            ProjectsItem.sk.startswith(MEMBER_PREFIX),
            limit=limit + 1,
            start=member_key(project_id, after)._asdict() if after is not None else None,
            consistent=True,
        )
        return _rows(page.items, limit)

    def count_of_project(self, project_id: ProjectId, *, most: int) -> int:
        """See Projects; one Query."""
        return count(ProjectsItem, project_key(project_id).pk, ProjectsItem.sk.startswith(MEMBER_PREFIX), most=most)

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ProjectId | None:
        """See Projects; one Get."""
        made = noted(ProjectRequestItem, request_key(user_pk(user_id), request), request)
        return ProjectId(made) if made else None

    def parts(self, user_id: UserId, project_ids: Sequence[ProjectId]) -> Mapping[ProjectId, Part]:
        """See Projects; one BatchGet for fifty projects."""
        found: dict[Key, ProjectsItem] = {}
        for at in range(0, len(project_ids), _BATCH // 2):
            some = project_ids[at : at + _BATCH // 2]
            keys = [key(each, user_id) for each in some for key in (member_key, left_key)]
            found |= batch_get(ProjectsItem, keys, consistent=True)
        return {
            each: part_of(found.get(member_key(each, user_id)), found.get(left_key(each, user_id)))
            for each in project_ids
        }

    # Writing

    def create(self, project: Project, owner: Membership, *, request: RepeatableRequest | None) -> None:
        """See Projects; one transaction of 4 or 5 items."""
        tx = Transaction()
        tx.put(project_item(project))
        tx.put(member_item(owner))
        if request is not None:
            note_request(tx, ProjectRequestItem(*request_key(user_pk(owner.user_id), request)), request, project.id)
        add_owned(tx, owner.user_id, OwnedKind.PROJECT)
        tx.commit()

    def change(self, before: Project, after: Project, *, actor: Membership) -> None:
        """See Projects; one transaction of 3 items."""
        tx = Transaction()
        item = ProjectItem
        tx.update(
            item(*project_key(before.id)),
            [
                item.name.set(after.name),
                item.description.set(after.description) if after.description is not None else item.description.remove(),
                item.status.set(after.status.value),
                item.progress.set(after.progress),
                item.updated_at.set(iso(after.updated_at)),
            ],
            unchanged(before),
            on_fail=changed(),
        )
        require_actor(tx, actor)
        require_account(tx, actor.user_id)
        tx.commit()

    def change_member(self, change: MemberChange) -> None:
        """See Projects; one read of a seat, one transaction of 6 to 15 items."""
        project, actor, before, after = change.project, change.actor, change.before, change.after
        subject = before or after
        assert subject is not None  # noqa: S101  a wiring error, not an input
        tx = Transaction()
        if change.owners == project.owners:
            # Whose plan the seat is of: an owner's account is not deleted, so that nothing is left of it.
            same = same_owners(project) if change.seat is not None else there()
            tx.check(ProjectItem, project_key(project.id), same, on_fail=changed())
        else:
            actions = [ProjectItem.owners.set(list(change.owners)), ProjectItem.updated_at.set(iso(change.at))]
            if change.owners[0] != project.owner_id:
                # From here on another plan pays: `move_seats` follows, or the sweep that finds it here.
                actions += [ProjectItem.gsi1pk.set(MOVING), ProjectItem.gsi1sk.set(f"{iso(change.at)}#{project.id}")]
            tx.update(ProjectItem(*project_key(project.id)), actions, unchanged(project), on_fail=changed())
        key = member_key(project.id, subject.user_id)
        if before is None:
            assert after is not None  # noqa: S101
            tx.put(member_item(after), on_fail=AlreadyExists("The account is a member already"))
            forget_leaving(tx, change, subject.user_id)
        elif after is None:
            tx.delete(MemberItem(*key), MemberItem.version == before.version, on_fail=changed())
            note_leaving(tx, project.id, subject.user_id, at=change.at)
        else:
            accepted = [MemberItem.accepted_at.set(iso(after.accepted_at))] if after.accepted_at else []
            seated = [MemberItem.seat_of.set(after.seat_of)] if change.seat is not None and after.seat_of else []
            actions = [MemberItem.role.set(after.role.value), *accepted, *seated]
            actions += [MemberItem.changed_at.set(iso(after.changed_at))] if after.changed_at else []
            actions.append(MemberItem.updated_at.set(iso(change.at)))
            tx.update(MemberItem(*key), actions, MemberItem.version == before.version, on_fail=changed())
        require_account(tx, actor.user_id)
        if subject.user_id != actor.user_id:
            # Of one's own membership the version was asked above, and a transaction names an item once.
            require_actor(tx, actor)
        _keep_accounts(tx, change, subject.user_id)
        if change.seat is not None:
            take_seat(tx, change.seat, subject.user_id, on_fail=changed())
        elif after is None:
            end_seats_of(tx, [subject])
        if change.invitation is not None:
            use_up(tx, change.invitation, at=change.at)
        for invitee in change.closed:
            if change.invitation is None or invitee != change.invitation.invitee:
                tx.delete(InvitationItem(*invitation_key(project.id, invitee)))
        for entry in change.entries:
            add_audit_entry(tx, entry)
        tx.commit()

    # Deleting

    def begin_delete(self, project: Project, *, actor: Membership, at: datetime) -> None:
        """See Projects; one transaction of 4 items and one an owner."""
        tx, stamp = Transaction(), iso(at)
        item = ProjectItem
        tx.update(
            item(*project_key(project.id)),
            [
                item.deleting_at.set(stamp),
                item.updated_at.set(stamp),
                item.gsi1pk.set(DELETING),
                item.gsi1sk.set(f"{stamp}#{project.id}"),
            ],
            unchanged(project),
            on_fail=changed(),
        )
        require_actor(tx, actor)
        require_account(tx, actor.user_id)
        tx.delete(SharesItem(*shares_key(project.id)))
        for owner in project.owners:
            remove_owned(tx, owner, OwnedKind.PROJECT)
        tx.commit()

    def finish_delete(self, project_id: ProjectId, *, most: int) -> bool:
        """See Projects; the invitations one by one, 33 memberships a transaction, in the end a delete."""
        while invitations := self.invitations_of(project_id):
            for each in invitations:
                self.withdraw(each)
        removed = 0
        for keys in pages(ProjectsItem, project_key(project_id).pk, prefix=LEFT_PREFIX):
            tx = Transaction()
            for key in keys:
                tx.delete(LeftItem(*key))
            tx.commit()
        for keys in pages(ProjectsItem, project_key(project_id).pk, prefix=DEVICE_PREFIX):
            tx = Transaction()
            for key in keys:
                tx.delete(ProjectsItem(*key))
            tx.commit()
        while members := self.of_project(project_id, limit=_MEMBERS_A_TRANSACTION, after=None).members:
            if removed >= most:
                return False
            if end_memberships(members):
                removed += len(members)
        try:
            delete(ProjectItem(*project_key(project_id)), ProjectItem.deleting_at.exists())
        except ConditionFailed:  # somebody else was quicker
            return True
        return True

    def move_seats(self, project_id: ProjectId, *, most: int) -> bool:
        """See Projects; a Query a hundred members, for each that moves two reads and a transaction."""
        project, after, moved = self.read(project_id).project, None, 0
        if project is None or project.deleting:
            return True
        try:
            while True:
                rows = self.of_project(project_id, limit=_BATCH, after=after)
                for member in rows.members:
                    if member.seat_of == project.payer_of(member.user_id):
                        continue
                    if moved >= most:
                        return False
                    move_seat(project, member)
                    moved += 1
                if not rows.more:
                    break
                after = rows.members[-1].user_id
            tx = Transaction()
            actions = [ProjectItem.gsi1pk.remove(), ProjectItem.gsi1sk.remove()]
            tx.update(ProjectItem(*project_key(project_id)), actions, same_owners(project), on_fail=changed())
            tx.commit()
        except ProjectChanged:
            return False
        return True

    def unmoved(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """See Projects; one Query of the index."""
        old_enough = ProjectsItem.gsi1sk < iso(before)
        return query_work(ProjectItem, MOVING, old_enough, moving_of, limit=limit).items

    def unfinished(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """See Projects; one Query of the index."""
        old_enough = ProjectsItem.gsi1sk < iso(before)
        return query_work(ProjectItem, DELETING, old_enough, tombstone_of, limit=limit).items

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove a deleted account's memberships, invitations and requests; return True when none is left.

        The account owns no project: it could not have been deleted. Invitations that it made are removed before the
        items by which they are found, those to it together with the inviter's such item.
        """
        mine = user_pk(purge.user_id)
        while received := self.invitations_to(purge.user_id, None):
            if purge.over():
                return False
            for each in received:
                self.withdraw(each)
        for keys in pages(ProjectsItem, mine, prefix=INVITED_PREFIX):
            if purge.over():
                return False
            named = [key.sk.removeprefix(INVITED_PREFIX).split("#") for key in keys]
            for project_id, invitee in named:
                remove_if_made_by(ProjectId(project_id), invitee, purge.user_id)
        return (
            self._end_memberships(purge)
            and empty(ProjectsItem, mine, purge, prefix=INVITE_PREFIX, index=ProjectsItem.gsi1)
            and empty(ProjectsItem, mine, purge)
        )

    def _end_memberships(self, purge: PurgeAttempt) -> bool:
        """End a deleted account's memberships, each with its seat; return False if the time was over before the end."""
        for keys in pages(ProjectsItem, user_pk(purge.user_id), prefix=PROJECT_PREFIX, index=ProjectsItem.gsi1):
            for key in keys:
                if purge.over():
                    return False
                # Until nobody else changes it between being read and removed.
                while item := get(MemberItem, key, consistent=True):
                    end_memberships([member_of(item)])
        return True


def _keep_accounts(tx: Transaction, change: MemberChange, user_id: UserId) -> None:
    """Count the project for a new owner's account and not for a former one's; require a new member's to exist."""
    owned = change.before is not None and change.before.role is ProjectRole.OWNER
    owns = change.after is not None and change.after.role is ProjectRole.OWNER
    if owns and not owned:
        add_owned(tx, user_id, OwnedKind.PROJECT)
    elif owned and not owns:
        remove_owned(tx, user_id, OwnedKind.PROJECT)
    elif change.before is None:
        require_account(tx, user_id)


def _rows(items: Sequence[ProjectsItem], limit: int) -> MemberSlice:
    members = [member_of(item) for item in items if isinstance(item, MemberItem)]
    return MemberSlice(members[:limit], len(members) > limit)
