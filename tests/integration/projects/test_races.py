"""Concurrent changes of a project: an owner always remains, and an account that owns a project is not deleted."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
from karma.core.clock import SystemClock
from karma.core.dynamo.access import get
from karma.core.ids import ProjectId, UserId
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.items import OwnedItem, UserItem, owned_key, user_key
from karma.identity.transactional import AccountGone
from karma.projects.domain import Project, ProjectRole
from karma.projects.invitations import InvitationService
from karma.projects.members import MemberService
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, PageQuery, ProjectService
from tests.support.accounts import open_account
from tests.support.at_once import at_once
from tests.support.projects import invitations, join
from tests.support.stack import Stack

TRIES = 50
OWNER, MEMBER = ProjectRole.OWNER, ProjectRole.MEMBER


class Services:
    def __init__(self, stack: Stack) -> None:
        self.tables = stack.tables
        open_account()
        self.store = ProjectRepository()
        self.projects = ProjectService(self.store, SystemClock())
        self.members = MemberService(self.store, UserRepository(), SystemClock())
        self.deletions = DeletionRepository()

    def person(self) -> UserId:
        return open_account()

    def project(self, owner: UserId, *others: UserId, role: ProjectRole = OWNER) -> ProjectId:
        project_id = self.projects.create(owner, NewProject(name="Greenhouse")).project.id
        for user_id in others:
            join(self.invitations(), project_id, user_id, role, by=owner)
        return project_id

    def invitations(self) -> InvitationService:
        return invitations(self.store, SystemClock())

    def give(self, by: UserId, project_id: ProjectId, user_id: UserId, role: ProjectRole) -> object:
        if role is OWNER:
            return join(self.invitations(), project_id, user_id, role, by=by)
        return self.members.change_role(by, project_id, user_id, role, source=NOWHERE)

    def remove(self, by: UserId, project_id: ProjectId, user_id: UserId) -> object:
        self.members.remove(by, project_id, user_id, source=NOWHERE)
        return None

    def delete_account(self, user_id: UserId) -> object:
        leaving, now = self.deletions.leaving(user_id), datetime.now(UTC)
        if leaving is None:
            raise AccountGone(user_id)
        entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=now, actor_id=user_id)
        self.deletions.begin(leaving, entry=entry, due_at=now + timedelta(minutes=2))
        return None

    def stored(self, project_id: ProjectId) -> Project:
        project = self.store.read(project_id).project
        assert project is not None
        return project

    def roles(self, project_id: ProjectId) -> dict[UserId, ProjectRole]:
        rows = self.store.of_project(project_id, limit=100, after=None)
        return {row.user_id: row.role for row in rows.members}

    def held(self, user_id: UserId) -> int:
        item = get(OwnedItem, owned_key(user_id), consistent=True)
        return int(item.project) if item else 0

    def is_there(self, user_id: UserId) -> bool:
        return get(UserItem, user_key(user_id), consistent=True) is not None


@pytest.fixture
def services(stack: Stack) -> Services:
    return Services(stack)


def consistent(services: Services, project_id: ProjectId) -> tuple[UserId, ...]:
    """Check what always holds of a project; return its owners."""
    owners = services.stored(project_id).owners
    assert owners
    assert {user_id for user_id, role in services.roles(project_id).items() if role is OWNER} == {*owners}
    return owners


@pytest.mark.req("R-K-17")
class TestTwoOwners:
    def test_who_demote_each_other_leave_one(self, services: Services) -> None:
        ended: Counter[tuple[str, ...]] = Counter()
        ada, ida = services.person(), services.person()
        for _ in range(TRIES):
            project_id = services.project(ada, ida)
            outcome = at_once(
                lambda project_id=project_id: services.give(ada, project_id, ida, MEMBER),  # type: ignore[misc]
                lambda project_id=project_id: services.give(ida, project_id, ada, MEMBER),  # type: ignore[misc]
            )
            ended[tuple(sorted(outcome))] += 1
            assert len(consistent(services, project_id)) == 1
        assert ended == {("Forbidden", "done"): TRIES}
        assert services.held(ada) + services.held(ida) == TRIES

    def test_who_leave_together_leave_one(self, services: Services) -> None:
        ada, ida = services.person(), services.person()
        for _ in range(20):
            project_id = services.project(ada, ida)
            outcome = at_once(
                lambda project_id=project_id: services.remove(ada, project_id, ada),  # type: ignore[misc]
                lambda project_id=project_id: services.remove(ida, project_id, ida),  # type: ignore[misc]
            )
            assert sorted(outcome) == ["LastOwnerStays", "done"]
            (owner,) = consistent(services, project_id)
            assert services.roles(project_id) == {owner: OWNER}
        assert services.held(ada) + services.held(ida) == 20


@pytest.mark.req("R-K-23")
class TestAnAccountThatIsDeleted:
    def test_while_it_makes_a_project_has_one_or_is_gone(self, services: Services) -> None:
        ended: Counter[tuple[str, ...]] = Counter()
        for _ in range(TRIES):
            ada = services.person()
            outcome = at_once(
                lambda ada=ada: services.projects.create(ada, NewProject(name="x")),  # type: ignore[misc]
                lambda ada=ada: services.delete_account(ada),  # type: ignore[misc]
            )
            ended[tuple(outcome)] += 1
            owned = services.projects.list(ada, PageQuery()).total
            assert (owned, services.held(ada)) == ((1, 1) if services.is_there(ada) else (0, 0))
        assert ended.keys() <= {("done", "AccountHolds"), ("AccountGone", "done")}

    def test_while_it_is_made_an_owner_owns_or_is_gone(self, services: Services) -> None:
        ada = services.person()
        for _ in range(20):
            ida = services.person()
            project_id = services.project(ada, ida, role=MEMBER)
            outcome = at_once(
                lambda ida=ida, project_id=project_id: services.give(ada, project_id, ida, OWNER),  # type: ignore[misc]
                lambda ida=ida: services.delete_account(ida),  # type: ignore[misc]
            )
            assert tuple(outcome) in {("done", "AccountHolds"), ("AccountGone", "done")}
            owners = consistent(services, project_id)
            assert services.is_there(ida) == (ida in owners) == (services.held(ida) == 1)

    def test_while_the_other_owner_steps_down_leaves_an_owner(self, services: Services) -> None:
        for _ in range(20):
            ada, ida = services.person(), services.person()
            project_id = services.project(ada, ida)
            at_once(
                lambda ada=ada, project_id=project_id: services.remove(ada, project_id, ada),  # type: ignore[misc]
                lambda ida=ida: services.delete_account(ida),  # type: ignore[misc]
                lambda ida=ida, project_id=project_id: services.remove(ida, project_id, ida),  # type: ignore[misc]
            )
            assert all(services.is_there(owner) for owner in consistent(services, project_id))


@pytest.mark.req("R-K-22")
def test_a_member_who_is_added_while_the_project_is_deleted_does_not_stay(services: Services) -> None:
    ada, ida = services.person(), services.person()
    for _ in range(20):
        project_id = services.project(ada)
        deleted, added = at_once(
            lambda project_id=project_id: services.projects.delete(ada, project_id),  # type: ignore[misc]
            lambda project_id=project_id: join(services.invitations(), project_id, ida, MEMBER, by=ada),  # type: ignore[misc]
        )
        assert (deleted, added in {"done", "NotFound"}) == ("done", True)
        assert services.store.read(project_id, ada, ida) == (None, {})
        assert services.roles(project_id) == {}
    assert services.held(ada) == 0
