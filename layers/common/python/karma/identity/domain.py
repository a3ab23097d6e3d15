"""Who a person is: users, callers, API keys, sessions. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from karma.core.errors import Forbidden, Unauthenticated
from karma.core.ids import ApiKeyId, UserId
from karma.identity import permissions

ACCESS_TOKEN_TTL = timedelta(minutes=30)
REFRESH_TOKEN_TTL = timedelta(days=30)
REFRESH_GRACE = timedelta(seconds=10)
"""How long a traded refresh token gives the same answer again: to a double click, or to who lost the first answer."""
NOBODY = UserId("nobody")
"""No account has this id: it is no UUID."""
KNOWN_NETWORK_TTL = timedelta(days=30)
"""How long after a login its network counts as the account's own."""
API_KEY_TTL = timedelta(days=90)
"""Of a key whose maker names no end."""
MAX_API_KEY_TTL = timedelta(days=366)
MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 128


class Role(StrEnum):
    """A person's role on the account."""

    ADMIN = "admin"
    USER = "user"
    VIEWER = "viewer"


class Locale(StrEnum):
    """The language that we write to a person in."""

    EN = "en"
    ZH = "zh"


@dataclass(frozen=True, kw_only=True)
class User:
    """A person with an account."""

    id: UserId
    email: str
    name: str
    avatar: str | None
    password_hash: str | None
    """None: they log in through a provider only."""
    role: Role
    locale: Locale = Locale.EN
    email_verified: bool
    disabled_at: datetime | None = None
    sessions_from: datetime | None = None
    """Sessions and access tokens that began before are over."""
    api_keys_from: datetime | None = None
    """API keys that were made before are over."""
    moving_to: str | None = None
    """Address that was named last and waits for its link: a link to any other does not move the account."""
    version: int = field(default=0, compare=False)
    """Of the stored item; 0 before it is stored."""
    created_at: datetime
    updated_at: datetime

    def require_verified(self) -> None:
        """Refuse what needs a proven address: API keys.

        Whoever registers another's address must make nothing of it that lasts: its owner is somebody else.

        Raises:
            Forbidden: EMAIL_NOT_VERIFIED.
        """
        if not self.email_verified:
            raise Forbidden("Verify your e-mail address first", code="EMAIL_NOT_VERIFIED")


@dataclass(frozen=True, kw_only=True)
class ProfileChange:
    """What a person changes about themselves; None leaves it."""

    name: str | None = None
    avatar: str | None = None
    """URL; empty removes it."""
    locale: Locale | None = None
    email: str | None = None
    """Needs `current_password`; takes effect when the new address is confirmed."""
    current_password: str = ""
    version: int | None = None
    """Of the account that was read; None is any."""


class WrongPassword(Forbidden):
    """The current password, asked for once more, is wrong: 403, since 401 would end the client's session."""

    code = "WRONG_PASSWORD"

    def __init__(self) -> None:
        super().__init__("The current password is wrong")


class SessionOver(Unauthenticated):
    """The session, or API key, of a request has ended; what is known of a caller may be a minute old."""

    def __init__(self) -> None:
        super().__init__("The session is over; log in again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a caller showed: a token of a session, or an API key. What is made with it may have to end with it."""

    user_id: UserId
    session_id: str | None = None
    """The session of a token."""
    api_key_id: ApiKeyId | None = None
    began_at: datetime
    """When the session began with a login, or the key was made."""

    def require_outlived_by(self, *, disabled_at: datetime | None, sessions_from: datetime | None) -> None:
        """Refuse a session that its account, as it was just read, has ended with all others.

        For writes whose condition is the version that was read; whether this session itself was ended is a condition
        of its own (parent.require_session).

        Raises:
            SessionOver: it has, or the account is disabled.
        """
        if disabled_at is not None or (sessions_from is not None and sessions_from > self.began_at):
            raise SessionOver


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who makes a request, and with what."""

    user_id: UserId
    role: Role
    method: Literal["jwt", "api_key"]
    scopes: frozenset[str]
    """An API key's; empty for a token, which has all that the role has."""
    email_verified: bool
    name: str
    avatar: str | None
    locale: Locale = Locale.EN
    credential: Credential | None = None
    """What they showed; None: a token from before tokens named their session."""

    @property
    def authenticated_at(self) -> datetime | None:
        """When the caller's session began with a login; None: it is none, or not known."""
        shown = self.credential
        return shown.began_at if shown is not None and shown.session_id is not None else None

    def require_person(self) -> None:
        """Refuse API keys where somebody acts on their own account: a key that leaks must not take it along.

        Raises:
            Forbidden: the caller is one.
        """
        if self.method == "api_key":
            raise Forbidden("This takes a person's token; an API key cannot do it")

    def may(self, permission: str) -> bool:
        """Tell whether role and scopes allow it.

        Raises:
            KeyError: no such permission.
        """
        return permissions.allows(self.role, permission, self.scopes if self.method == "api_key" else None)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key of a person's programs, as it is listed: without its secret."""

    id: ApiKeyId
    user_id: UserId
    name: str
    prefix: str
    """First characters of the key, enough to recognise it."""
    hash: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None
    """To the hour: the first use of each hour is noted."""

    def usable(self, at: datetime, *, keys_from: datetime | None) -> bool:
        """Tell whether it still opens anything; `keys_from` is its owner's `api_keys_from`."""
        ended = keys_from is not None and self.created_at <= keys_from
        return self.revoked_at is None and not ended and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, kw_only=True)
class RefreshToken:
    """One link of a session: traded once for the next."""

    hash: str
    user_id: UserId
    session_id: str
    session_started_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    """When it was traded."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a login or a refresh gives."""

    access_token: str
    refresh_token: str
    expires_in_s: int
