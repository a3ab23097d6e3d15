"""Ports of mail; outbox and provider have second implementations in tests/fakes/mail.py."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.errors import Upstream
from karma.mail.domain import Addressed, Letter, Mail, MailState


class MailUnavailable(Upstream):
    """The provider did not accept a mail; it may be sent again."""

    status = 503
    code = "MAIL_UNAVAILABLE"
    retry_after_s = 2


class MailRefused(Exception):
    """The provider will never accept a mail for this address."""


class DueMail(NamedTuple):
    """A pending mail whose due time has passed."""

    mail_id: str
    attempts: int


class Outbox(Protocol):
    """A store of mails."""

    def add(self, mail: Mail) -> None:
        """Store a mail that is not part of another transaction."""
        ...

    def get(self, mail_id: str) -> Mail | None:
        """Read a mail, strongly consistent."""
        ...

    def close(self, mail: Mail, state: MailState, *, now: datetime) -> None:
        """Give a pending mail its final state and delete its address; of one that was not needed, delete the item."""
        ...

    def due(self, now: datetime, *, limit: int) -> list[DueMail]:
        """List pending mails whose due time has passed, oldest first."""
        ...

    def postpone(self, mail_id: str, *, until: datetime) -> bool:
        """Move the due time of a pending mail and count the attempt; False: the mail has a final state."""
        ...


class Queue(Protocol):
    """The queue of mail ids."""

    def send(self, body: str) -> None:
        """Enqueue one body."""
        ...

    def send_many(self, bodies: list[str]) -> None:
        """Enqueue any number of bodies."""
        ...


class Recipients(Protocol):
    """Finds the addresses of accounts, and makes secrets of links."""

    def address(self, mail: Mail, *, now: datetime) -> Addressed | None:
        """Find the recipient and make the link's secret; None when the mail has no recipient any more."""
        ...


class Unproven(Protocol):
    """The number of mails that may go to addresses which nobody has proven."""

    def take(self, *, now: datetime) -> bool:
        """Count one mail; False: there may be no more now."""
        ...

    def give_back(self, *, now: datetime) -> None:
        """Count one mail less."""
        ...


class Sender(Protocol):
    """A mail provider."""

    def send(self, letter: Letter, *, to: str) -> None:
        """Send a letter.

        Raises:
            MailUnavailable: the provider did not accept the letter, or did not answer.
            MailRefused: the provider will never accept mail for this address.
        """
        ...
