"""Proof that the owner of an account is there now, before what a token alone must not do: deleting, adding a login.

Whoever stole a session must not guess the password with it: an attempt takes from the account's bucket before the
password is verified, and a right one is given that back (docs/adr/0013-rate-limits.md).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from karma.core.errors import Forbidden, ValidationFailed
from karma.core.ids import UserId
from karma.core.ratelimit import Buckets
from karma.identity.domain import WrongPassword
from karma.identity.limits import PASSWORD, refused

if TYPE_CHECKING:  # the cascade of deletions goes without argon2
    from karma.identity.passwords import Passwords

RECENT_LOGIN = timedelta(minutes=10)
"""How old the newest login of an account without a password may be."""


def confirm_password(
    user_id: UserId, password_hash: str | None, given: str, *, passwords: Passwords, buckets: Buckets, now: datetime
) -> None:
    """Ask for the password of an account whose session asks.

    Raises:
        WrongPassword: it is another one, or there is none.
        RateLimited: too many were wrong.
    """
    decision = buckets.take(PASSWORD, user_id, now=now)
    if not decision.allowed:
        raise refused(decision)
    if password_hash is None or not passwords.verify(password_hash, given):
        raise WrongPassword
    buckets.give_back(PASSWORD, user_id, now=now)


def confirm_presence(
    user_id: UserId,
    *,
    password_hash: str | None,
    given: str | None,
    passwords: Passwords,
    buckets: Buckets,
    newest_login: Callable[[], datetime | None],
    now: datetime,
) -> None:
    """Ask for the password, or for a recent login where there is none.

    Raises:
        ValidationFailed: the password is missing.
        Forbidden: it is wrong (WRONG_PASSWORD), or the newest login is old.
        RateLimited: too many were wrong.
    """
    if password_hash is not None:
        if given is None:
            raise ValidationFailed.of("current_password", "is required")
        confirm_password(user_id, password_hash, given, passwords=passwords, buckets=buckets, now=now)
        return
    newest = newest_login()
    if newest is None or now - newest > RECENT_LOGIN:
        minutes = RECENT_LOGIN // timedelta(minutes=1)
        raise Forbidden(f"Log in again: the account has no password, so a login within {minutes} minutes is needed")
