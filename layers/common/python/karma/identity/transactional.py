"""Accounts in another context's transaction: it commits only while they are there."""

from __future__ import annotations

from datetime import datetime

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.identity.accounts.repository import parents
from karma.identity.domain import Credential, SessionOver
from karma.identity.holdings import MOST, Holding, HoldsTooMany


class AccountGone(NotFound):
    """The account was deleted, or there was none of this id."""

    def __init__(self, user_id: UserId | None = None) -> None:
        """`user_id` None: it was deleted, and is not known any more."""
        super().__init__("User not found")
        self.user_id = user_id


def require_account(tx: Transaction, user_id: UserId) -> None:
    """Let a transaction fail with AccountGone unless the account is there when it commits.

    Costs two write units. Two transactions of one account at the same moment may meet in it (StorageThrottled).
    """
    parents.require_account(tx, user_id, on_fail=AccountGone(user_id))


def require_credential(tx: Transaction, credential: Credential, *, now: datetime) -> None:
    """Let a transaction fail with Unauthenticated unless the session or API key is not over when it commits.

    That is: the account is there and in use, has not ended its sessions (or keys) since this one began, and this one
    itself was not ended. What is known of a caller may be a minute old; what must not outlive its session asks here.
    """
    parents.require_credential(tx, credential, now=now, on_fail=SessionOver())


def require_session(tx: Transaction, credential: Credential | None, *, now: datetime) -> None:
    """As `require_credential`, for a transaction that writes the account's item under the version it was read at.

    Whether the account lets the session go on is asked of what was read (Credential.require_outlived_by). None asks
    nothing: it is nobody's session.
    """
    if credential is not None:
        parents.require_session(tx, credential, now=now, on_fail=SessionOver())


def add_holding(tx: Transaction, user_id: UserId, kind: Holding) -> None:
    """Count one more object that must not lose its owner; the transaction fails with AccountGone without the account.

    It fails with HoldsTooMany where the account has as many of the kind as an account may have, whatever its plan.
    While an account has any, it is not deleted (R-K-23): its deletion has a condition on the same count.
    """
    require_account(tx, user_id)
    parents.add_holding(tx, user_id, kind.value, most=MOST[kind], on_fail=HoldsTooMany(kind))


def remove_holding(tx: Transaction, user_id: UserId, kind: Holding) -> None:
    """Count one less, since it was deleted or given away; the transaction fails with ConditionFailed at none."""
    parents.remove_holding(tx, user_id, kind.value)


def was_deleted(user_id: UserId, *, at: datetime) -> bool:
    """Tell a deleted account from one that never was, for 90 days: one strongly consistent read."""
    return parents.is_deleted(user_id, at=at)
