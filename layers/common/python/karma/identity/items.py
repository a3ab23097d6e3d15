"""Items of the identity table. ADR 0004 has the access patterns.

| item | pk | sk |
| --- | --- | --- |
| user | USER#<id> | PROFILE |
| name of a user, to be searched | USER#<id> | NAME |
| e-mail taken | UNIQUE#EMAIL#<sha256> | GUARD |
| account that an e-mail belonged to last | LEFT#<sha256> | ACCOUNT |
| session | USER#<id> | SESSION#<session id> |
| refresh token | REFRESH#<sha256> | TOKEN |
| network of a login | LOGIN#<sha256 of the address> | NETWORK#<sha256> |
| rate limit | LIMIT#<limit>#<hash> | BUCKET (core/dynamo/buckets.py) |
| API key, as listed | USER#<id> | APIKEY#<key id> |
| API key, as looked up | APIKEY#<sha256> | KEY |
| API keys, how many were ever made | USER#<id> | APIKEYS |
| API key, made for an Idempotency-Key | USER#<id> | REQUEST#<token> |
| one-time token of a mail | ONETIME#<sha256> | TOKEN |
| mail | MAIL#<id> | MAIL (karma/mail/repository.py) |
| login at a provider that has begun | OAUTH#<sha256 of state> | FLOW |
| login that a provider ended | LOGINCODE#<sha256> | CODE |
| identity at a provider taken | IDENTITY#<provider>#<sha256 of subject> | GUARD |
| identity at a provider, as listed | USER#<id> | IDENTITY#<provider>#<sha256 of subject> |
| audit entry | USER#<id> | AUDIT#<moment>#<entry id> (karma/audit/repository.py) |
| notice | USER#<id> | NOTICE#<entry id> (karma/notices/repository.py) |
| number of objects that an account owns | USER#<id> | HOLDINGS |
| deleted account | USER#<id> | TOMBSTONE, in gsi1 until its deletion is finished |
| Idempotency-Key | IDEMPOTENCY#<caller> | <sha256> (karma/http/idempotency.py) |

| index gsi1 | gsi1pk | gsi1sk |
| --- | --- | --- |
| user | USERS#<role>#<active or disabled> | <moment of creation>#<id> |
| name of a user | NAMES#<first character> | <name>#<id> |
| audit entry | AUDIT#<day>#<0 to 3> | <moment>#<entry id> |
| notice, unread | UNREAD#<id> | NOTICE#<entry id> |

The partition USER#<id> is deleted with its account. An item of an account in another partition carries gsi1pk
`USER#<id>`, by which the deletion finds it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import ApiKeyId, UserId
from karma.identity.accounts import emails

_TTL_SLACK = timedelta(days=1)
TOMBSTONE = "TOMBSTONE"
DELETIONS = "DELETIONS"
"""Partition of gsi1 with the accounts whose deletion is not finished, by when the next round is due."""


class IdentityItem(Item):
    """Base of all items of the identity table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "identity"


class UserItem(IdentityItem, discriminator="user"):
    """An account."""

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
    """Moment before which sessions and access tokens have ended; null: none were."""
    api_keys_from = UnicodeAttribute(null=True)
    """Moment before which API keys have ended; null: none were."""
    moving_to = UnicodeAttribute(null=True)
    """Only address to which a link may still change the account's; null: none."""


class NameItem(IdentityItem, discriminator="user_name"):
    """Name of a user in the search index, with the attributes that a search is filtered by."""

    user_id = UnicodeAttribute()
    role = UnicodeAttribute()
    disabled = BooleanAttribute()


class UniqueEmail(IdentityItem, discriminator="email_guard"):
    """Makes an e-mail address unique, and finds its owner."""

    user_id = UnicodeAttribute()


class LeftAddress(IdentityItem, discriminator="left_address"):
    """Account that had an address and was deleted or moved away; until the end of the month that its usage is of."""

    user_id = UnicodeAttribute()


