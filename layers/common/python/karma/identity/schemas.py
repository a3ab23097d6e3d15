"""Bodies of the identity routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from karma.core.schemas import HTTPS_URL, Body, Data, Moment, Version
from karma.identity.domain import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Locale, Role
from karma.identity.oauth.domain import ProviderName
from karma.identity.passwords.spelling import MAX_SPELLED_CHARS, spelled

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Email = Annotated[str, StringConstraints(min_length=3, max_length=320)]


def _measured(password: str) -> str:
    """Count the characters of a new password in its one spelling: how a keyboard composes letters decides nothing."""
    if not MIN_PASSWORD_CHARS <= len(spelled(password)) <= MAX_PASSWORD_CHARS:
        raise ValueError(f"has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters, each counted as composed (NFC)")
    return password


Password = Annotated[
    str, StringConstraints(min_length=MIN_PASSWORD_CHARS, max_length=MAX_SPELLED_CHARS), AfterValidator(_measured)
]
GivenPassword = Annotated[str, StringConstraints(max_length=MAX_SPELLED_CHARS)]
"""A password to be compared, in any spelling."""
Avatar = Annotated[str, StringConstraints(max_length=2048, pattern=rf"^({HTTPS_URL})?$")]
OpaqueToken = Annotated[str, StringConstraints(min_length=1, max_length=256)]

Scopes = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=50)]


class Register(Body):
    """A new account."""

    email: Email
    password: Password
    name: Name
    locale: Locale = Locale.EN
    """Language of our mails."""


class OneTime(Body):
    """The token of a link."""

    token: OpaqueToken


class ForgotPassword(Body):
    """Whose password is forgotten."""

    email: Email = Field(examples=["ada@example.com"])


class ResetPassword(OneTime):
    """A new password, and the token of a link that allows it."""

    password: Password


class ChangePassword(Body):
    """The password as it is and as it shall be."""

    current_password: Annotated[GivenPassword, StringConstraints(min_length=1)]
    password: Password


class PatchProfile(Body):
    """What a person changes about themselves; what is absent stays."""

    name: Name | None = None
    avatar: Avatar | None = None
    """An https URL; empty removes it."""
    locale: Locale | None = None
    email: Email | None = None
    """Needs `current_password`; takes effect when the new address is confirmed."""
    current_password: GivenPassword = ""
    version: Version | None = None
    """Of the account that was read; `If-Match` goes before it."""


class LogIn(Body):
    """Address and password."""

    email: Annotated[str, StringConstraints(min_length=1, max_length=320)]
    password: Annotated[GivenPassword, StringConstraints(min_length=1)]


class TradeLoginCode(Body):
    """What a login through a provider brought back."""

    code: OpaqueToken = Field(examples=["hkT2Zr6tB0cVnJw3sYp8qLx5uEa9dGf1mKi4oRb7CzQ"])


class BeginLink(Body):
    """Begins to link a provider to the account."""

    current_password: GivenPassword | None = Field(default=None, examples=["correct horse battery"])
    """Asked of accounts that have a password; others need a login of this session within ten minutes."""
    redirect: Annotated[str, StringConstraints(max_length=2000)] | None = None
    """Page of a frontend, without a fragment, where it ends; by default the front page."""


class LinkBegunData(Data):
    """Where the browser goes."""

    authorization_url: str


class LinkOut(Data):
    """A provider that opens the account."""

    provider: ProviderName
    linked_at: datetime


class LinkListData(Data):
    """What opens the account."""

    links: list[LinkOut]
    total: int
    has_password: bool


class Refresh(Body):
    """A refresh token, to be traded or ended."""

    refresh_token: OpaqueToken


class CreateApiKey(Body):
    """A new API key."""

    name: Name
    scopes: Scopes = Field(default_factory=lambda: ["*"])
    """Permission names; `*` is everything that the owner may do."""
    expires_at: Moment | None = None
    """By default 90 days from now; at most 366."""
    current_password: GivenPassword | None = None
    """Needed unless the caller logged in within the last ten minutes."""


class LogOutEverywhere(Body):
    """What else ends with the sessions."""

    api_keys: StrictBool = False
    """Whether every API key ends as well."""


class DeleteAccount(Body):
    """Confirms that an account shall be deleted."""

    current_password: GivenPassword | None = Field(default=None, examples=["correct horse battery"])
    """Asked of accounts that have a password; others need a login of this session within ten minutes."""


class DeletionOut(Data):
    """An account that is deleted."""

    user_id: str
    requested_at: datetime


class DeletionData(Data):
    """What becomes of the account."""

    deletion: DeletionOut


class UserOut(Data):
    """A person, without the password."""

    id: str
    email: str
    name: str
    avatar: str | None
    role: Role
    locale: Locale
    email_verified: bool
    created_at: datetime
    updated_at: datetime


class UserData(Data):
    """One person."""

    user: UserOut


class AcceptedData(Data):
    """What was asked for is done later, or was not needed."""

    accepted: bool


class TokensOut(Data):
    """A pair of tokens."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int
    """Seconds until the access token expires."""


class LoginData(TokensOut):
    """A pair of tokens and whose they are."""

    user: UserOut


class ApiKeyOut(Data):
    """A key as it is listed."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """Noted once an hour."""


class ApiKeyData(Data):
    """A key that was just made."""

    api_key: ApiKeyOut
    key: str
    """The secret, shown this once."""


class ApiKeyListData(Data):
    """A person's keys."""

    api_keys: list[ApiKeyOut]
    total: int


class ChangeUser(Body):
    """What an administrator changes about an account; what is left out stays."""

    role: Annotated[Role | None, Field(examples=["viewer"])] = None
    disabled: Annotated[StrictBool | None, Field(examples=[True])] = None
    version: Version | None = None


class ManagedUserOut(UserOut):
    """A person, as administrators see them."""

    disabled: bool
    disabled_at: datetime | None
    version: int


class ManagedUserData(Data):
    """One account."""

    user: ManagedUserOut


class ManagedUserListData(Data):
    """Some accounts."""

    users: list[ManagedUserOut]
    total: int
    """Counted up to 1,000."""
    total_capped: bool
    limit: int
    next_cursor: str | None
