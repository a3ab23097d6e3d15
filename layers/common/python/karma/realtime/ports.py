"""Ports of the live channel; second implementations are in tests/fakes/realtime.py and tests/fakes/live.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from karma.core.ids import UserId
from karma.core.live import Channel
from karma.identity.domain import User
from karma.realtime.domain import Connection, Head, Inbox, Ticket


class Tickets(Protocol):
    """A store of tickets, connections and what they subscribe to; repository.py documents each call."""

    def put_ticket(self, ticket: Ticket, *, now: datetime) -> None: ...  # noqa: D102
    def get_ticket(self, ticket_hash: str) -> Ticket | None: ...  # noqa: D102
    def connect(self, ticket: Ticket, connection: Connection) -> bool: ...  # noqa: D102
    def connect_stream(self, connection: Connection, *, kept_until: datetime) -> None: ...  # noqa: D102
    def get_connection(self, connection_id: str) -> Connection | None: ...  # noqa: D102
    def connections_of(self, user_id: UserId) -> list[Connection]: ...  # noqa: D102
    def is_open(self, connection: Connection, *, now: datetime) -> bool: ...  # noqa: D102
    def channels(self, connection_id: str) -> list[Channel]: ...  # noqa: D102
    def subscribe(self, connection: Connection, channel: Channel, *, now: datetime) -> None: ...  # noqa: D102
    def unsubscribe(self, connection_id: str, channel: Channel) -> None: ...  # noqa: D102
    def disconnect(self, connection_id: str) -> None: ...  # noqa: D102


class Channels(Protocol):
    """A store of who listens to channels, and of the numbers of counted ones."""

    def begin_counting(self, channel: Channel, *, now: datetime) -> None:
        """Number a counted channel's messages for a day from now; a channel that is numbered keeps its number."""
        ...

    def head(self, channel: Channel) -> Head | None:
        """Read the number of a counted channel, strongly consistent; None: nobody has listened for a day."""
        ...

    def advance(self, channel: Channel, count: int) -> Head | None:
        """Number `count` further messages, and return the last one's number; None: nobody has listened for a day."""
        ...

    def listeners(self, channel: Channel) -> Iterator[Sequence[str]]:
        """Yield the connections that listen to a channel, page by page, strongly consistent."""
        ...

    def still_listening(self, channel: Channel, connection_ids: Sequence[str]) -> set[str]:
        """Return those of some connections that listen to a channel, strongly consistent."""
        ...

    def note_missed(self, connection_id: str) -> None:
        """Note that a connection did not take a message, of which its next `pong` tells; a closed one is left alone."""
        ...


class Inboxes(Protocol):
    """A store of the messages of streams, from which their responses take them."""

    def take_over(self, connection_id: str, reader: str, *, kept_until: datetime) -> Inbox | None:
        """Make a response the one that reads an inbox, and keep that until then; None: the connection is over."""
        ...

    def read(self, connection_id: str) -> Inbox | None:
        """Read an inbox, strongly consistent; None: the connection is over."""
        ...

    def add(self, connection_id: str, bodies: Sequence[str], *, now: datetime) -> Delivered:
        """Put messages behind those that are there, in one write.

        SENT; GONE: the connection is over, or its client did not come back in time; BUSY: there is no room for all of
        them, which the inbox counts.
        """
        ...

    def drop(self, connection_id: str, inbox: Inbox, *, number: int) -> None:
        """Delete the messages up to one, or the first of very many; nothing happens when that was done meanwhile."""
        ...


class Sockets(Protocol):
    """The port of closing connections: karma.integrations.sockets.Sockets."""

    def close(self, connection_id: str) -> None: ...  # noqa: D102


class Delivered(StrEnum):
    """Outcome of one message to one connection."""

    SENT = "sent"
    GONE = "gone"
    """The connection is closed; the message may have arrived all the same."""
    TOO_LARGE = "too_large"
    BUSY = "busy"
    """It was refused several times: its client does not take what it has already."""
    UNREACHED = "unreached"
    """Nobody answered in time; it may have arrived."""
    REFUSED = "refused"
    """We may not push: a mistake of ours."""


class Pushes(Protocol):
    """The port of sending: karma.integrations.pushes.PushClient."""

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        """Send each message to the connection beside it, many at once, and say what became of each, in their order."""
        ...


class PushQueue(Protocol):
    """The queue of push jobs: karma.integrations.sqs.SqsQueue."""

    def send_many(self, bodies: list[str]) -> None: ...  # noqa: D102


class Accounts(Protocol):
    """Reads accounts: karma.identity.accounts.repository.users.UserRepository."""

    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
