"""What other contexts ask of an account before they hang something on it."""

from __future__ import annotations

from datetime import datetime

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.identity.domain import Credential, SessionOver
from karma.identity.repository import parents
from karma.notices import board
from karma.notices.domain import Notice


class AccountGone(NotFound):
    """The account was deleted, or there was none of this id."""

    def __init__(self, user_id: UserId | None = None) -> None:
        """`user_id` None: it was deleted, and is not known any more."""
        super().__init__("User not found")
        self.user_id = user_id


def require_account_in(tx: Transaction, user_id: UserId) -> None:
    """Let a transaction fail with AccountGone unless the account is there when it commits.

    Costs two write units. Two transactions of one account at the same moment may meet in it (StorageThrottled).
    """
    parents.require_account(tx, user_id, on_fail=AccountGone(user_id))


def require_credential_in(tx: Transaction, credential: Credential, *, now: datetime) -> None:
    """Let a transaction fail with Unauthenticated unless the session or API key is not over when it commits.

    That is: the account is there and in use, has not ended its sessions (or keys) since this one began, and this one
    itself was not ended. What is known of a caller may be a minute old; what must not outlive its session asks here.
    """
    parents.require_credential(tx, credential, now=now, on_fail=SessionOver())


def require_session_in(tx: Transaction, credential: Credential | None, *, now: datetime) -> None:
    """As `require_credential_in`, for a transaction that writes the account's item under the version it was read at.

    Whether the account lets the session go on is asked of what was read (Credential.require_outlived_by). None asks
    nothing: it is nobody's session.
    """
    if credential is not None:
        parents.require_session(tx, credential, now=now, on_fail=SessionOver())


def tell_in(tx: Transaction, notice: Notice) -> None:
    """Tell an account something in the application, if the transaction commits."""
    board.write(tx, notice)


def was_deleted(user_id: UserId, *, at: datetime) -> bool:
    """Tell a deleted account from one that never was, for 90 days: one strongly consistent read."""
    return parents.is_deleted(user_id, at=at)
