"""Bodies of the routes of accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StrictBool, StringConstraints

from karma.core.errors import ValidationFailed
from karma.core.schemas import HTTPS_URL, Body, Version
from karma.identity.domain import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Locale, Role
from karma.identity.passwords.policy import require_acceptable
from karma.identity.passwords.spelling import MAX_SPELLED_CHARS, spelled
from karma.identity.schemas import GivenPassword, MailableEmail, Name, Password

Avatar = Annotated[str, StringConstraints(max_length=2048, pattern=rf"^({HTTPS_URL})?$")]
_MAX_KNOWN_CHARS = 320
"""Characters of the longest address; what is longer is refused, and not looked for in a password."""


class Register(Body):
    """A new account."""

    email: MailableEmail
    password: Password
    name: Name
    locale: Locale = Locale.EN
    """Language of our mails."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return that the password is easy to guess, by itself or for who knows name and address."""
        password, known = given.get("password"), [given.get("name"), given.get("email")]
        # Composing takes time by the square of the marks on one letter, and the length was not checked yet.
        if not isinstance(password, str) or len(password) > MAX_SPELLED_CHARS:
            return ()
        if not MIN_PASSWORD_CHARS <= len(spelled(password)) <= MAX_PASSWORD_CHARS:
            return ()
        try:
            require_acceptable(
                password, of=[text for text in known if isinstance(text, str) and len(text) <= _MAX_KNOWN_CHARS]
            )
        except ValidationFailed as exc:
            return [("password", exc.first)]
        return ()


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

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return that something must be changed."""
        is_change = given.get("role") is not None or given.get("disabled") is not None
        return () if is_change else [("role", "give a role, disabled, or both")]
