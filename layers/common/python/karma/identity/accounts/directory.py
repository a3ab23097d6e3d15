"""Lists of accounts for administrators: filter and page."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.records import Record
from karma.identity.domain import Role, User

MAX_COUNTED = 1000
"""Largest number of accounts of a list or a search that is counted."""


class AccountFilter(Record, kw_only=True):
    """Filter of accounts by role and state; None: any."""

    role: Role | None = None
    disabled: bool | None = None

    def admits(self, user: User) -> bool:
        """Tell whether an account passes the filter."""
        return self.role in {None, user.role} and self.disabled in {None, user.disabled_at is not None}


class AccountPage(Record, kw_only=True):
    """A page of accounts."""

    users: Sequence[User]
    total: int
    """Number of accounts on all pages; `MAX_COUNTED` or more: counting stopped there."""
    after: str | None
    """Position at which the next page starts; None: this is the last page."""
