"""Seats of plans: the people other than the owner who pays; taken by saying yes, and given back by leaving."""

from __future__ import annotations

import contextlib
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.billing.allowances import Metric
from karma.billing.plans import PlanName
from karma.core.errors import AppError, QuotaExceeded
from karma.core.ids import ProjectId, UserId
from karma.projects.domain import ProjectRole
from karma.projects.service import NewProject
from karma.projects.sweeps import GRACE, finish_moves
from tests.unit.projects.test_service import ADMIN, HOME, MEMBER, OWNER, VIEWER, World

pytestmark = pytest.mark.fault("F-19a")


@pytest.fixture
def world() -> World:
    """Return a world with Ada on the free plan, which has one seat."""
    found = World()
    found.plans[found.ada] = PlanName.FREE
    return found


def used(world: World, user_id: UserId) -> int:
    return world.store.usage.taken.get((user_id, Metric.SEATS, ""), 0)


def refusal(error: pytest.ExceptionInfo[QuotaExceeded]) -> dict[str, object]:
    assert error.value.code == "QUOTA_EXCEEDED"
    return cast("dict[str, object]", error.value.details)


def second_project(world: World) -> None:
    world.project_id = world.projects.create(world.ada, NewProject(name="Orchard")).project.id


def test_a_member_takes_one_and_the_owner_none(world: World) -> None:
    assert used(world, world.ada) == 0
    ida = world.person()
    world.ask(ida)
    assert used(world, world.ada) == 0, "an invitation takes none"
    world.accept(ida)
    world.accept(ida)
    assert used(world, world.ada) == 1


def test_who_invites_is_told_which_limit_of_their_plan_is_reached(world: World) -> None:
    world.person(MEMBER)
    for ask in (lambda: world.ask(world.person()), lambda: ask_address(world, "ida@example.com")):
        with pytest.raises(QuotaExceeded, match="1 seat for other people") as refused:
            ask()
        assert refusal(refused) == {"limit": "seats", "plan": "free", "allowed": 1, "requested": 1, "resets_at": None}
    assert world.invitations.list(world.ada, world.project_id) == []


def test_who_accepts_too_late_learns_nothing_of_the_plan_and_may_accept_when_there_is_room(world: World) -> None:
    first, late = world.person(), world.person()
    world.ask(first)
    world.ask(late)
    world.accept(first)
    with pytest.raises(QuotaExceeded) as refused:
        world.accept(late)
    assert refusal(refused) == {"limit": "seats", "plan": None, "allowed": None, "requested": 1, "resets_at": None}
    assert "free plan" not in refused.value.message.lower()
    assert (world.role_of(late), len(world.invitations.received(late)), used(world, world.ada)) == (None, 1, 1)
    world.remove(first)
    world.accept(late)
    assert (world.role_of(late), used(world, world.ada)) == (MEMBER, 1)


def test_another_member_who_invites_learns_nothing_of_the_plan(world: World) -> None:
    admin = world.person(ADMIN)
    with pytest.raises(QuotaExceeded) as refused:
        world.ask(world.person(), by=admin)
    assert refusal(refused)["plan"] is None


def test_one_person_in_two_projects_has_one_seat_until_the_last_is_left(world: World) -> None:
    ida, first = world.person(MEMBER), world.project_id
    second_project(world)
    world.add(ida)
    assert used(world, world.ada) == 1
    world.remove(ida)
    assert used(world, world.ada) == 1
    world.project_id = first
    world.remove(ida, by=ida)
    assert used(world, world.ada) == 0


def test_the_answer_for_an_address_does_not_tell_whose_it_is(world: World) -> None:
    world.person(MEMBER, email="ida@example.com")
    second_project(world)
    for email in ("ida@example.com", "nobody@example.com"):
        with pytest.raises(QuotaExceeded):
            ask_address(world, email)


def test_a_deleted_project_gives_all_back(world: World) -> None:
    world.plans[world.ada] = PlanName.TEAM
    for role in (MEMBER, ADMIN, OWNER):
        world.person(role)
    assert used(world, world.ada) == 3
    world.projects.delete(world.ada, world.project_id)
    assert used(world, world.ada) == 0


