"""What the services of mail are given; the outbox and the provider have twins in tests/fakes/mail.py."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.errors import Upstream
from karma.mail.domain import Addressed, Letter, Mail, MailState


class MailUnavailable(Upstream):
    """The provider did not take a mail; it may be sent again."""

    status = 503
    code = "MAIL_UNAVAILABLE"
    retry_after_s = 2


class MailRefused(Exception):
    """The provider will never take a mail for this address."""


class Due(NamedTuple):
    """A pending mail whose time has come."""

    mail_id: str
    attempts: int


class Outbox(Protocol):
    """Where mails wait."""

    def add(self, mail: Mail) -> None:
        """Store a mail that nothing else is written with."""
        ...

    def get(self, mail_id: str) -> Mail | None:
        """Read a mail, strongly consistent."""
        ...

    def close(self, mail: Mail, state: MailState, *, now: datetime) -> None:
        """Give a pending mail its final state and forget its address; one that was not needed is forgotten whole."""
        ...

    def due(self, now: datetime, *, limit: int) -> list[Due]:
        """List pending mails whose due time has passed, oldest first."""
        ...

    def postpone(self, mail_id: str, *, until: datetime) -> bool:
        """Move the due time of a pending mail and count the attempt; False when it is closed."""
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
    """Who knows people and their secrets."""

    def address(self, mail: Mail, *, now: datetime) -> Addressed | None:
        """Find the recipient and make the link's secret; None when the mail has no recipient any more."""
        ...


class Sender(Protocol):
    """The provider."""

    def send(self, letter: Letter, *, to: str) -> None:
        """Hand over a letter.

        Raises:
            MailUnavailable: not known to be taken.
            MailRefused: it never will be.
        """
        ...
