"""Use cases of people with their own accounts: register, verify, read, change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.observability import count
from karma.core.ratelimit import Buckets, Limit, network_of
from karma.identity.accounts import emails, one_time
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.confirmation import confirm_password, require_going_on
from karma.identity.domain import Caller, Credential, Locale, ProfileChange, Role, User
from karma.identity.limits import MAIL_CHANGE, MAIL_CHANGE_FIRST, MAIL_VERIFY, REGISTRATIONS, refused
from karma.identity.mail_limits import unless_too_many
from karma.identity.passwords.hashes import Passwords
from karma.identity.passwords.policy import require_acceptable
from karma.identity.sessions.authentication import Users
from karma.mail.domain import Mail, MailKind
from karma.mail.service import OutboxRelay

_THIS_MACHINE = frozenset({"127.0.0.1", "::/64"})
"""Networks of callers on the machine itself, whose registrations are not counted: of the local environment alone, since
a deployment's callers come through its edge."""


class Accounts(Users, Protocol):
    """Accounts; accounts/repository/users.py says what each method promises."""

    def create_user(  # noqa: D102
        self, user: User, *, entries: Sequence[AuditEntry] = (), mails: Sequence[Mail] = ()
    ) -> None: ...
    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def left_by(self, email_hash: str, *, now: datetime) -> UserId | None: ...  # noqa: D102
    def save_profile(  # noqa: D102
        self, before: User, after: User, *, by: Credential | None, entry: AuditEntry, mails: Sequence[Mail]
    ) -> User: ...


class MonthsUsage(Protocol):
    """Amounts that accounts have taken of their plans this month."""

    def carry(self, former: UserId, user_id: UserId, *, at: datetime) -> None:
        """Count what an account has taken in the month of `at` as taken by another one, which is new."""
        ...


