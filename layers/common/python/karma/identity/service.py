"""Use cases of identity: register, log in, sessions, API keys, administrators."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import Forbidden, NotFound, Unauthenticated, ValidationFailed
from karma.core.ids import ApiKeyId, UserId, is_id, new_id
from karma.identity import permissions, tokens
from karma.identity.authentication import API_KEY_PREFIX, Users, hash_api_key
from karma.identity.domain import (
    ACCESS_TOKEN_TTL,
    MAX_PASSWORD_CHARS,
    MIN_PASSWORD_CHARS,
    REFRESH_TOKEN_TTL,
    ApiKey,
    Caller,
    RefreshToken,
    Role,
    Tokens,
    User,
)
from karma.identity.keys import KeyRing

MAX_API_KEYS = 100
"""A person's keys, revoked ones included."""
_PREFIX_CHARS = len(API_KEY_PREFIX) + 6
_MAX_TOKEN_CHARS = 256


class Passwords(Protocol):
    """How passwords are hashed."""

    def hash(self, password: str) -> str:
        """Make a salted hash."""
        ...

    def verify(self, password_hash: str, password: str) -> bool:
        """Tell whether the password made the hash."""
        ...

    def outdated(self, password_hash: str) -> bool:
        """Tell whether the hash should be made again."""
        ...


class Identities(Users, Protocol):
    """Where identity is stored; see repository.py for what each promises."""

    def create_user(self, user: User) -> None: ...  # noqa: D102
    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def set_password_hash(self, user: User, password_hash: str, *, now: datetime) -> None: ...  # noqa: D102
    def set_role(self, user: User, role: Role, *, now: datetime) -> User: ...  # noqa: D102
    def start_session(self, token: RefreshToken, *, now: datetime) -> None: ...  # noqa: D102
    def find_refresh_token(self, token_hash: str) -> RefreshToken | None: ...  # noqa: D102
    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool: ...  # noqa: D102
    def end_session(self, user_id: UserId, session_id: str, *, now: datetime) -> None: ...  # noqa: D102
    def create_api_key(self, key: ApiKey, *, request_token: str | None) -> None: ...  # noqa: D102
    def list_api_keys(self, user_id: UserId, *, limit: int) -> Sequence[ApiKey]: ...  # noqa: D102
    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None: ...  # noqa: D102
    def revoke_api_key(self, key: ApiKey, *, now: datetime) -> None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class NewApiKey:
    """A key that was just made; `secret` is shown this once."""

    key: ApiKey
    secret: str


