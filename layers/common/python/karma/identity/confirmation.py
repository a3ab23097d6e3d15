"""Proof that the owner of an account is present, for actions that a token alone must not allow.

These are: deleting the account, adding a login, making an API key.

So that nobody guesses the password with a stolen session, an attempt takes from the account's bucket before the
password is verified, and a right one puts it back (docs/adr/0013-rate-limits.md).
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
"""Age up to which a session's login counts as proof."""


def confirm_password(
    user_id: UserId, password_hash: str | None, given: str, *, passwords: Passwords, buckets: Buckets, now: datetime
) -> None:
    """Verify the password of an account, counting wrong ones.

    Raises:
        WrongPassword: the password is wrong, or the account has none.
        RateLimited: too many passwords were wrong.
    """
    decision = buckets.take(PASSWORD, user_id, now=now)
    if not decision.allowed:
        raise refused(decision)
    if password_hash is None or not passwords.verify(password_hash, given):
        raise WrongPassword
    buckets.give_back(PASSWORD, user_id, now=now)


def require_going_on(caller: Caller, account: User) -> None:
    """Check that a caller's session did not end with all others of the account, which was read strongly consistent.

    The caller was asked about when the request came in: an action whose effect outlives the session calls this, and its
    write has as conditions the version that was read and the session (transactional.require_session).

    Raises:
        SessionOver: the session has ended, or the account is disabled.
    """
    if caller.credential is not None:
        caller.credential.require_outlived_by(disabled_at=account.disabled_at, sessions_from=account.sessions_from)


class ProofMissing(Forbidden):
    """The request did not prove that the session's owner is present: log in again, or give the password."""

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
    """Verify the password of the caller's account, or a recent login if it has no password.

    Only the login of the caller's own session counts. With `login_suffices` it also counts if the account has a
    password and none is given.

    Raises:
        ValidationFailed: the password is missing.
        WrongPassword: the password is wrong.
        ProofMissing: the caller's session began longer than ten minutes ago.
        RateLimited: too many passwords were wrong.
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
