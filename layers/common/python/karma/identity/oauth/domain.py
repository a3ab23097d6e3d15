"""Login through somebody else's account: what a flow remembers, and what a provider says. Frozen; no I/O.

start      -> Flow is stored, the browser goes to the provider with `state` and keeps a secret in a cookie
callback   -> the Flow is used up; the provider says who it is (Profile); the browser goes back with a LoginCode
exchange   -> the LoginCode is used up; the frontend has tokens

A Flow with `link_to` was begun by somebody who is logged in: its callback makes a Link and gives out no LoginCode.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from karma.core.errors import Conflict, Forbidden, InvalidRequest, NotFound, ValidationFailed
from karma.core.ids import UserId
from karma.identity.domain import Credential

FLOW_TTL = timedelta(minutes=10)
"""How long a person may take at the provider."""
LOGIN_CODE_TTL = timedelta(minutes=1)
"""How long a frontend may take to ask for its tokens."""
MAX_REDIRECT_CHARS = 2000
MAX_CODE_CHARS = 2048
"""Of a provider's code; GitHub's has 20, Google's about 75."""


class ProviderName(StrEnum):
    """Whose accounts open ours."""

    GITHUB = "github"
    GOOGLE = "google"


class InvalidState(InvalidRequest):
    """No such flow: unknown, used, expired, of another provider, or begun in another browser."""

    code = "INVALID_STATE"


class InvalidCode(InvalidRequest):
    """A code that the provider, or we, gave out for nothing, or for something else, or that was used."""

    code = "INVALID_CODE"


class ProviderDenied(Forbidden):
    """The person, or the provider, said no."""

    code = "PROVIDER_DENIED"


class ProviderEmailUnverified(Forbidden):
    """The provider knows no address that it has verified."""

    code = "PROVIDER_EMAIL_UNVERIFIED"


class AccountEmailUnverified(Conflict):
    """An account has the address, but whoever made it never proved that it is theirs."""

    code = "ACCOUNT_EMAIL_UNVERIFIED"


class IdentityTaken(Conflict):
    """The person at the provider opens another account already."""

    code = "IDENTITY_TAKEN"


class LastLogin(Conflict):
    """Without this link nobody could log in to the account."""

    code = "LAST_LOGIN"


class ProviderNotConfigured(NotFound):
    """The stage has no client at this provider: it offers no such login."""

    code = "PROVIDER_NOT_CONFIGURED"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A login that was begun and has not come back."""

    state_hash: str
    provider: ProviderName
    browser_hash: str
    """SHA-256 of the secret in the browser's cookie."""
    code_verifier: str = field(repr=False)
    """PKCE: its SHA-256 went to the provider, which gives the token only to who knows it."""
    nonce: str = field(repr=False)
    """What an id_token must repeat."""
    redirect: str
    """Page of a frontend of ours."""
    link_to: UserId | None = None
    """Who comes back shall open this account; None: whoever comes back logs in."""
    begun_by: Credential | None = None
    """The session that asked for the link, which must not be over when it is made."""
    expires_at: datetime

    @property
    def begun_at(self) -> datetime:
        """When it was begun."""
        return self.expires_at - FLOW_TTL


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Who a provider says it is."""

    provider: ProviderName
    subject: str
    """The provider's own id of the person; an address may change hands, this does not."""
    email: str | None
    """Address that the provider has verified; None: there is none."""
    name: str

    @property
    def subject_hash(self) -> str:
        """The subject as it is stored."""
        return digest(self.subject)


@dataclass(frozen=True, kw_only=True)
class Link:
    """An identity at a provider that opens an account."""

    provider: ProviderName
    subject_hash: str
    linked_at: datetime


@dataclass(frozen=True, kw_only=True)
class LoginCode:
    """What a browser brings back to its frontend in place of tokens: traded once, at once."""

    hash: str
    user_id: UserId
    provider: ProviderName
    expires_at: datetime

    @property
    def begun_at(self) -> datetime:
        """When the provider said who came back."""
        return self.expires_at - LOGIN_CODE_TTL


def digest(secret: str) -> str:
    """SHA-256 as stored; texts that are no Unicode have one too."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def checked_redirect(redirect: str | None, origins: Sequence[str]) -> str:
    """Return where the browser goes in the end: a page of one of the origins, by default the first one's front page.

    An origin that ends in `:*` stands for every port (a front end under development); the first one is a whole one.

    Raises:
        ValidationFailed: any other address, or one that browsers and we might read differently.
    """
    if redirect is None:
        return f"{origins[0]}/"
    plain = redirect.isascii() and redirect.isprintable() and not set(redirect) & set(' \\"<>^`{|}#')
    if plain and len(redirect) <= MAX_REDIRECT_CHARS:
        try:
            parts = urlsplit(redirect)
        except ValueError:  # brackets that hold no address
            parts = urlsplit("")
        origin = f"{parts.scheme}://{parts.netloc}"
        if "*" not in origin and (origin in origins or re.sub(r":[0-9]{1,5}\Z", ":*", origin) in origins):
            return redirect
    raise ValidationFailed.of(
        "redirect",
        f"must be a URL of at most {MAX_REDIRECT_CHARS} characters at {' or '.join(origins)}, without a fragment",
    )


def display_name(name: str | None, fallback: str) -> str:
    """Return a name as accounts have it: 1 to 255 characters that can be shown."""
    for text in (name or "", fallback):
        shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())[:255].strip()
        if shown:
            return shown
    return "?"
