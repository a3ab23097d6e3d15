"""Connections of the WebSocket and the channels that they subscribe to. Frozen; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from karma.core.errors import RateLimited
from karma.core.ids import UserId, is_id
from karma.core.live import Channel, ObjectState
from karma.core.records import Record
from karma.identity import permissions
from karma.identity.domain import Credential

TICKET_TTL = timedelta(seconds=60)
CONNECTION_TTL = timedelta(hours=3)
"""Life of a connection's item: API Gateway ends a connection after two hours; the rest is a reserve."""
MAX_OPEN = 200
"""Connections that an account has open at the most, whatever its plan: each is kept by the gateway for up to two hours,
and closed one by one when their sessions end."""
STREAM_TTL = timedelta(hours=2)
"""Life of a stream's connection, over any number of responses."""
MAX_CHANNELS = 50
"""Channels of one connection at the most."""


_RETRY_S = 60


class TooManyConnections(RateLimited):
    """The account has as many connections open as it may."""

    def __init__(self) -> None:
        super().__init__(
            f"An account has at most {MAX_OPEN} connections open; close one, or wait until one ends",
            retry_after_s=_RETRY_S,
            limit="open_connections",
        )


HEAD_TTL = timedelta(days=1)
"""Life of a channel's number behind its last subscription: longer than any connection's."""
MOST_HELD = 200
"""Objects of one channel whose versions a client may name."""


class Rights(Record, kw_only=True):
    """Permissions of the caller who asked for a ticket."""

    role: str
    scopes: frozenset[str] | None = None
    """Scopes of an API key; None: an access token, which has all permissions of the role."""

    def allow(self, permission: str) -> bool:
        """Tell whether they include a permission."""
        return permissions.allows(self.role, permission, self.scopes)


VIEWER = Rights(role="viewer")
"""Rights of what a session has stored without them, as a former release did."""
NO_RIGHTS = Rights(role="viewer", scopes=frozenset())
"""Rights of what an API key has stored without them."""


class Ticket(Record, kw_only=True):
    """Permission to open one connection."""

    hash: str
    user_id: UserId
    credential: Credential | None = None
    """The session or API key that asked for it, and with which it ends; None: the caller used neither."""
    rights: Rights = VIEWER
    expires_at: datetime


class Connection(Record, kw_only=True):
    """An open WebSocket."""

    id: str
    user_id: UserId
    credential: Credential | None = None
    """The session or API key that asked for the ticket, and with which the connection ends; None as for a ticket."""
    rights: Rights = VIEWER
    connected_at: datetime
    missed: int = 0
    """Messages that could not be delivered to it: it was too slow, or did not answer."""


class Head(Record, kw_only=True):
    """Last number of the messages of a counted channel."""

    epoch: str
    """Another one: numbers began again, and nothing can be said of what was missed."""
    seq: int
    """Number of the last message."""


class Held(Record, kw_only=True):
    """State of a channel that a client says it holds."""

    objects: Mapping[str, int]
    """Versions by object; of a log the number of the last piece that it has without a gap."""
    head: Head | None = None
    """None: it has not listened to this channel before, or the channel is not counted."""


NOTHING_HELD = Held(objects={})
ALL_MISSED = Held(objects={}, head=Head(epoch="", seq=0))
"""Of somebody who holds what can no more be told from what they do not: every counted channel has a gap."""


class Subscribed(Record, kw_only=True):
    """A stored subscription, and what was read behind it."""

    channel: Channel
    states: Sequence[ObjectState]
    """Objects of the channel; empty as well when it is not theirs to see."""
    head: Head | None
    """Read before `states`; None: the channel is not counted."""
    missed: int
    """Messages that this connection did not take."""


STREAMED = "sse-"
"""Beginning of the ids of connections that are no sockets, but streams of server-sent events."""


def is_streamed(connection_id: str) -> bool:
    """Tell whether a connection takes its messages from an inbox."""
    return connection_id.startswith(STREAMED)


class Inbox(Record, kw_only=True):
    """Messages of a streamed connection that its client may not have yet."""

    first: int
    """Number of the first message that is kept; from 1."""
    bodies: Sequence[str]
    kept_until: datetime
    """Moment until which its client may come back."""
    reader: str = ""
    """The response that reads them; another one has no business here any more."""
    missed: int = 0
    """Messages for which there was no room."""

    @property
    def last(self) -> int:
        """Return the number of the last message; 0: there was none."""
        return self.first + len(self.bodies) - 1

    @property
    def size(self) -> int:
        """Return the bytes of the messages."""
        return sum(len(body.encode()) for body in self.bodies)

    def after(self, number: int) -> Sequence[tuple[int, str]] | None:
        """Return the messages behind one, with their numbers; None: some are kept no more, or that one never was."""
        if not self.first - 1 <= number <= self.last:
            return None
        return list(enumerate(self.bodies, self.first))[number - self.first + 1 :]


class Position(Record):
    """Place of a client in a stream: what it has of which connection's messages. `<connection>:<number>` in ids."""

    connection_id: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Read an id of an event; None: it is none."""
        connection_id, _, number = text.partition(":")
        if not (is_streamed(connection_id) and is_id(connection_id.removeprefix(STREAMED))):
            return None
        if not (number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS):
            return None
        return cls(connection_id, int(number))

    def __str__(self) -> str:
        """Return it as events have it."""
        return f"{self.connection_id}:{self.number}"


_MAX_DIGITS = 9
