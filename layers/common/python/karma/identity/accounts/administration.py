"""Use cases of operators and administrators with accounts of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import Conflict, Forbidden, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import UserId, is_id
from karma.identity.accounts import emails
from karma.identity.accounts.directory import AccountFilter, AccountPage
from karma.identity.accounts.service import AccountService
from karma.identity.domain import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Caller, Credential, Role, User
from karma.identity.passwords.spelling import spelled


class ManagedAccounts(Protocol):
    """Accounts, for administrators; accounts/repository (directory.py, users.py) says what each method promises."""

    def list_users(self, asked: AccountFilter, *, limit: int, below: str | None) -> AccountPage: ...  # noqa: D102
    def search_users(  # noqa: D102
        self, text: str, asked: AccountFilter, *, limit: int, after: str | None
    ) -> AccountPage: ...
    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def change_account(  # noqa: D102
        self,
        before: User,
        after: User,
        *,
        actor_id: UserId | None,
        by: Credential | None,
        entries: Sequence[AuditEntry],
    ) -> User: ...


class AdministrationService:
    """Use cases of administrators with other people's accounts."""

    def __init__(
        self,
        *,
        accounts: ManagedAccounts,
        registration: AccountService,
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """Build the service.

        `on_change` is called with the id of each user whose role or state changed (Authenticator.forget).
        """
        self._accounts = accounts
        self._registration = registration
        self._clock = clock
        self._on_change = on_change

    def users(self, asked: AccountFilter, *, text: str = "", limit: int, after: str | None) -> AccountPage:
        """List accounts, newest first; with `text` those with this address, or whose name begins with it, by name.

        A part of an address finds nothing: keys hold addresses only as hashes.
        """
        if not text:
            return self._accounts.list_users(asked, limit=limit, below=after)
        if "@" not in text:
            return self._accounts.search_users(text, asked, limit=limit, after=after)
        try:
            user = self._accounts.find_by_email(emails.normalise(text))
        except ValidationFailed:
            user = None
        found = [user] if user and asked.admits(user) else []
        return AccountPage(users=found, total=len(found), after=None)

    def user(self, user_id: str) -> User:
        """Read an account.

        Raises:
            NotFound: there is no such account.
        """
        user = self._accounts.read_user(UserId(user_id)) if is_id(user_id) else None
        if user is None:
            raise NotFound("User not found")
        return user

    def change_user(
        self,
        actor: Caller,
        user_id: str,
        *,
        role: Role | None,
        disabled: bool | None,
        version: int | None,
        source: Source,
    ) -> User:
        """Change the role of an account, disable or enable it; None leaves the value as it is.

        Only an administrator who is not disabled changes accounts, and never their own: so one always remains. An
        account that is disabled loses its sessions for good; its API keys are refused until it is enabled.

        Raises:
            Forbidden: the account is the actor's own, or the actor is no administrator any more.
            SessionOver: the actor's session has ended meanwhile.
            NotFound: there is no such account.
            StaleVersion: the account is not at `version`, or was changed at the same moment.
        """
        before = self.user(user_id)
        if before.id == actor.user_id:
            raise Forbidden("Administrators do not change their own role or state; another one does")
        if version is not None and version != before.version:
            raise StaleVersion("The account was changed since it was read")
        after = _changed(before, role=role, disabled=disabled, now=self._clock.now())
        return self._change(before, after, actor_id=actor.user_id, by=actor.credential, source=source)

    def make_admin(self, *, email: str, password: str, name: str) -> User:
        """Create an administrator, or promote the owner of the address (whose password and name stay).

        The address of an account that is made here counts as verified. An account that somebody registered themselves
        must have verified the address before.

        Raises:
            ValidationFailed: the text is no address, or the password of a new account has the wrong length.
            Conflict: EMAIL_NOT_VERIFIED, the account exists and has not verified its address.
        """
        user = self._accounts.find_by_email(emails.normalise(email))
        if user is None:
            if not MIN_PASSWORD_CHARS <= len(spelled(password)) <= MAX_PASSWORD_CHARS:
                raise ValidationFailed.of("password", f"has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
            return self._registration.register(
                email=email, password=password, name=name, role=Role.ADMIN, email_verified=True
            )
        if user.role is not Role.ADMIN and not user.email_verified:
            raise Conflict(
                "Somebody registered this address and has not verified it: its owner resets the password first",
                code="EMAIL_NOT_VERIFIED",
            )
        after = _changed(user, role=Role.ADMIN, disabled=None, now=self._clock.now())
        return self._change(user, after, actor_id=None, by=None, source=NOWHERE)

    def _change(
        self, before: User, after: User, *, actor_id: UserId | None, by: Credential | None, source: Source
    ) -> User:
        def entry(event: AuditEvent, old: str, new: str) -> AuditEntry:
            return AuditEntry(
                user_id=after.id,
                event=event,
                at=after.updated_at,
                actor_id=actor_id,
                source=source,
                details={"from": old, "to": new},
            )

        entries: list[AuditEntry] = []
        if after.role is not before.role:
            entries.append(entry(AuditEvent.ROLE_CHANGED, before.role.value, after.role.value))
        if after.disabled_at != before.disabled_at:
            event = AuditEvent.DISABLED if after.disabled_at else AuditEvent.ENABLED
            entries.append(entry(event, _state(before), _state(after)))
        if not entries:
            return before
        changed = self._accounts.change_account(before, after, actor_id=actor_id, by=by, entries=entries)
        self._on_change(changed.id)
        return changed


def _changed(before: User, *, role: Role | None, disabled: bool | None, now: datetime) -> User:
    after = replace(before, role=role or before.role, updated_at=now)
    if disabled is None or disabled == (before.disabled_at is not None):
        return after
    # While it is disabled every session is refused for that; those from before do not come back.
    return replace(after, disabled_at=now) if disabled else replace(after, disabled_at=None, sessions_from=now)


def _state(user: User) -> str:
    return "disabled" if user.disabled_at else "active"
