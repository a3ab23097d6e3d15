"""Users, callers, API keys and sessions. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from karma.core.errors import Forbidden, Unauthenticated
from karma.core.ids import ApiKeyId, UserId
from karma.core.records import Record
from karma.identity import permissions

ACCESS_TOKEN_TTL = timedelta(minutes=30)
REFRESH_TOKEN_TTL = timedelta(days=30)
REFRESH_GRACE = timedelta(seconds=10)
"""Time for which a traded refresh token gets the same answer again: for a double click, or a lost first answer."""
NOBODY = UserId("nobody")
"""A user id that no account has: it is no UUID."""
KNOWN_NETWORK_TTL = timedelta(days=30)
"""Time after a login for which its network counts as known for the account."""
API_KEY_TTL = timedelta(days=90)
"""Lifetime of a key that is made without `expires_at`."""
MAX_API_KEY_TTL = timedelta(days=366)
MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 128


class Role(StrEnum):
    """A person's role on the account."""

    ADMIN = "admin"
    USER = "user"
    VIEWER = "viewer"


class Locale(StrEnum):
    """Language of the mails to a person."""

    EN = "en"
    ZH = "zh"


class User(Record, kw_only=True):
    """A person with an account."""

    id: UserId
    email: str
    name: str
    avatar: str | None
    password_hash: str | None
    """argon2id, or bcrypt of an imported account; None: they log in through a provider only."""
    role: Role
    locale: Locale = Locale.EN
    email_verified: bool
    disabled_at: datetime | None = None
    sessions_from: datetime | None = None
    """Moment before which sessions and access tokens have ended; None: none were."""
    api_keys_from: datetime | None = None
    """Moment before which API keys have ended; None: none were."""
    moving_to: str | None = None
    """Address that was named last and waits for its link: a link to any other does not change the account's.

    None: none.
    """
    version: int = field(default=0, compare=False)
    """Version of the stored item; 0: not stored yet."""
    created_at: datetime
    updated_at: datetime

    def require_verified(self) -> None:
        """Check that the address is verified, as making API keys requires.

        Otherwise whoever registers another person's address could keep a key to the account.

        Raises:
            Forbidden: EMAIL_NOT_VERIFIED, the address is not verified.
        """
        _require_verified(self.email_verified)


def _require_verified(verified: bool) -> None:
    if not verified:
        raise Forbidden("Verify your e-mail address first", code="EMAIL_NOT_VERIFIED")


class ProfileChange(Record, kw_only=True):
    """Changes of a profile by its owner; None: the value stays."""

    name: str | None = None
    avatar: str | None = None
    """URL; "": removes it."""
    locale: Locale | None = None
    email: str | None = None
    """Needs `current_password`; takes effect when the new address is confirmed."""
    current_password: str = ""
    version: int | None = None
    """Version of the account that was read; None: any."""


class WrongPassword(Forbidden):
    """The current password, asked for once more, is wrong: 403, since 401 would end the client's session."""

    code = "WRONG_PASSWORD"

    def __init__(self) -> None:
        super().__init__("The current password is wrong")


class SessionOver(Unauthenticated):
    """The session or API key of a request has ended, which the minute-old data of its caller did not show."""

    def __init__(self) -> None:
        super().__init__("The session is over; log in again")


class Credential(Record, kw_only=True):
    """Session or API key that a request was made with."""

    user_id: UserId
    session_id: str | None = None
    """Session of an access token; None: an API key."""
    api_key_id: ApiKeyId | None = None
    began_at: datetime
    """Moment of the session's login, or at which the key was made."""

    def require_outlived_by(self, *, disabled_at: datetime | None, sessions_from: datetime | None) -> None:
        """Check that the account, as it was just read, is in use and did not end this session with all others.

        For writes whose condition is the version that was read; that this session itself was not ended is a further
        condition (transactional.require_session).

        Raises:
            SessionOver: the session has ended, or the account is disabled.
        """
        if disabled_at is not None or (sessions_from is not None and sessions_from > self.began_at):
            raise SessionOver


class Caller(Record, kw_only=True):
    """Sender of a request, with the rights and the credential that it has."""

    user_id: UserId
    role: Role
    method: Literal["jwt", "api_key"]
    scopes: frozenset[str]
    """Scopes of an API key; empty for an access token, which has all permissions of the role."""
    email_verified: bool
    name: str
    avatar: str | None
    locale: Locale = Locale.EN
    credential: Credential | None = None
    """Session or API key of the request; None: a token from before tokens named their session."""

    @property
    def authenticated_at(self) -> datetime | None:
        """Return the moment of the session's login; None: the caller is an API key, or the moment is unknown."""
        shown = self.credential
        return shown.began_at if shown is not None and shown.session_id is not None else None

    def require_person(self) -> None:
        """Check that the caller is no API key: a key that leaks must not give its account away.

        Raises:
            Forbidden: the caller is an API key.
        """
        if self.method == "api_key":
            raise Forbidden("This takes a person's token; an API key cannot do it")

    def require_verified(self) -> None:
        """Check that the caller's address is verified, as whatever costs the operator money by the call requires.

        Otherwise each address that anybody makes up is a free plan of its own.

        Raises:
            Forbidden: EMAIL_NOT_VERIFIED, the address is not verified.
        """
        _require_verified(self.email_verified)

    def may(self, permission: str) -> bool:
        """Tell whether the caller's role and scopes include a permission.

        Raises:
            KeyError: there is no such permission.
        """
        return permissions.allows(self.role, permission, self.scopes if self.method == "api_key" else None)


class ApiKey(Record, kw_only=True):
    """An API key as it is listed: without its secret."""

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
    """To the hour: the first use of each hour is stored. None: never used."""

    def usable(self, at: datetime, *, keys_from: datetime | None) -> bool:
        """Tell whether it is usable at a moment: not revoked, expired or ended by its owner's `api_keys_from`."""
        ended = keys_from is not None and self.created_at <= keys_from
        return self.revoked_at is None and not ended and (self.expires_at is None or at < self.expires_at)


class RefreshToken(Record, kw_only=True):
    """Refresh token of a session: traded once for the next one."""

    hash: str
    user_id: UserId
    session_id: str
    session_started_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    """Moment at which it was traded; None: it was not."""


class Tokens(Record, kw_only=True):
    """Access token and refresh token of a login or a refresh."""

    access_token: str
    refresh_token: str
    expires_in_s: int
