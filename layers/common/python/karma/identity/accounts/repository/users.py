"""Users and their unique e-mail addresses in DynamoDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from karma.audit.transactional import add_audit_entry
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import batch_get, get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import UserId
from karma.identity.accounts import emails
from karma.identity.accounts.repository import names
from karma.identity.domain import Credential, Locale, Role, User
from karma.identity.items import (
    IdentityItem,
    LeftAddress,
    SessionItem,
    UniqueEmail,
    UserItem,
    email_hash_key,
    email_key,
    left_key,
    session_key,
    user_key,
    user_list,
    user_position,
)
from karma.identity.transactional import require_session
from karma.mail.transactional import add_mail

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry
    from karma.mail.domain import Mail


class UserRepository:
    """Accounts over DynamoDB."""

    def create_user(self, user: User, *, entries: Sequence[AuditEntry] = (), mails: Sequence[Mail] = ()) -> None:
        """Store a user and their unique address, with audit entries and mails.

        Raises:
            AlreadyExists: the address is taken.
        """
        taken = AlreadyExists("email is already registered")
        tx = Transaction()
        unique = UniqueEmail(*email_key(user.email), user_id=user.id, created_at=iso(user.created_at))
        tx.put(unique, on_fail=taken)
        tx.put(_item(user))
        names.enter(tx, user)
        for entry in entries:
            add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        tx.commit()

    def get_user(self, user_id: UserId) -> User | None:
        """Read a user, eventually consistent."""
        item = get(UserItem, user_key(user_id))
        return user_of(item) if item else None

    def read_user(self, user_id: UserId) -> User | None:
        """Read a user, strongly consistent."""
        item = get(UserItem, user_key(user_id), consistent=True)
        return user_of(item) if item else None

    def read_with_session(self, user_id: UserId, session_id: str) -> tuple[User | None, bool]:
        """Read a user, and whether this session of theirs is open: one call, strongly consistent."""
        user, session = user_key(user_id), session_key(user_id, session_id)
        found = batch_get(IdentityItem, [user, session], consistent=True)
        stored, began = found.get(user), found.get(session)
        is_open = isinstance(began, SessionItem) and began.revoked_at is None
        return user_of(stored) if isinstance(stored, UserItem) else None, is_open

    def find_by_email(self, email: str) -> User | None:
        """Find the owner of a normalised address; sees a registration that was just answered."""
        return self.find_by_email_hash(emails.digest(email))

    def find_by_email_hash(self, email_hash: str) -> User | None:
        """Find the owner of an address by its SHA-256."""
        unique = get(UniqueEmail, email_hash_key(email_hash), consistent=True)
        if unique is None:
            return None
        item = get(UserItem, user_key(UserId(unique.user_id)), consistent=True)
        return user_of(item) if item else None

    def left_by(self, email_hash: str, *, now: datetime) -> UserId | None:
        """Find the account that left an address this month, by the address's SHA-256; None: none did."""
        item = get(LeftAddress, left_key(email_hash), consistent=True)
        if item is None or item.expires_at * 1000 <= epoch_ms(now):
            return None
        return UserId(item.user_id)

    def rehash(self, user: User, password_hash: str, *, now: datetime) -> None:
        """Replace the hash of the same password unless the password was changed meanwhile."""
        try:
            update(
                UserItem(*user_key(user.id)),
                [UserItem.password_hash.set(password_hash), UserItem.updated_at.set(iso(now))],
                UserItem.password_hash == user.password_hash,
            )
        except ConditionFailed:
            return

    def save_profile(
        self, before: User, after: User, *, by: Credential | None = None, entry: AuditEntry, mails: Sequence[Mail]
    ) -> User:
        """Store name, avatar, locale and awaited address after a change, with audit entry and mails.

        `by` is the session that asks, which must not have ended; None: any.

        Raises:
            StaleVersion: the account is not as it was read, or is deleted.
            SessionOver: the session `by` was ended.
        """
        tx = Transaction()
        require_session(tx, by, now=entry.at)
        tx.update(
            UserItem(*user_key(before.id), version=before.version),
            [
                UserItem.name.set(after.name),
                UserItem.avatar.set(after.avatar) if after.avatar else UserItem.avatar.remove(),
                UserItem.locale.set(after.locale.value),
                UserItem.moving_to.set(after.moving_to) if after.moving_to else UserItem.moving_to.remove(),
                UserItem.updated_at.set(iso(after.updated_at)),
            ],
            locked=True,
            on_fail=_stale(),
        )
        if after.name != before.name:
            names.rename(tx, after)
        return _tell(tx, after, entry, mails)

    def change_password(
        self,
        user: User,
        password_hash: str,
        *,
        by: Credential | None = None,
        now: datetime,
        entry: AuditEntry,
        mails: Sequence[Mail],
    ) -> User:
        """Replace a password's hash and end every session that has begun, with audit entry and mails.

        Raises:
            StaleVersion: the account is not as it was read, or is deleted.
            SessionOver: the session `by` was ended.
        """
        tx = Transaction()
        require_session(tx, by, now=now)
        tx.update(
            UserItem(*user_key(user.id), version=user.version),
            [
                UserItem.password_hash.set(password_hash),
                UserItem.sessions_from.set(iso(now)),
                UserItem.updated_at.set(iso(now)),
            ],
            locked=True,
            on_fail=_stale(),
        )
        changed = replace(user, password_hash=password_hash, sessions_from=now, updated_at=now)
        return _tell(tx, changed, entry, mails)


def _tell(tx: Transaction, changed: User, entry: AuditEntry, mails: Sequence[Mail]) -> User:
    add_audit_entry(tx, entry)
    for mail in mails:
        add_mail(tx, mail)
    tx.commit()
    return replace(changed, version=changed.version + 1)


def _stale() -> StaleVersion:
    return StaleVersion("The account was changed at the same moment; read it again")


def _item(user: User) -> UserItem:
    return UserItem(
        *user_key(user.id),
        id=user.id,
        email=user.email,
        name=user.name,
        avatar=user.avatar,
        password_hash=user.password_hash,
        role=user.role.value,
        locale=user.locale.value,
        email_verified=user.email_verified,
        disabled_at=iso(user.disabled_at) if user.disabled_at else None,
        sessions_from=iso(user.sessions_from) if user.sessions_from else None,
        api_keys_from=iso(user.api_keys_from) if user.api_keys_from else None,
        moving_to=user.moving_to,
        gsi1pk=user_list(user.role.value, disabled=user.disabled_at is not None),
        gsi1sk=user_position(user.id, user.created_at),
        created_at=iso(user.created_at),
        updated_at=iso(user.updated_at),
    )


def user_of(item: UserItem) -> User:
    """Return a user as stored."""
    return User(
        id=UserId(item.id),
        email=item.email,
        name=item.name,
        avatar=item.avatar,
        password_hash=item.password_hash,
        role=Role(item.role),
        locale=Locale(item.locale),
        email_verified=item.email_verified,
        disabled_at=parse_iso(item.disabled_at) if item.disabled_at else None,
        sessions_from=parse_iso(item.sessions_from) if item.sessions_from else None,
        api_keys_from=parse_iso(item.api_keys_from) if item.api_keys_from else None,
        moving_to=item.moving_to,
        version=int(item.version),
        created_at=parse_iso(item.created_at),
        updated_at=parse_iso(item.updated_at),
    )
