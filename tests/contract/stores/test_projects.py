"""Projects: one suite for the store in memory and for DynamoDB.

One file of more than 450 lines: projects, members, invitations and seats are written together, and one project of the
fixture stands for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.clock import iso, monotonic
from karma.core.dynamo.access import get
from karma.core.errors import AlreadyExists
from karma.core.ids import ProjectId, UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.items import OwnedItem, owned_key
from karma.identity.ownership import MOST, OwnedKind, OwnsTooMany
from karma.identity.transactional import AccountGone
from karma.projects.domain import (
    INVITATION_TTL,
    Invitation,
    Membership,
    Part,
    Project,
    ProjectChanged,
    ProjectRole,
    ProjectStatus,
)
from karma.projects.ports import MemberChange, Projects
from karma.projects.repository.projects import ProjectRepository
from tests.contexts.projects import membership, new_project
from tests.fakes.projects import MemoryProjects
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.rows import NOW
from tests.support.stores import Database, Store

LATER = NOW + timedelta(minutes=1)
OWNER, ADMIN, MEMBER, VIEWER = ProjectRole.OWNER, ProjectRole.ADMIN, ProjectRole.MEMBER, ProjectRole.VIEWER


@dataclass
class Kept:
    """A store, with the state around it that its tests need."""

    store: Projects
    person: Callable[[], UserId]
    close: Callable[[UserId], None]
    """Delete an account."""
    held: Callable[[UserId], int]
    """Return the number of projects that an account owns."""

    def project(self, owner: UserId, number: int = 1) -> Project:
        project = new_project(owner, number)
        self.store.create(project, membership(project, owner, OWNER), request=None)
        return project

    def apply(
        self,
        project: Project,
        actor: Membership,
        before: Membership | None,
        after: Membership | None,
        *,
        owners: tuple[UserId, ...] = (),
        invitation: Invitation | None = None,
        closed: tuple[str, ...] = (),
        at: datetime = LATER,
    ) -> None:
        entry = AuditEntry(user_id=actor.user_id, event=AuditEvent.PROJECT_ROLE_CHANGED, at=LATER, actor_id=None)
        change = MemberChange(
            project=project,
            actor=actor,
            before=before,
            after=after,
            owners=owners or project.owners,
            at=at,
            entries=[entry],
            invitation=invitation,
            closed=closed,
        )
        self.store.change_member(change)

    def join(self, project: Project, user_id: UserId, role: ProjectRole = MEMBER) -> Membership:
        """Let the owner add somebody."""
        owner = self.store.read(project.id, project.owner_id).members[project.owner_id]
        stored = self.current(project)
        owners = (*stored.owners, user_id) if role is OWNER else stored.owners
        self.apply(stored, owner, None, membership(project, user_id, role), owners=owners)
        return self.member(project, user_id)

    def current(self, project: Project) -> Project:
        found = self.store.read(project.id).project
        assert found is not None
        return found

    def member(self, project: Project, user_id: UserId) -> Membership:
        return self.store.read(project.id, user_id).members[user_id]


@pytest.fixture
def kept(store: Store) -> Kept:
    if store.in_memory:
        memory = MemoryProjects()

        def person() -> UserId:
            user_id = UserId(new_id())
            memory.accounts.add(user_id)
            return user_id

        return Kept(memory, person, memory.accounts.discard, lambda user_id: memory.held[user_id])
    database = store.database
    identity = database.tables["identity"]

    def close(user_id: UserId) -> None:
        key = {"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}}
        database.client.delete_item(TableName=identity, Key=key)

    def held(user_id: UserId) -> int:
        item = get(OwnedItem, owned_key(user_id), consistent=True)
        return int(item.project) if item else 0

    return Kept(ProjectRepository(), lambda: open_account(), close, held)


class TestAProject:
    @pytest.mark.req("R-K-16")
    def test_reads_back_whole(self, kept: Kept) -> None:
        ada = kept.person()
        project = kept.project(ada)
        changed = replace(
            project,
            name="Ölmühle",
            description="two\nlines",
            status=ProjectStatus.ARCHIVED,
            progress=100,
            updated_at=LATER,
            version=2,
        )
        assert kept.current(project) == project
        kept.store.change(project, changed, actor=kept.member(project, ada))
        assert kept.current(project) == changed
        assert kept.store.projects([project.id]) == {project.id: changed}
        plain = replace(changed, description=None, version=3)
        kept.store.change(changed, plain, actor=kept.member(project, ada))
        assert kept.current(project) == plain

    def test_that_is_not_there_is_nothing(self, kept: Kept) -> None:
        nobody, nothing = UserId(new_id()), ProjectId(new_id())
        assert kept.store.read(nothing, nobody, nobody) == (None, {})
        assert kept.store.projects([nothing]) == {}
        assert kept.store.of_user(nobody, newest_first=True, limit=5, after=None) == ([], False)
        assert kept.store.of_project(nothing, limit=5, after=None) == ([], False)
        assert kept.store.made_by(nobody, asked("t")) is None
        assert kept.store.invitations(nothing, nobody) == []
        assert kept.store.invitations_of(nothing) == []
        assert kept.store.invitations_to(nobody, "nobody@example.com") == []
        assert kept.store.unfinished(before=LATER, limit=5) == []
        assert kept.store.finish_delete(nothing, most=5)

    @pytest.mark.req("R-K-23")
    def test_holds_its_owner_s_account(self, kept: Kept) -> None:
        ada = kept.person()
        kept.project(ada, 1)
        kept.project(ada, 2)
        assert kept.held(ada) == 2

    @pytest.mark.fault("F-26d")
    def test_of_one_owner_are_so_many(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(MOST, OwnedKind.PROJECT, 2)
        ada, ida = kept.person(), kept.person()
        mine, also, her = kept.project(ada, 1), kept.project(ada, 2), kept.project(ida, 3)
        for more in (lambda: kept.project(ada, 4), lambda: kept.join(her, ada, OWNER)):
            with pytest.raises(OwnsTooMany) as refused:
                more()
            assert (refused.value.status, refused.value.details) == (409, {"kind": "project", "limit": 2})
        kept.join(her, ada, MEMBER)  # what others own is in nobody else's count
        kept.store.begin_delete(mine, actor=kept.member(mine, ada), at=LATER)
        kept.project(ada, 4)
        assert (kept.held(ada), kept.held(ida), kept.current(also)) == (2, 1, also)

    def test_is_made_once_for_a_request(self, kept: Kept) -> None:
        ada = kept.person()
        project = kept.project(ada)
        for number in (2, 3):
            other = replace(project, id=ProjectId(f"01890000-0000-7000-8000-{number:012d}"))
            made = membership(other, ada, OWNER)
            if number == 2:
                kept.store.create(other, made, request=asked("t"))
            else:
                with pytest.raises(AlreadyExists):
                    kept.store.create(other, made, request=asked("t"))
        assert kept.store.made_by(ada, asked("t")) == "01890000-0000-7000-8000-000000000002"
        assert kept.store.made_by(kept.person(), asked("t")) is None
        with pytest.raises(IdempotencyKeyReused):
            kept.store.made_by(ada, asked("t", "another project"))
        another, day_after = replace(project, id=ProjectId(new_id())), asked("t", "another project", at=NOW + RETENTION)
        assert kept.store.made_by(ada, day_after) is None
        kept.store.create(another, membership(another, ada, OWNER), request=day_after)
        assert kept.store.made_by(ada, day_after) == another.id
        assert kept.held(ada) == 3

    def test_is_not_made_for_an_account_that_is_gone(self, kept: Kept) -> None:
        ada = kept.person()
        kept.close(ada)
        with pytest.raises(AccountGone):
            kept.project(ada)
        assert kept.store.of_user(ada, newest_first=True, limit=5, after=None) == ([], False)
        assert kept.held(ada) == 0

    def test_is_not_changed_on_what_is_stale(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        member = kept.join(project, ida)
        changed = replace(project, progress=1, version=2)
        kept.store.change(project, changed, actor=member)
        with pytest.raises(ProjectChanged):
            kept.store.change(project, replace(project, progress=2, version=2), actor=member)
        kept.apply(changed, kept.member(project, ada), member, replace(member, role=VIEWER, version=2))
        with pytest.raises(ProjectChanged):
            kept.store.change(changed, replace(changed, progress=3, version=3), actor=member)
        kept.close(ada)
        with pytest.raises(AccountGone):
            kept.store.change(changed, replace(changed, progress=4, version=3), actor=kept.member(project, ada))
        assert kept.current(project).progress == 1


@pytest.mark.req("R-K-17")
class TestAMembership:
    def test_is_one_for_a_project_and_a_person(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        member = kept.join(project, ida)
        assert member == membership(project, ida, MEMBER)
        with pytest.raises(AlreadyExists):
            kept.join(project, ida, ADMIN)
        assert kept.member(project, ida) == member

    @pytest.mark.parametrize("role", ProjectRole)
    def test_has_a_role_and_holds_an_owner_s_account(self, kept: Kept, role: ProjectRole) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        assert kept.join(project, ida, role).role is role
        assert kept.held(ida) == (role is OWNER)
        assert kept.current(project).owners == ((ada, ida) if role is OWNER else (ada,))

    def test_that_begins_or_ends_to_own_changes_the_project(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        before = kept.join(project, ida)
        owner = replace(before, role=OWNER, version=2)
        kept.apply(project, kept.member(project, ada), before, owner, owners=(ada, ida))
        shared = kept.current(project)
        assert (shared.owners, shared.version, shared.updated_at) == ((ada, ida), 2, LATER)
        assert (kept.member(project, ida), kept.held(ida)) == (owner, 1)
        mine = kept.member(project, ada)
        kept.apply(shared, mine, mine, None, owners=(ida,))
        assert kept.store.read(project.id, ada, ida).members == {ida: owner}
        assert (kept.current(project).owner_id, kept.held(ada), kept.held(ida)) == (ida, 0, 1)

    @pytest.mark.fault("F-19a")
    def test_takes_its_seats_along_when_another_account_pays(self, kept: Kept) -> None:
        ada, ida, bob = kept.person(), kept.person(), kept.person()
        project = kept.project(ada)
        kept.join(project, ida, OWNER)
        kept.join(project, bob)
        mine = kept.member(project, ada)
        kept.apply(kept.current(project), mine, mine, None, owners=(ida,))
        due = LATER + timedelta(minutes=1)
        assert list(kept.store.unmoved(before=due, limit=5)) == [project.id]
        assert list(kept.store.unmoved(before=LATER, limit=5)) == []
        while not kept.store.move_seats(project.id, most=1):
            assert list(kept.store.unmoved(before=due, limit=5)) == [project.id]
        assert list(kept.store.unmoved(before=due, limit=5)) == []
        assert kept.member(project, bob).seat_of == ida
        assert kept.member(project, ida).seat_of is None
        assert kept.store.move_seats(project.id, most=1), "a repeat finds nothing to do"

    def test_is_not_written_on_what_is_stale(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        mine, hers = kept.member(project, ada), kept.join(project, ida, OWNER)
        shared = kept.current(project)
        kept.apply(shared, hers, mine, replace(mine, role=MEMBER, version=2), owners=(ida,))
        demoted = replace(hers, role=MEMBER, version=2)
        for actor, before, owners in (
            (mine, hers, (ada,)),  # on the project as it was
            (mine, hers, shared.owners),  # as somebody who was an owner
            (hers, replace(hers, version=9), (ida,)),  # of another version
        ):
            with pytest.raises(ProjectChanged):
                kept.apply(shared, actor, before, demoted, owners=owners)
            with pytest.raises(ProjectChanged):
                kept.apply(shared, actor, before, None, owners=owners)
        assert kept.current(project).owners == (ida,)
        assert (kept.member(project, ida).role, kept.held(ida)) == (OWNER, 1)

    def test_is_not_given_to_or_by_an_account_that_is_gone(self, kept: Kept) -> None:
        ada, ida, eve = kept.person(), kept.person(), kept.person()
        project = kept.project(ada)
        hers = kept.join(project, ida)
        kept.close(ida)
        kept.close(eve)
        for role in (MEMBER, OWNER):
            with pytest.raises(AccountGone):
                kept.join(project, eve, role)
        with pytest.raises(AccountGone):
            kept.apply(
                project, kept.member(project, ada), hers, replace(hers, role=OWNER, version=2), owners=(ada, ida)
            )
        kept.close(ada)
        with pytest.raises(AccountGone):
            kept.apply(project, kept.member(project, ada), hers, None)
        assert kept.store.read(project.id, ida, eve).members == {ida: hers}
        assert (kept.held(ida), kept.held(eve)) == (0, 0)


class TestLists:
    def test_of_a_person_go_by_the_age_of_the_project(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        projects = [kept.project(ada, number) for number in range(1, 6)]
        for project in projects[:4]:
            kept.join(project, ida, VIEWER)

        def numbers(newest_first: bool, limit: int = 9, after: int = 0) -> tuple[list[int], bool]:
            start = projects[after - 1].id if after else None
            rows = kept.store.of_user(ida, newest_first=newest_first, limit=limit, after=start)
            return [int(row.project_id[-1]) for row in rows.members], rows.more

        assert numbers(newest_first=True) == ([4, 3, 2, 1], False)
        assert numbers(newest_first=False, limit=3) == ([1, 2, 3], True)
        assert numbers(newest_first=True, limit=2, after=3) == ([2, 1], False)
        assert numbers(newest_first=False, limit=1, after=2) == ([3], True)
        assert (kept.store.count_of_user(ida, most=9), kept.store.count_of_user(ida, most=3)) == (4, 3)
        assert kept.store.projects([each.id for each in projects]).keys() == {each.id for each in projects}

    def test_of_a_project_go_by_the_age_of_the_account(self, kept: Kept) -> None:
        ada = kept.person()
        project = kept.project(ada)
        people = sorted([ada, *(kept.person() for _ in range(3))])
        for user_id in people:
            if user_id != ada:
                kept.join(project, user_id)

        def listed(limit: int, after: UserId | None = None) -> tuple[list[UserId], bool]:
            rows = kept.store.of_project(project.id, limit=limit, after=after)
            return [row.user_id for row in rows.members], rows.more

        assert listed(9) == (people, False)
        assert listed(3) == (people[:3], True)
        assert listed(2, people[1]) == (people[2:], False)
        assert (kept.store.count_of_project(project.id, most=9), kept.store.count_of_project(project.id, most=2)) == (
            4,
            2,
        )


@pytest.mark.req("R-K-22")
class TestADeletedProject:
    def test_is_a_tombstone_that_nothing_can_be_hung_on(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        hers, mine = kept.join(project, ida, OWNER), kept.member(project, ada)
        shared = kept.current(project)
        kept.store.begin_delete(shared, actor=mine, at=NOW)
        tombstone = kept.current(project)
        assert (tombstone.deleting, tombstone.owners) == (True, (ada, ida))
        assert (kept.held(ada), kept.held(ida)) == (0, 0)
        assert kept.store.projects([project.id]) == {}
        assert kept.store.unfinished(before=LATER, limit=5) == [project.id]
        assert kept.store.unfinished(before=NOW, limit=5) == []
        for seen in (shared, tombstone):
            with pytest.raises(ProjectChanged):
                kept.store.change(seen, replace(seen, progress=1), actor=mine)
            with pytest.raises(ProjectChanged):
                kept.store.begin_delete(seen, actor=mine, at=LATER)
            with pytest.raises(ProjectChanged):
                kept.apply(seen, mine, None, membership(project, kept.person(), MEMBER))
            with pytest.raises(ProjectChanged):
                kept.apply(seen, mine, hers, None, owners=(ada,))

    def test_leaves_nothing(self, kept: Kept) -> None:
        ada = kept.person()
        project, other = kept.project(ada), kept.project(ada, 2)
        for _ in range(3):
            kept.join(project, kept.person())
        kept.store.begin_delete(project, actor=kept.member(project, ada), at=NOW)
        assert kept.store.finish_delete(project.id, most=100)
        assert kept.store.finish_delete(project.id, most=100)
        assert kept.store.read(project.id, ada) == (None, {})
        assert kept.store.of_project(project.id, limit=9, after=None) == ([], False)
        assert kept.store.unfinished(before=LATER, limit=5) == []
        assert kept.store.read(other.id, ada).project == other
        assert kept.held(ada) == 1


class TestInDynamo:
    @pytest.fixture
    def work(self, database: Database) -> ProjectRepository:
        return ProjectRepository()

    def seed_members(self, database: Database, project_id: str, number: int) -> None:
        """Store memberships as `change_member` does, without their accounts."""
        stamp = {"S": iso(NOW)}
        rows = []
        for _ in range(number):
            user_id = new_id()
            rows.append(
                {
                    "pk": {"S": f"PROJECT#{project_id}"},
                    "sk": {"S": f"MEMBER#{user_id}"},
                    "type": {"S": "project_member"},
                    "schema": {"N": "1"},
                    "version": {"N": "1"},
                    "project_id": {"S": project_id},
                    "user_id": {"S": user_id},
                    "role": {"S": "member"},
                    "created_at": stamp,
                    "updated_at": stamp,
                    "gsi1pk": {"S": f"USER#{user_id}"},
                    "gsi1sk": {"S": f"PROJECT#{project_id}"},
                }
            )
        for at in range(0, number, 25):
            requests = [{"PutRequest": {"Item": row}} for row in rows[at : at + 25]]
            database.client.batch_write_item(RequestItems={database.tables["work"]: requests})

    def test_a_go_ends_and_the_next_one_goes_on(self, database: Database, work: ProjectRepository) -> None:
        ada = open_account()
        kept = Kept(work, lambda: ada, lambda _: None, lambda _: 0)
        project = kept.project(ada)
        self.seed_members(database, project.id, 250)
        work.begin_delete(project, actor=kept.member(project, ada), at=NOW)
        goes = 1
        while not work.finish_delete(project.id, most=100):
            assert kept.current(project).deleting
            goes += 1
        assert goes == 2
        assert database.items("work") == []

    def test_what_is_no_tombstone_keeps_no_sweep_from_those_behind_it(
        self, database: Database, work: ProjectRepository
    ) -> None:
        ada = open_account()
        kept = Kept(work, lambda: ada, lambda _: None, lambda _: 0)
        project = kept.project(ada)
        work.begin_delete(project, actor=kept.member(project, ada), at=NOW)
        listed = {"gsi1pk": {"S": "PROJECTS#DELETING"}, "gsi1sk": {"S": "2026-01-01T00:00:00.000Z#x"}}
        alive = {"type": {"S": "project"}, "project_id": {"S": project.id}, "sk": {"S": "PROJECT"}}
        hostile: list[dict[str, Any]] = [
            {"sk": {"S": "PROJECT"}},
            {"sk": {"S": "PROJECT"}, "type": {"S": "unknown"}},
            {"sk": {"S": "PROJECT"}, "type": {"S": "project"}},
            {**alive, "deleting_at": {"S": iso(NOW)}},  # under another project's key
            {**alive, "version": {"S": "one"}, "deleting_at": {"N": "1"}},
            {"sk": {"S": f"MEMBER#{ada}"}, "type": {"S": "project_member"}},
        ]
        for number, item in enumerate(hostile):
            stored = {"pk": {"S": f"PROJECT#hostile-{number}"}, **item, **listed}
            database.client.put_item(TableName=database.tables["work"], Item=stored)
        assert work.unfinished(before=LATER, limit=100) == [project.id]

    def test_nothing_of_a_deleted_account_is_left(self, database: Database, work: ProjectRepository) -> None:
        ada, ida = open_account(), open_account()
        kept = Kept(work, lambda: ada, lambda _: None, lambda _: 0)
        project = kept.project(ada)
        kept.join(project, ida)
        other = replace(project, id=ProjectId(new_id()), owners=(ida,))
        work.create(other, membership(other, ida, OWNER), request=asked("t"))
        work.begin_delete(other, actor=kept.member(other, ida), at=NOW)
        work.finish_delete(other.id, most=100)
        over = PurgeAttempt(user_id=ida, requested_at=NOW, ends_at=monotonic() - 1, settled=True)
        assert not work.purge_account(over)
        assert kept.member(project, ida).role is MEMBER
        assert work.purge_account(PurgeAttempt(user_id=ida, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
        items = database.items("work")
        assert sorted(item["sk"]["S"] for item in items) == [f"MEMBER#{ada}", "PROJECT"]


@pytest.mark.fault("F-20c")
class TestAnInvitation:
    def ask(self, kept: Kept, project: Project, user_id: UserId | None = None, **changes: Any) -> Invitation:
        owner = kept.member(project, project.owner_id)
        invitation = Invitation(
            project_id=project.id,
            user_id=user_id,
            email=None if user_id else "ida@example.com",
            role=VIEWER,
            invited_by=owner.user_id,
            invited_at=NOW,
            expires_at=NOW + INVITATION_TTL,
        )
        invitation = replace(invitation, **changes)
        kept.store.invite(invitation, actor=owner, known=None, entries=[], mails=[])
        return invitation

    @pytest.mark.fault("F-20d")
    def test_ends_with_what_is_decided_about_the_person_later(self, kept: Kept) -> None:
        ada, ida, eve = kept.person(), kept.person(), kept.person()
        project = kept.project(ada)
        owner, by_email = kept.member(project, ada), self.ask(kept, project, role=ADMIN)
        asked = {user_id: self.ask(kept, project, user_id, role=OWNER) for user_id in (ida, eve)}
        member = membership(project, ida, VIEWER)
        reached = (ida, by_email.invitee)
        kept.apply(project, owner, None, member, invitation=asked[ida], closed=reached)
        assert kept.store.invitations_of(project.id) == [asked[eve]]
        assert kept.store.parts(ida, [project.id]) == {project.id: Part(member=member)}
        self.ask(kept, project, ida, role=OWNER)
        changed = replace(member, role=MEMBER, version=2, changed_at=LATER)
        kept.apply(project, owner, member, changed, closed=reached)
        assert kept.store.parts(ida, [project.id]) == {project.id: Part(member=changed)}
        by_email = self.ask(kept, project)
        kept.apply(project, owner, changed, None, closed=reached)
        assert kept.store.invitations_of(project.id) == [asked[eve]]
        nowhere = ProjectId(new_id())
        assert kept.store.parts(ida, [project.id, nowhere]) == {project.id: Part(left_at=LATER), nowhere: Part()}
        before = self.ask(kept, project, ida, invited_at=NOW)
        with pytest.raises(ProjectChanged):
            kept.apply(project, owner, None, member, invitation=before)
        after = self.ask(kept, project, ida, invited_at=LATER)
        kept.apply(project, owner, None, member, invitation=after)
        assert kept.store.parts(ida, [project.id]) == {project.id: Part(member=member)}

    @pytest.mark.fault("F-20d")
    def test_is_made_only_to_who_is_what_they_were(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        owner, invitation = kept.member(project, ada), self.ask(kept, project, ida)
        member = kept.join(project, ida)
        for known in (None, replace(member, version=7)):
            with pytest.raises(ProjectChanged):
                kept.store.invite(invitation, actor=owner, known=(ida, known), entries=[], mails=[])
        kept.store.invite(invitation, actor=owner, known=(ida, member), entries=[], mails=[])
        kept.apply(project, owner, member, None)
        with pytest.raises(ProjectChanged):
            kept.store.invite(invitation, actor=owner, known=(ida, member), entries=[], mails=[])
        kept.store.begin_delete(kept.current(project), actor=owner, at=LATER)
        assert kept.store.finish_delete(project.id, most=10)
        assert kept.store.parts(ida, [project.id]) == {project.id: Part()}

    def test_is_found_by_who_is_asked_and_by_the_project(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        by_id, by_email = self.ask(kept, project, ida), self.ask(kept, project)
        assert kept.store.invitations(project.id, ida, by_email.invitee, "x") == [by_id, by_email]
        assert {each.invitee for each in kept.store.invitations_of(project.id)} == {ida, by_email.invitee}
        assert kept.store.invitations_to(ida, None) == [by_id]
        assert list(kept.store.invitations_to(ida, "ida@example.com")) == [by_id, by_email]
        assert kept.store.invitations_to(ada, "ada@example.com") == []

    def test_is_used_up_by_the_membership(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        invitation, owner = self.ask(kept, project, ida), kept.member(project, ada)
        member = replace(membership(project, ida, VIEWER), accepted_at=LATER)
        for other in ({"role": OWNER}, {"invited_by": ida}):
            with pytest.raises(ProjectChanged):
                kept.apply(project, owner, None, member, invitation=replace(invitation, **other))
        assert kept.store.read(project.id, ida).members == {}
        kept.apply(project, owner, None, member, invitation=invitation)
        assert kept.member(project, ida) == member
        assert kept.store.invitations(project.id, ida) == []
        with pytest.raises((ProjectChanged, AlreadyExists)):
            kept.apply(project, owner, None, member, invitation=invitation)

    def test_that_was_declined_is_not_made_again_until_it_is_over(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        invitation = self.ask(kept, project, ida)
        entry = AuditEntry(user_id=ida, event=AuditEvent.PROJECT_INVITATION_DECLINED, at=LATER, actor_id=ida)
        for _ in range(2):
            kept.store.decline(invitation, by=ida, at=LATER, entry=entry)
        assert kept.store.invitations(project.id, ida) == [replace(invitation, declined=True)]
        assert kept.store.invitations_to(ida, None) == [replace(invitation, declined=True)]
        said = Part(left_at=LATER, refused_until=invitation.expires_at)
        assert kept.store.parts(ida, [project.id]) == {project.id: said}
        with pytest.raises(ProjectChanged):
            self.ask(kept, project, ida, invited_at=invitation.expires_at - timedelta(seconds=1))
        with pytest.raises(ProjectChanged):
            kept.apply(
                project, kept.member(project, ada), None, membership(project, ida, VIEWER), invitation=invitation
            )
        after = invitation.expires_at
        again = self.ask(kept, project, ida, invited_at=after, expires_at=after + INVITATION_TTL)
        assert kept.store.invitations(project.id, ida) == [again]

    def test_takes_the_place_of_an_earlier_one_and_can_be_withdrawn(self, kept: Kept) -> None:
        ada, ida = kept.person(), kept.person()
        project = kept.project(ada)
        self.ask(kept, project, ida)
        again = self.ask(kept, project, ida, role=ADMIN, invited_at=LATER)
        assert kept.store.invitations_of(project.id) == [again]
        for _ in range(2):
            kept.store.withdraw(again)
        assert kept.store.invitations_of(project.id) == []

    @pytest.mark.fault("F-20f")
    def test_is_not_replaced_by_who_could_not_have_made_it(self, kept: Kept) -> None:
        ada, eve, ida = kept.person(), kept.person(), kept.person()
        project = kept.project(ada)
        kept.apply(project, kept.member(project, ada), None, membership(project, eve, ADMIN))
        admin = kept.member(project, eve)
        offered = self.ask(kept, project, ida, role=OWNER)
        lesser = replace(offered, role=VIEWER, invited_by=eve, invited_at=LATER)
        with pytest.raises(ProjectChanged):
            kept.store.invite(lesser, actor=admin, known=(ida, None), entries=[], mails=[])
        assert kept.store.invitations(project.id, ida) == [offered]
        over = offered.expires_at
        after = replace(lesser, invited_at=over, expires_at=over + INVITATION_TTL)
        kept.store.invite(after, actor=admin, known=(ida, None), entries=[], mails=[])
        assert kept.store.invitations(project.id, ida) == [after]

    def test_is_made_for_accounts_and_by_members_that_are_there(self, kept: Kept) -> None:
        ada, ida, eve = kept.person(), kept.person(), kept.person()
        project = kept.project(ada)
        with pytest.raises(AccountGone):
            self.ask(kept, project, UserId(new_id()))
        invitation = self.ask(kept, project, ida)
        with pytest.raises(ProjectChanged):
            kept.store.invite(invitation, actor=membership(project, eve, ADMIN), known=None, entries=[], mails=[])
        owner = kept.member(project, ada)
        kept.store.begin_delete(kept.current(project), actor=owner, at=LATER)
        with pytest.raises(ProjectChanged):
            kept.store.invite(invitation, actor=owner, known=None, entries=[], mails=[])
        kept.store.finish_delete(project.id, most=10)
        assert kept.store.invitations_of(project.id) == []