def test_a_smaller_plan_takes_nobody_away(world: World) -> None:
    world.plans[world.ada] = PlanName.PRO
    ida = world.person(MEMBER)
    world.person(MEMBER)
    world.plans[world.ada] = PlanName.FREE
    with pytest.raises(QuotaExceeded):
        world.ask(world.person())
    world.give(ida, ADMIN)
    world.ask(ida, OWNER)
    world.accept(ida)
    assert (world.role_of(ida), used(world, world.ada)) == (OWNER, 2)


def ask_address(world: World, email: str) -> None:
    world.invitations.invite_by_email(world.caller(world.ada), world.project_id, email, MEMBER, source=HOME)


def test_seats_move_to_the_plan_of_who_pays_next_and_nobody_loses_theirs(world: World) -> None:
    world.plans[world.ada] = PlanName.TEAM
    ida, eve = world.person(OWNER), world.person(MEMBER)
    world.plans[ida] = PlanName.FREE
    assert (used(world, world.ada), used(world, ida)) == (2, 0)
    world.give(world.ada, MEMBER, by=ida)
    assert (used(world, world.ada), used(world, ida)) == (0, 2), "Eve's, and Ada's now"
    world.remove(eve, by=ida)
    world.remove(world.ada, by=world.ada)
    assert (used(world, world.ada), used(world, ida)) == (0, 0)


def test_a_move_that_died_is_finished_by_the_sweep(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ida = world.person(OWNER)
    with monkeypatch.context() as dead:
        dead.setattr(world.store, "move_seats", lambda *_, **__: False)
        world.give(world.ada, VIEWER, by=ida)
    assert (used(world, world.ada), used(world, ida)) == (1, 1), "Ida's own is not given back yet"
    assert finish_moves(world.store, world.clock) == 0
    world.clock.pass_(seconds=GRACE.total_seconds() + 1)
    assert finish_moves(world.store, world.clock) == 1
    assert (used(world, world.ada), used(world, ida)) == (0, 1)
    assert finish_moves(world.store, world.clock) == 0


ACTS = st.tuples(
    st.sampled_from(
        ["ask", "ask", "accept", "accept", "decline", "remove", "leave", "delete", "hand over", "hand over", "demote"]
    ),
    st.integers(0, 1),
    st.integers(0, 4),
    st.sampled_from(ProjectRole),
)


@given(st.lists(ACTS, max_size=20))
def test_whatever_happens_as_many_are_taken_as_have_joined_and_never_more_than_there_are(
    acts: list[tuple[str, int, int, ProjectRole]],
) -> None:
    world = World()
    world.plans[world.ada] = PlanName.PRO
    people = [world.ada, *(world.person() for _ in range(4))]
    projects: list[ProjectId] = [world.project_id]
    second_project(world)
    projects.append(world.project_id)
    for act, at, whom, role in acts:
        world.project_id, person = projects[at], people[whom]
        before = used(world, world.ada)
        if world.project_id not in world.store.stored:
            continue
        with contextlib.suppress(AppError):
            match act:
                case "ask":
                    world.ask(person, role)
                case "hand over":
                    payer = world.owners()[0]
                    world.add(person, OWNER, by=payer)
                    world.members.leave(payer, world.project_id, may_hand_over=True, source=HOME)
                case "demote":
                    world.give(world.owners()[0], MEMBER, by=world.owners()[-1])
                case "accept":
                    world.accept(person)
                case "decline":
                    world.invitations.decline(person, world.project_id, source=HOME)
                case "remove":
                    world.remove(person)
                case "leave":
                    world.members.leave(person, world.project_id, may_hand_over=True, source=HOME)
                case "delete":
                    world.projects.delete(world.ada, world.project_id)
        for owner in people:
            paid = [project.id for project in world.store.stored.values() if project.owner_id == owner]
            others = {user for project, user in world.store.members if project in paid and user != owner}
            assert used(world, owner) == len(others), (act, owner)
        if act in {"ask", "accept"}:
            assert used(world, world.ada) <= max(3, before)
        assert world.store.moving == {}
