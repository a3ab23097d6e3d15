"""One-time tokens of links in mails: 256 random bits, stored as SHA-256, used up in the write that they allow."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.errors import Gone
from karma.core.ids import UserId
from karma.core.records import Record

_MAX_CHARS = 256


class Purpose(StrEnum):
    """Action that a token allows."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105  a name
    CHANGE_EMAIL = "change_email"


TTL: Mapping[Purpose, timedelta] = {
    Purpose.VERIFY_EMAIL: timedelta(hours=48),
    Purpose.RESET_PASSWORD: timedelta(hours=1),
    Purpose.CHANGE_EMAIL: timedelta(hours=48),
}
"""Lifetime of a token, from the moment its mail is sent."""


class OneTimeToken(Record, kw_only=True):
    """A token as stored: without its secret."""

    hash: str
    purpose: Purpose
    user_id: UserId
    email: str
    """Normalised address that the mail was sent to."""
    asked_at: datetime
    """Moment at which the mail was asked for; a token from before all sessions were ended is void."""
    expires_at: datetime
    used: bool = False

    def usable(self, purpose: Purpose, at: datetime) -> bool:
        """Tell whether it allows this action now: it has this purpose, is unused and has not expired."""
        return self.purpose is purpose and not self.used and at < self.expires_at


def issue(
    purpose: Purpose, *, user_id: UserId, email: str, asked_at: datetime, now: datetime
) -> tuple[str, OneTimeToken]:
    """Return a new token's secret, which is only for the mail, and the token as stored."""
    text = secrets.token_urlsafe(32)
    return text, OneTimeToken(
        hash=digest(text),
        purpose=purpose,
        user_id=user_id,
        email=email,
        asked_at=asked_at,
        expires_at=now + TTL[purpose],
    )


def digest(text: str) -> str:
    """Return the SHA-256 under which a token is stored; any text has one."""
    return hashlib.sha256(text[:_MAX_CHARS].encode(errors="surrogatepass")).hexdigest()


def spent() -> Gone:
    """Return the one error for every token that is not usable: unknown, used, expired or void."""
    return Gone("This link is no longer valid; ask for a new one")
