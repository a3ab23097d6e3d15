"""Nobody becomes a member or an owner without accepting, and everybody can leave.

One file of more than 450 lines: one model of consent, with each way into a project and out of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.audit.announcements import notice_of
from karma.core.errors import AlreadyExists, AppError, Forbidden, NotFound, RateLimited, ValidationFailed
from karma.core.ids import UserId
from karma.identity.limits import INVITATIONS, MAIL_INVITATION
from karma.mail.domain import MailKind
from karma.projects import invitations as module
from karma.projects.domain import (
    INVITATION_TTL,
    MAX_INVITATIONS,
    MAX_OWNERS,
    InvitationDeclined,
    LastOwnerStays,
    ProjectRole,
    TooManyInvitations,
    TooManyOwners,
)
from karma.projects.service import PageQuery
from tests.unit.projects.test_service import ADMIN, HOME, MEMBER, OWNER, VIEWER, World


@pytest.fixture
def world() -> World:
    return World()


def by_email(world: World, email: str, role: ProjectRole = MEMBER, *, by: UserId | None = None) -> None:
    world.invitations.invite_by_email(world.caller(by or world.ada), world.project_id, email, role, source=HOME)


def rename(world: World, user_id: UserId, email: str) -> None:
    """Let somebody prove another address, in the place of the one that they had."""
    world.identities.users[user_id] = replace(world.identities.users[user_id], email=email)


def decline(world: World, user_id: UserId) -> None:
    world.invitations.decline(user_id, world.project_id, source=HOME)


def leave(world: World, user_id: UserId, *, may_hand_over: bool = True) -> None:
    world.members.leave(user_id, world.project_id, may_hand_over=may_hand_over, source=HOME)


@pytest.mark.fault("F-20c")
class TestWhoIsAsked:
    @pytest.mark.parametrize("role", [ADMIN, MEMBER, VIEWER, OWNER])
    def test_is_no_member_until_they_accept(self, world: World, role: ProjectRole) -> None:
        ida = world.person()
        world.ask(ida, role)
        assert world.role_of(ida) is None
        assert world.projects.list(ida, PageQuery()).projects == ()
        [received] = world.invitations.received(ida)
        assert (received.invitation.role, received.project.name) == (role, "Greenhouse")
        assert world.accept(ida).accepted_at == world.clock.now()
        assert world.role_of(ida) is role
        assert (ida in world.owners()) is (role is OWNER)
        assert world.invitations.received(ida) == []

    def test_becomes_an_owner_by_accepting_only(self, world: World) -> None:
        ida = world.person(MEMBER)
        world.ask(ida, OWNER)
        assert (world.role_of(ida), world.owners(), world.store.held[ida]) == (MEMBER, (world.ada,), 0)
        world.accept(ida)
        assert (world.role_of(ida), world.owners(), world.store.held[ida]) == (OWNER, (world.ada, ida), 1)

    def test_is_told_at_once_without_a_word_of_the_inviter(self, world: World) -> None:
        ida = world.person()
        world.ask(ida)
        told = [notice for entry in world.store.audit if (notice := notice_of(entry)) and entry.user_id == ida]
        assert [notice.data for notice in told] == [{"project_id": world.project_id, "role": "member"}]
        assert [(mail.kind, mail.user_id) for mail in world.store.mails] == [(MailKind.PROJECT_INVITATION, ida)]

    def test_says_no_for_as_long_as_the_invitation_stands(self, world: World) -> None:
        ida = world.person()
        world.ask(ida)
        decline(world, ida)
        decline(world, ida)
        with pytest.raises(NotFound):
            world.accept(ida)
        with pytest.raises(InvitationDeclined):
            world.ask(ida, OWNER)
        world.clock.at += INVITATION_TTL
        world.add(ida)
        assert world.role_of(ida) is MEMBER

    @pytest.mark.fault("F-20f")
    @pytest.mark.parametrize("offered", list(ProjectRole))
    @pytest.mark.parametrize("lesser", list(ProjectRole))
    def test_keeps_an_offer_that_the_second_to_ask_could_not_have_made(
        self, world: World, offered: ProjectRole, lesser: ProjectRole
    ) -> None:
        ida, admin = world.person(), world.person(ADMIN)
        world.ask(ida, offered)
        may_replace = {offered, lesser} <= {MEMBER, VIEWER}
        with contextlib.nullcontext() if may_replace else pytest.raises(Forbidden):
            world.ask(ida, lesser, by=admin)
        assert world.accept(ida).role is (lesser if may_replace else offered)

    def test_has_two_weeks(self, world: World) -> None:
        ida, eve = world.person(), world.person()
        world.ask(ida)
        world.ask(eve)
        world.clock.at += INVITATION_TTL - timedelta(seconds=1)
        world.accept(ida)
        world.clock.pass_(seconds=1)
        for act in (world.accept, lambda user_id: decline(world, user_id)):
            with pytest.raises(NotFound):
                act(eve)
        assert (world.invitations.received(eve), world.invitations.list(world.ada, world.project_id)) == ([], [])

    @pytest.mark.parametrize("after", [MEMBER, None])
    def test_gets_nothing_that_the_inviter_could_not_give_any_more(
        self, world: World, after: ProjectRole | None
    ) -> None:
        admin, ida = world.person(ADMIN), world.person()
        world.ask(ida, by=admin)
        if after is None:
            world.remove(admin)
        else:
            world.give(admin, after)
        with pytest.raises(NotFound):
            world.accept(ida)
        assert world.role_of(ida) is None

    def test_can_be_withdrawn_by_whoever_may_ask_for_the_role(self, world: World) -> None:
        admin, ida = world.person(ADMIN), world.person()
        world.ask(ida, ADMIN)
        with pytest.raises(Forbidden):
            world.invitations.withdraw(admin, world.project_id, ida)
        world.invitations.withdraw(world.ada, world.project_id, ida)
        for missing in (ida, "nobody", "0" * 64):
            with pytest.raises(NotFound):
                world.invitations.withdraw(world.ada, world.project_id, missing)
        with pytest.raises(NotFound):
            world.accept(ida)

    def test_is_no_member_already(self, world: World) -> None:
        ida = world.person(MEMBER)
        for role in (ADMIN, MEMBER, VIEWER):
            with pytest.raises(AlreadyExists):
                world.ask(ida, role)


class TestAnAddress:
    def test_is_asked_alike_whoever_has_it(self, world: World) -> None:
        ida = world.person(email="ida@example.com")
        world.person(email="squatter@example.com", verified=False)
        for email in (" IDA@example.com ", "squatter@example.com", "nobody@example.com"):
            by_email(world, email, VIEWER)
        assert {mail.to for mail in world.store.mails} == {
            "ida@example.com",
            "squatter@example.com",
            "nobody@example.com",
        }
        assert len(world.invitations.list(world.ada, world.project_id)) == 3
        world.accept(ida)
        assert world.role_of(ida) is VIEWER

    @pytest.mark.fault("F-20c")
    def test_is_nobody_s_until_it_is_proven(self, world: World) -> None:
        squatter = world.person(email="ida@example.com", verified=False)
        by_email(world, "ida@example.com")
        assert world.invitations.received(squatter) == []
        with pytest.raises(NotFound):
            world.accept(squatter)
        assert not [entry for entry in world.store.audit if entry.user_id == squatter]
        user = world.identities.users[squatter]
        world.identities.users[squatter] = replace(user, email_verified=True)
        assert len(world.invitations.received(squatter)) == 1
        world.accept(squatter)
        assert world.role_of(squatter) is MEMBER

    def test_that_declined_is_not_asked_again_and_the_inviter_not_told(self, world: World) -> None:
        ida = world.person(email="ida@example.com")
        by_email(world, "ida@example.com")
        decline(world, ida)
        told = len(world.store.mails)
        by_email(world, "ida@example.com")
        assert len(world.store.mails) == told
        with pytest.raises(NotFound):
            world.accept(ida)

    def test_is_refused_before_anybody_is_looked_for(self, world: World) -> None:
        for _ in range(MAX_OWNERS - 1):
            world.person(OWNER)
        admin, stranger = world.person(ADMIN), world.person()
        for email in (world.identities.users[stranger].email, "nobody@example.com"):
            with pytest.raises(TooManyOwners):
                by_email(world, email, OWNER)
            with pytest.raises(Forbidden):
                by_email(world, email, ADMIN, by=admin)
            with pytest.raises(NotFound):
                by_email(world, email, by=stranger)
        with pytest.raises(ValidationFailed):
            by_email(world, "USER#1")


class TestSpam:
    def test_is_told_three_times_a_day_whoever_asks(self, world: World) -> None:
        ida = world.person()
        for _ in range(5):
            world.ask(ida)
        told = [entry for entry in world.store.audit if entry.user_id == ida]
        assert (len(world.store.mails), len(told)) == (MAIL_INVITATION.amount, MAIL_INVITATION.amount)
        world.accept(ida)

    def test_has_an_end_by_project(self, world: World) -> None:
        for number in range(MAX_INVITATIONS):
            by_email(world, f"a{number}@example.com")
        world.clock.pass_(hours=2)
        with pytest.raises(TooManyInvitations):
            by_email(world, "one@example.com")
        by_email(world, "a1@example.com", VIEWER)

    def test_has_an_end_by_account(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "INVITATIONS", replace(INVITATIONS, amount=2))
        for number in range(2):
            by_email(world, f"a{number}@example.com")
        with pytest.raises(RateLimited):
            by_email(world, "a3@example.com")


@pytest.mark.fault("F-20c")
class TestLeaving:
    @pytest.mark.parametrize("role", ProjectRole)
    @pytest.mark.parametrize("may_hand_over", [False, True])
    def test_is_open_to_everybody(self, world: World, role: ProjectRole, may_hand_over: bool) -> None:
        ida = world.person(role)
        leave(world, ida, may_hand_over=may_hand_over)
        assert (world.role_of(ida), world.owners(), world.store.held[ida]) == (None, (world.ada,), 0)
        with pytest.raises(NotFound):
            leave(world, ida)

    def test_is_refused_to_a_last_owner_who_wanted_to_be_one(self, world: World) -> None:
        with pytest.raises(LastOwnerStays):
            leave(world, world.ada)
        ida = world.person(OWNER)
        leave(world, world.ada)
        with pytest.raises(LastOwnerStays):
            leave(world, ida)

    def test_is_open_to_a_last_owner_whom_nobody_had_asked(self, world: World) -> None:
        ida, member = world.person(OWNER), world.person(MEMBER)
        key = (world.project_id, ida)
        joined = world.clock.now() + timedelta(hours=1)
        world.store.members[key] = replace(world.store.members[key], accepted_at=None, joined_at=joined)
        leave(world, world.ada)
        leave(world, ida)
        assert (world.store.stored, world.store.members, world.store.held[ida]) == ({}, {}, 0)
        assert world.projects.list(member, PageQuery()).projects == ()

    def test_is_open_to_a_last_owner_whose_account_may_only_read(self, world: World) -> None:
        leave(world, world.ada, may_hand_over=False)
        assert (world.store.stored, world.store.members, world.store.held[world.ada]) == ({}, {}, 0)

    def test_of_who_made_it_in_the_old_days_counts_as_consent(self, world: World) -> None:
        key = (world.project_id, world.ada)
        world.store.members[key] = replace(world.store.members[key], accepted_at=None)
        with pytest.raises(LastOwnerStays):
            leave(world, world.ada)


@pytest.mark.fault("F-20d")
@pytest.mark.parametrize("ways", [("id", "address"), ("address", "id")])
@pytest.mark.parametrize("ends", ["removed", "leaves", "another role"])
def test_who_comes_back_comes_back_by_what_was_decided_last(world: World, ways: tuple[str, str], ends: str) -> None:
    ida = world.person()
    for way, role in zip(ways, (ADMIN, VIEWER), strict=True):
        if way == "id":
            world.ask(ida, role)
        else:
            by_email(world, world.identities.users[ida].email, role)
        world.clock.pass_(seconds=1)
    assert len(world.invitations.received(ida)) == 2
    assert world.accept(ida).role is VIEWER
    assert world.invitations.list(world.ada, world.project_id) == []
    world.ask(ida, OWNER)
    world.clock.pass_(seconds=1)
    match ends:
        case "removed":
            world.remove(ida)
        case "leaves":
            leave(world, ida)
        case _:
            world.give(ida, MEMBER)
    assert (world.invitations.received(ida), world.invitations.list(world.ada, world.project_id)) == ([], [])
    if ends == "another role":
        assert world.accept(ida).role is MEMBER
        return
    with pytest.raises(NotFound):
        world.accept(ida)
    assert world.role_of(ida) is None


def test_a_member_is_not_asked_by_address_for_what_they_are(world: World) -> None:
    ida = world.person(MEMBER)
    email = world.identities.users[ida].email
    for role in (ADMIN, MEMBER, VIEWER):
        with pytest.raises(AlreadyExists):
            by_email(world, email, role)
    assert world.invitations.list(world.ada, world.project_id) == []
    by_email(world, email, OWNER)
    assert world.accept(ida).role is OWNER


@pytest.mark.fault("F-20d")
def test_an_address_that_is_proven_after_a_removal_opens_no_way_back(world: World) -> None:
    ida = world.person(email="ida@example.com", verified=False)
    by_email(world, "ida@example.com", ADMIN)
    world.clock.pass_(seconds=1)
    world.add(ida, VIEWER)
    world.remove(ida)
    world.identities.users[ida] = replace(world.identities.users[ida], email_verified=True)
    assert world.invitations.received(ida) == []
    for act in (world.accept, lambda user_id: decline(world, user_id)):
        with pytest.raises(NotFound):
            act(ida)
    by_email(world, "ida@example.com", MEMBER)
    assert world.accept(ida).role is MEMBER


@pytest.mark.fault("F-20e")
@pytest.mark.parametrize("meanwhile", ["nothing", "withdrawal", "another address", "both"])
@pytest.mark.parametrize("first", ["id", "address"])
def test_a_no_holds_by_whichever_way_they_are_asked_again(world: World, first: str, meanwhile: str) -> None:
    """For the rest of the two weeks, however often, and for the person: whatever becomes of the invitation."""
    ida = world.person(email="ida@example.com")
    if first == "id":
        world.ask(ida)
    else:
        by_email(world, "ida@example.com")
    decline(world, ida)
    told = len(world.store.mails)
    for _ in range(3):
        if meanwhile in ("withdrawal", "both"):
            for each in world.invitations.list(world.ada, world.project_id):
                world.invitations.withdraw(world.ada, world.project_id, each.invitee)
        if meanwhile in ("another address", "both"):
            rename(world, ida, "other@example.com")
        email = world.identities.users[ida].email
        for spelling in (email, email.upper(), f" {email.title()} "):
            by_email(world, spelling)
        with pytest.raises(InvitationDeclined):
            world.ask(ida, OWNER)
    assert world.invitations.received(ida) == []
    assert len(world.store.mails) == told
    with pytest.raises(NotFound):
        world.accept(ida)
    world.clock.at += INVITATION_TTL
    by_email(world, world.identities.users[ida].email)
    assert world.accept(ida).role is MEMBER


@pytest.mark.fault("F-20e")
def test_a_no_holds_for_an_address_that_is_proven_after_it(world: World) -> None:
    """Nobody knows whose the address is when it is asked, so the invitation is made, and is none for who declined."""
    ida = world.person(email="ida@example.com", verified=False)
    world.ask(ida)
    decline(world, ida)
    world.clock.pass_(seconds=1)
    by_email(world, "ida@example.com")
    world.identities.users[ida] = replace(world.identities.users[ida], email_verified=True)
    assert world.invitations.received(ida) == []
    with pytest.raises(NotFound):
        world.accept(ida)


@pytest.mark.fault("F-20d")
def test_who_joins_while_they_are_asked_is_a_member_and_not_asked(world: World) -> None:
    ida = world.person()
    email = world.identities.users[ida].email
    world.ask(ida, VIEWER)
    world.store.meanwhile.append(lambda: world.accept(ida))
    with pytest.raises(AlreadyExists):
        by_email(world, email, ADMIN)
    assert world.invitations.list(world.ada, world.project_id) == []


class Model:
    """Model of the offers to each person since the last decision about them; nothing else can make anybody a member."""

    def __init__(self) -> None:
        self.offers: dict[tuple[UserId, str], ProjectRole] = {}

    def decide(self, person: UserId) -> None:
        self.offers = {key: role for key, role in self.offers.items() if key[0] != person}

    def of(self, person: UserId, world: World) -> set[ProjectRole]:
        ways = {"id", "address"} if world.identities.users[person].email_verified else {"id"}
        return {role for (whom, way), role in self.offers.items() if whom == person and way in ways}


ACTS = st.tuples(
    st.sampled_from(
        ["ask", "ask", "ask by address", "ask by address", "accept", "accept", "decline", "withdraw", "give"]
        + 2 * ["remove"]
        + ["leave", "prove", "wait", "wait long"]
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(ProjectRole),
)


def carry_out(world: World, model: Model, act: str, actor: UserId, other: UserId, role: ProjectRole) -> None:
    """Let somebody do something, and note what it offers to whom."""
    match act:
        case "ask":
            world.ask(other, role, by=actor)
            model.offers[other, "id"] = role
        case "ask by address":
            by_email(world, world.identities.users[other].email, role, by=actor)
            model.offers[other, "address"] = role
        case "accept":
            world.accept(actor)
        case "decline":
            decline(world, actor)
        case "withdraw":
            world.invitations.withdraw(actor, world.project_id, other)
            model.offers.pop((other, "id"), None)
        case "give":
            world.members.change_role(actor, world.project_id, other, role, source=HOME)
        case "remove":
            world.remove(other, by=actor)
        case "leave":
            leave(world, actor)
        case "prove":
            world.identities.users[actor] = replace(world.identities.users[actor], email_verified=True)
        case _:
            world.clock.pass_(days=5 if act == "wait" else 15)


OFFERED_BEFORE_A_REMOVAL = [
    ("ask by address", 0, 1, ADMIN),
    ("ask", 0, 1, VIEWER),
    ("accept", 1, 0, VIEWER),
    ("remove", 0, 1, VIEWER),
    ("prove", 1, 0, VIEWER),
    ("accept", 1, 0, VIEWER),
]
MADE_AN_OWNER = [("ask", 0, 1, MEMBER), ("accept", 1, 0, MEMBER), ("give", 0, 1, OWNER)]


@pytest.mark.fault("F-20c")
@example(acts=OFFERED_BEFORE_A_REMOVAL)
@example(acts=MADE_AN_OWNER)
@given(acts=st.lists(ACTS, max_size=25))
def test_whatever_happens_members_and_owners_said_yes_to_what_was_offered_last(
    acts: list[tuple[str, int, int, ProjectRole]],
) -> None:
    """Four people do what they like; each who becomes something does so by an act of their own, on a valid offer."""
    world, model = World(), Model()
    people = [world.ada, *(world.person(verified=number > 1) for number in range(3))]
    world.invitations._buckets = type(world.buckets)()
    for act, who, whom, role in acts:
        before = {user: world.store.members.get((world.project_id, user)) for user in people}
        offered = {user: model.of(user, world) for user in people}
        world.clock.pass_(seconds=1)
        with contextlib.suppress(AppError):
            carry_out(world, model, act, people[who], people[whom], role)
        for user in people:
            was, now = before[user], world.store.members.get((world.project_id, user))
            if now is not None and (was is None or (now.role is OWNER and was.role is not OWNER)):
                assert (act, user) == ("accept", people[who])
                assert now.role in offered[user]
            if was != now:
                model.decide(user)
            shown = {each.invitation.role for each in world.invitations.received(user)}
            assert shown <= model.of(user, world)
            assert now is None or shown <= {OWNER}
        check_owners(world, people)


def check_owners(world: World, people: list[UserId]) -> None:
    owners = world.owners()
    assert owners
    assert {user for user in people if world.role_of(user) is OWNER} == {*owners}
    assert {user: world.store.held[user] for user in people} == {user: int(user in owners) for user in people}


@pytest.mark.fault("F-21h")
@pytest.mark.parametrize("role", list(ProjectRole))
def test_an_account_without_a_verified_address_has_no_mail_sent_to_strangers(world: World, role: ProjectRole) -> None:
    eve = world.person(OWNER, verified=False)
    world.store.mails.clear()
    with pytest.raises(Forbidden) as refused:
        by_email(world, "stranger@example.com", role, by=eve)
    assert refused.value.code == "EMAIL_NOT_VERIFIED"
    assert (world.store.mails, world.invitations.list(world.ada, world.project_id)) == ([], [])
    world.identities.users[eve] = replace(world.identities.users[eve], email_verified=True)
    by_email(world, "stranger@example.com", role, by=eve)
    assert [mail.to for mail in world.store.mails] == ["stranger@example.com"]
