"""Use cases of administrators over accounts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.audit.domain import AuditEvent, Source
from karma.core.errors import Conflict, Forbidden, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity.accounts.administration import AdministrationService
from karma.identity.accounts.directory import AccountFilter
from karma.identity.domain import Role, User
from tests.fakes.accounts import AccountWorld, caller_of

SOURCE = Source(address="203.0.113.7", request_id="r1")


class World:
    def __init__(self) -> None:
        known = AccountWorld()
        self.clock = known.clock
        self.identities = known.identities
        self.outbox = known.outbox
        self.changed: list[UserId] = []
        self.administration = AdministrationService(
            accounts=self.identities, registration=known.accounts, clock=self.clock, on_change=self.changed.append
        )

    def add(self, name: str, role: Role = Role.USER, *, email_verified: bool = True) -> User:
        self.clock.pass_(seconds=1)
        user = User(
            id=UserId(new_id()),
            email=f"{name.lower()}@example.com",
            name=name,
            avatar=None,
            password_hash="now:x",
            role=role,
            email_verified=email_verified,
            created_at=self.clock.now(),
            updated_at=self.clock.now(),
        )
        self.identities.create_user(user)
        return self.identities.users[user.id]

    def change(
        self,
        actor: User,
        user: User,
        *,
        role: Role | None = None,
        disabled: bool | None = None,
        version: int | None = None,
    ) -> User:
        return self.administration.change_user(
            caller_of(actor), user.id, role=role, disabled=disabled, version=version, source=SOURCE
        )


@pytest.fixture
def world() -> World:
    return World()


class TestList:
    def test_is_newest_first_and_filtered(self, world: World) -> None:
        ada, bob = world.add("Ada"), world.add("Bob", Role.ADMIN)
        eve = world.change(bob, world.add("Eve"), disabled=True)

        def names(**asked: object) -> list[str]:
            found = world.administration.users(AccountFilter(**asked), limit=10, after=None)  # type: ignore[arg-type]
            return [user.name for user in found.users]

        assert names() == [eve.name, bob.name, ada.name]
        assert names(role=Role.USER) == ["Eve", "Ada"]
        assert names(disabled=True) == ["Eve"]
        assert names(role=Role.ADMIN, disabled=True) == []

    @pytest.mark.parametrize(
        ("text", "found"),
        [("ada@example.com", ["Ada"]), (" ADA@Example.com", ["Ada"]), ("ad", ["Ada", "Adam"]), ("da@", []), ("x", [])],
    )
    def test_is_searched_by_address_or_beginning_of_the_name(self, world: World, text: str, found: list[str]) -> None:
        for name in ("Adam", "Ada", "Bob"):
            world.add(name)
        page = world.administration.users(AccountFilter(), text=text, limit=10, after=None)
        assert [user.name for user in page.users] == found
        assert page.total == len(found)

    def test_applies_its_filter_to_an_address_too(self, world: World) -> None:
        world.add("Ada")
        page = world.administration.users(AccountFilter(role=Role.ADMIN), text="ada@example.com", limit=10, after=None)
        assert not page.users


class TestChange:
    @pytest.mark.req("R-M-36")
    def test_of_the_role_is_told_and_audited_with_both_values(self, world: World) -> None:
        root, ada = world.add("Root", Role.ADMIN), world.add("Ada")
        changed = world.change(root, ada, role=Role.VIEWER)
        assert changed.role is Role.VIEWER
        assert world.changed == [ada.id]
        [entry] = world.identities.audit
        assert (entry.event, entry.user_id, entry.actor_id) == (AuditEvent.ROLE_CHANGED, ada.id, root.id)
        assert (entry.details, entry.source) == ({"from": "user", "to": "viewer"}, SOURCE)

    def test_of_the_state_ends_sessions_for_good(self, world: World) -> None:
        root, ada = world.add("Root", Role.ADMIN), world.add("Ada")
        disabled = world.change(root, ada, disabled=True)
        assert disabled.disabled_at == world.clock.now()
        world.clock.pass_(minutes=1)
        enabled = world.change(root, disabled, disabled=False)
        assert (enabled.disabled_at, enabled.sessions_from) == (None, world.clock.now())
        assert [entry.event for entry in world.identities.audit] == [AuditEvent.DISABLED, AuditEvent.ENABLED]

    def test_to_what_it_is_changes_and_tells_nothing(self, world: World) -> None:
        root, ada = world.add("Root", Role.ADMIN), world.add("Ada")
        assert world.change(root, ada, role=Role.USER, disabled=False) == ada
        assert not world.changed
        assert not world.identities.audit
        assert world.identities.users[ada.id].version == ada.version

    @pytest.mark.parametrize("change", [{"role": Role.USER}, {"disabled": True}, {"role": Role.ADMIN}])
    def test_of_one_s_own_account_is_refused(self, world: World, change: dict[str, object]) -> None:
        root = world.add("Root", Role.ADMIN)
        with pytest.raises(Forbidden):
            world.change(root, root, **change)  # type: ignore[arg-type]

    def test_by_somebody_who_is_no_administrator_any_more_is_refused(self, world: World) -> None:
        root, eve, ada = world.add("Root", Role.ADMIN), world.add("Eve", Role.ADMIN), world.add("Ada")
        world.change(root, eve, role=Role.USER)
        with pytest.raises(Forbidden, match="Insufficient permissions"):
            world.change(eve, root, disabled=True)
        assert world.change(root, ada, role=Role.ADMIN).role is Role.ADMIN

    def test_of_an_older_version_is_refused(self, world: World) -> None:
        root, ada = world.add("Root", Role.ADMIN), world.add("Ada")
        world.change(root, ada, role=Role.VIEWER, version=ada.version)
        with pytest.raises(StaleVersion):
            world.change(root, ada, role=Role.ADMIN, version=ada.version)

    @pytest.mark.parametrize("user_id", ["", "x", "../..", "00000000-0000-7000-8000-000000000000"])
    def test_of_nobody_is_not_found(self, world: World, user_id: str) -> None:
        root = world.add("Root", Role.ADMIN)
        with pytest.raises(NotFound, match="User not found"):
            world.administration.change_user(
                caller_of(root), user_id, role=Role.USER, disabled=None, version=None, source=SOURCE
            )


class TestMakeAdmin:
    def test_creates_an_administrator(self, world: World) -> None:
        user = world.administration.make_admin(email="root@example.com", password="correct horse", name="Root")
        assert (user.role, user.email_verified) == (Role.ADMIN, True)
        assert not world.outbox.mails, "operators vouch for the address"

    def test_promotes_a_user_and_leaves_the_password(self, world: World) -> None:
        ada = world.add("Ada")
        promoted = world.administration.make_admin(email="ADA@example.com", password="other password", name="Other")
        assert promoted == replace(ada, role=Role.ADMIN, updated_at=world.clock.now())
        assert world.changed == [ada.id]
        [entry] = world.identities.audit
        assert (entry.event, entry.actor_id) == (AuditEvent.ROLE_CHANGED, None)

    def test_does_not_promote_who_has_not_proven_to_own_the_address(self, world: World) -> None:
        eve = world.add("Ada", email_verified=False)
        with pytest.raises(Conflict) as caught:
            world.administration.make_admin(email="ada@example.com", password="correct horse", name="Ada")
        assert caught.value.code == "EMAIL_NOT_VERIFIED"
        assert world.identities.users[eve.id] == eve

    def test_changes_nothing_the_second_time(self, world: World) -> None:
        world.add("Ada")
        first = world.administration.make_admin(email="ada@example.com", password="x" * 8, name="Ada")
        world.clock.pass_(hours=1)
        assert world.administration.make_admin(email="ada@example.com", password="x" * 8, name="Ada") == first

    def test_refuses_a_short_password_for_a_new_account(self, world: World) -> None:
        with pytest.raises(ValidationFailed):
            world.administration.make_admin(email="root@example.com", password="short", name="Root")
