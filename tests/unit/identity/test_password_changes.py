"""A password is reset by a mail's link, or changed with the old one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from karma.audit.domain import NOWHERE, AuditEvent
from karma.core.errors import Forbidden, Gone, NotFound, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity.accounts import emails
from karma.mail.domain import Mail, MailKind
from tests.fakes.accounts import PASSWORD, AccountWorld, caller_of

NEW = "battery staple"


@pytest.fixture
def world() -> AccountWorld:
    made = AccountWorld()
    made.verified()
    made.deliver()
    return made


class TestForgot:
    def test_sends_a_link_to_the_account_s_address(self, world: AccountWorld) -> None:
        world.password_changes.forgot(email=" ADA@example.com")
        [(to, letter)] = world.deliver()
        assert (to, letter.subject) == ("ada@example.com", "Reset your password")

    def test_does_the_same_for_an_unknown_address_and_sends_nothing(self, world: AccountWorld) -> None:
        world.passwords.verified.clear()
        mails: list[Mail] = []
        for email in ("ada@example.com", "nobody@example.com"):
            world.password_changes.forgot(email=email)
            mails.append([*world.outbox.mails.values()][-1])
        known, unknown = mails
        assert replace(known, id="", address_hash="") == replace(unknown, id="", address_hash="")
        assert len(world.queue.bodies) == 2
        assert world.passwords.verified == []
        assert [to for to, _ in world.deliver()] == ["ada@example.com"]
        assert unknown.id not in world.outbox.mails

    def test_sends_three_an_hour_and_drops_the_others_whether_there_is_an_account_or_not(
        self, world: AccountWorld
    ) -> None:
        for email in ("ada@example.com", "ADA@example.com ", "nobody@example.com"):
            for _ in range(5):
                world.password_changes.forgot(email=email)
        written = Counter(mail.address_hash for mail in world.outbox.mails.values() if mail.address_hash)
        assert written == {emails.digest("ada@example.com"): 3, emails.digest("nobody@example.com"): 3}
        assert len(world.deliver()) == 3
        world.clock.pass_(minutes=20)
        world.password_changes.forgot(email="ada@example.com")
        world.password_changes.forgot(email="ada@example.com")
        assert len(world.deliver()) == 1

    def test_holds_no_address_until_it_is_sent(self, world: AccountWorld) -> None:
        world.password_changes.forgot(email="ada@example.com")
        assert "ada@example.com" not in repr(world.outbox) + repr(world.queue)

    def test_sends_nothing_to_a_disabled_account(self, world: AccountWorld) -> None:
        [user] = world.identities.users.values()
        world.identities.users[user.id] = replace(user, disabled_at=world.clock.now())
        world.password_changes.forgot(email="ada@example.com")
        assert world.deliver() == []

    def test_refuses_what_is_no_address(self, world: AccountWorld) -> None:
        with pytest.raises(ValidationFailed):
            world.password_changes.forgot(email="ada")


class TestReset:
    def link(self, world: AccountWorld) -> str:
        world.password_changes.forgot(email="ada@example.com")
        return world.token_for("ada@example.com")

    def reset(self, world: AccountWorld, token: str) -> None:
        world.password_changes.reset(token=token, password=NEW, source=NOWHERE)

    def test_sets_the_password_and_ends_every_session(self, world: AccountWorld) -> None:
        token = self.link(world)
        world.clock.pass_(minutes=1)
        self.reset(world, token)
        [user] = world.identities.users.values()
        assert (user.password_hash, user.sessions_from) == (f"now:{NEW}", world.clock.now())
        assert world.changed[-1] == user.id
        assert world.identities.audit[-1].event is AuditEvent.PASSWORD_RESET
        assert [letter.subject for _, letter in world.deliver()] == ["Your password was changed"]

    def test_proves_the_address(self) -> None:
        world = AccountWorld()
        world.register()
        self.reset(world, self.link(world))
        [user] = world.identities.users.values()
        assert user.email_verified

    def test_works_once(self, world: AccountWorld) -> None:
        token = self.link(world)
        self.reset(world, token)
        with pytest.raises(Gone):
            self.reset(world, token)

    @pytest.mark.parametrize("minutes", [59, 60])
    def test_works_for_an_hour_from_sending(self, world: AccountWorld, minutes: int) -> None:
        token = self.link(world)
        world.clock.pass_(minutes=minutes)
        if minutes < 60:
            self.reset(world, token)
        else:
            with pytest.raises(Gone):
                self.reset(world, token)

    def test_ends_the_other_links(self, world: AccountWorld) -> None:
        first, second = self.link(world), self.link(world)
        world.clock.pass_(minutes=1)
        self.reset(world, second)
        with pytest.raises(Gone):
            self.reset(world, first)

    def test_hashes_no_password_for_a_token_that_is_none(self, world: AccountWorld) -> None:
        before = world.identities.users.copy()
        for token in ("unknown", "", "x" * 300):
            with pytest.raises(Gone):
                self.reset(world, token)
        assert world.identities.users == before

    def test_takes_no_token_of_a_verification(self, world: AccountWorld) -> None:
        world.register("eve@example.com", "Eve")
        with pytest.raises(Gone):
            self.reset(world, world.token_for("eve@example.com"))

    def test_is_not_for_whoever_has_the_address_now(self, world: AccountWorld) -> None:
        token = self.link(world)
        [user] = world.identities.users.values()
        world.identities.users[user.id] = replace(user, email="new@example.com")
        with pytest.raises(Gone):
            self.reset(world, token)

    def test_gives_a_password_to_who_had_a_provider_only(self) -> None:
        world = AccountWorld()
        world.accounts.register(email="ada@example.com", password=None, name="Ada", email_verified=True)
        self.reset(world, self.link(world))
        [user] = world.identities.users.values()
        assert user.password_hash == f"now:{NEW}"


class TestChange:
    def test_verifies_once_and_ends_the_sessions(self, world: AccountWorld) -> None:
        [user] = world.identities.users.values()
        world.passwords.verified.clear()
        world.clock.pass_(minutes=1)
        changed = world.password_changes.change(
            caller_of(user), current_password=PASSWORD, password=NEW, source=NOWHERE
        )
        assert world.passwords.verified == [user.password_hash]
        assert changed == world.identities.users[user.id]
        assert (changed.password_hash, changed.sessions_from) == (f"now:{NEW}", world.clock.now())
        assert world.changed[-1] == user.id
        assert world.identities.audit[-1].event is AuditEvent.PASSWORD_CHANGED
        assert [letter.subject for _, letter in world.deliver()] == ["Your password was changed"]

    def test_refuses_a_wrong_password_and_changes_nothing(self, world: AccountWorld) -> None:
        before = world.identities.users.copy()
        [user] = before.values()
        with pytest.raises(Forbidden) as caught:
            world.password_changes.change(caller_of(user), current_password="x", password=NEW, source=NOWHERE)
        assert caught.value.code == "WRONG_PASSWORD"
        assert world.identities.users == before
        assert world.deliver() == []

    def test_is_not_for_api_keys(self, world: AccountWorld) -> None:
        [user] = world.identities.users.values()
        by_key = replace(caller_of(user), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.password_changes.change(by_key, current_password=PASSWORD, password=NEW, source=NOWHERE)

    def test_of_nobody_is_not_found(self, world: AccountWorld) -> None:
        [user] = world.identities.users.values()
        ghost = replace(caller_of(user), user_id=UserId(new_id()))
        with pytest.raises(NotFound):
            world.password_changes.change(ghost, current_password=PASSWORD, password=NEW, source=NOWHERE)

    def test_stops_a_reset_that_was_asked_for_before(self, world: AccountWorld) -> None:
        [user] = world.identities.users.values()
        world.password_changes.forgot(email=user.email)
        world.clock.pass_(minutes=1)
        world.password_changes.change(caller_of(user), current_password=PASSWORD, password=NEW, source=NOWHERE)
        with pytest.raises(Gone):
            world.password_changes.reset(token=world.token_for(user.email), password="a thief's words", source=NOWHERE)
        assert MailKind.RESET_PASSWORD in {mail.kind for mail in world.outbox.mails.values()}
