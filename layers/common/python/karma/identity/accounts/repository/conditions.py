"""Conditions on an account in transactions of other contexts, and the count of the objects that it owns."""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.core.clock import iso
from karma.core.dynamo.access import get
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.identity.domain import Credential
from karma.identity.items import (
    ApiKeyItem,
    OwnedItem,
    SessionItem,
    UserItem,
    api_key_key,
    owned_key,
    session_key,
    user_key,
)


def require_account(tx: Transaction, user_id: UserId, *, on_fail: AppError) -> None:
    """Add the condition that the account exists."""
    tx.check(UserItem, user_key(user_id), UserItem.pk.exists(), on_fail=on_fail)


def require_account_in_use(tx: Transaction, user_id: UserId, *, on_fail: AppError) -> None:
    """Add the condition that the account exists and is not disabled."""
    in_use = UserItem.pk.exists() & UserItem.disabled_at.does_not_exist()
    tx.check(UserItem, user_key(user_id), in_use, on_fail=on_fail)


def is_disabled(user_id: UserId) -> bool:
    """Read whether an account is there and disabled, strongly consistent."""
    item = get(UserItem, user_key(user_id), consistent=True)
    return item is not None and item.disabled_at is not None


def require_credential(tx: Transaction, credential: Credential, *, now: datetime, on_fail: AppError) -> None:
    """Add the condition that an account is in use, and that the session or API key was not ended."""
    require_session(tx, credential, now=now, on_fail=on_fail)
    tx.check(UserItem, user_key(credential.user_id), account_lets(credential), on_fail=on_fail)


def account_lets(credential: Credential) -> Condition:
    """Return the condition on an account's item under which a session or API key of it is in use."""
    began = iso(credential.began_at)
    usable: Condition = UserItem.pk.exists() & UserItem.disabled_at.does_not_exist()
    if credential.api_key_id is not None:
        usable &= UserItem.api_keys_from.does_not_exist() | (UserItem.api_keys_from < began)
    else:
        usable &= UserItem.sessions_from.does_not_exist() | (UserItem.sessions_from <= began)
    return usable


def require_session(tx: Transaction, credential: Credential, *, now: datetime, on_fail: AppError) -> None:
    """Add the condition that a session or API key was not ended itself; the account is not checked.

    For transactions that write the account's item with a condition of their own: DynamoDB takes one write of an item.
    """
    if credential.api_key_id is not None:
        in_time = ApiKeyItem.valid_until.does_not_exist() | (ApiKeyItem.valid_until > iso(now))
        key_usable = ApiKeyItem.pk.exists() & ApiKeyItem.revoked_at.does_not_exist() & in_time
        key = api_key_key(credential.user_id, credential.api_key_id)
        tx.check(ApiKeyItem, key, key_usable, on_fail=on_fail)
    if credential.session_id is not None:
        is_open = SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist()
        tx.check(SessionItem, session_key(credential.user_id, credential.session_id), is_open, on_fail=on_fail)


def add_owned(tx: Transaction, user_id: UserId, kind: str, *, most: int, on_fail: AppError) -> None:
    """Count one more object of a kind that an account owns; the transaction fails if there are `most` already."""
    counted = getattr(OwnedItem, kind)
    room = counted.does_not_exist() | (counted < most)
    tx.upsert(OwnedItem(*owned_key(user_id)), [counted.add(1)], room, on_fail=on_fail)


def remove_owned(tx: Transaction, user_id: UserId, kind: str) -> None:
    """Subtract one from the number of objects of a kind that an account owns; the transaction fails at 0."""
    counted = getattr(OwnedItem, kind)
    tx.update(OwnedItem(*owned_key(user_id)), [counted.add(-1)], counted > 0)
