"""Fields, and a body, that several parts of identity use; all other bodies are beside their routes' context."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from karma.core.schemas import Body, judged, line
from karma.identity.accounts import emails
from karma.identity.domain import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from karma.identity.passwords.spelling import MAX_SPELLED_CHARS, spelled

Name = Annotated[str, line(255)]
Email = Annotated[str, StringConstraints(min_length=3, max_length=320), judged(emails.normalise)]
MailableEmail = Annotated[str, StringConstraints(min_length=3, max_length=320), judged(emails.mailable)]
"""One that is sent mail."""


def _measured(password: str) -> str:
    """Check the length of a new password in its one spelling, whichever way a keyboard composes letters."""
    if not MIN_PASSWORD_CHARS <= len(spelled(password)) <= MAX_PASSWORD_CHARS:
        raise ValueError(f"has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters, each counted as composed (NFC)")
    return password


Password = Annotated[
    str, StringConstraints(min_length=MIN_PASSWORD_CHARS, max_length=MAX_SPELLED_CHARS), AfterValidator(_measured)
]
GivenPassword = Annotated[str, StringConstraints(max_length=MAX_SPELLED_CHARS)]
"""Password that is compared with a stored one, in any spelling."""
OpaqueToken = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class OneTime(Body):
    """The token of a link."""

    token: OpaqueToken
