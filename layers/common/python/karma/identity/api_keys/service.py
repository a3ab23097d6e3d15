"""Use cases of API keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import AlreadyCreated, Forbidden, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import ApiKeyId, UserId, is_id, new_id
from karma.core.ratelimit import Buckets
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.identity import permissions
from karma.identity.confirmation import confirm_presence
from karma.identity.domain import API_KEY_TTL, MAX_API_KEY_TTL, ApiKey, Caller, Credential, User
from karma.identity.mail_limits import unless_too_many
from karma.identity.passwords.hashes import Passwords
from karma.identity.sessions.authentication import API_KEY_PREFIX, hash_api_key
from karma.mail.domain import Mail, MailKind
from karma.mail.service import OutboxRelay

MAX_API_KEYS = 100
"""Largest number of usable keys of an account."""
MAX_KEPT = 100
"""Largest number of ended keys of an account that are kept; the oldest are removed as new ones are made."""
_GOING_AT_ONCE = 10
"""Ended keys that are removed when one is made: more than one, so that their number falls; each takes two items of the
hundred of a transaction.
"""
_ATTEMPTS = 5
_PREFIX_CHARS = len(API_KEY_PREFIX) + 6


class ApiKeys(Protocol):
    """API keys; api_keys/repository.py says what each method promises."""

    def create_api_key(  # noqa: D102
        self,
        key: ApiKey,
        *,
        made_with: Credential | None,
        request: RepeatableRequest | None,
        seen: int | None,
        going: Sequence[ApiKey],
        entry: AuditEntry,
        mails: Sequence[Mail],
    ) -> None: ...
    def keys_made(self, user_id: UserId) -> int: ...  # noqa: D102
    def list_api_keys(self, user_id: UserId) -> Sequence[ApiKey]: ...  # noqa: D102
    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None: ...  # noqa: D102
    def revoke_api_key(  # noqa: D102
        self, key: ApiKey, *, by: Credential | None, now: datetime, entry: AuditEntry
    ) -> bool: ...
    def last_uses(self, keys: Sequence[ApiKey]) -> Mapping[ApiKeyId, datetime]: ...  # noqa: D102


class Owners(Protocol):
    """Accounts of the keys' owners; accounts/repository/users.py says what each method promises."""

    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102


class NewApiKey(Record, kw_only=True):
    """A key that was just made; `secret` is shown this once."""

    key: ApiKey
    secret: str


