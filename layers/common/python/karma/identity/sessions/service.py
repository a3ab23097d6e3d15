"""Sessions: a login, and the refresh tokens that follow from it (docs/adr/0012-sessions.md).

A refresh token is traded once. Its successor is computed from it with a key of ours, so that a repeat within
`REFRESH_GRACE` gives the same answer, although tokens are stored as hashes only; a session has one living token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import Forbidden, Unauthenticated, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.observability import count
from karma.identity.accounts import emails
from karma.identity.domain import (
    ACCESS_TOKEN_TTL,
    NOBODY,
    REFRESH_GRACE,
    REFRESH_TOKEN_TTL,
    Caller,
    Credential,
    RefreshToken,
    Tokens,
    User,
)
from karma.identity.passwords.hashes import Passwords
from karma.identity.sessions import tokens
from karma.identity.sessions.logins import Attempt, LoginPlace, LoginThrottle
from karma.identity.sessions.signing_keys import KeyRing
from karma.identity.standing import Standing, details_of, nothing_stands

_MAX_TOKEN_CHARS = 256


class Accounts(Protocol):
    """Accounts; accounts/repository/users.py says what each method promises."""

    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def get_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def rehash(self, user: User, password_hash: str, *, now: datetime) -> None: ...  # noqa: D102


class Sessions(Protocol):
    """Sessions; sessions/repository.py says what each method promises."""

    def start_session(  # noqa: D102
        self, token: RefreshToken, *, place: LoginPlace, now: datetime, entry: AuditEntry
    ) -> bool: ...
    def record_refusal(self, entry: AuditEntry | None) -> None: ...  # noqa: D102
    def find_refresh_token(self, token_hash: str) -> RefreshToken | None: ...  # noqa: D102
    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool: ...  # noqa: D102
    def is_tradable(self, token: RefreshToken) -> bool: ...  # noqa: D102
    def end_session(self, session_id: str, *, now: datetime, entry: AuditEntry) -> None: ...  # noqa: D102
    def end_all_sessions(  # noqa: D102
        self, *, by: Credential | None, now: datetime, entry: AuditEntry, api_keys: bool
    ) -> None: ...


class SessionService:
    """Begins, continues and ends sessions."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        sessions: Sessions,
        throttle: LoginThrottle,
        passwords: Passwords,
        dummy_hash: str,
        key_ring: Callable[[], KeyRing],
        clock: Clock,
        on_change: Callable[[UserId], None],
        standing: Standing = nothing_stands,
    ) -> None:
        """Build the service.

        Args:
            accounts: stores accounts.
            sessions: stores sessions.
            throttle: limits login attempts.
            passwords: verifies passwords.
            dummy_hash: verified for unknown addresses, so that they take as long as known ones.
            key_ring: returns the keys that sign access tokens.
            clock: tells the time.
            on_change: called with the id of each user whose sessions ended.
            standing: counts what goes on without a session, of which the owner is told when all of them end.
        """
        self._accounts = accounts
        self._sessions = sessions
        self._throttle = throttle
        self._passwords = passwords
        self._dummy_hash = dummy_hash
        self._key_ring = key_ring
        self._clock = clock
        self._on_change = on_change
        self._standing = standing

    def log_in(self, *, email: str, password: str, source: Source) -> tuple[User, Tokens]:
        """Trade address and password for a session.

        Known and unknown addresses take the same calls and one verification, so that the time tells nothing; too many
        guesses are refused before either.

        Raises:
            RateLimited: too many passwords were wrong for the account and network (karma.identity.sessions.logins).
            Unauthenticated: the address is unknown or the password is wrong; the error does not tell which.
            Forbidden: the account is disabled; only who knows the password learns that.
        """
        attempt = self._throttle.admit(email, source.address)
        user = self._find(email)
        known_hash = user.password_hash if user else None
        matches = self._passwords.verify(known_hash or self._dummy_hash, password)
        if not matches or user is None or known_hash is None:
            self._record_refusal(user, attempt, source)
            raise Unauthenticated("Invalid email or password")
        self._throttle.forgive(attempt)
        if user.disabled_at is not None:
            raise _disabled()
        now = self._clock.now()
        if self._passwords.outdated(known_hash, password):
            self._accounts.rehash(user, self._passwords.hash(password), now=now)
        return user, self.start(user, method="password", source=source, now=now)

    def start(self, user: User, *, method: str, source: Source, now: datetime) -> Tokens:
        """Begin a session of an authenticated user; `method` says how they logged in, for the audit log.

        Raises:
            Forbidden: the account was disabled or deleted meanwhile.
        """
        secret = secrets.token_urlsafe(32)
        token = RefreshToken(
            hash=_sha256(secret),
            user_id=user.id,
            session_id=new_id(),
            session_started_at=now,
            expires_at=now + REFRESH_TOKEN_TTL,
        )
        entry = _entry(
            user.id, AuditEvent.LOGGED_IN, source, now, session_id=token.session_id, method=method, actor_id=user.id
        )
        place = LoginPlace.of(user.email, source.address)
        if not self._sessions.start_session(token, place=place, now=now, entry=entry):
            raise _disabled()
        return self._tokens(token, secret, now)

    def refresh(self, refresh_token: str, *, source: Source) -> Tokens:
        """Trade a refresh token for new tokens; each can be traded once.

        A repeat within `REFRESH_GRACE` of the trade is answered with the same refresh token while nobody has used
        that: two tabs asked at once, or the first answer was lost.

        Raises:
            Unauthenticated: the token is unknown, expired, of an ended session, or was used before. The latter ends the
                session: one of the two who had the token stole it.
            StorageThrottled: other requests trade the token at this moment; it stays usable.
        """
        now = self._clock.now()
        token = self._find_refresh_token(refresh_token)
        if token is None or now >= token.expires_at:
            raise tokens.refused()
        if token.used_at is None:
            ring = self._key_ring()
            secret = _successor(refresh_token, ring.keys[ring.current])
            if self._sessions.trade(token, _next(token, secret, now), now=now):
                return self._tokens(token, secret, now)
            token = self._find_refresh_token(refresh_token)
            if token is None or token.used_at is None:
                raise tokens.refused()  # not used, yet not to be traded: its session or its account is over
        return self._repeat(token, token.used_at, refresh_token, source, now)

    def log_out(self, caller: Caller, refresh_token: str, *, source: Source) -> None:
        """End the session of a refresh token; do nothing if the token is unknown or another person's.

        Raises:
            Forbidden: the caller is an API key.
        """
        caller.require_person()
        now = self._clock.now()
        token = self._find_refresh_token(refresh_token)
        if token is not None and token.user_id == caller.user_id:
            self._end(token, AuditEvent.LOGGED_OUT, source, now, actor_id=caller.user_id)

    def log_out_everywhere(self, caller: Caller, *, api_keys: bool = False, source: Source) -> None:
        """End every session of the caller, with the access tokens issued until now.

        With `api_keys`, every API key of the caller ends as well.

        Raises:
            Forbidden: the caller is an API key.
            SessionOver: `api_keys` is set, and the caller's session has ended meanwhile.
            NotFound: the account is deleted.
        """
        caller.require_person()
        now = self._clock.now()
        also = details_of(self._standing(caller.user_id)) | ({"api_keys": "ended"} if api_keys else {})
        entry = _entry(caller.user_id, AuditEvent.ALL_SESSIONS_ENDED, source, now, actor_id=caller.user_id, **also)
        # Sessions are ended by whoever asks, at worst twice; keys outlive sessions, so one that is over ends none.
        by = caller.credential if api_keys else None
        self._sessions.end_all_sessions(by=by, now=now, entry=entry, api_keys=api_keys)
        self._on_change(caller.user_id)

    def _repeat(
        self, token: RefreshToken, used_at: datetime, refresh_token: str, source: Source, now: datetime
    ) -> Tokens:
        if now - used_at <= REFRESH_GRACE:
            for key in self._key_ring().keys.values():  # the one that signed then may not be the current one now
                secret = _successor(refresh_token, key)
                successor = self._find_refresh_token(secret)
                if successor is not None and successor.used_at is None:
                    if not self._sessions.is_tradable(successor):
                        raise tokens.refused()
                    count("RefreshRepeated")
                    return self._tokens(token, secret, now)
        count("RefreshReused")
        self._end(token, AuditEvent.REFRESH_REUSED, source, now, actor_id=None)
        raise tokens.refused()

    def _end(
        self, token: RefreshToken, event: AuditEvent, source: Source, now: datetime, *, actor_id: UserId | None
    ) -> None:
        entry = _entry(token.user_id, event, source, now, actor_id=actor_id, session_id=token.session_id)
        self._sessions.end_session(token.session_id, now=now, entry=entry)
        self._on_change(token.user_id)

    def _find(self, email: str) -> User | None:
        try:
            found = self._accounts.find_by_email(emails.normalise(email))
        except ValidationFailed:
            found = None
        if found is None:
            self._accounts.get_user(NOBODY)  # an account is two reads
        return found

    def _record_refusal(self, user: User | None, attempt: Attempt, source: Source) -> None:
        count("LoginRefused")
        event = AuditEvent.LOGIN_LOCKED if attempt.is_last else AuditEvent.LOGIN_FAILED
        self._sessions.record_refusal(_entry(user.id, event, source, self._clock.now()) if user else None)

    def _find_refresh_token(self, refresh_token: str) -> RefreshToken | None:
        if len(refresh_token) > _MAX_TOKEN_CHARS:
            return None
        return self._sessions.find_refresh_token(_sha256(refresh_token))

    def _tokens(self, token: RefreshToken, refresh_token: str, now: datetime) -> Tokens:
        return Tokens(
            access_token=tokens.issue(
                token.user_id,
                ring=self._key_ring(),
                now=now,
                session_id=token.session_id,
                authenticated_at=token.session_started_at,
            ),
            refresh_token=refresh_token,
            expires_in_s=ACCESS_TOKEN_TTL // timedelta(seconds=1),
        )


def _disabled() -> Forbidden:
    return Forbidden("The account is disabled", code="ACCOUNT_DISABLED")


def _successor(refresh_token: str, key: str) -> str:
    """Return the token that follows a refresh token: 256 bits that cannot be computed without the key."""
    purpose = hmac.digest(key.encode(), b"karma-refresh", hashlib.sha256)
    digest = hmac.digest(purpose, refresh_token.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _next(token: RefreshToken, secret: str, now: datetime) -> RefreshToken:
    return replace(token, hash=_sha256(secret), expires_at=now + REFRESH_TOKEN_TTL, used_at=None)


def _entry(
    user_id: UserId, event: AuditEvent, source: Source, now: datetime, *, actor_id: UserId | None = None, **details: str
) -> AuditEntry:
    return AuditEntry(user_id=user_id, event=event, at=now, actor_id=actor_id, source=source, details=details)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
