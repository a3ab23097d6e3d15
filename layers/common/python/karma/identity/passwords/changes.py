"""Changing passwords: by a link to who forgot theirs, or by the old one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.core.observability import count
from karma.core.ratelimit import Buckets
from karma.identity.accounts import emails, one_time
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.confirmation import confirm_password, require_going_on
from karma.identity.domain import Caller, Credential, User
from karma.identity.limits import MAIL_RESET
from karma.identity.mail_limits import unless_too_many
from karma.identity.passwords.hashes import Passwords
from karma.identity.passwords.policy import require_acceptable
from karma.identity.standing import Standing, details_of, nothing_stands
from karma.mail.domain import Mail, MailKind
from karma.mail.service import OutboxRelay


class Accounts(Protocol):
    """Accounts; accounts/repository/users.py says what each method promises."""

    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def change_password(  # noqa: D102
        self,
        user: User,
        password_hash: str,
        *,
        by: Credential | None,
        now: datetime,
        entry: AuditEntry,
        mails: Sequence[Mail],
    ) -> User: ...


class ResetTokens(Protocol):
    """One-time tokens of resets; accounts/repository/one_time.py says what each method promises."""

    def find_token(self, token_hash: str) -> OneTimeToken | None: ...  # noqa: D102
    def reset_password(  # noqa: D102
        self, token: OneTimeToken, password_hash: str, *, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool: ...


class PasswordService:
    """Changes passwords; each change ends every session that began before it, and tells the owner by mail."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        tokens: ResetTokens,
        passwords: Passwords,
        outbox_relay: OutboxRelay,
        buckets: Buckets,
        clock: Clock,
        on_change: Callable[[UserId], None],
        standing: Standing = nothing_stands,
    ) -> None:
        """Build the service.

        `buckets` limit mails and wrong passwords; `on_change` is called with the id of each user whose sessions end
        (Authenticator.forget); `standing` counts what goes on without a session, of which the owner is told.
        """
        self._accounts = accounts
        self._tokens = tokens
        self._passwords = passwords
        self._outbox_relay = outbox_relay
        self._buckets = buckets
        self._clock = clock
        self._on_change = on_change
        self._standing = standing

    def forgot(self, *, email: str) -> None:
        """Have a reset link sent to the address if it has an account.

        The account is looked up only when the mail is sent: here the work is the same for every address. Requests
        beyond the limit for one address, with an account or without, are ignored.

        Raises:
            ValidationFailed: the text is no address.
        """
        address_hash, now = emails.digest(emails.normalise(email)), self._clock.now()
        if not self._buckets.take(MAIL_RESET, address_hash, now=now).allowed:
            count("MailDropped", limit=MAIL_RESET.name)
            return
        self._outbox_relay.post(
            Mail(kind=MailKind.RESET_PASSWORD, user_id=None, address_hash=address_hash, created_at=now)
        )

    def reset(self, *, token: str, password: str, source: Source) -> None:
        """Set a password by the token of a link, which also verifies the address.

        Raises:
            Gone: the token is unknown, used, expired, or was asked for before the last reset.
            ValidationFailed: the password is easy to guess; the token stays usable.
        """
        now = self._clock.now()
        found = self._tokens.find_token(one_time.digest(token))
        if found is None or not found.usable(Purpose.RESET_PASSWORD, now):
            raise one_time.spent()
        user = self._accounts.read_user(found.user_id)
        if user is None:
            raise one_time.spent()
        require_acceptable(password, of=(user.name, user.email))
        entry = self._entry(found.user_id, AuditEvent.PASSWORD_RESET, source, now)
        mails = self._notice(found.user_id, now)
        password_hash = self._passwords.hash(password)
        if not self._tokens.reset_password(found, password_hash, now=now, entry=entry, mails=mails):
            raise one_time.spent()
        self._on_change(found.user_id)
        self._outbox_relay.dispatch(mails)

    def change(self, caller: Caller, *, current_password: str, password: str, source: Source) -> User:
        """Replace the caller's password; return the account, for which a session may begin.

        Raises:
            Forbidden: the caller is an API key, or the current password is wrong (WRONG_PASSWORD).
            RateLimited: too many passwords were wrong.
            ValidationFailed: the new password is easy to guess.
            StaleVersion: the password was changed at the same moment.
            SessionOver: the caller's session has ended meanwhile.
        """
        caller.require_person()
        user = self._accounts.read_user(caller.user_id)
        if user is None:
            raise NotFound("User not found")
        require_going_on(caller, user)
        now = self._clock.now()
        confirm_password(
            user.id, user.password_hash, current_password, passwords=self._passwords, buckets=self._buckets, now=now
        )
        require_acceptable(password, of=(user.name, user.email))
        entry = self._entry(user.id, AuditEvent.PASSWORD_CHANGED, source, now)
        mails = self._notice(user.id, now)
        password_hash = self._passwords.hash(password)
        changed = self._accounts.change_password(
            user, password_hash, by=caller.credential, now=now, entry=entry, mails=mails
        )
        self._on_change(user.id)
        self._outbox_relay.dispatch(mails)
        return changed

    def _entry(self, user_id: UserId, event: AuditEvent, source: Source, now: datetime) -> AuditEntry:
        details = details_of(self._standing(user_id))
        return AuditEntry(user_id=user_id, event=event, at=now, actor_id=user_id, source=source, details=details)

    def _notice(self, user_id: UserId, now: datetime) -> list[Mail]:
        mail = Mail(kind=MailKind.PASSWORD_CHANGED, user_id=user_id, created_at=now)
        return unless_too_many(mail, user_id, buckets=self._buckets, now=now)
