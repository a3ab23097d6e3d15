"""An account as the parent of other contexts' items, and the count of those that keep it from being deleted."""

from __future__ import annotations

from datetime import datetime

from karma.core.dynamo.access import get
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.identity.repository.items import (
    AccountTombstone,
    HoldingsItem,
    UserItem,
    holdings_key,
    tombstone_key,
    user_key,
)


def require_account(tx: Transaction, user_id: UserId, *, on_fail: AppError) -> None:
    """Let a transaction fail unless the account is there when it commits."""
    tx.check(UserItem, user_key(user_id), UserItem.pk.exists(), on_fail=on_fail)


def is_deleted(user_id: UserId, *, at: datetime) -> bool:
    """Tell whether a tombstone stands in the account's place; strongly consistent."""
    item = get(AccountTombstone, tombstone_key(user_id), consistent=True)
    # Without a time to go while the deletion is not finished.
    return item is not None and (item.expires_at or at.timestamp() + 1) > at.timestamp()


def add_holding(tx: Transaction, user_id: UserId, kind: str) -> None:
    """Count one more, in an item that is made when there is none."""
    counted = getattr(HoldingsItem, kind)
    tx.upsert(HoldingsItem(*holdings_key(user_id)), [counted.add(1)])


def remove_holding(tx: Transaction, user_id: UserId, kind: str) -> None:
    """Count one less; the transaction fails when none is held."""
    counted = getattr(HoldingsItem, kind)
    tx.update(HoldingsItem(*holdings_key(user_id)), [counted.add(-1)], counted > 0)