class EmailTokens(Protocol):
    """One-time tokens of addresses; accounts/repository/one_time.py says what each method promises."""

    def find_token(self, token_hash: str) -> OneTimeToken | None: ...  # noqa: D102
    def verify_email(self, token: OneTimeToken, *, now: datetime, entry: AuditEntry) -> bool: ...  # noqa: D102
    def move_email(  # noqa: D102
        self, token: OneTimeToken, *, old_email: str, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool: ...


class AccountService:
    """Use cases of people with their own accounts."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        tokens: EmailTokens,
        passwords: Passwords,
        outbox_relay: OutboxRelay,
        buckets: Buckets,
        usage: MonthsUsage,
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """Build the service.

        `buckets` limit mails by address, `usage` outlives the account that an address had before; `on_change` is called
        with the id of each changed account (Authenticator.forget).
        """
        self._accounts = accounts
        self._tokens = tokens
        self._passwords = passwords
        self._outbox_relay = outbox_relay
        self._buckets = buckets
        self._usage = usage
        self._clock = clock
        self._on_change = on_change

    def register(
        self,
        *,
        email: str,
        password: str | None,
        name: str,
        role: Role = Role.USER,
        email_verified: bool = False,
        locale: Locale = Locale.EN,
        source: Source = NOWHERE,
    ) -> User:
        """Make an account, and send a link to an address that is not verified.

        `password` None: the account is opened through a provider only.

        Raises:
            AlreadyExists: the address is taken, perhaps in another spelling.
            ValidationFailed: the text is no address, or the password is easy to guess.
        """
        now, address = self._clock.now(), emails.normalise(email)
        if password is not None:
            require_acceptable(password, of=(name, address))
        user = self._new(address, password, name, role, email_verified, locale, now)
        entry = AuditEntry(user_id=user.id, event=AuditEvent.REGISTERED, at=now, actor_id=None, source=source)
        mails = [] if email_verified else [_verification(user.id, now)]
        self._carry_usage(emails.digest(address), user.id, now)
        self._accounts.create_user(user, entries=[entry], mails=mails)
        self._outbox_relay.dispatch(mails)
        return user

    def sign_up(self, *, email: str, password: str, name: str, locale: Locale, source: Source) -> User:
        """Make an account unless the address has one; return the account that was, or would have been, made.

        Answer and calls are the same for a taken address; only its owner is told, by mail. The recipient is decided
        when the mail is sent (karma.identity.accounts.correspondence).

        Raises:
            ValidationFailed: the text is no address that mail is sent to, or the password is easy to guess.
            RateLimited: the network has registered too many addresses today.
        """
        now = self._clock.now()
        ValidationFailed.together(
            lambda: emails.mailable(email), lambda: require_acceptable(password, of=(name, email))
        )
        self._count_registration(source, now)
        address = emails.normalise(email)
        user = self._new(address, password, name, Role.USER, False, locale, now)
        address_hash = emails.digest(address)
        mail = Mail(kind=MailKind.VERIFY_EMAIL, user_id=user.id, address_hash=address_hash, created_at=now)
        mails = unless_too_many(mail, address_hash, buckets=self._buckets, now=now)
        self._carry_usage(address_hash, user.id, now)
        # Written before the account, so that both cases write the same: without an account nobody is sent it.
        self._outbox_relay.write(mails)
        entry = AuditEntry(user_id=user.id, event=AuditEvent.REGISTERED, at=now, actor_id=None, source=source)
        try:
            self._accounts.create_user(user, entries=[entry])
        except AlreadyExists:
            count("RegistrationRepeated")
        self._outbox_relay.dispatch(mails)
        return user

    def _carry_usage(self, address_hash: str, user_id: UserId, now: datetime) -> None:
        """Let a new account go on with what its address has used this month: before the account, so that it has."""
        former = self._accounts.left_by(address_hash, now=now)
        if former is not None:
            self._usage.carry(former, user_id, at=now)

    def _new(
        self,
        address: str,
        password: str | None,
        name: str,
        role: Role,
        email_verified: bool,
        locale: Locale,
        now: datetime,
    ) -> User:
        return User(
            id=UserId(new_id()),
            email=address,
            name=name,
            avatar=None,
            password_hash=None if password is None else self._passwords.hash(password),
            role=role,
            locale=locale,
            email_verified=email_verified,
            created_at=now,
            updated_at=now,
        )

    def get_user(self, user_id: UserId) -> User:
        """Read an account, eventually consistent.

        Raises:
            NotFound: the account is deleted.
        """
        return _found(self._accounts.get_user(user_id))

    def resend_verification(self, caller: Caller) -> None:
        """Send the link that verifies the caller's address again, unless it is verified.

        Raises:
            RateLimited: the link was asked for too often.
            NotFound: the account is deleted.
        """
        now = self._clock.now()
        # Not by the address: whoever registers it again would keep its owner from asking.
        self._count_mail(MAIL_VERIFY, self.get_user(caller.user_id).id, now)
        self._outbox_relay.post(_verification(caller.user_id, now))

    def verify_email(self, *, token: str, source: Source) -> None:
        """Verify an address by the token of a link; when the owner asked to move to it, it replaces the old one.

        Raises:
            Gone: the token is unknown, used, expired, or void since the owner named another address.
            AlreadyExists: another account has taken the new address meanwhile.
        """
        now = self._clock.now()
        found = self._tokens.find_token(one_time.digest(token))
        if found is None or not found.usable(found.purpose, now) or found.purpose is Purpose.RESET_PASSWORD:
            raise one_time.spent()
        if found.purpose is Purpose.CHANGE_EMAIL:
            self._move_email(found, now=now, source=source)
        else:
            entry = _entry(found.user_id, AuditEvent.EMAIL_VERIFIED, now, source)
            if not self._tokens.verify_email(found, now=now, entry=entry):
                raise one_time.spent()
        self._on_change(found.user_id)

    def change_profile(self, caller: Caller, change: ProfileChange, *, source: Source) -> User:
        """Change the caller's profile, and have a link sent to a new address if one is given.

        An address of another account gets the same answer: its owner is told by mail, the caller is not. Only links to
        the address that was named last change the account's; naming the account's own makes all of them void.

        Raises:
            Forbidden: the caller is an API key, or the current password is wrong (WRONG_PASSWORD).
            StaleVersion: the account is not at `version`, or was changed at the same moment.
            SessionOver: an address is given, and the caller's session has ended meanwhile.
            ValidationFailed: the text is no address, or `current_password` is missing.
            RateLimited: too many passwords were wrong, or too many mails came of this account.
        """
        caller.require_person()
        email = emails.mailable(change.email) if change.email is not None else None
        before = _found(self._accounts.read_user(caller.user_id))
        if change.version is not None and change.version != before.version:
            raise StaleVersion("The account was changed since it was read")
        now = self._clock.now()
        mails: list[Mail] = []
        moving_to = before.moving_to
        if email is not None:  # another address outlives the session, and so does that none is awaited any more
            require_going_on(caller, before)
            moving_to = None if email == before.email else email
        if email is not None and email != before.email:
            if before.password_hash is not None and not change.current_password:
                raise ValidationFailed.of("current_password", "is required")
            confirm_password(
                before.id,
                before.password_hash,
                change.current_password,
                passwords=self._passwords,
                buckets=self._buckets,
                now=now,
            )
            # By nothing that others can name: they would keep the owner of an address from moving there.
            self._count_mail(MAIL_CHANGE, before.id, now)
            mails = [
                *self._confirmation(before.id, email, now),
                Mail(kind=MailKind.EMAIL_CHANGE_ASKED, user_id=before.id, to=before.email, created_at=now),
            ]
        after = replace(
            before,
            name=before.name if change.name is None else change.name,
            avatar=before.avatar if change.avatar is None else change.avatar or None,
            locale=change.locale or before.locale,
            moving_to=moving_to,
            updated_at=now,
        )
        entry = _entry(before.id, AuditEvent.PROFILE_CHANGED, now, source)
        by = caller.credential if email is not None else None
        saved = self._accounts.save_profile(before, after, by=by, entry=entry, mails=mails)
        self._on_change(saved.id)
        self._outbox_relay.dispatch(mails)
        return saved

    def _confirmation(self, user_id: UserId, email: str, now: datetime) -> list[Mail]:
        """Return the mail to an address that an account names, or none when others were sent enough there.

        The first that an account causes there in a day always goes: no number of other accounts takes it away.
        """
        mail = Mail(kind=MailKind.CONFIRM_NEW_EMAIL, user_id=user_id, to=email, created_at=now)
        address_hash = emails.digest(email)
        if self._buckets.take(MAIL_CHANGE_FIRST, f"{user_id} {address_hash}", now=now).allowed:
            return [mail]
        return unless_too_many(mail, address_hash, buckets=self._buckets, now=now)

    def _count_registration(self, source: Source, now: datetime) -> None:
        network = network_of(source.address)
        if source.address is None or network in _THIS_MACHINE:
            return
        decision = self._buckets.take(REGISTRATIONS, network, now=now)
        if not decision.allowed:
            raise refused(decision)

    def _count_mail(self, limit: Limit, key: str, now: datetime) -> None:
        decision = self._buckets.take(limit, key, now=now)
        if not decision.allowed:
            raise refused(decision)

    def _move_email(self, token: OneTimeToken, *, now: datetime, source: Source) -> None:
        user = self._accounts.read_user(token.user_id)
        if user is None:
            raise one_time.spent()
        mails = [Mail(kind=MailKind.EMAIL_CHANGED, user_id=user.id, to=user.email, created_at=now)]
        entry = _entry(user.id, AuditEvent.EMAIL_CHANGED, now, source)
        if not self._tokens.move_email(token, old_email=user.email, now=now, entry=entry, mails=mails):
            raise one_time.spent()
        self._outbox_relay.dispatch(mails)


def _found(user: User | None) -> User:
    if user is None:
        raise NotFound("User not found")
    return user


def _verification(user_id: UserId, now: datetime) -> Mail:
    return Mail(kind=MailKind.VERIFY_EMAIL, user_id=user_id, created_at=now)


def _entry(user_id: UserId, event: AuditEvent, now: datetime, source: Source) -> AuditEntry:
    return AuditEntry(user_id=user_id, event=event, at=now, actor_id=user_id, source=source)
