"""Connections of the WebSocket and the channels that they subscribe to. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from karma.core.errors import RateLimited
from karma.core.ids import UserId, is_id
from karma.identity.domain import Credential

TICKET_TTL = timedelta(seconds=60)
CONNECTION_TTL = timedelta(hours=3)
"""Life of a connection's item: API Gateway ends a connection after two hours; the rest is a reserve."""
MAX_OPEN = 200
"""Connections that an account has open at the most, whatever its plan: each is kept by the gateway for up to two hours,
and closed one by one when their sessions end."""
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


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Permission to open one connection."""

    hash: str
    user_id: UserId
    credential: Credential | None = None
    """The session or API key that asked for it, and with which it ends; None: the caller used neither."""
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An open WebSocket."""

    id: str
    user_id: UserId
    credential: Credential | None = None
    """The session or API key that asked for the ticket, and with which the connection ends; None as for a ticket."""
    connected_at: datetime


ChannelKind = Literal["user", "device"]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A stream of events about one object; events go to the channel of the object's owner."""

    owner: UserId
    kind: ChannelKind
    object_id: str

    @property
    def name(self) -> str:
        """Return the name that clients use: `<kind>:<id>`."""
        return f"{self.kind}:{self.object_id}"

    @classmethod
    def parse(cls, name: str, *, owner: UserId) -> Channel | None:
        """Parse `<kind>:<id>`; None: the name is not of this form."""
        kind, _, object_id = name.partition(":")
        for known in get_args(ChannelKind):
            if kind == known and is_id(object_id):
                return cls(owner=owner, kind=known, object_id=object_id)
        return None
