"""Accounts with their mail and their one-time tokens in memory, and the services over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.audit.domain import NOWHERE, AuditEntry
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import UserId, new_id
from karma.core.ratelimit import LocalBuckets
from karma.identity.accounts import emails
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.accounts.one_time import OneTimeToken
from karma.identity.accounts.service import AccountService
from karma.identity.domain import Caller, Credential, User
from karma.identity.limits import UnprovenMails
from karma.identity.passwords.changes import PasswordService
from karma.mail.domain import Letter, Mail
from karma.mail.service import MailWorker, OutboxRelay
from tests.fakes.identity import CountingPasswords, MemoryIdentities, MovableClock
from tests.fakes.mail import MemoryOutbox, MemoryQueue, MemorySender
from tests.fakes.usage import MemoryUsage


@dataclass
class MemoryAccounts(MemoryIdentities):
    """Accounts and one-time tokens as UserRepository and OneTimeRepository store them; writes are all or nothing."""

    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    one_time: dict[str, OneTimeToken] = field(default_factory=dict)
    left: dict[str, tuple[UserId, datetime]] = field(default_factory=dict)
    """Account that left an address, and when, by the address's hash."""

    def create_user(self, user: User, *, entries: Sequence[AuditEntry] = (), mails: Sequence[Mail] = ()) -> None:
        super().create_user(user)
        self._tell(entries, mails)

    def find_by_email_hash(self, email_hash: str) -> User | None:
        return next((user for user in self.users.values() if emails.digest(user.email) == email_hash), None)

    def left_by(self, email_hash: str, *, now: datetime) -> UserId | None:
        user_id, at = self.left.get(email_hash, (None, now))
        return user_id if (at.year, at.month) == (now.year, now.month) else None

    def save_profile(
        self, before: User, after: User, *, by: Credential | None = None, entry: AuditEntry, mails: Sequence[Mail]
    ) -> User:
        self.require_session(by)
        self._require(before)
        self._tell([entry], mails)
        return self._change(
            before.id,
            name=after.name,
            avatar=after.avatar,
            locale=after.locale,
            moving_to=after.moving_to,
            updated_at=after.updated_at,
        )

    def change_password(
        self,
        user: User,
        password_hash: str,
        *,
        by: Credential | None = None,
        now: datetime,
        entry: AuditEntry,
        mails: Sequence[Mail],
    ) -> User:
        self.require_session(by)
        self._require(user)
        self._tell([entry], mails)
        return self._change(user.id, password_hash=password_hash, sessions_from=now, updated_at=now)

    def create_token(self, token: OneTimeToken, *, now: datetime) -> None:
        self.require(token.user_id)
        self.one_time[token.hash] = token

    def find_token(self, token_hash: str) -> OneTimeToken | None:
        return self.one_time.get(token_hash)

    def verify_email(self, token: OneTimeToken, *, now: datetime, entry: AuditEntry) -> bool:
        user = self.users.get(token.user_id)
        if self.one_time[token.hash].used or user is None or user.disabled_at or user.email != token.email:
            return False
        self._spend(token, [entry], [])
        self._change(user.id, email_verified=True, updated_at=now)
        return True

    def reset_password(
        self, token: OneTimeToken, password_hash: str, *, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool:
        user = self.users.get(token.user_id)
        if self.one_time[token.hash].used or user is None or user.email != token.email or _over(token, user):
            return False
        self._spend(token, [entry], mails)
        ended = {"sessions_from": now, "api_keys_from": now}
        self._change(user.id, password_hash=password_hash, email_verified=True, updated_at=now, **ended)
        return True

    def move_email(
        self, token: OneTimeToken, *, old_email: str, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool:
        user = self.users.get(token.user_id)
        if token.email == old_email or self.one_time[token.hash].used:
            return False
        if user is None or user.email != old_email or user.moving_to != token.email or _over(token, user):
            return False
        if self.find_by_email(token.email):
            raise AlreadyExists("email is already registered")
        self._spend(token, [entry], mails)
        self._change(user.id, email=token.email, email_verified=True, moving_to=None, updated_at=now)
        self.left[emails.digest(old_email)] = (user.id, now)
        return True

    def _require(self, seen: User) -> None:
        stored = self.users.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise StaleVersion("The account was changed at the same moment; read it again")

    def _spend(self, token: OneTimeToken, entries: Sequence[AuditEntry], mails: Sequence[Mail]) -> None:
        self.one_time[token.hash] = replace(token, used=True)
        self._tell(entries, mails)

    def _tell(self, entries: Sequence[AuditEntry], mails: Sequence[Mail]) -> None:
        self.audit += entries
        for mail in mails:
            self.outbox.add(mail)


def _over(token: OneTimeToken, user: User) -> bool:
    return user.disabled_at is not None or (user.sessions_from is not None and user.sessions_from > token.asked_at)


PASSWORD = "correct horse"
PUBLIC_URL = "https://app.example.com"


class AccountWorld:
    """People with accounts, and a mail worker that tests call."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.identities = MemoryAccounts()
        self.outbox = self.identities.outbox
        self.passwords = CountingPasswords()
        self.queue = MemoryQueue()
        self.sender = MemorySender()
        self.changed: list[UserId] = []
        self.buckets = LocalBuckets()
        self.usage = MemoryUsage()
        self.outbox_relay = OutboxRelay(outbox=self.outbox, queue=self.queue, clock=self.clock)
        self.accounts = AccountService(
            accounts=self.identities,
            tokens=self.identities,
            passwords=self.passwords,
            outbox_relay=self.outbox_relay,
            buckets=self.buckets,
            usage=self.usage,
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.password_changes = PasswordService(
            accounts=self.identities,
            tokens=self.identities,
            passwords=self.passwords,
            outbox_relay=self.outbox_relay,
            buckets=self.buckets,
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.courier = MailWorker(
            outbox=self.outbox,
            recipients=Correspondence(people=self.identities, tokens=self.identities),
            sender=self.sender,
            unproven=UnprovenMails(self.buckets),
            clock=self.clock,
            public_url=PUBLIC_URL,
        )

    def register(self, email: str = "ada@example.com", name: str = "Ada") -> User:
        return self.accounts.register(email=email, password=PASSWORD, name=name)

    def verified(self, email: str = "ada@example.com") -> User:
        user = self.register(email)
        self.accounts.verify_email(token=self.token_for(email), source=NOWHERE)
        return self.identities.users[user.id]

    def deliver(self) -> list[tuple[str, Letter]]:
        """Send what is enqueued; return the new letters with their addresses."""
        before = len(self.sender.sent)
        bodies, self.queue.bodies = self.queue.bodies, []
        for body in bodies:
            self.courier.deliver(body)
        return self.sender.sent[before:]

    def token_for(self, email: str) -> str:
        """Send what is enqueued; return the token of the last link that went to an address."""
        self.deliver()
        [*_, letter] = [letter for to, letter in self.sender.sent if to == email and "#token=" in letter.text]
        return token_in(letter)


def token_in(letter: Letter) -> str:
    """Return the token in a letter's link, as a browser would."""
    return letter.text.partition("#token=")[2].split()[0]


def caller_of(user: User, *, logged_in_at: datetime | None = None, session_id: str = "") -> Caller:
    """Return the caller of somebody who is logged in; `logged_in_at` is the login's moment that the token names."""
    credential = None
    if logged_in_at is not None:
        credential = Credential(user_id=user.id, session_id=session_id or new_id(), began_at=logged_in_at)
    return Caller(
        user_id=user.id,
        role=user.role,
        method="jwt",
        scopes=frozenset(),
        email_verified=user.email_verified,
        name=user.name,
        avatar=user.avatar,
        credential=credential,
    )
