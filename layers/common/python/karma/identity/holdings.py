"""What an account has that must not lose its owner: while there is any of it, the account is not deleted (R-K-23).

Whoever stores such an object calls `hold` in the transaction that creates it, and `release` in the one that deletes it
or gives it to somebody else. The deletion of an account has a condition on the same item.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict
from karma.core.ids import UserId
from karma.identity.parent import require_account_in
from karma.identity.repository import parents


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


def hold(tx: Transaction, user_id: UserId, kind: Holding) -> None:
    """Count one more object in a transaction; it fails with AccountGone when the account is deleted."""
    require_account_in(tx, user_id)
    parents.add_holding(tx, user_id, kind.value)


def release(tx: Transaction, user_id: UserId, kind: Holding) -> None:
    """Count one object less in a transaction; it fails with ConditionFailed when none is held."""
    parents.remove_holding(tx, user_id, kind.value)
