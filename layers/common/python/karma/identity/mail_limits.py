"""The limit of each kind of mail; the limits are in limits.py, which every request imports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from karma.core.observability import count
from karma.core.ratelimit import Buckets, Limit
from karma.identity.limits import INVITATIONS, MAIL_API_KEY, MAIL_CHANGE, MAIL_PASSWORD, MAIL_RESET, MAIL_VERIFY
from karma.mail.domain import Mail, MailKind

MAIL_LIMITS: Mapping[MailKind, Limit] = {
    MailKind.VERIFY_EMAIL: MAIL_VERIFY,
    MailKind.ALREADY_REGISTERED: MAIL_VERIFY,  # in place of the former
    MailKind.RESET_PASSWORD: MAIL_RESET,
    MailKind.PASSWORD_CHANGED: MAIL_PASSWORD,
    MailKind.CONFIRM_NEW_EMAIL: MAIL_CHANGE,
    MailKind.EMAIL_TAKEN: MAIL_CHANGE,  # in place of the former
    MailKind.EMAIL_CHANGE_ASKED: MAIL_CHANGE,
    MailKind.EMAIL_CHANGED: MAIL_CHANGE,  # one at the most for each CONFIRM_NEW_EMAIL, whose link it needs
    MailKind.API_KEY_CREATED: MAIL_API_KEY,
    MailKind.PROJECT_INVITATION: INVITATIONS,
    MailKind.DEVICE_OFFERED: INVITATIONS,
}
"""Limits of each kind of mail, by account or address: all accounts share the number that SES sends in a day."""


def unless_too_many(mail: Mail, key: str, *, buckets: Buckets, now: datetime) -> list[Mail]:
    """Return the mail in a list, or an empty list when `key`, an account or a hash, was sent enough of its kind."""
    limit = MAIL_LIMITS[mail.kind]
    if not buckets.take(limit, key, now=now).allowed:
        count("MailDropped", limit=limit.name)
        return []
    return [mail]
