"""The rules of projects and their members, over a store in memory.

One file of more than 450 lines: the table of roles, each rule beside the role that it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from karma.audit.domain import AuditEvent, Source
from karma.billing.allowances import Allowances, Terms
from karma.billing.plans import PlanName, plan_at
from karma.billing.seats import Seats
from karma.core.errors import (
    AlreadyExists,
    AppError,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    StaleVersion,
    StorageThrottled,
)
from karma.core.ids import ProjectId, UserId, new_id
from karma.core.ratelimit import LocalBuckets
from karma.identity.domain import Caller, Role, User
from karma.identity.transactional import AccountGone
from karma.projects.domain import (
    MAX_OWNERS,
    ConsentNeeded,
    Invitation,
    LastOwnerStays,
    Membership,
    ProjectRole,
    ProjectStatus,
    TooManyOwners,
)
from karma.projects.invitations import InvitationService
from karma.projects.members import MemberService
from karma.projects.service import NewProject, PageQuery, ProjectService
from karma.projects.sweeps import GRACE, finish_deletions
from tests.fakes.accounts import caller_of
from tests.fakes.identity import MemoryIdentities, MovableClock
from tests.fakes.mail import MemoryOutbox, outbox_relay
from tests.fakes.projects import MemoryProjects
from tests.support.requests import key

OWNER, ADMIN, MEMBER, VIEWER = ProjectRole.OWNER, ProjectRole.ADMIN, ProjectRole.MEMBER, ProjectRole.VIEWER
HOME = Source(address="192.0.2.7", user_agent="browser", request_id="r1")


class World:
    """A project of Ada's, and the services."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.plans: dict[UserId, PlanName] = {}
        self.store = MemoryProjects()
        self.identities = MemoryIdentities()
        self.projects = ProjectService(self.store, self.clock)
        self.members = MemberService(self.store, self.identities, self.clock)
        self.outbox = MemoryOutbox()
        self.buckets = LocalBuckets()
        self.invitations = InvitationService(
            self.store,
            self.identities,
            seats=Seats(Allowances(terms_of=self.terms_of, clock=self.clock), self.store.usage),
            outbox_relay=outbox_relay(self.outbox, self.clock),
            buckets=self.buckets,
            clock=self.clock,
        )
        self.ada = self.person()
        self.project_id = self.projects.create(self.ada, NewProject(name="Greenhouse")).project.id

    def terms_of(self, user_id: UserId) -> Terms:
        """Return the terms of an account: without limits, except for those in `plans`."""
        return Terms(plan=plan_at(self.plans.get(user_id, PlanName.ENTERPRISE), self.clock.now()))

    def person(self, role: ProjectRole | None = None, *, email: str = "", verified: bool = True) -> UserId:
        """Make a person with an account, and a role in the project if one is given."""
        user_id, now = UserId(new_id()), self.clock.now()
        user = User(
            id=user_id,
            email=email or f"{user_id}@example.com",
            name="Somebody",
            avatar=None,
            password_hash=None,
            role=Role.USER,
            email_verified=verified,
            created_at=now,
            updated_at=now,
        )
        self.identities.create_user(user)
        self.store.accounts.add(user_id)
        if role is not None:
            self.add(user_id, role)
        return user_id

    def caller(self, user_id: UserId) -> Caller:
        """Return somebody as the caller of a request."""
        return caller_of(self.identities.users[user_id])

    def add(self, user_id: str, role: ProjectRole = MEMBER, *, by: UserId | None = None) -> Membership:
        """Ask somebody, who says yes."""
        self.ask(user_id, role, by=by)
        return self.accept(UserId(user_id))

    def ask(self, user_id: str, role: ProjectRole = MEMBER, *, by: UserId | None = None) -> Invitation:
        return self.invitations.invite(by or self.ada, self.project_id, user_id, role, source=HOME)

    def accept(self, user_id: UserId) -> Membership:
        return self.invitations.accept(user_id, self.project_id, source=HOME)

    def give(
        self, user_id: UserId, role: ProjectRole, *, by: UserId | None = None, version: int | None = None
    ) -> Membership:
        if role is OWNER:
            return self.add(user_id, role, by=by)
        return self.members.change_role(by or self.ada, self.project_id, user_id, role, version=version, source=HOME)

    def remove(self, user_id: str, *, by: UserId | None = None, version: int | None = None) -> None:
        self.members.remove(by or self.ada, self.project_id, user_id, version=version, source=HOME)

    def role_of(self, user_id: UserId) -> ProjectRole | None:
        member = self.store.members.get((self.project_id, user_id))
        return member.role if member else None

    def owners(self) -> tuple[UserId, ...]:
        return self.store.stored[self.project_id].owners


