"""Use cases of accounts: registering, verifying, changing the profile and the address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from karma.audit.domain import NOWHERE, AuditEvent, Source
from karma.core.errors import AlreadyExists, Forbidden, Gone, NotFound, RateLimited, StaleVersion, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity.domain import Locale, ProfileChange, Role, User
from karma.identity.limits import MAIL_UNPROVEN, REGISTRATIONS
from karma.mail.domain import MailState
from karma.mail.ports import MailUnavailable
from tests.fakes.accounts import PASSWORD, AccountWorld, caller_of, token_in

SOURCE = Source(address="203.0.113.7", request_id="r1")


@pytest.fixture
def world() -> AccountWorld:
    return AccountWorld()


class TestRegister:
    @pytest.mark.req("R-K-09", "R-K-10")
    def test_makes_a_user_without_special_rights(self, world: AccountWorld) -> None:
        user = world.register()
        assert (user.role, user.email_verified, user.avatar) == (Role.USER, False, None)
        assert world.identities.users == {user.id: user}

    @pytest.mark.req("R-K-10")
    @pytest.mark.parametrize("spelling", ["ada@example.com", "ADA@Example.COM", "  ada@example.com "])
    def test_an_address_is_taken_however_it_is_written(self, world: AccountWorld, spelling: str) -> None:
        world.register()
        with pytest.raises(AlreadyExists):
            world.register(spelling, "Eve")
        assert len(world.outbox.mails) == 1

    @pytest.mark.parametrize("text", ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@example.com\x00"])
    def test_what_is_no_address_is_refused(self, world: AccountWorld, text: str) -> None:
        with pytest.raises(ValidationFailed) as caught:
            world.register(text)
        assert isinstance(caught.value.details, list)
        assert caught.value.details[0]["field"] == "email"

    def test_sends_a_link_in_the_account_s_language(self, world: AccountWorld) -> None:
        world.accounts.register(email="ada@example.com", password=PASSWORD, name="Ada", locale=Locale.ZH)
        [(to, letter)] = world.deliver()
        assert (to, letter.subject) == ("ada@example.com", "请验证您的电子邮箱")

    def test_writes_the_mail_even_when_the_queue_refuses_it(self, world: AccountWorld) -> None:
        world.queue.broken = True
        world.register()
        world.queue.broken = False
        world.clock.pass_(minutes=3)
        assert world.outbox_relay.requeue_due() == 1
        assert [to for to, _ in world.deliver()] == ["ada@example.com"]

    def test_asks_nothing_of_an_address_that_a_provider_has_verified(self, world: AccountWorld) -> None:
        user = world.accounts.register(email="ada@example.com", password=None, name="Ada", email_verified=True)
        assert (user.password_hash, user.email_verified) == (None, True)
        assert world.deliver() == []

    def test_is_told_to_the_audit_log(self, world: AccountWorld) -> None:
        user = world.accounts.register(email="ada@example.com", password=PASSWORD, name="Ada", source=SOURCE)
        [entry] = world.identities.audit
        assert (entry.event, entry.user_id, entry.source) == (AuditEvent.REGISTERED, user.id, SOURCE)


class TestVerifyEmail:
    def test_takes_the_word_of_the_link(self, world: AccountWorld) -> None:
        user = world.verified()
        assert user.email_verified
        assert world.changed == [user.id]
        assert world.identities.audit[-1].event is AuditEvent.EMAIL_VERIFIED

    @pytest.mark.parametrize("hours", [47.9, 48])
    def test_within_48_hours(self, world: AccountWorld, hours: float) -> None:
        user = world.register()
        token = world.token_for("ada@example.com")
        world.clock.pass_(hours=hours)
        if hours < 48:
            world.accounts.verify_email(token=token, source=NOWHERE)
        else:
            with pytest.raises(Gone):
                world.accounts.verify_email(token=token, source=NOWHERE)
        assert world.identities.users[user.id].email_verified is (hours < 48)

    def test_answers_unknown_used_expired_and_foreign_tokens_alike(self, world: AccountWorld) -> None:
        world.verified()
        used = world.token_for("ada@example.com")
        world.register("eve@example.com", "Eve")
        expired = world.token_for("eve@example.com")
        world.clock.pass_(hours=49)
        world.password_changes.forgot(email="eve@example.com")
        for_a_password = world.token_for("eve@example.com")
        told = set()
        for token in (used, expired, for_a_password, "unknown", "", "x" * 256, "\ud800"):
            with pytest.raises(Gone) as caught:
                world.accounts.verify_email(token=token, source=NOWHERE)
            told.add((caught.value.code, caught.value.message, str(caught.value.details)))
        assert len(told) == 1

    def test_may_be_asked_for_again_until_it_is_done(self, world: AccountWorld) -> None:
        caller = caller_of(world.register())
        first = world.token_for("ada@example.com")
        world.accounts.resend_verification(caller)
        second = world.token_for("ada@example.com")
        assert first != second
        world.accounts.verify_email(token=first, source=NOWHERE)
        world.accounts.resend_verification(caller)
        assert world.deliver() == []
        assert {mail.state for mail in world.outbox.mails.values()} == {MailState.SENT}

    def test_may_be_asked_for_three_times_an_hour(self, world: AccountWorld) -> None:
        caller = caller_of(world.register())
        for _ in range(3):
            world.accounts.resend_verification(caller)
        with pytest.raises(RateLimited):
            world.accounts.resend_verification(caller)
        world.clock.pass_(minutes=20)
        world.accounts.resend_verification(caller)
        assert len(world.outbox.mails) == 5

    def test_does_not_verify_an_address_that_the_account_has_left(self, world: AccountWorld) -> None:
        user = world.register()
        token = world.token_for("ada@example.com")
        world.identities.users[user.id] = replace(user, email="other@example.com", version=2)
        with pytest.raises(Gone):
            world.accounts.verify_email(token=token, source=NOWHERE)
        assert not world.identities.users[user.id].email_verified

    def test_keeps_hashes_only(self, world: AccountWorld) -> None:
        world.register()
        token = world.token_for("ada@example.com")
        assert token not in repr(world.identities)
        assert all(token not in body for body in world.queue.bodies)


class TestChangeProfile:
    def change(self, world: AccountWorld, user: User, **changes: Any) -> User:
        return world.accounts.change_profile(caller_of(user), ProfileChange(**changes), source=SOURCE)

    def test_changes_what_is_named_and_leaves_the_rest(self, world: AccountWorld) -> None:
        user = world.register()
        named = self.change(world, user, name="Ada Lovelace", avatar="https://example.com/a.png")
        assert (named.name, named.avatar, named.locale) == ("Ada Lovelace", "https://example.com/a.png", Locale.EN)
        spoken = self.change(world, user, locale=Locale.ZH, avatar="")
        assert (spoken.name, spoken.avatar, spoken.locale) == ("Ada Lovelace", None, Locale.ZH)
        assert world.identities.audit[-1].event is AuditEvent.PROFILE_CHANGED
        assert world.changed == [user.id, user.id]

    def test_of_another_version_is_refused(self, world: AccountWorld) -> None:
        user = world.register()
        changed = self.change(world, user, name="A", version=1)
        assert changed.version == 2
        with pytest.raises(StaleVersion):
            self.change(world, user, name="B", version=1)
        assert world.identities.users[user.id].name == "A"

    def test_is_not_for_api_keys(self, world: AccountWorld) -> None:
        by_key = replace(caller_of(world.register()), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.accounts.change_profile(by_key, ProfileChange(name="Eve"), source=SOURCE)

    def test_of_nobody_is_not_found(self, world: AccountWorld) -> None:
        ghost = replace(caller_of(world.register()), user_id=UserId(new_id()))
        with pytest.raises(NotFound, match="User not found"):
            world.accounts.change_profile(ghost, ProfileChange(name="Eve"), source=SOURCE)


class TestChangeEmail:
    @pytest.fixture
    def ada(self, world: AccountWorld) -> User:
        user = world.verified()
        world.deliver()
        return user

    def ask(self, world: AccountWorld, user: User, email: str, password: str = PASSWORD) -> User:
        change = ProfileChange(email=email, current_password=password)
        return world.accounts.change_profile(caller_of(user), change, source=SOURCE)

    def test_moves_the_account_when_the_new_address_answers(self, world: AccountWorld, ada: User) -> None:
        assert self.ask(world, ada, "New@Example.com").email == "ada@example.com"
        asked = {to: letter.subject for to, letter in world.deliver()}
        assert asked == {
            "new@example.com": "Confirm your new e-mail address",
            "ada@example.com": "Your e-mail address is about to change",
        }
        world.accounts.verify_email(token=world.token_for("new@example.com"), source=SOURCE)
        moved = world.identities.users[ada.id]
        assert (moved.email, moved.email_verified) == ("new@example.com", True)
        assert [(to, letter.subject) for to, letter in world.deliver()] == [
            ("ada@example.com", "Your e-mail address was changed")
        ]
        assert world.identities.audit[-1].event is AuditEvent.EMAIL_CHANGED

    def test_sends_three_mails_an_hour_from_one_account(self, world: AccountWorld, ada: User) -> None:
        other = world.register("o@example.com")
        for i in range(3):
            self.ask(world, ada, f"n{i}@example.com")
        with pytest.raises(RateLimited):
            self.ask(world, ada, "n4@example.com")
        world.clock.pass_(minutes=20)
        self.ask(world, ada, "n5@example.com")
        self.ask(world, other, "ada@example.com")
        assert world.identities.users[ada.id].email == "ada@example.com"

    def test_without_a_password_names_the_field(self, world: AccountWorld, ada: User) -> None:
        with pytest.raises(ValidationFailed) as caught:
            self.ask(world, ada, "new@example.com", "")
        assert caught.value.details == [{"field": "current_password", "message": "is required", "type": "value_error"}]
        assert world.deliver() == []

    def test_needs_the_password_verified_once(self, world: AccountWorld, ada: User) -> None:
        world.passwords.verified.clear()
        with pytest.raises(Forbidden) as caught:
            self.ask(world, ada, "new@example.com", "wrong")
        assert caught.value.code == "WRONG_PASSWORD"
        assert world.passwords.verified == [ada.password_hash]
        assert world.deliver() == []

    def test_to_the_same_address_asks_for_nothing(self, world: AccountWorld, ada: User) -> None:
        self.ask(world, ada, "ADA@example.com", "")
        assert world.deliver() == []

    def test_to_a_taken_address_is_told_to_its_owner_alone(self, world: AccountWorld, ada: User) -> None:
        world.verified("eve@example.com")
        free = self.ask(world, ada, "free@example.com")
        taken = self.ask(world, ada, "eve@example.com")
        assert replace(free, version=0, moving_to=None) == replace(taken, version=0, moving_to=None)
        told = [(to, letter.subject) for to, letter in world.deliver() if to == "eve@example.com"]
        assert told == [("eve@example.com", "Somebody named your e-mail address")]

    def test_to_an_address_that_was_taken_meanwhile_is_refused(self, world: AccountWorld, ada: User) -> None:
        self.ask(world, ada, "new@example.com")
        token = world.token_for("new@example.com")
        world.register("new@example.com", "Eve")
        with pytest.raises(AlreadyExists):
            world.accounts.verify_email(token=token, source=SOURCE)
        assert world.identities.users[ada.id].email == "ada@example.com"

    def test_is_stopped_by_a_new_password(self, world: AccountWorld, ada: User) -> None:
        self.ask(world, ada, "thief@example.com")
        token = world.token_for("thief@example.com")
        world.clock.pass_(seconds=1)
        world.password_changes.change(
            caller_of(ada), current_password=PASSWORD, password="another horse", source=SOURCE
        )
        with pytest.raises(Gone):
            world.accounts.verify_email(token=token, source=SOURCE)

    def test_happens_once_however_many_links_were_sent(self, world: AccountWorld, ada: User) -> None:
        tokens = []
        for _ in range(2):
            self.ask(world, ada, "one@example.com")
            tokens.append(world.token_for("one@example.com"))
        world.accounts.verify_email(token=tokens[0], source=SOURCE)
        for token in tokens:
            with pytest.raises(Gone):
                world.accounts.verify_email(token=token, source=SOURCE)
        assert world.identities.users[ada.id].email == "one@example.com"


class TestAccount:
    def test_that_is_gone_is_not_found(self, world: AccountWorld) -> None:
        with pytest.raises(NotFound, match="User not found"):
            world.accounts.get_user(UserId("nobody"))


@pytest.mark.fault("F-21b")
class TestSignUp:
    def sign_up(self, world: AccountWorld, email: str = "ada@example.com", password: str = PASSWORD) -> User:
        return world.accounts.sign_up(email=email, password=password, name="Eve", locale=Locale.EN, source=SOURCE)

    def test_sends_the_link_that_verifies_to_a_new_address(self, world: AccountWorld) -> None:
        user = self.sign_up(world)
        assert world.identities.users == {user.id: replace(user, version=1)}
        world.accounts.verify_email(token=world.token_for("ada@example.com"), source=SOURCE)
        assert world.identities.users[user.id].email_verified

    @pytest.mark.parametrize("verified", [False, True])
    def test_makes_nothing_for_a_taken_address_and_tells_its_owner_alone(
        self, world: AccountWorld, verified: bool
    ) -> None:
        owner = world.verified() if verified else world.register()
        world.deliver()
        before = dict(world.identities.users)
        user = self.sign_up(world, " ADA@example.com ")
        assert user.id != owner.id
        assert (user.email, user.name, user.email_verified) == ("ada@example.com", "Eve", False)
        assert world.identities.users == before
        [(to, letter)] = world.deliver()
        assert (to, letter.subject) == ("ada@example.com", "You have an account already")
        assert "Eve" not in letter.text
        with pytest.raises(Gone):
            world.accounts.verify_email(token=token_in(letter), source=SOURCE)
        world.password_changes.reset(token=token_in(letter), password="a better battery", source=SOURCE)
        assert world.identities.users[owner.id].email_verified

    def test_writes_the_same_mail_for_both(self, world: AccountWorld) -> None:
        self.sign_up(world)
        self.sign_up(world)
        self.sign_up(world, "eve@example.com")
        written = [
            (mail.kind, mail.to, bool(mail.user_id), bool(mail.address_hash)) for mail in world.outbox.mails.values()
        ]
        assert len(set(written)) == 1
        assert len(written) == len(world.queue.bodies) == 3

    def test_floods_nobody_s_mailbox(self, world: AccountWorld) -> None:
        world.verified()
        world.deliver()
        for _ in range(10):
            self.sign_up(world)
        assert len(world.deliver()) == 3

    @pytest.mark.fault("F-19b")
    def test_counts_the_registrations_of_a_network(self, world: AccountWorld) -> None:
        for number in range(REGISTRATIONS.amount):
            self.sign_up(world, f"{number % 5}@{number}.example.com")
        accounts, written = len(world.identities.users), len(world.outbox.mails)
        with pytest.raises(RateLimited):
            self.sign_up(world, "more@example.com")
        assert (len(world.identities.users), len(world.outbox.mails)) == (accounts, written)
        for source in (replace(SOURCE, address="203.0.113.8"), replace(SOURCE, address="127.0.0.1")):
            world.accounts.sign_up(
                email=f"{source.address}@example.com", password=PASSWORD, name="Eve", locale=Locale.EN, source=source
            )

    @pytest.mark.fault("F-19b")
    def test_leaves_mails_out_when_all_networks_together_have_caused_a_day_s(self, world: AccountWorld) -> None:
        ada = world.verified()
        world.deliver()
        self.empty(world)
        self.sign_up(world, "new@example.com")
        world.accounts.change_profile(
            caller_of(ada), ProfileChange(email="b@example.com", current_password=PASSWORD), source=SOURCE
        )
        assert [to for to, _ in world.deliver()] == ["ada@example.com"], "what tells an owner goes on"
        world.clock.pass_(minutes=10)
        self.sign_up(world, "new2@example.com")
        assert [to for to, _ in world.deliver()] == ["new2@example.com"]

    @pytest.mark.fault("F-19c")
    def test_counts_each_mail_to_an_address_that_nobody_has_proven(self, world: AccountWorld) -> None:
        """Whatever causes it: a registration, a second link, a reset, another registration of the address, a move."""
        ada = world.verified()
        eve = self.sign_up(world, "eve@example.com")
        world.deliver()
        self.empty(world)
        causes: dict[str, Callable[[], object]] = {
            "a registration": lambda: self.sign_up(world, "ida@example.com"),
            "a second link": lambda: world.accounts.resend_verification(caller_of(eve)),
            "a reset": lambda: world.password_changes.forgot(email="eve@example.com"),
            "the same address": lambda: self.sign_up(world, "eve@example.com"),
            "a move": lambda: world.accounts.change_profile(
                caller_of(ada), ProfileChange(email="b@example.com", current_password=PASSWORD), source=SOURCE
            ),
        }
        for cause, ask in causes.items():
            ask()
            assert {to for to, _ in world.deliver()} <= {"ada@example.com"}, cause
        assert MailState.TOO_MANY in {mail.state for mail in world.outbox.mails.values()}
        world.password_changes.forgot(email="ada@example.com")
        assert [to for to, _ in world.deliver()] == ["ada@example.com"], "hers is proven"

    def test_counts_no_mail_that_the_provider_did_not_take(self, world: AccountWorld) -> None:
        self.empty(world, but=1)
        self.sign_up(world, "new@example.com")
        world.sender.broken = True
        for _ in range(3):
            with pytest.raises(MailUnavailable):
                world.courier.deliver(world.queue.bodies[-1])
        world.sender.broken = False
        assert [to for to, _ in world.deliver()] == ["new@example.com"]

    def empty(self, world: AccountWorld, *, but: int = 0) -> None:
        for _ in range(MAIL_UNPROVEN.amount - but):
            world.buckets.take(MAIL_UNPROVEN, "", now=world.clock.now())

    def test_mails_nothing_for_an_account_that_was_not_made_in_the_end(self, world: AccountWorld) -> None:
        user = self.sign_up(world)
        del world.identities.users[user.id]
        assert world.deliver() == []

    @pytest.mark.parametrize("email", ["ä@example.com", "用户@example.com"])
    def test_refuses_an_address_that_no_mail_reaches(self, world: AccountWorld, email: str) -> None:
        with pytest.raises(ValidationFailed):
            self.sign_up(world, email)

    @pytest.mark.fault("F-24h")
    def test_tells_of_address_and_password_at_once(self, world: AccountWorld) -> None:
        with pytest.raises(ValidationFailed) as refused:
            self.sign_up(world, "ä@example.com", "password1234")
        told: Any = refused.value.details
        assert [each["field"] for each in told] == ["email", "password"]
