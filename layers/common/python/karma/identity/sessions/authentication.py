"""Authentication of callers by access token or API key. Imports nothing heavy: agent_stream starts with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from karma.core.clock import Clock, monotonic
from karma.core.errors import Forbidden, NotFound, Unauthenticated
from karma.core.ids import UserId
from karma.identity.domain import ApiKey, Caller, Credential, User
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing

_MAX_AGE_S = 60.0
_MAX_ENTRIES = 1000
_MAX_API_KEY_CHARS = 256
API_KEY_PREFIX = "karma_"
READING = frozenset({"GET", "HEAD"})
"""Methods of requests that change nothing."""
USE_NOTED_EVERY = timedelta(hours=1)

_K = TypeVar("_K")
_V = TypeVar("_V")


class Users(Protocol):
    """Accounts, as callers are looked up."""

    def get_user(self, user_id: UserId) -> User | None:
        """Return a user; None: there is none."""
        ...

    def read_user(self, user_id: UserId) -> User | None:
        """Return a user as stored now."""
        ...

    def read_with_session(self, user_id: UserId, session_id: str) -> tuple[User | None, bool]:
        """Return a user as stored now, and whether this session of theirs is open."""
        ...


class ApiKeys(Protocol):
    """API keys, as presented ones are looked up."""

    def find_api_key(self, key_hash: str) -> ApiKey | None:
        """Return the key with this SHA-256; None: there is none or it was revoked."""
        ...

    def read_with_owner(self, key_hash: str, owner: UserId) -> tuple[ApiKey | None, User | None]:
        """Return a key and its owner as stored now; None as above."""
        ...

    def note_use(self, key: ApiKey, *, now: datetime, unless_after: datetime) -> None:
        """Store the moment of a key's use, unless one later than `unless_after` is stored."""
        ...


