"""Users, sessions and API keys in the identity table. ADR 0004 has the access patterns.

| item | pk | sk |
| --- | --- | --- |
| user | USER#<id> | PROFILE |
| e-mail taken | UNIQUE#EMAIL#<sha256> | GUARD |
| session | USER#<id> | SESSION#<session id> |
| refresh token | REFRESH#<sha256> | TOKEN |
| API key, as listed | USER#<id> | APIKEY#<key id> |
| API key, as looked up | APIKEY#<sha256> | KEY |
| API key, made for an Idempotency-Key | USER#<id> | REQUEST#<token> |
| Idempotency-Key | IDEMPOTENCY#<caller> | <sha256> (functions/api/idempotency.py) |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from pynamodb.attributes import BooleanAttribute, JSONAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyCreated, AlreadyExists
from karma.core.ids import ApiKeyId, UserId
from karma.identity.domain import ApiKey, RefreshToken, Role, User

_TTL_SLACK = timedelta(days=1)


class IdentityItem(Item):
    """Base of everything in the identity table."""

    class Meta(TableMeta):
        """Replaced by `bind`."""

        table_name = "identity"


class UserItem(IdentityItem, discriminator="user"):
    """A person."""

    id = UnicodeAttribute()
    email = UnicodeAttribute()
    name = UnicodeAttribute()
    avatar = UnicodeAttribute(null=True)
    password_hash = UnicodeAttribute()
    role = UnicodeAttribute(default="user")
    email_verified = BooleanAttribute(default=False)


class EmailGuard(IdentityItem, discriminator="email_guard"):
    """Makes an e-mail address unique, and finds its owner."""

    user_id = UnicodeAttribute()


class SessionItem(IdentityItem, discriminator="session"):
    """A login and the refresh tokens that follow from it."""

    revoked_at = UnicodeAttribute(null=True)


class RefreshTokenItem(IdentityItem, discriminator="refresh_token"):
    """One link of a session; `used_at` is set when it was traded."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute()
    used_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()


class ApiKeyItem(IdentityItem, discriminator="api_key"):
    """A key, twice: as listed and as looked up."""

    id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    prefix = UnicodeAttribute()
    hash = UnicodeAttribute()
    scopes = JSONAttribute()
    valid_until = UnicodeAttribute(null=True)
    revoked_at = UnicodeAttribute(null=True)


class RequestGuard(IdentityItem, discriminator="request_guard"):
    """A repeatable request made something: the second line behind the idempotency record, which a crash leaves open."""

    made_id = UnicodeAttribute()


def user_key(user_id: UserId) -> Key:
    """Key of a user."""
    return Key(f"USER#{user_id}", "PROFILE")


def email_key(email: str) -> Key:
    """Key of the guard of a normalised address; the address itself stays out of keys."""
    return Key(f"UNIQUE#EMAIL#{hashlib.sha256(email.encode()).hexdigest()}", "GUARD")


def session_key(user_id: UserId, session_id: str) -> Key:
    """Key of a session."""
    return Key(f"USER#{user_id}", f"SESSION#{session_id}")


def refresh_key(token_hash: str) -> Key:
    """Key of a refresh token."""
    return Key(f"REFRESH#{token_hash}", "TOKEN")


def api_key_key(user_id: UserId, key_id: ApiKeyId) -> Key:
    """Key of an API key in its owner's list."""
    return Key(f"USER#{user_id}", f"APIKEY#{key_id}")


def api_key_lookup(key_hash: str) -> Key:
    """Key under which a presented API key is found."""
    return Key(f"APIKEY#{key_hash}", "KEY")


