"""Lists of accounts, as administrators ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from karma.identity.domain import Role, User

MAX_COUNTED = 1000
"""Accounts of a list or a search are counted up to here."""


@dataclass(frozen=True, kw_only=True)
class AccountFilter:
    """Which accounts; None is all."""

    role: Role | None = None
    disabled: bool | None = None

    def admits(self, user: User) -> bool:
        """Tell whether an account is among them."""
        return self.role in {None, user.role} and self.disabled in {None, user.disabled_at is not None}


@dataclass(frozen=True, kw_only=True)
class AccountPage:
    """Some accounts of a list."""

    users: Sequence[User]
    total: int
    """Of all pages; `MAX_COUNTED` or more means that nobody counted further."""
    after: str | None
    """Where the next page starts; None at the end."""
