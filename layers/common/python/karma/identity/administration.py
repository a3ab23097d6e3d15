"""What operators and administrators do with accounts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId
from karma.identity import emails
from karma.identity.accounts import AccountService
from karma.identity.domain import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Role, User


class ManagedAccounts(Protocol):
    """Where accounts are stored; see repository/users.py for what each promises."""

    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def set_role(self, user_id: UserId, role: Role, *, now: datetime) -> User: ...  # noqa: D102


class AdministrationService:
    """What administrators do with other people's accounts."""

    def __init__(
        self,
        *,
        accounts: ManagedAccounts,
        registration: AccountService,
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """`on_change` is told whose role changed (Authenticator.forget)."""
        self._accounts = accounts
        self._registration = registration
        self._clock = clock
        self._on_change = on_change

    def make_admin(self, *, email: str, password: str, name: str) -> User:
        """Create an administrator, or promote the owner of the address (whose password and name stay).

        Raises:
            ValidationFailed: not an address, or a password of the wrong length for a new account.
        """
        user = self._accounts.find_by_email(emails.normalise(email))
        if user is None:
            if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
                raise ValidationFailed.of("password", f"has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
            return self._registration.register(email=email, password=password, name=name, role=Role.ADMIN)
        if user.role is not Role.ADMIN:
            user = self._accounts.set_role(user.id, Role.ADMIN, now=self._clock.now())
            self._on_change(user.id)
        return user
