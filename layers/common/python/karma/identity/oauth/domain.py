"""Login through a provider: flows, profiles, links and login codes. Frozen; no I/O.

start      -> Flow is stored, the browser goes to the provider with `state` and keeps a secret in a cookie
callback   -> the Flow is used up; the provider says who it is (Profile); the browser goes back with a LoginCode
exchange   -> the LoginCode is used up; the frontend has tokens

A Flow with `link_to` was begun by somebody who is logged in: its callback makes a Link and gives out no LoginCode.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from karma.core.errors import Conflict, Forbidden, InvalidRequest, NotFound, ValidationFailed
from karma.core.ids import UserId
from karma.core.records import Record
from karma.identity.domain import Credential

FLOW_TTL = timedelta(minutes=10)
"""Time that a person has at the provider."""
LOGIN_CODE_TTL = timedelta(minutes=1)
"""Time in which a frontend must trade its code for tokens."""
MAX_REDIRECT_CHARS = 2000
MAX_CODE_CHARS = 2048
"""Longest code of a provider in characters; GitHub's has 20, Google's about 75."""


class ProviderName(StrEnum):
    """Provider whose accounts open ours."""

    GITHUB = "github"
    GOOGLE = "google"


class InvalidState(InvalidRequest):
    """The flow is unknown, used, expired, of another provider, or was begun in another browser."""

    code = "INVALID_STATE"


class InvalidCode(InvalidRequest):
    """The provider, or we, did not give out this code, or for another flow, or it was used."""

    code = "INVALID_CODE"


class ProviderDenied(Forbidden):
    """The person or the provider refused the login."""

    code = "PROVIDER_DENIED"


class ProviderEmailUnverified(Forbidden):
    """The provider has no verified address of the person."""

    code = "PROVIDER_EMAIL_UNVERIFIED"


class AccountEmailUnverified(Conflict):
    """An account has the address, but its owner never verified it."""

    code = "ACCOUNT_EMAIL_UNVERIFIED"


class IdentityTaken(Conflict):
    """The identity at the provider is linked to another account."""

    code = "IDENTITY_TAKEN"


class LastLogin(Conflict):
    """The link is the only way to log in to the account, and stays."""

    code = "LAST_LOGIN"


class ProviderNotConfigured(NotFound):
    """The stage has no client at this provider, and so no such login."""

    code = "PROVIDER_NOT_CONFIGURED"


class Flow(Record, kw_only=True):
    """A login that was begun and has not come back."""

    state_hash: str
    provider: ProviderName
    browser_hash: str
    """SHA-256 of the secret in the browser's cookie."""
    code_verifier: str = field(repr=False)
    """Secret of PKCE: its SHA-256 went to the provider, which gives the token only to who knows it."""
    nonce: str = field(repr=False)
    """Value that the id_token must repeat."""
    redirect: str
    """URL of the frontend's page where the browser ends."""
    link_to: UserId | None = None
    """Account that is to be linked; None: the flow is a login."""
    begun_by: Credential | None = None
    """Session that asked for the link, which must not have ended when the link is made; None: the flow is a login."""
    expires_at: datetime

    @property
    def begun_at(self) -> datetime:
        """Return the moment at which it was begun."""
        return self.expires_at - FLOW_TTL


class Profile(Record, kw_only=True):
    """Identity of a person as the provider describes it."""

    provider: ProviderName
    subject: str
    """Provider's own id of the person; an address may change hands, this does not."""
    email: str | None
    """Address that the provider has verified; None: there is none."""
    name: str

    @property
    def subject_hash(self) -> str:
        """Return the SHA-256 under which the subject is stored."""
        return digest(self.subject)


class Link(Record, kw_only=True):
    """An identity at a provider that opens an account."""

    provider: ProviderName
    subject_hash: str
    linked_at: datetime


class LoginCode(Record, kw_only=True):
    """A code that the browser brings to its frontend in place of tokens; traded once, within a minute."""

    hash: str
    user_id: UserId
    provider: ProviderName
    expires_at: datetime

    @property
    def begun_at(self) -> datetime:
        """Return the moment at which the provider named the person."""
        return self.expires_at - LOGIN_CODE_TTL


def digest(secret: str) -> str:
    """Return the SHA-256 under which a secret is stored; texts that are no valid Unicode have one too."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def checked_redirect(redirect: str | None, origins: Sequence[str]) -> str:
    """Return where the browser goes in the end: a page of one of the origins, by default the first one's front page.

    An origin that ends in `:*` stands for every port (a front end under development); the first one is a whole one.

    Raises:
        ValidationFailed: the URL is of no such origin, or browsers and we might read it differently.
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
