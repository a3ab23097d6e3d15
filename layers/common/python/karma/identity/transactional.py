"""Conditions on accounts in transactions of other contexts."""

from __future__ import annotations

from datetime import datetime

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.identity.accounts.repository import conditions
from karma.identity.domain import Credential, SessionOver
from karma.identity.ownership import MOST, OwnedKind, OwnsTooMany


class AccountGone(NotFound):
    """The account was deleted, or never existed."""

    def __init__(self, user_id: UserId | None = None) -> None:
        """Build the error.

        `user_id` None: the account was deleted, and its id is not known.
        """
        super().__init__("User not found")
        self.user_id = user_id


def require_account(tx: Transaction, user_id: UserId) -> None:
    """Add the condition that the account exists; otherwise the transaction fails with AccountGone.

    Costs two write units. Two transactions of one account at the same moment may conflict (StorageThrottled).
    """
    conditions.require_account(tx, user_id, on_fail=AccountGone(user_id))


def require_account_in_use(tx: Transaction, user_id: UserId) -> None:
    """Add the condition that the account exists and is not disabled; the transaction fails with AccountGone otherwise.

    For what is done in an account's name while nobody asks. Costs as `require_account`.
    """
    conditions.require_account_in_use(tx, user_id, on_fail=AccountGone(user_id))


def is_disabled(user_id: UserId) -> bool:
    """Tell whether an account is there and disabled: one read, strongly consistent."""
    return conditions.is_disabled(user_id)


def require_credential(tx: Transaction, credential: Credential, *, now: datetime) -> None:
    """Add the condition that a session or API key has not ended; otherwise the transaction fails with Unauthenticated.

    That is: the account exists, is not disabled, has not ended its sessions (or keys) since this one began, and this
    one itself was not ended. The caller was asked about when the request came in; a write that must not outlive its
    session calls this as well.
    """
    conditions.require_credential(tx, credential, now=now, on_fail=SessionOver())


def require_session(tx: Transaction, credential: Credential | None, *, now: datetime) -> None:
    """Add the same condition to a transaction that writes the account's item under the version that was read.

    The account itself is checked on the item that was read (Credential.require_outlived_by). `credential` None: nothing
    is checked, since no session asks.
    """
    if credential is not None:
        conditions.require_session(tx, credential, now=now, on_fail=SessionOver())


def add_owned(tx: Transaction, user_id: UserId, kind: OwnedKind) -> None:
    """Count one more object that the account owns; the transaction fails with AccountGone if it does not exist.

    It fails with OwnsTooMany if the account has `MOST` of the kind, in any plan. While there are any, the account is
    not deleted (R-K-23): its deletion has a condition on the same count.
    """
    require_account(tx, user_id)
    conditions.add_owned(tx, user_id, kind.value, most=MOST[kind], on_fail=OwnsTooMany(kind))


def remove_owned(tx: Transaction, user_id: UserId, kind: OwnedKind) -> None:
    """Count one object less, since it was deleted or given away; the transaction fails with ConditionFailed at 0."""
    conditions.remove_owned(tx, user_id, kind.value)