@pytest.fixture
def world() -> World:
    return World()


class TestCreate:
    @pytest.mark.req("R-K-16", "R-K-17")
    def test_gives_what_was_left_out_its_default_and_the_creator_the_project(self, world: World) -> None:
        seen = world.projects.get(world.ada, world.project_id)
        project = seen.project
        assert (project.status, project.progress, project.description) == (ProjectStatus.ACTIVE, 0, None)
        assert (project.owner_id, seen.role) == (world.ada, OWNER)

    @pytest.mark.req("R-K-23")
    def test_holds_the_owners_account(self, world: World) -> None:
        assert world.store.held[world.ada] == 1

    def test_makes_one_project_of_a_repeated_request(self, world: World) -> None:
        first = world.projects.create(world.ada, NewProject(name="Two"), idempotency_key=key("t"))
        assert world.projects.create(world.ada, NewProject(name="Two"), idempotency_key=key("t")) == first
        assert len(world.store.stored) == 2

    def test_does_not_make_again_what_was_deleted_before_the_repeat(self, world: World) -> None:
        first = world.projects.create(world.ada, NewProject(name="Two"), idempotency_key=key("t")).project
        world.projects.delete(world.ada, first.id)
        with pytest.raises(Gone) as refused:
            world.projects.create(world.ada, NewProject(name="Two"), idempotency_key=key("t"))
        assert refused.value.details == {"id": first.id}

    def test_finds_no_account_that_was_deleted(self, world: World) -> None:
        world.store.accounts.clear()
        with pytest.raises(AccountGone):
            world.projects.create(world.ada, NewProject(name="Late"))


ACTS: Mapping[str, Callable[[World, UserId], object]] = {
    "get": lambda world, who: world.projects.get(who, world.project_id),
    "change": lambda world, who: world.projects.change(who, world.project_id, {"progress": 1}),
    "delete": lambda world, who: world.projects.delete(who, world.project_id),
    "list members": lambda world, who: world.members.list(who, world.project_id, PageQuery()),
    "add": lambda world, who: world.ask(world.person(), by=who),
    "change role": lambda world, who: world.give(world.person(MEMBER), VIEWER, by=who),
    "remove": lambda world, who: world.remove(world.person(MEMBER), by=who),
}
MAY: Mapping[ProjectRole, set[str]] = {
    ADMIN: {"get", "change", "list members", "add", "remove"},
    MEMBER: {"get", "change", "list members"},
    VIEWER: {"get", "list members"},
    OWNER: set(ACTS),
}


