"""In-memory stand-in for the store of projects, with the accounts that it asks for; it passes DynamoDB's suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.audit.domain import AuditEntry
from karma.billing.allowances import Metric, granted
from karma.core.errors import AlreadyExists
from karma.core.ids import ProjectId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.ownership import MOST, OwnedKind, OwnsTooMany
from karma.identity.transactional import AccountGone
from karma.mail.domain import Mail
from karma.projects.domain import Invitation, Membership, Part, Project, ProjectChanged, ProjectRole
from karma.projects.permissions import managed_by
from karma.projects.ports import MemberChange, MemberSlice, Read
from tests.fakes.requests import MemoryRequests
from tests.fakes.usage import MemoryUsage


@dataclass
class MemoryProjects:
    """Projects in dictionaries."""

    accounts: set[UserId] = field(default_factory=set)
    stored: dict[ProjectId, Project] = field(default_factory=dict)
    members: dict[tuple[ProjectId, UserId], Membership] = field(default_factory=dict)
    left: dict[tuple[ProjectId, UserId], datetime] = field(default_factory=dict)
    refused: dict[tuple[ProjectId, UserId], datetime] = field(default_factory=dict)
    asked: dict[tuple[ProjectId, str], Invitation] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_at: dict[ProjectId, datetime] = field(default_factory=dict)
    held: Counter[UserId] = field(default_factory=Counter)
    audit: list[AuditEntry] = field(default_factory=list)
    moving: dict[ProjectId, datetime] = field(default_factory=dict)
    usage: MemoryUsage = field(default_factory=MemoryUsage)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    """Callables that run before the next writes, one each."""

    def read(self, project_id: ProjectId, *user_ids: UserId) -> Read:
        found = {user: self.members[project_id, user] for user in user_ids if (project_id, user) in self.members}
        return Read(self.stored.get(project_id), found)

    def create(self, project: Project, owner: Membership, *, request: RepeatableRequest | None) -> None:
        self._require_account(owner.user_id)
        self.requests.require_new(owner.user_id, request)
        self._require_room(owner.user_id, more=True)
        self.stored[project.id] = project
        self.members[project.id, owner.user_id] = owner
        self.held[owner.user_id] += 1
        self.requests.note(owner.user_id, request, project.id)

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ProjectId | None:
        made = self.requests.noted(user_id, request)
        return ProjectId(made) if made else None

    def change(self, before: Project, after: Project, *, actor: Membership) -> None:
        self._before_write()
        self._require(before, actor)
        self.stored[after.id] = after

    def change_member(self, change: MemberChange) -> None:
        self._before_write()
        project, before, after = change.project, change.before, change.after
        subject = before or after
        assert subject is not None
        key = (project.id, subject.user_id)
        owned = before is not None and before.role is ProjectRole.OWNER
        owns = after is not None and after.role is ProjectRole.OWNER
        stored = self.stored.get(project.id)
        if stored is None or stored.deleting:
            raise ProjectChanged("changed")
        if change.seat is not None and stored.owners != project.owners:
            raise ProjectChanged("changed")
        if change.owners != project.owners and stored.version != project.version:
            raise ProjectChanged("changed")
        self._require_account(change.actor.user_id)
        if subject.user_id != change.actor.user_id:
            self._require_role(change.actor)
        if before is None or (owns and not owned):
            self._require_account(subject.user_id)
        if before is None and key in self.members:
            raise AlreadyExists("The account is a member already")
        invited_at = change.invitation.invited_at if change.invitation else change.at
        if before is None and key in self.left and self.left[key] > invited_at:
            raise ProjectChanged("changed")
        if before is not None and (key not in self.members or self.members[key].version != before.version):
            raise ProjectChanged("changed")
        self._require_invitation(change)
        self._require_room(subject.user_id, more=owns and not owned)
        if change.seat is not None:
            self.usage.take_seat(change.seat, subject.user_id)
        if change.invitation is not None:
            del self.asked[project.id, change.invitation.invitee]
        if change.owners != project.owners:
            self.moving |= {project.id: change.at} if change.owners[0] != stored.owner_id else {}
            self.stored[project.id] = replace(
                stored, owners=change.owners, updated_at=change.at, version=stored.version + 1
            )
        for invitee in change.closed:
            self.asked.pop((project.id, invitee), None)
        if after is None:
            self._end(key)
            self.left[key] = change.at
        else:
            self.members[key] = after
            if before is None:
                self.left.pop(key, None)
                self.refused.pop(key, None)
        self.held[subject.user_id] += owns - owned
        self.audit += change.entries

    def parts(self, user_id: UserId, project_ids: Sequence[ProjectId]) -> Mapping[ProjectId, Part]:
        keys = [(each, user_id) for each in project_ids]
        return {
            key[0]: Part(member=self.members.get(key), left_at=self.left.get(key), refused_until=self.refused.get(key))
            for key in keys
        }

    def invite(
        self,
        invitation: Invitation,
        *,
        actor: Membership,
        known: tuple[UserId, Membership | None] | None,
        entries: Sequence[AuditEntry],
        mails: Sequence[Mail],
    ) -> None:
        self._before_write()
        stored = self.stored.get(invitation.project_id)
        if stored is None or stored.deleting:
            raise ProjectChanged("changed")
        self._require_role(actor)
        self._require_account(actor.user_id)
        if invitation.user_id is not None:
            self._require_account(invitation.user_id)
        if known is not None:
            member = self.members.get((invitation.project_id, known[0]))
            if (member.version if member else None) != (known[1].version if known[1] else None):
                raise ProjectChanged("changed")
        key = (invitation.project_id, invitation.invitee)
        earlier = self.asked.get(key)
        stands = earlier is not None and invitation.invited_at < earlier.expires_at
        if earlier is not None and stands and (earlier.declined or earlier.role not in managed_by(actor.role)):
            raise ProjectChanged("changed")
        self.asked[key] = invitation
        self.audit += entries
        self.mails += mails

    def invitations(self, project_id: ProjectId, *invitees: str) -> Sequence[Invitation]:
        return [self.asked[project_id, each] for each in invitees if (project_id, each) in self.asked]

    def invitations_of(self, project_id: ProjectId) -> Sequence[Invitation]:
        return [each for (project, _), each in sorted(self.asked.items()) if project == project_id]

    def invitations_to(self, user_id: UserId, email: str | None) -> Sequence[Invitation]:
        return [
            each
            for each in self.asked.values()
            if each.user_id == user_id or (email is not None and each.email == email)
        ]

    def decline(self, invitation: Invitation, *, by: UserId, at: datetime, entry: AuditEntry) -> None:
        key = (invitation.project_id, invitation.invitee)
        stored = self.asked.get(key)
        if stored is not None and stored.is_open(at):
            self.asked[key] = replace(stored, declined=True)
            self.left[invitation.project_id, by] = at
            self.refused[invitation.project_id, by] = invitation.expires_at
            self.audit.append(entry)

    def withdraw(self, invitation: Invitation) -> None:
        self.asked.pop((invitation.project_id, invitation.invitee), None)

    def begin_delete(self, project: Project, *, actor: Membership, at: datetime) -> None:
        self._before_write()
        self._require(project, actor)
        self.stored[project.id] = replace(project, deleting=True, updated_at=at, version=project.version + 1)
        self.deleted_at[project.id] = at
        self.moving.pop(project.id, None)
        self.held.subtract(project.owners)

    def finish_delete(self, project_id: ProjectId, *, most: int) -> bool:
        for asked in [key for key in self.asked if key[0] == project_id]:
            del self.asked[asked]
        for gone in [key for key in self.left if key[0] == project_id]:
            del self.left[gone]
            self.refused.pop(gone, None)
        mine = [key for key in self.members if key[0] == project_id]
        for key in mine[:most]:
            self._end(key)
        if len(mine) > most:
            return False
        if project_id in self.stored and self.stored[project_id].deleting:
            del self.stored[project_id]
            del self.deleted_at[project_id]
        return True

    def move_seats(self, project_id: ProjectId, *, most: int) -> bool:
        project = self.stored.get(project_id)
        if project is None or project.deleting:
            return True
        mine = [each for each in self.members.values() if each.project_id == project_id]
        wrong = [each for each in mine if each.seat_of != project.payer_of(each.user_id)]
        for each in wrong[:most]:
            payer = project.payer_of(each.user_id)
            if each.seat_of is not None:
                self.usage.give_seat_back(each.seat_of, each.user_id)
            if payer is not None:
                self.usage.take_seat(granted(payer, Metric.SEATS), each.user_id)
            self.members[project_id, each.user_id] = replace(each, seat_of=payer, version=each.version + 1)
        if len(wrong) > most:
            return False
        if self.moving.pop(project_id, None) is not None:
            self.stored[project_id] = replace(project, version=project.version + 1)
        return True

    def unmoved(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        due = [(at, project_id) for project_id, at in self.moving.items() if at < before]
        return [project_id for _, project_id in sorted(due)][:limit]

    def unfinished(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        due = [(at, project_id) for project_id, at in self.deleted_at.items() if at < before]
        return [project_id for _, project_id in sorted(due)][:limit]

    def of_user(self, user_id: UserId, *, newest_first: bool, limit: int, after: ProjectId | None) -> MemberSlice:
        mine = sorted(project for project, user in self.members if user == user_id)
        if newest_first:
            mine.reverse()
        if after is not None:
            mine = [project for project in mine if (project < after if newest_first else project > after)]
        return MemberSlice([self.members[project, user_id] for project in mine[:limit]], len(mine) > limit)

    def count_of_user(self, user_id: UserId, *, most: int) -> int:
        return min(most, sum(user == user_id for _, user in self.members))

    def projects(self, ids: Sequence[ProjectId]) -> Mapping[ProjectId, Project]:
        return {each: self.stored[each] for each in ids if each in self.stored and not self.stored[each].deleting}

    def of_project(self, project_id: ProjectId, *, limit: int, after: UserId | None) -> MemberSlice:
        users = sorted(user for project, user in self.members if project == project_id and (after or "") < user)
        return MemberSlice([self.members[project_id, user] for user in users[:limit]], len(users) > limit)

    def count_of_project(self, project_id: ProjectId, *, most: int) -> int:
        return min(most, sum(project == project_id for project, _ in self.members))

    def _end(self, key: tuple[ProjectId, UserId]) -> None:
        member = self.members.pop(key)
        if member.seat_of is not None:
            self.usage.give_seat_back(member.seat_of, member.user_id)

    def _before_write(self) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def _require(self, before: Project, actor: Membership) -> None:
        stored = self.stored.get(before.id)
        if stored is None or stored.version != before.version or stored.deleting:
            raise ProjectChanged("changed")
        self._require_role(actor)
        self._require_account(actor.user_id)

    def _require_invitation(self, change: MemberChange) -> None:
        if (invitation := change.invitation) is None:
            return
        now = self.asked.get((change.project.id, invitation.invitee))
        if now is None or not now.is_open(change.at):
            raise ProjectChanged("changed")
        if replace(now, expires_at=invitation.expires_at) != invitation:
            raise ProjectChanged("changed")

    def _require_role(self, actor: Membership) -> None:
        stored = self.members.get((actor.project_id, actor.user_id))
        if stored is None or stored.role is not actor.role:
            raise ProjectChanged("changed")

    def _require_room(self, user_id: UserId, *, more: bool) -> None:
        if more and self.held[user_id] >= MOST[OwnedKind.PROJECT]:
            raise OwnsTooMany(OwnedKind.PROJECT)

    def _require_account(self, user_id: UserId) -> None:
        if user_id not in self.accounts:
            raise AccountGone(user_id)