class IdentityRepository:
    """DynamoDB, by way of karma.core.dynamo."""

    def create_user(self, user: User) -> None:
        """Store a user and the guard of the address.

        Raises:
            AlreadyExists: the address is taken.
        """
        taken = AlreadyExists("email is already registered")
        tx = Transaction()
        guard = EmailGuard(*email_key(user.email), user_id=user.id, created_at=iso(user.created_at))
        tx.put(guard, on_fail=taken)
        tx.put(_user_item(user))
        tx.commit()

    def get_user(self, user_id: UserId) -> User | None:
        """Read a user, eventually consistent."""
        item = get(UserItem, user_key(user_id))
        return _user(item) if item else None

    def find_by_email(self, email: str) -> User | None:
        """Find the owner of a normalised address; sees a registration that was just answered."""
        guard = get(EmailGuard, email_key(email), consistent=True)
        if guard is None:
            return None
        item = get(UserItem, user_key(UserId(guard.user_id)), consistent=True)
        return _user(item) if item else None

    def set_password_hash(self, user: User, password_hash: str, *, now: datetime) -> None:
        """Replace the hash unless somebody else did."""
        item = _user_item(user)
        try:
            update(
                item,
                [UserItem.password_hash.set(password_hash), UserItem.updated_at.set(iso(now))],
                UserItem.password_hash == user.password_hash,
            )
        except ConditionFailed:
            return

    def set_role(self, user: User, role: Role, *, now: datetime) -> User:
        """Give a role."""
        item = update(_user_item(user), [UserItem.role.set(role), UserItem.updated_at.set(iso(now))])
        return _user(item)

    def start_session(self, token: RefreshToken, *, now: datetime) -> None:
        """Store a new session with its first refresh token."""
        tx = Transaction()
        tx.put(
            SessionItem(
                *session_key(token.user_id, token.session_id),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=_deletion(token.expires_at),
            )
        )
        tx.put(_refresh_item(token, now))
        tx.commit()

    def find_refresh_token(self, token_hash: str) -> RefreshToken | None:
        """Read a refresh token, used or not."""
        item = get(RefreshTokenItem, refresh_key(token_hash), consistent=True)
        if item is None:
            return None
        return RefreshToken(
            hash=token_hash,
            user_id=UserId(item.user_id),
            session_id=item.session_id,
            expires_at=parse_iso(item.valid_until),
            used=item.used_at is not None,
        )

    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool:
        """Use up one token and store the next; False when it was used before or its session has ended."""
        tx = Transaction()
        tx.update(
            SessionItem(*session_key(old.user_id, old.session_id)),
            [SessionItem.updated_at.set(iso(now)), SessionItem.expires_at.set(_deletion(new.expires_at))],
            SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist(),
        )
        tx.update(
            RefreshTokenItem(*refresh_key(old.hash)),
            [RefreshTokenItem.used_at.set(iso(now)), RefreshTokenItem.updated_at.set(iso(now))],
            RefreshTokenItem.pk.exists() & RefreshTokenItem.used_at.does_not_exist(),
        )
        tx.put(_refresh_item(new, now))
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def end_session(self, user_id: UserId, session_id: str, *, now: datetime) -> None:
        """Revoke a session and every token of it; ending it twice changes nothing."""
        try:
            update(
                SessionItem(*session_key(user_id, session_id)),
                [SessionItem.revoked_at.set(iso(now)), SessionItem.updated_at.set(iso(now))],
                SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist(),
            )
        except ConditionFailed:
            return

    def create_api_key(self, key: ApiKey, *, request_token: str | None) -> None:
        """Store a key under its owner and under its hash, once for each `request_token`.

        Raises:
            AlreadyCreated: a key was made for this token; `details.id` names it.
        """
        tx = Transaction()
        guard_key = Key(f"USER#{key.user_id}", f"REQUEST#{request_token}")
        if request_token is not None:
            repeated = AlreadyCreated("This request was carried out; its secret was shown once")
            created = iso(key.created_at)
            tx.put(
                RequestGuard(
                    *guard_key,
                    made_id=key.id,
                    created_at=created,
                    updated_at=created,
                    expires_at=_deletion(key.created_at),
                ),
                on_fail=repeated,
            )
        for where in (api_key_key(key.user_id, key.id), api_key_lookup(key.hash)):
            tx.put(_api_key_item(where, key))
        try:
            tx.commit()
        except AlreadyCreated as exc:
            guard = get(RequestGuard, guard_key, consistent=True)
            exc.details = {"id": guard.made_id} if guard else None
            raise

    def find_api_key(self, key_hash: str) -> ApiKey | None:
        """Find a presented key."""
        item = get(ApiKeyItem, api_key_lookup(key_hash))
        return _api_key(item) if item else None

    def list_api_keys(self, user_id: UserId, *, limit: int) -> Sequence[ApiKey]:
        """List a person's keys, newest first, revoked ones included."""
        page = query(
            IdentityItem,
            f"USER#{user_id}",
            IdentityItem.sk.startswith("APIKEY#"),
            limit=limit,
            forward=False,
            consistent=True,
        )
        return [_api_key(item) for item in page.items if isinstance(item, ApiKeyItem)]

    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """Read one key of a person's list."""
        item = get(ApiKeyItem, api_key_key(user_id, key_id), consistent=True)
        return _api_key(item) if item else None

    def revoke_api_key(self, key: ApiKey, *, now: datetime) -> None:
        """Make a key useless: the lookup goes first, the list remembers."""
        delete(ApiKeyItem(*api_key_lookup(key.hash)))
        update(
            ApiKeyItem(*api_key_key(key.user_id, key.id)),
            [ApiKeyItem.revoked_at.set(iso(now)), ApiKeyItem.updated_at.set(iso(now))],
        )


def _deletion(moment: datetime) -> int:
    return epoch_ms(moment + _TTL_SLACK) // 1000


def _user_item(user: User) -> UserItem:
    return UserItem(
        *user_key(user.id),
        id=user.id,
        email=user.email,
        name=user.name,
        avatar=user.avatar,
        password_hash=user.password_hash,
        role=user.role.value,
        email_verified=user.email_verified,
        created_at=iso(user.created_at),
        updated_at=iso(user.updated_at),
    )


def _user(item: UserItem) -> User:
    return User(
        id=UserId(item.id),
        email=item.email,
        name=item.name,
        avatar=item.avatar,
        password_hash=item.password_hash,
        role=Role(item.role),
        email_verified=item.email_verified,
        created_at=parse_iso(item.created_at),
        updated_at=parse_iso(item.updated_at),
    )


def _refresh_item(token: RefreshToken, now: datetime) -> RefreshTokenItem:
    return RefreshTokenItem(
        *refresh_key(token.hash),
        user_id=token.user_id,
        session_id=token.session_id,
        valid_until=iso(token.expires_at),
        created_at=iso(now),
        updated_at=iso(now),
        expires_at=_deletion(token.expires_at),
    )


def _api_key_item(where: Key, key: ApiKey) -> ApiKeyItem:
    return ApiKeyItem(
        *where,
        id=key.id,
        user_id=key.user_id,
        name=key.name,
        prefix=key.prefix,
        hash=key.hash,
        scopes=sorted(key.scopes),
        valid_until=iso(key.expires_at) if key.expires_at else None,
        created_at=iso(key.created_at),
        updated_at=iso(key.created_at),
    )


def _api_key(item: ApiKeyItem) -> ApiKey:
    return ApiKey(
        id=ApiKeyId(item.id),
        user_id=UserId(item.user_id),
        name=item.name,
        prefix=item.prefix,
        hash=item.hash,
        scopes=frozenset(item.scopes),
        created_at=parse_iso(item.created_at),
        expires_at=parse_iso(item.valid_until) if item.valid_until else None,
        revoked_at=parse_iso(item.revoked_at) if item.revoked_at else None,
    )
