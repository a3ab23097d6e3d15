"""Proof that the owner of an account is there now, before what a token alone must not do.

That is: deleting the account, adding a login, making an API key.

Whoever stole a session must not guess the password with it: an attempt takes from the account's bucket before the
password is verified, and a right one is given that back (docs/adr/0013-rate-limits.md).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from karma.core.errors import Forbidden, ValidationFailed
from karma.core.ids import UserId
from karma.core.ratelimit import Buckets
from karma.identity.domain import Caller, User, WrongPassword
from karma.identity.limits import PASSWORD, refused

if TYPE_CHECKING:  # the cascade of deletions goes without argon2
    from karma.identity.passwords.hashes import Passwords

RECENT_LOGIN = timedelta(minutes=10)
"""How old the login of the session may be that stands for a proof."""


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


def require_going_on(caller: Caller, account: User) -> None:
    """Refuse a caller whose session ended with all others of an account that was just read, strongly consistent.

    What is known of a caller may be a minute old, and a log-out is not known at all: what outlives a session asks this,
    and has as conditions of its write the version that was read and the session (parent.require_session).

    Raises:
        SessionOver: it did.
    """
    if caller.credential is not None:
        caller.credential.require_outlived_by(disabled_at=account.disabled_at, sessions_from=account.sessions_from)


class ProofMissing(Forbidden):
    """Whoever has the session has not shown lately that they are its owner: log in again, or give the password."""

    code = "FRESH_PROOF_REQUIRED"


def confirm_presence(
    caller: Caller,
    *,
    password_hash: str | None,
    given: str | None,
    passwords: Passwords,
    buckets: Buckets,
    now: datetime,
    login_suffices: bool = False,
) -> None:
    """Ask for the password of the caller's account, or where there is none for a recent login.

    The login is that of the caller's own session: another's, however recent, says nothing about who has this one.
    With `login_suffices` it does where there is a password too, if none is given.

    Raises:
        ValidationFailed: the password is missing.
        WrongPassword: it is another one.
        ProofMissing: the caller's session began longer than ten minutes ago.
        RateLimited: too many were wrong.
    """
    if password_hash is not None and given is not None:
        confirm_password(caller.user_id, password_hash, given, passwords=passwords, buckets=buckets, now=now)
        return
    if password_hash is not None and not login_suffices:
        raise ValidationFailed.of("current_password", "is required")
    logged_in_at = caller.authenticated_at
    if logged_in_at is None or now - logged_in_at > RECENT_LOGIN:
        minutes = RECENT_LOGIN // timedelta(minutes=1)
        what = "give `current_password`, or log in again" if password_hash is not None else "log in again"
        raise ProofMissing(f"This needs a login within the last {minutes} minutes: {what}")
