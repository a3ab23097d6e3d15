"""Objects that must not lose their owner: while an account has any, it is not deleted (R-K-23).

They are counted in the transactions that create, delete and give them away (`transactional.add_holding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from karma.core.errors import Conflict


class Holding(StrEnum):
    """What keeps an account from being deleted."""

    PROJECT = "project"
    """Owned by the account."""
    AVATAR = "avatar"
    """Created by the account."""


class AccountHolds(Conflict):
    """The account has what must be deleted, or given away, before it can go; `details` counts it by kind."""

    code = "ACCOUNT_HOLDS"

    def __init__(self, counts: Mapping[str, int]) -> None:
        named = " and ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in counts.items())
        super().__init__(
            f"The account still has {named or 'objects'}: delete them, or give them to somebody else",
            details=dict(counts),
        )