class IdentityService:
    """Everything about accounts that needs storage."""

    def __init__(
        self,
        *,
        identities: Identities,
        passwords: Passwords,
        dummy_hash: str,
        key_ring: Callable[[], KeyRing],
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """`on_change` is told whose role or keys changed (Authenticator.forget)."""
        self._identities = identities
        self._passwords = passwords
        self._dummy_hash = dummy_hash
        self._key_ring = key_ring
        self._clock = clock
        self._on_change = on_change

    # Accounts

    def register(self, *, email: str, password: str, name: str, role: Role = Role.USER) -> User:
        """Make an account.

        Raises:
            AlreadyExists: the address is taken, however it is written.
            ValidationFailed: not an address.
        """
        now = self._clock.now()
        user = User(
            id=UserId(new_id()),
            email=normalise_email(email),
            name=name,
            avatar=None,
            password_hash=self._passwords.hash(password),
            role=role,
            email_verified=False,
            created_at=now,
            updated_at=now,
        )
        self._identities.create_user(user)
        return user

    def log_in(self, *, email: str, password: str) -> tuple[User, Tokens]:
        """Trade address and password for a session.

        One password is verified, known address or not, so that the time taken tells nothing.

        Raises:
            Unauthenticated: the address is unknown or the password is wrong; which, it does not say.
        """
        user = self._find(email)
        if not self._passwords.verify(user.password_hash if user else self._dummy_hash, password) or user is None:
            raise Unauthenticated("Invalid email or password")
        now = self._clock.now()
        if self._passwords.outdated(user.password_hash):
            self._identities.set_password_hash(user, self._passwords.hash(password), now=now)
        secret, token = _new_refresh_token(user.id, session_id=new_id(), now=now)
        self._identities.start_session(token, now=now)
        return user, self._tokens(user.id, secret, now)

    def get_user(self, user_id: UserId) -> User:
        """Read an account.

        Raises:
            NotFound: it is gone.
        """
        user = self._identities.get_user(user_id)
        if user is None:
            raise NotFound("User not found")
        return user

    def make_admin(self, *, email: str, password: str, name: str) -> User:
        """Create an administrator, or promote the owner of the address (whose password and name stay).

        Raises:
            ValidationFailed: not an address, or a password of the wrong length for a new account.
        """
        user = self._find(email)
        if user is None:
            if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
                raise ValidationFailed.of("password", f"has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
            return self.register(email=email, password=password, name=name, role=Role.ADMIN)
        if user.role is not Role.ADMIN:
            user = self._identities.set_role(user, Role.ADMIN, now=self._clock.now())
            self._on_change(user.id)
        return user

    # Sessions

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
        secret, new = _new_refresh_token(old.user_id, session_id=old.session_id, now=now)
        if old.used or not self._identities.trade(old, new, now=now):
            self._identities.end_session(old.user_id, old.session_id, now=now)
            raise refused
        return self._tokens(old.user_id, secret, now)

    def log_out(self, caller: Caller, refresh_token: str) -> None:
        """End the session that a refresh token belongs to; another person's, or none, changes nothing."""
        token = self._find_refresh_token(refresh_token)
        if token is not None and token.user_id == caller.user_id:
            self._identities.end_session(token.user_id, token.session_id, now=self._clock.now())

    # API keys

    def create_api_key(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: frozenset[str],
        expires_at: datetime | None,
        request_token: str | None = None,
    ) -> NewApiKey:
        """Make a key for the caller's programs; one for each `request_token` when one is given.

        Raises:
            AlreadyCreated: a key was made for this token before.
            Forbidden: the caller is a key itself, or a scope exceeds the caller's own rights.
            ValidationFailed: an unknown scope, an expiry that has passed, or too many keys.
        """
        _only_in_person(caller)
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise ValidationFailed.of("expires_at", "must be in the future")
        for scope in scopes:
            if not permissions.is_scope(scope):
                raise ValidationFailed.of("scopes", f"{scope!r} is not a permission")
            if scope != permissions.EVERYTHING and not caller.may(scope):
                raise Forbidden("Insufficient permissions")
        if len(self._identities.list_api_keys(caller.user_id, limit=MAX_API_KEYS)) >= MAX_API_KEYS:
            raise ValidationFailed.of("name", f"an account has at most {MAX_API_KEYS} API keys")
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=ApiKeyId(new_id()),
            user_id=caller.user_id,
            name=name,
            prefix=secret[:_PREFIX_CHARS],
            hash=hash_api_key(secret),
            scopes=scopes,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
        )
        self._identities.create_api_key(key, request_token=request_token)
        return NewApiKey(key=key, secret=secret)

    def list_api_keys(self, caller: Caller) -> Sequence[ApiKey]:
        """List the caller's keys that were not revoked, newest first."""
        found = self._identities.list_api_keys(caller.user_id, limit=MAX_API_KEYS)
        return [key for key in found if key.revoked_at is None]

    def revoke_api_key(self, caller: Caller, key_id: str) -> None:
        """Make a key useless; in other processes within a minute.

        Raises:
            Forbidden: the caller is a key itself.
            NotFound: no such key of the caller.
        """
        _only_in_person(caller)
        key = self._identities.get_api_key(caller.user_id, ApiKeyId(key_id)) if is_id(key_id) else None
        if key is None or key.revoked_at is not None:
            raise NotFound(f"API key {key_id} not found")
        self._identities.revoke_api_key(key, now=self._clock.now())
        self._on_change(caller.user_id)

    def _find(self, email: str) -> User | None:
        try:
            return self._identities.find_by_email(normalise_email(email))
        except ValidationFailed:
            return None

    def _find_refresh_token(self, refresh_token: str) -> RefreshToken | None:
        if len(refresh_token) > _MAX_TOKEN_CHARS:
            return None
        return self._identities.find_refresh_token(_sha256(refresh_token))

    def _tokens(self, user_id: UserId, refresh_token: str, now: datetime) -> Tokens:
        return Tokens(
            access_token=tokens.issue(user_id, ring=self._key_ring(), now=now),
            refresh_token=refresh_token,
            expires_in_s=ACCESS_TOKEN_TTL // timedelta(seconds=1),
        )


def normalise_email(email: str) -> str:
    """Return the one spelling under which an address is stored: Unicode NFC, lower case, without spaces around.

    Raises:
        ValidationFailed: not an address, or longer than 255 characters.
    """
    from email_validator import EmailNotValidError, validate_email  # local: only logins need it

    try:
        found = validate_email(email.strip(), check_deliverability=False).normalized.lower()
    except EmailNotValidError as exc:
        raise ValidationFailed.of("email", str(exc)) from None
    if len(found) > 255:
        raise ValidationFailed.of("email", "has more than 255 characters")
    return found


def _new_refresh_token(user_id: UserId, *, session_id: str, now: datetime) -> tuple[str, RefreshToken]:
    secret = secrets.token_urlsafe(32)
    return secret, RefreshToken(
        hash=_sha256(secret), user_id=user_id, session_id=session_id, expires_at=now + REFRESH_TOKEN_TTL, used=False
    )


def _only_in_person(caller: Caller) -> None:
    if caller.method == "api_key":
        raise Forbidden("API keys are managed with a token, not with a key")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
