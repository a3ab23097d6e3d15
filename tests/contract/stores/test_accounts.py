"""Profiles, one-time tokens and the outbox: one suite for the stores in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import UserId, new_id
from karma.identity.accounts import emails, one_time
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.domain import Locale, Role, User
from karma.mail.domain import DUE_AFTER, Mail, MailKind, MailState
from karma.mail.repository import OutboxRepository
from tests.fakes.accounts import MemoryAccounts
from tests.fakes.mail import MemoryOutbox
from tests.support.stores import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


class DynamoAccounts(DirectoryRepository, OneTimeRepository):
    """Repositories of accounts in one, as the store in memory is, with the outbox that they write to."""

    def __init__(self, table: str) -> None:
        self.outbox = OutboxRepository()


Accounts = MemoryAccounts | DynamoAccounts
Outbox = MemoryOutbox | OutboxRepository


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return MemoryAccounts() if store.in_memory else DynamoAccounts(store.database.tables["identity"])


@pytest.fixture
def outbox(accounts: Accounts) -> Outbox:
    return accounts.outbox


@pytest.fixture
def ada(accounts: Accounts) -> User:
    user = User(
        id=UserId(new_id()),
        email="ada@example.com",
        name="Ada",
        avatar="https://example.com/a.png",
        password_hash="first",
        role=Role.USER,
        email_verified=False,
        created_at=NOW,
        updated_at=NOW,
    )
    accounts.create_user(user)
    return stored(accounts, user)


def stored(accounts: Accounts, user: User) -> User:
    found = accounts.read_user(user.id)
    assert found is not None
    return found


def mail(**more: Any) -> Mail:
    return replace(Mail(kind=MailKind.PASSWORD_CHANGED, user_id=UserId(new_id()), created_at=NOW), **more)


def token(accounts: Accounts, user: User, purpose: Purpose, **more: Any) -> OneTimeToken:
    _, made = one_time.issue(purpose, user_id=user.id, email=user.email, asked_at=NOW, now=NOW)
    made = replace(made, **more)
    accounts.create_token(made, now=NOW)
    return made


def awaiting(accounts: Accounts, user: User, address: str | None) -> User:
    """Have the account wait for the link to an address, or for none."""
    return accounts.save_profile(user, replace(user, moving_to=address), entry=entry(user), mails=[])


def entry(user: User) -> AuditEntry:
    return AuditEntry(user_id=user.id, event=AuditEvent.PROFILE_CHANGED, at=LATER, actor_id=user.id)


class TestTheOutbox:
    def test_keeps_a_mail_until_it_is_due(self, outbox: Outbox) -> None:
        kept = mail(kind=MailKind.RESET_PASSWORD, user_id=None, address_hash="0" * 64, to="ada@example.com")
        outbox.add(kept)
        assert outbox.get(kept.id) == kept
        assert outbox.get(new_id()) is None
        assert outbox.due(NOW + DUE_AFTER, limit=10) == []
        assert [each.mail_id for each in outbox.due(NOW + DUE_AFTER + timedelta(seconds=1), limit=10)] == [kept.id]

    def test_lists_the_oldest_first_and_no_more_than_asked_for(self, outbox: Outbox) -> None:
        mails = [mail(created_at=NOW - timedelta(minutes=number)) for number in range(3)]
        for each in mails:
            outbox.add(each)
        assert [due.mail_id for due in outbox.due(LATER, limit=2)] == [mails[2].id, mails[1].id]

    def test_counts_the_attempts_of_what_is_pending(self, outbox: Outbox) -> None:
        late = mail()
        outbox.add(late)
        assert outbox.postpone(late.id, until=LATER)
        assert outbox.due(LATER, limit=10) == []
        assert [(due.mail_id, due.attempts) for due in outbox.due(LATER + timedelta(seconds=1), limit=10)] == [
            (late.id, 1)
        ]
        outbox.close(late, MailState.SENT, now=LATER)
        assert not outbox.postpone(late.id, until=LATER)
        assert outbox.due(LATER + timedelta(hours=1), limit=10) == []

    def test_forgets_the_address_of_what_is_closed(self, outbox: Outbox) -> None:
        sent = mail(to="ada@example.com")
        outbox.add(sent)
        outbox.close(sent, MailState.SENT, now=LATER)
        outbox.close(sent, MailState.REFUSED, now=LATER)
        assert outbox.get(sent.id) == replace(sent, to=None, state=MailState.SENT)

    def test_forgets_what_was_not_needed(self, outbox: Outbox) -> None:
        needless = mail()
        outbox.add(needless)
        for _ in range(2):
            outbox.close(needless, MailState.NOT_NEEDED, now=LATER)
        assert outbox.get(needless.id) is None


class TestProfiles:
    def test_are_saved_at_the_version_that_was_read(self, accounts: Accounts, ada: User, outbox: Outbox) -> None:
        told = mail(user_id=ada.id)
        after = replace(ada, name="Ada Lovelace", avatar=None, locale=Locale.ZH, updated_at=LATER)
        saved = accounts.save_profile(ada, after, entry=entry(ada), mails=[told])
        assert saved == after == stored(accounts, ada)
        assert saved.version == stored(accounts, ada).version == ada.version + 1
        assert outbox.get(told.id) == told
        with pytest.raises(StaleVersion):
            accounts.save_profile(ada, after, entry=entry(ada), mails=[mail()])

    def test_are_found_by_the_hash_of_the_address(self, accounts: Accounts, ada: User) -> None:
        assert accounts.find_by_email_hash(emails.digest("ada@example.com")) == ada
        assert accounts.find_by_email_hash(emails.digest("eve@example.com")) is None

    def test_get_a_password_and_lose_their_sessions(self, accounts: Accounts, ada: User) -> None:
        changed = accounts.change_password(ada, "second", now=LATER, entry=entry(ada), mails=[])
        assert changed == stored(accounts, ada)
        assert (changed.password_hash, changed.sessions_from) == ("second", LATER)
        with pytest.raises(StaleVersion):
            accounts.change_password(ada, "third", now=LATER, entry=entry(ada), mails=[])


class TestTokens:
    def test_come_back_as_they_were(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.VERIFY_EMAIL)
        assert accounts.find_token(made.hash) == made
        assert accounts.find_token("0" * 64) is None

    def test_verify_an_address_once(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.VERIFY_EMAIL)
        assert accounts.verify_email(made, now=LATER, entry=entry(ada))
        assert not accounts.verify_email(made, now=LATER, entry=entry(ada))
        assert stored(accounts, ada) == replace(ada, email_verified=True, updated_at=LATER)
        assert accounts.find_token(made.hash) == replace(made, used=True)

    def test_verify_no_address_that_the_account_does_not_have(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.VERIFY_EMAIL, email="other@example.com")
        assert not accounts.verify_email(made, now=LATER, entry=entry(ada))
        assert accounts.find_token(made.hash) == made, "nothing was spent"

    def test_reset_a_password_once(self, accounts: Accounts, ada: User, outbox: Outbox) -> None:
        first, second = (token(accounts, ada, Purpose.RESET_PASSWORD) for _ in range(2))
        told = mail(user_id=ada.id)
        assert accounts.reset_password(first, "second", now=LATER, entry=entry(ada), mails=[told])
        for spent in (first, second):
            assert not accounts.reset_password(spent, "third", now=LATER, entry=entry(ada), mails=[mail()])
        found = stored(accounts, ada)
        assert (found.password_hash, found.email_verified, found.sessions_from) == ("second", True, LATER)
        assert outbox.get(told.id) == told

    def test_move_an_account_to_their_address(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.CHANGE_EMAIL, email="new@example.com")
        ada = awaiting(accounts, ada, "new@example.com")
        move = {"old_email": ada.email, "now": LATER, "entry": entry(ada), "mails": []}
        assert accounts.move_email(made, **move)  # type: ignore[arg-type]
        assert not accounts.move_email(made, **{**move, "old_email": "new@example.com"})  # type: ignore[arg-type]
        assert accounts.find_by_email("ada@example.com") is None
        assert accounts.left_by(emails.digest("ada@example.com"), now=LATER) == ada.id
        assert accounts.left_by(emails.digest("ada@example.com"), now=LATER + timedelta(days=31)) is None
        assert accounts.left_by(emails.digest("new@example.com"), now=LATER) is None
        moved = accounts.find_by_email("new@example.com")
        assert moved == replace(ada, email="new@example.com", email_verified=True, moving_to=None, updated_at=LATER)

    def test_move_no_account_to_an_address_that_is_taken(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.CHANGE_EMAIL, email="eve@example.com")
        accounts.create_user(replace(ada, id=UserId(new_id()), email="eve@example.com"))
        ada = awaiting(accounts, ada, "eve@example.com")
        with pytest.raises(AlreadyExists):
            accounts.move_email(made, old_email=ada.email, now=LATER, entry=entry(ada), mails=[])
        assert stored(accounts, ada) == ada

    def test_that_were_asked_for_before_the_sessions_ended_move_nothing(self, accounts: Accounts, ada: User) -> None:
        made = token(accounts, ada, Purpose.CHANGE_EMAIL, email="thief@example.com")
        ada = awaiting(accounts, ada, "thief@example.com")
        accounts.change_password(ada, "second", now=LATER, entry=entry(ada), mails=[])
        assert not accounts.move_email(made, old_email=ada.email, now=LATER, entry=entry(ada), mails=[])

    @pytest.mark.fault("F-21d")
    @pytest.mark.parametrize("named_since", [["right@example.com"], ["right@example.com", None], [None], []])
    def test_move_an_account_to_the_address_alone_that_it_waits_for(
        self, accounts: Accounts, ada: User, named_since: list[str | None]
    ) -> None:
        made = token(accounts, ada, Purpose.CHANGE_EMAIL, email="typo@example.com")
        if named_since:  # with none it was made before accounts remembered where they move
            ada = awaiting(accounts, ada, "typo@example.com")
        for address in named_since:
            ada = awaiting(accounts, ada, address)
        assert not accounts.move_email(made, old_email=ada.email, now=LATER, entry=entry(ada), mails=[])
        assert stored(accounts, ada) == ada
        assert accounts.find_token(made.hash) == made, "nothing was spent"

    @pytest.mark.fault("F-21d")
    def test_move_an_account_once_whatever_it_waits_for_then(self, accounts: Accounts, ada: User) -> None:
        older, newer = (token(accounts, ada, Purpose.CHANGE_EMAIL, email=f"{name}@example.com") for name in "ab")
        ada = awaiting(accounts, ada, "b@example.com")
        assert accounts.move_email(newer, old_email=ada.email, now=LATER, entry=entry(ada), mails=[])
        moved = stored(accounts, ada)
        assert not accounts.move_email(older, old_email=moved.email, now=LATER, entry=entry(ada), mails=[])
        assert stored(accounts, ada) == moved

    @pytest.mark.fault("F-21d")
    @pytest.mark.parametrize("purpose", Purpose)
    def test_do_nothing_for_an_account_that_is_disabled(self, accounts: Accounts, ada: User, purpose: Purpose) -> None:
        ada = awaiting(accounts, ada, "new@example.com")
        email = "new@example.com" if purpose is Purpose.CHANGE_EMAIL else ada.email
        made = token(accounts, ada, purpose, email=email)
        disabled = accounts.change_account(ada, replace(ada, disabled_at=NOW), actor_id=None, entries=[])
        at: dict[str, Any] = {"now": LATER, "entry": entry(ada)}
        done = {
            Purpose.VERIFY_EMAIL: lambda: accounts.verify_email(made, **at),
            Purpose.RESET_PASSWORD: lambda: accounts.reset_password(made, "second", mails=[], **at),
            Purpose.CHANGE_EMAIL: lambda: accounts.move_email(made, old_email=ada.email, mails=[], **at),
        }[purpose]()
        assert not done
        assert stored(accounts, ada) == disabled