class ApiKeyService:
    """Makes, lists and revokes keys."""

    def __init__(
        self,
        *,
        api_keys: ApiKeys,
        owners: Owners,
        passwords: Passwords,
        buckets: Buckets,
        outbox_relay: OutboxRelay,
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """Build the service.

        `buckets` limit wrong passwords; `on_change` is called with the id of each user whose keys changed
        (Authenticator.forget).
        """
        self._api_keys = api_keys
        self._owners = owners
        self._passwords = passwords
        self._buckets = buckets
        self._outbox_relay = outbox_relay
        self._clock = clock
        self._on_change = on_change

    def create_api_key(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: frozenset[str],
        expires_at: datetime | None,
        current_password: str | None = None,
        source: Source,
        idempotency_key: IdempotencyKey | None = None,
    ) -> NewApiKey:
        """Make a key for the caller's programs and tell them by mail, once for each `idempotency_key` that is given.

        So that a stolen session does not become a key that outlives it, the session's login must be at most ten minutes
        old, or the password given. A key without `expires_at` ends after `API_KEY_TTL`.

        Raises:
            AlreadyCreated: this request made a key before.
            IdempotencyKeyReused: the first request asked for another key.
            SessionOver: the caller's session has ended meanwhile.
            StaleVersion: other keys of the account were made at the same moment, at each attempt.
            Forbidden: the caller is a key itself, has not verified an address, gives no fresh proof or a wrong one, or
                a scope exceeds the caller's rights.
            RateLimited: too many passwords were wrong.
            ValidationFailed: a scope is unknown, the expiry has passed or is too far away, or the account has
                `MAX_API_KEYS` keys.
        """
        caller.require_person()
        owner = self._owner(caller.user_id)
        owner.require_verified()
        now = self._clock.now()
        ValidationFailed.together(lambda: _require_known(scopes), lambda: _require_end(expires_at, now))
        ends_at = expires_at or now + API_KEY_TTL
        _require_rights(caller, scopes)
        confirm_presence(
            caller,
            password_hash=owner.password_hash,
            given=current_password,
            passwords=self._passwords,
            buckets=self._buckets,
            now=now,
            login_suffices=True,
        )
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=ApiKeyId(new_id()),
            user_id=caller.user_id,
            name=name,
            prefix=secret[:_PREFIX_CHARS],
            hash=hash_api_key(secret),
            scopes=scopes,
            created_at=now,
            expires_at=ends_at,
            revoked_at=None,
        )
        made_with = caller.credential
        request = repeatable(idempotency_key, name, sorted(scopes), expires_at, at=now)
        self._store(key, keys_from=owner.api_keys_from, made_with=made_with, request=request, source=source)
        return NewApiKey(key=key, secret=secret)

    def _store(
        self,
        key: ApiKey,
        *,
        keys_from: datetime | None,
        made_with: Credential | None,
        request: RepeatableRequest | None,
        source: Source,
    ) -> None:
        """Store a key unless its owner has `MAX_API_KEYS` usable ones, however many are made at the same moment."""
        entry = _entry(AuditEvent.API_KEY_CREATED, key, key.created_at, source)
        mails: list[Mail] | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            seen = self._api_keys.keys_made(key.user_id)  # before the keys: one made in between is missed by neither
            going = self._make_room(key, keys_from)
            if mails is None:
                mail = Mail(kind=MailKind.API_KEY_CREATED, user_id=key.user_id, created_at=key.created_at)
                mails = unless_too_many(mail, key.user_id, buckets=self._buckets, now=key.created_at)
            try:
                self._api_keys.create_api_key(
                    key,
                    made_with=made_with,
                    request=request,
                    seen=seen,
                    going=going,
                    entry=entry,
                    mails=mails,
                )
                break
            except StaleVersion:
                if attempt == _ATTEMPTS:
                    raise
            except AlreadyCreated as exc:
                made = str(exc.details.get("id") or "") if isinstance(exc.details, Mapping) else ""
                if made and not self._is_listed(self._api_keys.get_api_key(key.user_id, ApiKeyId(made)), keys_from):
                    raise no_longer(made) from None
                raise
        self._outbox_relay.dispatch(mails or [])

    def _make_room(self, key: ApiKey, keys_from: datetime | None) -> Sequence[ApiKey]:
        """Return the ended keys that are removed when one more is made.

        Raises:
            ValidationFailed: the account has `MAX_API_KEYS` usable keys.
        """
        kept = self._api_keys.list_api_keys(key.user_id)
        over = [each for each in kept if not each.usable(key.created_at, keys_from=keys_from)]
        if len(kept) - len(over) >= MAX_API_KEYS:
            message = f"an account has at most {MAX_API_KEYS} API keys that can be used: revoke one first"
            raise ValidationFailed.of("name", message)
        return over[MAX_KEPT:][-_GOING_AT_ONCE:]

    def _owner(self, user_id: UserId) -> User:
        user = self._owners.read_user(user_id)
        if user is None:
            raise NotFound("User not found")
        return user

    def list_api_keys(self, caller: Caller) -> Sequence[ApiKey]:
        """List the caller's keys that were not revoked, also expired ones, newest first, with their last uses.

        Raises:
            NotFound: the account is deleted.
        """
        keys_from = self._owner(caller.user_id).api_keys_from
        found = self._api_keys.list_api_keys(caller.user_id)
        listed = [key for key in found if self._is_listed(key, keys_from)]
        uses = self._api_keys.last_uses(listed) if listed else {}
        return [replace(key, last_used_at=uses.get(key.id)) for key in listed]

    def require_made(self, caller: Caller, key_id: str) -> None:
        """Require that a key was not revoked; it may have expired.

        Raises:
            NotFound: the caller has no such key, or no account any more.
        """
        keys_from = self._owner(caller.user_id).api_keys_from
        key = self._api_keys.get_api_key(caller.user_id, ApiKeyId(key_id)) if is_id(key_id) else None
        if not self._is_listed(key, keys_from):
            raise NotFound(f"API key {key_id} not found")

    @staticmethod
    def _is_listed(key: ApiKey | None, keys_from: datetime | None) -> bool:
        return key is not None and key.usable(key.created_at, keys_from=keys_from)

    def revoke_api_key(self, caller: Caller, key_id: str, *, source: Source) -> None:
        """Revoke a key; requests that only read may use it for another minute in other processes.

        Raises:
            Forbidden: the caller is a key itself.
            SessionOver: the caller's session has ended meanwhile.
            NotFound: the caller has no such key.
        """
        caller.require_person()
        key = self._api_keys.get_api_key(caller.user_id, ApiKeyId(key_id)) if is_id(key_id) else None
        now = self._clock.now()
        if (
            key is None
            or key.revoked_at is not None
            or not self._api_keys.revoke_api_key(
                key, by=caller.credential, now=now, entry=_entry(AuditEvent.API_KEY_REVOKED, key, now, source)
            )
        ):
            raise NotFound(f"API key {key_id} not found")
        self._on_change(caller.user_id)


def _require_known(scopes: frozenset[str]) -> None:
    """Refuse scopes that are no permissions.

    Raises:
        ValidationFailed: naming `scopes`, and all that there are.
    """
    if unknown := sorted(scope for scope in scopes if not permissions.is_scope(scope)):
        known = ", ".join((permissions.EVERYTHING, *permissions.ROLES_OF))
        told = ", ".join(map(repr, unknown))[:256]
        raise ValidationFailed.of("scopes", f"no permission is called {told}; there are {known}")


def _require_end(asked: datetime | None, now: datetime) -> None:
    """Refuse a key that would have ended already, or live too long.

    Not with the body's shape: a repeat of a request that made a key is known by its body after the key has ended too.

    Raises:
        ValidationFailed: naming `expires_at`.
    """
    if asked is not None and asked <= now:
        raise ValidationFailed.of("expires_at", "must be in the future")
    if asked is not None and asked > now + MAX_API_KEY_TTL:
        raise ValidationFailed.of("expires_at", f"is at most {MAX_API_KEY_TTL.days} days away")


def _entry(event: AuditEvent, key: ApiKey, now: datetime, source: Source) -> AuditEntry:
    return AuditEntry(
        user_id=key.user_id,
        event=event,
        at=now,
        actor_id=key.user_id,
        source=source,
        details={"api_key_id": key.id, "prefix": key.prefix, "scopes": " ".join(sorted(key.scopes))},
    )


def _require_rights(caller: Caller, scopes: frozenset[str]) -> None:
    for scope in scopes:
        if scope != permissions.EVERYTHING and not caller.may(scope):
            raise Forbidden.lacking(permissions.canonical(scope))
