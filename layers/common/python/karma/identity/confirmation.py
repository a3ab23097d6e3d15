"""Proof that the owner of an account is there now, before what a token alone must not do: deleting, adding a login."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from karma.core.errors import Forbidden, ValidationFailed
from karma.identity.domain import WrongPassword

if TYPE_CHECKING:  # the cascade of deletions goes without argon2
    from karma.identity.passwords import Passwords

RECENT_LOGIN = timedelta(minutes=10)
"""How old the newest login of an account without a password may be."""


def confirm_presence(
    *,
    password_hash: str | None,
    given: str | None,
    passwords: Passwords,
    newest_login: Callable[[], datetime | None],
    now: datetime,
) -> None:
    """Ask for the password, or for a recent login where there is none.

    Raises:
        ValidationFailed: the password is missing.
        Forbidden: it is wrong (WRONG_PASSWORD), or the newest login is old.
    """
    if password_hash is not None:
        if given is None:
            raise ValidationFailed.of("current_password", "is required")
        if not passwords.verify(password_hash, given):
            raise WrongPassword
        return
    newest = newest_login()
    if newest is None or now - newest > RECENT_LOGIN:
        minutes = RECENT_LOGIN // timedelta(minutes=1)
        raise Forbidden(f"Log in again: the account has no password, so a login within {minutes} minutes is needed")
