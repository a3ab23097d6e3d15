"""Mail that the backend writes: what it is about and whom it is for. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.ids import UserId, new_id

DUE_AFTER = timedelta(minutes=2)
"""How long a mail may wait for its first message to be handled before it is enqueued again."""
SEND_WITHIN = timedelta(hours=24)
"""A mail that could not be sent for so long is dropped: nobody waits for it any more."""


class MailKind(StrEnum):
    """What a mail is about; each has its texts in texts.py."""

    VERIFY_EMAIL = "verify_email"
    """To a new account: a link that proves the address."""
    RESET_PASSWORD = "reset_password"  # noqa: S105  a name
    """To whoever said that they forgot their password, if the address has an account: a link that sets a new one."""
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  a name
    CONFIRM_NEW_EMAIL = "confirm_new_email"
    """To an address that an account wants to move to: a link that moves it."""
    EMAIL_CHANGE_ASKED = "email_change_asked"
    """To the address that an account would leave."""
    EMAIL_CHANGED = "email_changed"
    """To the address that an account has left."""
    API_KEY_CREATED = "api_key_created"
    PROJECT_INVITATION = "project_invitation"
    """To somebody who is asked to join a project, with an account or without: that they were, and nothing else."""
    ALREADY_REGISTERED = "already_registered"
    """In place of `VERIFY_EMAIL`, when the address has an account: a link that sets a password, for its owner alone."""
    EMAIL_TAKEN = "email_taken"
    """In place of `CONFIRM_NEW_EMAIL`, when the address is another account's: nobody is told so but its owner."""


class MailState(StrEnum):
    """How far a mail has come; all but `pending` are final."""

    PENDING = "pending"
    SENT = "sent"
    NOT_NEEDED = "not_needed"
    """Nobody has the address, or it was proven meanwhile: nothing is kept of it."""
    REFUSED = "refused"
    """The provider takes no mail for this address."""
    TOO_LATE = "too_late"


@dataclass(frozen=True, kw_only=True)
class Mail:
    """A mail in the outbox: a reference to a person, without text and without secrets."""

    id: str = field(default_factory=new_id)
    kind: MailKind
    user_id: UserId | None
    """Whose account it is about; None: whoever has the address behind `address_hash`."""
    address_hash: str | None = None
    """SHA-256 of a normalised address, for those who have not proven who they are."""
    to: str | None = None
    """Address, when it is not the account's own at the time of sending."""
    created_at: datetime
    state: MailState = MailState.PENDING


@dataclass(frozen=True, kw_only=True)
class Addressed:
    """A mail whose recipient is known."""

    kind: MailKind
    to: str
    name: str | None
    """Of whom it greets; None: nobody has proven the address, so what whoever gave it calls themselves stays out."""
    locale: str
    """`en` or `zh`."""
    token: str | None = None
    """One-time secret of the link."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What a provider sends."""

    subject: str
    text: str
    html: str
