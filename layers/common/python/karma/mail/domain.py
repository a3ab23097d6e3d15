"""Mails that the backend sends: kinds, states, recipients. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.ids import UserId, new_id
from karma.core.records import Record

DUE_AFTER = timedelta(minutes=2)
"""Time after which a mail whose message was not handled is enqueued again."""
SEND_WITHIN = timedelta(hours=24)
"""Time after which a mail that could not be sent is dropped."""


class MailKind(StrEnum):
    """Kind of a mail; each has its texts in texts.py."""

    VERIFY_EMAIL = "verify_email"
    """To a new account: a link that proves the address."""
    RESET_PASSWORD = "reset_password"  # noqa: S105  a name
    """To the address for which somebody asked to reset a password, if it has an account: a link that sets a new one."""
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  a name
    CONFIRM_NEW_EMAIL = "confirm_new_email"
    """To an address that an account wants to move to: a link that moves it."""
    EMAIL_CHANGE_ASKED = "email_change_asked"
    """To the current address of an account whose owner asked to change it."""
    EMAIL_CHANGED = "email_changed"
    """To the former address of an account."""
    API_KEY_CREATED = "api_key_created"
    PROJECT_INVITATION = "project_invitation"
    """To somebody who is invited to a project, with an account or without; names neither project nor inviter."""
    DEVICE_OFFERED = "device_offered"
    """To somebody who is offered a device, with an account or without; names neither device nor giver."""
    ALREADY_REGISTERED = "already_registered"
    """In place of `VERIFY_EMAIL`, when the address has an account: a link that sets a password, for its owner alone."""
    ALARM_RAISED = "alarm_raised"
    """To an account whose rule asks for mails; names neither rule nor device."""
    ALARM_CLEARED = "alarm_cleared"
    EMAIL_TAKEN = "email_taken"
    """In place of `CONFIRM_NEW_EMAIL`, when the address is another account's: only its owner learns of it."""


class MailState(StrEnum):
    """State of a mail; all but `pending` are final."""

    PENDING = "pending"
    SENT = "sent"
    NOT_NEEDED = "not_needed"
    """No account has the address, or it was verified meanwhile: the mail's item is deleted."""
    REFUSED = "refused"
    """The provider accepts no mail for this address."""
    TOO_LATE = "too_late"
    TOO_MANY = "too_many"
    """As many mails as a day may have were sent to addresses that nobody has proven, as this one's is."""


class Mail(Record, kw_only=True):
    """A mail in the outbox: a reference to its recipient, without text and without secrets."""

    id: str = field(default_factory=new_id)
    kind: MailKind
    user_id: UserId | None
    """Account that it concerns; None: the one that has the address behind `address_hash`, if any."""
    address_hash: str | None = None
    """SHA-256 of a normalised address, for mails that an unauthenticated caller caused."""
    to: str | None = None
    """Address, when it is not the account's own at the time of sending."""
    created_at: datetime
    state: MailState = MailState.PENDING


class Addressed(Record, kw_only=True):
    """A mail whose recipient is known."""

    kind: MailKind
    to: str
    proven: bool
    """True: the account has shown that it reads mail to this address."""
    name: str | None
    """Name for the greeting; None: the address is not verified, and the name may be somebody else's choice."""
    locale: str
    """`en` or `zh`."""
    token: str | None = None
    """One-time secret of the link; None: the mail has no link."""


class Letter(Record, kw_only=True):
    """Subject and bodies of a mail, as the provider gets them."""

    subject: str
    text: str
    html: str