class Authenticator:
    """Authenticates callers; caches users and keys for a minute, for requests that only read.

    So a changed role, a revoked key or an ended session acts at once on all that is changed, in every process.
    """

    def __init__(
        self,
        *,
        users: Users,
        api_keys: ApiKeys,
        key_ring: Callable[[], KeyRing],
        newer_key_ring: Callable[[], KeyRing],
        clock: Clock,
    ) -> None:
        """Build the authenticator.

        `newer_key_ring` reads the secret again when a token names a key that `key_ring` lacks; any request can cause
        it.
        """
        self._users = users
        self._api_keys = api_keys
        self._tokens = tokens.Verifier()
        self._key_ring = key_ring
        self._newer_key_ring = newer_key_ring
        self._clock = clock
        self._user_cache: dict[UserId, tuple[float, User]] = {}
        self._key_cache: dict[str, tuple[float, ApiKey]] = {}
        self._ended: dict[str, tuple[float, None]] = {}
        """Sessions that were seen to be over."""

    def authenticate(self, authorization: str | None, api_key: str | None, *, reading: bool = False) -> Caller:
        """Return the caller; a bearer token goes before an API key.

        `reading` is for requests that change nothing: cached data is used for them, and a token is valid until it
        expires, or its account ends all sessions. For all others the account and the session or key are read,
        strongly consistent.

        Raises:
            Unauthenticated: there is no credential, it does not verify, or its session has ended.
            Forbidden: the account is disabled.
            NotFound: the token is valid and its account is deleted.
        """
        if authorization:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise tokens.refused()
            believed = self._believe(token.strip())
            user = self._user(believed.user_id) if reading else self._user_now(believed)
            if user.sessions_from is not None and believed.began_at < user.sessions_from:
                raise tokens.refused()
            return _caller(user, None, _credential(believed))
        if api_key:
            return self._by_key(api_key, reading=reading)
        raise tokens.refused("Authentication required")

    def _believe(self, token: str) -> tokens.AccessToken:
        now = self._clock.now()
        try:
            return self._tokens.verify(token, ring=self._key_ring(), now=now)
        except tokens.UnknownKey:
            try:
                return self._tokens.verify(token, ring=self._newer_key_ring(), now=now)
            except tokens.UnknownKey:
                raise tokens.refused() from None

    def forget(self, user_id: UserId) -> None:
        """Remove a user from the cache, since a role was changed or a key revoked in this process."""
        self._user_cache.pop(user_id, None)
        for key_hash, (_, key) in list(self._key_cache.items()):
            if key.user_id == user_id:
                del self._key_cache[key_hash]

    def _by_key(self, api_key: str, *, reading: bool) -> Caller:
        unknown = Unauthenticated("Invalid API Key")
        if len(api_key) > _MAX_API_KEY_CHARS or not api_key.startswith(API_KEY_PREFIX):
            raise unknown
        key_hash = hash_api_key(api_key)
        now = monotonic()
        kept = self._key_cache.get(key_hash)
        if kept is None or now - kept[0] >= _MAX_AGE_S:
            found = self._api_keys.find_api_key(key_hash)
            if found is None:
                self._key_cache.pop(key_hash, None)
                raise unknown
            kept = _keep(self._key_cache, key_hash, found, now)
        key = kept[1]
        if reading:
            user = self._user(key.user_id)
        else:
            stored, owner = self._api_keys.read_with_owner(key_hash, key.user_id)
            if stored is None:
                self._key_cache.pop(key_hash, None)
                raise unknown
            kept = _keep(self._key_cache, key_hash, stored, now)
            key, user = stored, self._keep_user(key.user_id, owner)
        if not key.usable(self._clock.now(), keys_from=user.api_keys_from):
            raise unknown
        caller = _caller(user, key, Credential(user_id=user.id, api_key_id=key.id, began_at=key.created_at))
        self._note_use(key, kept[0])
        return caller

    def _note_use(self, key: ApiKey, kept_at: float) -> None:
        now = self._clock.now()
        unless_after = now - USE_NOTED_EVERY
        if key.last_used_at is None or key.last_used_at <= unless_after:
            _keep(self._key_cache, key.hash, replace(key, last_used_at=now), kept_at)
            self._api_keys.note_use(key, now=now, unless_after=unless_after)

    def _user(self, user_id: UserId) -> User:
        now = monotonic()
        kept = self._user_cache.get(user_id)
        if kept is None or now - kept[0] >= _MAX_AGE_S:
            return self._keep_user(user_id, self._users.get_user(user_id))
        return kept[1]

    def _user_now(self, token: tokens.AccessToken) -> User:
        if token.session_id is None:
            # From before tokens named their session: half an hour after that deployment there are none.
            return self._keep_user(token.user_id, self._users.read_user(token.user_id))
        if token.session_id in self._ended:
            raise _over()  # for good: whoever goes on with its tokens costs no more reads
        found, is_open = self._users.read_with_session(token.user_id, token.session_id)
        user = self._keep_user(token.user_id, found)
        if not is_open:
            _keep(self._ended, token.session_id, None, monotonic())
            raise _over()
        return user

    def _keep_user(self, user_id: UserId, found: User | None) -> User:
        if found is None:
            self._user_cache.pop(user_id, None)
            raise NotFound("User not found")
        return _keep(self._user_cache, user_id, found, monotonic())[1]


def _over() -> Unauthenticated:
    return tokens.refused("The session is over; log in again")


def hash_api_key(api_key: str) -> str:
    """Return the SHA-256 under which a key is stored: keys are 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def _keep(cache: dict[_K, tuple[float, _V]], key: _K, value: _V, now: float) -> tuple[float, _V]:
    if len(cache) >= _MAX_ENTRIES:
        cache.clear()
    cache[key] = (now, value)
    return cache[key]


def _credential(token: tokens.AccessToken) -> Credential | None:
    if token.session_id is None or token.authenticated_at is None:
        return None
    return Credential(user_id=token.user_id, session_id=token.session_id, began_at=token.authenticated_at)


def _caller(user: User, key: ApiKey | None, credential: Credential | None) -> Caller:
    if user.disabled_at is not None:
        raise Forbidden("The account is disabled", code="ACCOUNT_DISABLED")
    return Caller(
        user_id=user.id,
        role=user.role,
        method="api_key" if key else "jwt",
        scopes=key.scopes if key else frozenset(),
        email_verified=user.email_verified,
        name=user.name,
        avatar=user.avatar,
        locale=user.locale,
        credential=credential,
    )
