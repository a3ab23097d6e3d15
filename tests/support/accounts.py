"""Accounts for tests of contexts that need one."""

from __future__ import annotations

from datetime import UTC, datetime

from karma.core.clock import iso
from karma.core.dynamo.access import get, put, update
from karma.core.ids import UserId, new_id
from karma.identity.domain import Role, User
from karma.identity.items import AccountTombstone, UniqueEmail, UserItem, email_key, tombstone_key, user_key


def open_account(user_id: str = "", *, email: str = "", password_hash: str | None = None) -> UserId:
    """Store an account, under the given id if there is one; an account that exists stays as it is."""
    is_new = not user_id
    user_id = UserId(user_id or new_id())
    if is_new or get(UserItem, user_key(user_id), consistent=True) is None:
        email, now = email or f"{user_id}@example.com", iso(datetime.now(UTC))
        put(UniqueEmail(*email_key(email), user_id=user_id, created_at=now))
        user = UserItem(
            *user_key(user_id),
            id=user_id,
            email=email,
            email_verified=True,
            name="Ada",
            password_hash=password_hash,
            created_at=now,
        )
        user.updated_at = now
        put(user)
    return user_id


def prove_address(user_id: str) -> None:
    """Mark an account's address as verified, without its mail."""
    update(UserItem(*user_key(UserId(user_id))), [UserItem.email_verified.set(True)])


def was_deleted(user_id: UserId, *, at: datetime) -> bool:
    """Tell whether an account has a tombstone, which is there for 90 days after its deletion."""
    item = get(AccountTombstone, tombstone_key(user_id), consistent=True)
    # Without a time to go while the deletion is not finished.
    return item is not None and (item.expires_at or at.timestamp() + 1) > at.timestamp()


def account_of(user_id: UserId, *, disabled_at: datetime | None = None) -> User:
    """Return an account that is stored nowhere."""
    now = datetime.now(UTC)
    return User(
        id=user_id,
        email=f"{user_id}@example.com",
        name="Ada",
        avatar=None,
        password_hash=None,
        role=Role.USER,
        email_verified=True,
        disabled_at=disabled_at,
        created_at=now,
        updated_at=now,
    )


def disable_account(user_id: UserId) -> None:
    """Disable an account that is stored, as an administrator does."""
    update(UserItem(*user_key(user_id)), [UserItem.disabled_at.set(iso(datetime.now(UTC)))], UserItem.pk.exists())
