"""Accounts: made, shown."""

from __future__ import annotations

from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import UserId, new_id
from karma.identity import emails
from karma.identity.authentication import Users
from karma.identity.domain import Role, User
from karma.identity.passwords import Passwords


class Accounts(Users, Protocol):
    """Where accounts are stored; see repository/users.py for what each promises."""

    def create_user(self, user: User) -> None: ...  # noqa: D102


class AccountService:
    """What people do with their own accounts."""

    def __init__(self, *, accounts: Accounts, passwords: Passwords, clock: Clock) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock

    def register(self, *, email: str, password: str, name: str, role: Role = Role.USER) -> User:
        """Make an account.

        Raises:
            AlreadyExists: the address is taken, however it is written.
            ValidationFailed: not an address.
        """
        now = self._clock.now()
        user = User(
            id=UserId(new_id()),
            email=emails.normalise(email),
            name=name,
            avatar=None,
            password_hash=self._passwords.hash(password),
            role=role,
            email_verified=False,
            created_at=now,
            updated_at=now,
        )
        self._accounts.create_user(user)
        return user

    def get_user(self, user_id: UserId) -> User:
        """Read an account.

        Raises:
            NotFound: it is gone.
        """
        user = self._accounts.get_user(user_id)
        if user is None:
            raise NotFound("User not found")
        return user
