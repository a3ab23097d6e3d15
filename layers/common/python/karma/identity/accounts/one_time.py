"""One-time tokens: what a link in a mail proves. 256 random bits, stored as SHA-256, spent in the write they allow."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.errors import Gone
from karma.core.ids import UserId

_MAX_CHARS = 256


class Purpose(StrEnum):
    """What a token is good for."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105  a name
    CHANGE_EMAIL = "change_email"


TTL: Mapping[Purpose, timedelta] = {
    Purpose.VERIFY_EMAIL: timedelta(hours=48),
    Purpose.RESET_PASSWORD: timedelta(hours=1),
    Purpose.CHANGE_EMAIL: timedelta(hours=48),
}
"""From the moment a mail is sent."""


@dataclass(frozen=True, kw_only=True)
class OneTimeToken:
    """A token as it is stored: without its secret."""

    hash: str
    purpose: Purpose
    user_id: UserId
    email: str
    """Normalised address that the mail went to, which whoever has the token can read."""
    asked_at: datetime
    """When the mail was asked for; tokens asked for before all sessions were ended change nothing any more."""
    expires_at: datetime
    used: bool = False

    def usable(self, purpose: Purpose, at: datetime) -> bool:
        """Tell whether it is good for this, now."""
        return self.purpose is purpose and not self.used and at < self.expires_at


def issue(
    purpose: Purpose, *, user_id: UserId, email: str, asked_at: datetime, now: datetime
) -> tuple[str, OneTimeToken]:
    """Make a token; the text is for the mail alone."""
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
    """SHA-256 as stored: nothing slower is needed for 256 random bits. Texts that are no tokens have one too."""
    return hashlib.sha256(text[:_MAX_CHARS].encode(errors="surrogatepass")).hexdigest()


def spent() -> Gone:
    """Make the one answer to every token that is not usable: unknown, used, expired or overtaken."""
    return Gone("This link is no longer valid; ask for a new one")
