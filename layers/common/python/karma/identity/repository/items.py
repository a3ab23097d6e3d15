"""What the identity table holds. ADR 0004 has the access patterns.

| item | pk | sk |
| --- | --- | --- |
| user | USER#<id> | PROFILE |
| e-mail taken | UNIQUE#EMAIL#<sha256> | GUARD |
| session | USER#<id> | SESSION#<session id> |
| refresh token | REFRESH#<sha256> | TOKEN |
| API key, as listed | USER#<id> | APIKEY#<key id> |
| API key, as looked up | APIKEY#<sha256> | KEY |
| API key, made for an Idempotency-Key | USER#<id> | REQUEST#<token> |
| audit entry | USER#<id> | AUDIT#<entry id> |
| Idempotency-Key | IDEMPOTENCY#<caller> | <sha256> (functions/api/idempotency.py) |
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from pynamodb.attributes import BooleanAttribute, JSONAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import ApiKeyId, UserId

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
    password_hash = UnicodeAttribute(null=True)
    role = UnicodeAttribute(default="user")
    locale = UnicodeAttribute(default="en")
    email_verified = BooleanAttribute(default=False)
    disabled_at = UnicodeAttribute(null=True)
    sessions_from = UnicodeAttribute(null=True)
    """Sessions and access tokens that began before are over."""


class EmailGuard(IdentityItem, discriminator="email_guard"):
    """Makes an e-mail address unique, and finds its owner."""

    user_id = UnicodeAttribute()


class SessionItem(IdentityItem, discriminator="session"):
    """A login and the refresh tokens that follow from it; `created_at` is when it began."""

    revoked_at = UnicodeAttribute(null=True)


class RefreshTokenItem(IdentityItem, discriminator="refresh_token"):
    """One link of a session; `used_at` is set when it was traded."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute()
    session_started_at = UnicodeAttribute()
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


class AuditItem(IdentityItem, discriminator="audit_entry"):
    """A line of the audit log."""

    id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    event = UnicodeAttribute()
    actor_id = UnicodeAttribute(null=True)
    address = UnicodeAttribute(null=True)
    user_agent = UnicodeAttribute(null=True)
    request_id = UnicodeAttribute(null=True)
    details = JSONAttribute()


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


def audit_key(user_id: UserId, entry_id: str) -> Key:
    """Key of a line of a person's audit log."""
    return Key(f"USER#{user_id}", f"AUDIT#{entry_id}")


def deletion(moment: datetime) -> int:
    """When DynamoDB may delete what is over at `moment`: epoch seconds, a day later."""
    return epoch_ms(moment + _TTL_SLACK) // 1000
