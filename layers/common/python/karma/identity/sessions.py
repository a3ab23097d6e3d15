"""Sessions: a login, and the refresh tokens that follow from it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import Forbidden, Unauthenticated, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity import emails, tokens
from karma.identity.domain import ACCESS_TOKEN_TTL, REFRESH_TOKEN_TTL, Caller, RefreshToken, Tokens, User
from karma.identity.keys import KeyRing
from karma.identity.passwords import Passwords

_MAX_TOKEN_CHARS = 256


class Accounts(Protocol):
    """Where accounts are stored; see repository/users.py for what each promises."""

    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def rehash(self, user: User, password_hash: str, *, now: datetime) -> None: ...  # noqa: D102


class Sessions(Protocol):
    """Where sessions are stored; see repository/sessions.py for what each promises."""

    def start_session(self, token: RefreshToken, *, now: datetime) -> bool: ...  # noqa: D102
    def find_refresh_token(self, token_hash: str) -> RefreshToken | None: ...  # noqa: D102
    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool: ...  # noqa: D102
    def end_session(self, user_id: UserId, session_id: str, *, now: datetime) -> None: ...  # noqa: D102


class SessionService:
    """Begins, continues and ends sessions."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        sessions: Sessions,
        passwords: Passwords,
        dummy_hash: str,
        key_ring: Callable[[], KeyRing],
        clock: Clock,
    ) -> None:
        """`dummy_hash` is verified for unknown addresses, so that they take as long as known ones."""
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._dummy_hash = dummy_hash
        self._key_ring = key_ring
        self._clock = clock

    def log_in(self, *, email: str, password: str) -> tuple[User, Tokens]:
        """Trade address and password for a session.

        One password is verified, known address or not, so that the time taken tells nothing.

        Raises:
            Unauthenticated: the address is unknown or the password is wrong; which, it does not say.
            Forbidden: the account is disabled; only who knows the password learns that.
        """
        user = self._find(email)
        known_hash = user.password_hash if user else None
        matches = self._passwords.verify(known_hash or self._dummy_hash, password)
        if not matches or user is None or known_hash is None:
            raise Unauthenticated("Invalid email or password")
        if user.disabled_at is not None:
            raise _disabled()
        now = self._clock.now()
        if self._passwords.outdated(known_hash):
            self._accounts.rehash(user, self._passwords.hash(password), now=now)
        return user, self.start(user.id, now=now)

    def start(self, user_id: UserId, *, now: datetime) -> Tokens:
        """Begin a session of somebody who has proven who they are.

        Raises:
            Forbidden: the account was disabled or deleted meanwhile.
        """
        secret, token = _new_refresh_token(user_id, session_id=new_id(), started_at=now, now=now)
        if not self._sessions.start_session(token, now=now):
            raise _disabled()
        return self._tokens(user_id, secret, now)

    def refresh(self, refresh_token: str) -> Tokens:
        """Trade a refresh token for new tokens; each can be traded once.

        Raises:
            Unauthenticated: unknown, expired, or used before. The latter ends the session: one of the two who had
                the token stole it.
        """
        refused = tokens.refused()
        now = self._clock.now()
        old = self._find_refresh_token(refresh_token)
        if old is None or now >= old.expires_at:
            raise refused
        secret, new = _new_refresh_token(
            old.user_id, session_id=old.session_id, started_at=old.session_started_at, now=now
        )
        if old.used or not self._sessions.trade(old, new, now=now):
            self._sessions.end_session(old.user_id, old.session_id, now=now)
            raise refused
        return self._tokens(old.user_id, secret, now)

    def log_out(self, caller: Caller, refresh_token: str) -> None:
        """End the session that a refresh token belongs to; another person's, or none, changes nothing."""
        token = self._find_refresh_token(refresh_token)
        if token is not None and token.user_id == caller.user_id:
            self._sessions.end_session(token.user_id, token.session_id, now=self._clock.now())

    def _find(self, email: str) -> User | None:
        try:
            return self._accounts.find_by_email(emails.normalise(email))
        except ValidationFailed:
            return None

    def _find_refresh_token(self, refresh_token: str) -> RefreshToken | None:
        if len(refresh_token) > _MAX_TOKEN_CHARS:
            return None
        return self._sessions.find_refresh_token(_sha256(refresh_token))

    def _tokens(self, user_id: UserId, refresh_token: str, now: datetime) -> Tokens:
        return Tokens(
            access_token=tokens.issue(user_id, ring=self._key_ring(), now=now),
            refresh_token=refresh_token,
            expires_in_s=ACCESS_TOKEN_TTL // timedelta(seconds=1),
        )


def _disabled() -> Forbidden:
    return Forbidden("The account is disabled", code="ACCOUNT_DISABLED")


def _new_refresh_token(
    user_id: UserId, *, session_id: str, started_at: datetime, now: datetime
) -> tuple[str, RefreshToken]:
    secret = secrets.token_urlsafe(32)
    return secret, RefreshToken(
        hash=_sha256(secret),
        user_id=user_id,
        session_id=session_id,
        session_started_at=started_at,
        expires_at=now + REFRESH_TOKEN_TTL,
        used=False,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
