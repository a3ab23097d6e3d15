"""Bodies of the routes of accounts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StringConstraints

from karma.core.schemas import HTTPS_URL, Body, Version, judged
from karma.identity.domain import Locale, Role
from karma.identity.passwords.policy import require_acceptable
from karma.identity.schemas import GivenPassword, MailableEmail, Name, Password

Avatar = Annotated[str, StringConstraints(max_length=2048, pattern=rf"^({HTTPS_URL})?$")]


class Register(Body):
    """A new account."""

    email: MailableEmail
    password: Annotated[Password, judged(lambda password: require_acceptable(password, of=()))]
    name: Name
    locale: Locale = Locale.EN
    """Language of our mails."""


class PatchProfile(Body):
    """Changes of a profile by its owner; absent fields stay as they are."""

    name: Name | None = None
    avatar: Avatar | None = None
    """An https URL; empty removes it."""
    locale: Locale | None = None
    email: MailableEmail | None = None
    """Needs `current_password`; takes effect when the new address is confirmed."""
    current_password: GivenPassword = ""
    version: Version | None = None
    """Of the account that was read; `If-Match` goes before it."""


class DeleteAccount(Body):
    """Confirms that an account shall be deleted."""

    current_password: GivenPassword | None = Field(default=None, examples=["correct horse battery"])
    """Asked of accounts that have a password; others need a login of this session within ten minutes."""


class ChangeUser(Body):
    """Changes of an account by an administrator; absent fields stay as they are."""

    role: Annotated[Role | None, Field(examples=["viewer"])] = None
    disabled: Annotated[StrictBool | None, Field(examples=[True])] = None
    version: Version | None = None