class SessionItem(IdentityItem, discriminator="session"):
    """A session with its refresh tokens; `created_at` is the moment of the login."""

    revoked_at = UnicodeAttribute(null=True)


class RefreshTokenItem(IdentityItem, discriminator="refresh_token"):
    """A refresh token of a session; `used_at` is set when it is traded."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute()
    session_started_at = UnicodeAttribute()
    used_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()


class OneTimeTokenItem(IdentityItem, discriminator="one_time_token"):
    """Token of a link in a mail; `used_at` is set when it is used."""

    purpose = UnicodeAttribute()
    user_id = UnicodeAttribute()
    email = UnicodeAttribute()
    asked_at = UnicodeAttribute()
    used_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()


class ApiKeyItem(IdentityItem, discriminator="api_key"):
    """An API key; stored twice: in its owner's list, and by its hash."""

    id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    prefix = UnicodeAttribute()
    hash = UnicodeAttribute()
    scopes = JSONAttribute()
    valid_until = UnicodeAttribute(null=True)
    revoked_at = UnicodeAttribute(null=True)
    """Moment of revocation, in the owner's list only; null: not revoked."""
    last_used_at = UnicodeAttribute(null=True)
    """Moment of the last noted use, in the item by hash only; null: never."""


class ApiKeyTurns(IdentityItem, discriminator="api_key_turns"):
    """Number of keys that an account has ever made, by which a write knows that no other key was made meanwhile."""

    made = NumberAttribute(default=0)


class OAuthFlowItem(IdentityItem, discriminator="oauth_flow"):
    """A login at a provider that has begun; `used_at` is set when the browser comes back."""

    provider = UnicodeAttribute()
    browser_hash = UnicodeAttribute()
    code_verifier = UnicodeAttribute()
    nonce = UnicodeAttribute()
    redirect = UnicodeAttribute()
    link_to = UnicodeAttribute(null=True)
    """Account that is to be linked; null: the flow is a login."""
    session_id = UnicodeAttribute(null=True)
    session_began_at = UnicodeAttribute(null=True)
    """Moment at which the session that asked for the link began; null: no session did."""
    used_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()


class LoginCodeItem(IdentityItem, discriminator="login_code"):
    """A finished login at a provider; `used_at` is set when the frontend trades it for tokens."""

    user_id = UnicodeAttribute()
    provider = UnicodeAttribute()
    used_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()


class UniqueProvider(IdentityItem, discriminator="provider_guard"):
    """Makes an identity at a provider unique, and finds its owner."""

    user_id = UnicodeAttribute()


class ProviderIdentityItem(IdentityItem, discriminator="provider_identity"):
    """An identity at a provider that opens the account; `created_at` is when it was linked."""

    provider = UnicodeAttribute()
    subject_hash = UnicodeAttribute()


class MadeByRequest(RequestAttributes, IdentityItem, discriminator="request_guard"):
    """Object that a request with an Idempotency-Key has created."""


class OwnedItem(IdentityItem, discriminator="holdings"):
    """Numbers of objects that an account owns and that must not lose it, by kind."""

    project = NumberAttribute(default=0)
    avatar = NumberAttribute(default=0)


class AccountTombstone(IdentityItem, discriminator="account_tombstone"):
    """A deleted account, without anything personal; `created_at` is the moment at which its owner asked for it."""

    attempts = NumberAttribute(default=0)
    waits_for = UnicodeAttribute(null=True)
    """Step that the last round could not finish; null: none."""
    finished_at = UnicodeAttribute(null=True)


class KnownNetworkItem(IdentityItem, discriminator="known_network"):
    """A network on which a session of an account began; `valid_until` is 30 days after the last one."""

    valid_until = UnicodeAttribute()


def known_network_key(account: str, network: str) -> Key:
    """Return the key of a network that an account logged in from; both are hashes."""
    return Key(f"LOGIN#{account}", f"NETWORK#{network}")