class TestTheGate:
    @pytest.mark.parametrize("role", ProjectRole)
    @pytest.mark.parametrize("act", ACTS)
    def test_lets_a_role_do_what_the_table_says(self, world: World, role: ProjectRole, act: str) -> None:
        who = world.person(role)
        if act in MAY[role]:
            ACTS[act](world, who)
        else:
            with pytest.raises(Forbidden, match="in this project"):
                ACTS[act](world, who)

    @pytest.mark.parametrize("act", ACTS)
    def test_shows_a_stranger_nothing(self, world: World, act: str) -> None:
        with pytest.raises(NotFound, match=f"Project {world.project_id} not found"):
            ACTS[act](world, world.person())

    @pytest.mark.parametrize("act", sorted(ACTS.keys() - {"delete"}))
    def test_is_closed_once_the_project_is_deleted(self, world: World, act: str) -> None:
        who = world.person(OWNER)
        actor = world.store.members[world.project_id, world.ada]
        world.store.begin_delete(world.store.stored[world.project_id], actor=actor, at=world.clock.now())
        with pytest.raises(NotFound, match="Project"):
            ACTS[act](world, who)

    @pytest.mark.parametrize("text", ["", "nobody", "#", "x" * 9000, "../01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
    def test_finds_nothing_under_what_is_no_id(self, world: World, text: str) -> None:
        with pytest.raises(NotFound) as refused:
            world.projects.get(world.ada, text)
        assert len(refused.value.message) < 100
        with pytest.raises(NotFound):
            world.projects.delete(world.ada, text)


class TestChange:
    def test_changes_what_is_named_and_nothing_else(self, world: World) -> None:
        world.clock.pass_(minutes=1)
        changes = {"progress": 40, "status": ProjectStatus.PAUSED}
        project = world.projects.change(world.ada, world.project_id, changes).project
        assert (project.name, project.progress, project.status) == ("Greenhouse", 40, ProjectStatus.PAUSED)
        assert (project.version, project.updated_at) == (2, world.clock.now())
        assert world.projects.get(world.ada, world.project_id).project == project

    def test_writes_nothing_when_all_is_so_already(self, world: World) -> None:
        assert world.projects.change(world.ada, world.project_id, {"progress": 0}).project.version == 1

    def test_is_refused_on_another_version(self, world: World) -> None:
        world.projects.change(world.ada, world.project_id, {"progress": 1}, version=1)
        with pytest.raises(StaleVersion):
            world.projects.change(world.ada, world.project_id, {"progress": 2}, version=1)

    def test_is_made_again_on_what_another_change_left(self, world: World) -> None:
        def another() -> None:
            stored = world.store.stored[world.project_id]
            world.store.stored[world.project_id] = replace(stored, name="Kitchen", version=stored.version + 1)

        world.store.meanwhile = [another] * 3
        project = world.projects.change(world.ada, world.project_id, {"progress": 9}).project
        assert (project.name, project.progress, project.version) == ("Kitchen", 9, 5)

    def test_is_refused_to_whoever_loses_the_role_meanwhile(self, world: World) -> None:
        ida = world.person(MEMBER)
        world.store.meanwhile = [lambda: world.give(ida, VIEWER)]
        with pytest.raises(Forbidden):
            world.projects.change(ida, world.project_id, {"progress": 9})
        assert world.store.stored[world.project_id].progress == 0


class TestDelete:
    @pytest.mark.req("R-K-22")
    def test_leaves_no_membership_and_lets_go_of_its_owners(self, world: World) -> None:
        eve = world.person(OWNER)
        world.person(VIEWER)
        world.projects.delete(world.ada, world.project_id)
        assert (world.store.members, world.store.stored) == ({}, {})
        assert (world.store.held[world.ada], world.store.held[eve]) == (0, 0)

    def test_is_refused_on_another_version(self, world: World) -> None:
        with pytest.raises(StaleVersion):
            world.projects.delete(world.ada, world.project_id, version=7)

    def test_goes_on_where_it_stopped_when_it_is_repeated(self, world: World) -> None:
        world.person(VIEWER)
        member = world.store.members[world.project_id, world.ada]
        world.store.begin_delete(world.store.stored[world.project_id], actor=member, at=world.clock.now())
        del world.store.members[world.project_id, world.ada]
        world.projects.delete(world.ada, world.project_id)
        assert (world.store.members, world.store.stored) == ({}, {})
        with pytest.raises(NotFound):
            world.projects.delete(world.ada, world.project_id)

    def test_is_done_for_everybody_when_its_memberships_cannot_be_removed_now(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ida = world.person(VIEWER)

        def busy(*_: object, **__: object) -> bool:
            raise StorageThrottled("busy")

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "finish_delete", busy)
            world.projects.delete(world.ada, world.project_id)
            assert finish_deletions(world.store, world.clock) == 0
            world.clock.pass_(seconds=2 * GRACE.total_seconds())
            assert finish_deletions(world.store, world.clock) == 0
        with pytest.raises(NotFound):
            world.projects.get(ida, world.project_id)
        assert world.projects.list(ida, PageQuery()).projects == ()
        assert finish_deletions(world.store, world.clock) == 1
        assert (world.store.members, world.store.stored) == ({}, {})


class TestAdd:
    def test_tells_both_logs_and_only_the_actor_s_from_where(self, world: World) -> None:
        ida = world.person(ADMIN)
        told = [entry for entry in world.store.audit if entry.event is AuditEvent.PROJECT_MEMBER_ADDED]
        assert [(entry.user_id, entry.actor_id) for entry in told] == [(ida, ida), (world.ada, ida)]
        assert [entry.source.address for entry in told] == ["192.0.2.7", None]
        assert all(
            entry.details == {"project_id": world.project_id, "role": "admin", "member_id": ida} for entry in told
        )

    def test_adds_nobody_twice(self, world: World) -> None:
        ida = world.person(MEMBER)
        with pytest.raises(AlreadyExists):
            world.add(ida, VIEWER)
        assert world.role_of(ida) is MEMBER

    def test_answers_a_repeat_with_the_membership(self, world: World) -> None:
        ida = world.person()
        member = world.add(ida)
        assert world.accept(ida) == member

    @pytest.mark.parametrize("user_id", ["nobody", "", "#", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
    def test_knows_no_account_that_is_not_there(self, world: World, user_id: str) -> None:
        with pytest.raises(NotFound, match="User not found"):
            world.add(user_id)

    @pytest.mark.parametrize("role", [OWNER, ADMIN])
    def test_lets_an_admin_make_no_admin_and_no_owner(self, world: World, role: ProjectRole) -> None:
        with pytest.raises(Forbidden):
            world.add(world.person(), role, by=world.person(ADMIN))

    def test_holds_an_owner_s_account(self, world: World) -> None:
        assert world.store.held[world.person(OWNER)] == 1
        assert world.store.held[world.person(ADMIN)] == 0

    def test_has_an_end_for_owners(self, world: World) -> None:
        for _ in range(MAX_OWNERS - 1):
            world.person(OWNER)
        with pytest.raises(TooManyOwners):
            world.person(OWNER)


class TestChangeRole:
    def test_makes_another_owner_and_so_lets_the_first_step_down(self, world: World) -> None:
        ida = world.person(MEMBER)
        with pytest.raises(LastOwnerStays):
            world.give(world.ada, MEMBER)
        world.give(ida, OWNER)
        world.give(world.ada, MEMBER)
        assert world.owners() == (ida,)
        assert (world.role_of(world.ada), world.role_of(ida)) == (MEMBER, OWNER)
        assert (world.store.held[world.ada], world.store.held[ida]) == (0, 1)
        with pytest.raises(Forbidden):
            world.give(ida, VIEWER, by=world.ada)

    def test_writes_nothing_for_the_role_that_is(self, world: World) -> None:
        ida = world.person(MEMBER)
        told = len(world.store.audit)
        assert world.give(ida, MEMBER).version == 1
        assert len(world.store.audit) == told

    def test_is_refused_on_another_version(self, world: World) -> None:
        ida = world.person(MEMBER)
        assert world.give(ida, VIEWER, version=1).version == 2
        with pytest.raises(StaleVersion):
            world.give(ida, MEMBER, version=1)

    @pytest.mark.parametrize("user_id", ["nobody", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
    def test_knows_no_member_that_is_not_there(self, world: World, user_id: str) -> None:
        with pytest.raises(NotFound, match=f"Member {user_id} not found"):
            world.give(UserId(user_id), VIEWER)

    def test_makes_no_owner_of_a_deleted_account(self, world: World) -> None:
        ida = world.person(MEMBER)
        world.store.accounts.discard(ida)
        with pytest.raises(AccountGone):
            world.give(ida, OWNER)
        assert world.owners() == (world.ada,)

    @pytest.mark.fault("F-20c")
    def test_gives_ownership_to_nobody(self, world: World) -> None:
        for role in (ADMIN, MEMBER, VIEWER):
            with pytest.raises(ConsentNeeded):
                world.members.change_role(world.ada, world.project_id, world.person(role), OWNER, source=HOME)
        assert world.owners() == (world.ada,)

    def test_tells_from_what_to_what(self, world: World) -> None:
        ida = world.person(MEMBER)
        world.give(ida, ADMIN)
        own, about = world.store.audit[-2:]
        assert (own.event, own.user_id, about.user_id) == (AuditEvent.PROJECT_ROLE_CHANGED, world.ada, ida)
        assert about.details == {"project_id": world.project_id, "from": "member", "to": "admin"}

    def test_of_one_of_two_owners_by_the_other_is_refused_when_that_one_was_demoted_meanwhile(
        self, world: World
    ) -> None:
        ida = world.person(OWNER)
        world.store.meanwhile = [lambda: world.give(world.ada, MEMBER, by=ida)]
        with pytest.raises(Forbidden):
            world.give(ida, MEMBER)
        assert world.owners() == (ida,)


class TestRemove:
    @pytest.mark.parametrize("role", [ADMIN, MEMBER, VIEWER])
    def test_lets_everybody_leave(self, world: World, role: ProjectRole) -> None:
        ida = world.person(role)
        world.remove(ida, by=ida)
        assert world.role_of(ida) is None
        assert [entry.user_id for entry in world.store.audit if entry.event is AuditEvent.PROJECT_MEMBER_REMOVED] == [
            ida
        ]
        with pytest.raises(NotFound):
            world.projects.get(ida, world.project_id)

    def test_keeps_the_last_owner(self, world: World) -> None:
        with pytest.raises(LastOwnerStays):
            world.remove(world.ada)
        ida = world.person(OWNER)
        world.remove(world.ada)
        assert world.owners() == (ida,)
        assert world.store.held[world.ada] == 0

    @pytest.mark.parametrize(("role", "ends"), [(OWNER, Forbidden), (ADMIN, Forbidden), (MEMBER, None), (VIEWER, None)])
    def test_lets_an_admin_remove_members_and_viewers(
        self, world: World, role: ProjectRole, ends: type[AppError] | None
    ) -> None:
        admin, ida = world.person(ADMIN), world.person(role)
        if ends is None:
            world.remove(ida, by=admin)
        else:
            with pytest.raises(ends):
                world.remove(ida, by=admin)
        assert (world.role_of(ida) is None) == (ends is None)

    @pytest.mark.parametrize("user_id", ["nobody", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
    def test_knows_no_member_that_is_not_there(self, world: World, user_id: str) -> None:
        with pytest.raises(NotFound, match=f"Member {user_id} not found"):
            world.remove(user_id)

    def test_is_refused_on_another_version(self, world: World) -> None:
        ida = world.person(MEMBER)
        with pytest.raises(StaleVersion):
            world.remove(ida, version=2)

    def test_gives_up_when_something_comes_between_each_time(self, world: World) -> None:
        ida = world.person(MEMBER)

        def another() -> None:
            key = (world.project_id, ida)
            world.store.members[key] = replace(world.store.members[key], version=world.store.members[key].version + 1)

        world.store.meanwhile = [another] * 6
        with pytest.raises(StaleVersion):
            world.remove(ida)
        world.remove(ida)


class TestLists:
    def names(self, world: World, **query: Any) -> list[str]:
        return [seen.project.name for seen in world.projects.list(world.ada, PageQuery(**query)).projects]

    def test_show_the_projects_of_the_caller_by_age(self, world: World) -> None:
        eve = world.person()
        made = [self.made_at(world, number) for number in range(4)]
        world.projects.create(eve, NewProject(name="Eve's"))
        assert self.names(world, newest_first=True)[-1] == "Greenhouse"
        assert self.names(world, newest_first=False)[0] == "Greenhouse"
        page = world.projects.list(world.ada, PageQuery(limit=2, newest_first=False))
        assert (page.total, page.total_capped, page.next_after) == (5, False, made[0])
        following = world.projects.list(world.ada, PageQuery(limit=10, newest_first=False, after=made[0]))
        assert [seen.project.id for seen in following.projects] == made[1:]
        assert (following.total, following.next_after) == (5, None)
        assert self.names(world, limit=2, offset=1, newest_first=False) == ["P0", "P1"]

    @staticmethod
    def made_at(world: World, number: int) -> ProjectId:
        """Make a project whose id is later than all before, whatever the clock's resolution."""
        project = world.projects.create(world.ada, NewProject(name=f"P{number}")).project
        later = ProjectId(f"ffffffff-0000-7000-8000-{number:012d}")
        world.store.stored[later] = replace(world.store.stored.pop(project.id), id=later)
        world.store.members[later, world.ada] = replace(
            world.store.members.pop((project.id, world.ada)), project_id=later
        )
        return later

    def test_show_members_and_count_them(self, world: World) -> None:
        people = sorted([world.ada, *(world.person(MEMBER) for _ in range(4))])
        page = world.members.list(world.ada, world.project_id, PageQuery(limit=3))
        assert [member.user_id for member in page.members] == people[:3]
        assert (page.total, page.next_after) == (5, people[2])
        rest = world.members.list(world.ada, world.project_id, PageQuery(limit=3, after=people[2]))
        assert [member.user_id for member in rest.members] == people[3:]
        assert (rest.total, rest.next_after) == (5, None)

    def test_by_number_end_at_a_thousand_rows(self, world: World) -> None:
        for lists in (
            lambda query: world.projects.list(world.ada, query),
            lambda query: world.members.list(world.ada, world.project_id, query),
        ):
            with pytest.raises(InvalidRequest, match="cursor"):
                lists(PageQuery(limit=20, offset=990))