def user_key(user_id: UserId) -> Key:
    """Return the key of a user."""
    return Key(f"USER#{user_id}", "PROFILE")


def user_list(role: str, *, disabled: bool) -> str:
    """Return the index partition of all users of a role, in use or disabled."""
    return f"USERS#{role}#{'disabled' if disabled else 'active'}"


def user_position(user_id: UserId, created_at: datetime) -> str:
    """Return the sort key of a user in that list: newest last."""
    return f"{iso(created_at)}#{user_id}"


def name_key(user_id: UserId) -> Key:
    """Return the key of the item by which a user's name is found."""
    return Key(f"USER#{user_id}", "NAME")


def name_list(text: str) -> str:
    """Return the index partition of all names with the first character of a folded text."""
    return f"NAMES#{text[:1]}"


def email_key(email: str) -> Key:
    """Return the key of a unique address; it holds a hash and not the address itself."""
    return email_hash_key(emails.digest(email))


def email_hash_key(email_hash: str) -> Key:
    """Return the key of a unique address by its SHA-256."""
    return Key(f"UNIQUE#EMAIL#{email_hash}", "GUARD")


def left_key(email_hash: str) -> Key:
    """Return the key of the account that an address belonged to last, by the address's SHA-256."""
    return Key(f"LEFT#{email_hash}", "ACCOUNT")


def session_key(user_id: UserId, session_id: str) -> Key:
    """Return the key of a session."""
    return Key(f"USER#{user_id}", f"SESSION#{session_id}")


def refresh_key(token_hash: str) -> Key:
    """Return the key of a refresh token."""
    return Key(f"REFRESH#{token_hash}", "TOKEN")


def one_time_key(token_hash: str) -> Key:
    """Return the key of a one-time token."""
    return Key(f"ONETIME#{token_hash}", "TOKEN")


def api_key_key(user_id: UserId, key_id: ApiKeyId) -> Key:
    """Return the key of an API key in its owner's list."""
    return Key(f"USER#{user_id}", f"APIKEY#{key_id}")


def api_key_turns_key(user_id: UserId) -> Key:
    """Return the key of the number of API keys that an account has made."""
    return Key(f"USER#{user_id}", "APIKEYS")


def api_key_lookup(key_hash: str) -> Key:
    """Return the key under which a presented API key is found."""
    return Key(f"APIKEY#{key_hash}", "KEY")


def owned_key(user_id: UserId) -> Key:
    """Return the key of the numbers of objects that an account owns."""
    return Key(f"USER#{user_id}", "HOLDINGS")


def tombstone_key(user_id: UserId) -> Key:
    """Return the key of a deleted account's tombstone."""
    return Key(f"USER#{user_id}", TOMBSTONE)


def owned_pk(user_id: UserId) -> str:
    """Return the partition of gsi1 that holds an account's items of other partitions."""
    return f"USER#{user_id}"


def oauth_flow_key(state_hash: str) -> Key:
    """Return the key of a login at a provider that has begun."""
    return Key(f"OAUTH#{state_hash}", "FLOW")


def login_code_key(code_hash: str) -> Key:
    """Return the key of a finished login at a provider."""
    return Key(f"LOGINCODE#{code_hash}", "CODE")


def unique_provider_key(provider: str, subject_hash: str) -> Key:
    """Return the key of the item that makes an identity at a provider unique."""
    return Key(f"IDENTITY#{provider}#{subject_hash}", "GUARD")


def provider_identity_key(user_id: UserId, provider: str, subject_hash: str) -> Key:
    """Return the key of an identity in its owner's list."""
    return Key(f"USER#{user_id}", f"IDENTITY#{provider}#{subject_hash}")


def deletion(moment: datetime) -> int:
    """Return the epoch second after which DynamoDB may delete an item that expires at `moment`: a day later."""
    return epoch_ms(moment + _TTL_SLACK) // 1000
