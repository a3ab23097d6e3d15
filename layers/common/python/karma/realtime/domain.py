"""Connections of the WebSocket and what they listen to. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from karma.core.ids import UserId, is_id
from karma.identity.domain import Credential

TICKET_TTL = timedelta(seconds=60)
CONNECTION_TTL = timedelta(hours=3)
"""API Gateway ends a connection after two hours; the rest is slack for its item."""
MAX_CHANNELS = 50
"""Channels of one connection."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Admission for one connection."""

    hash: str
    user_id: UserId
    credential: Credential | None = None
    """With whose end it ends: the session or API key that asked for it; None: one that is not known by name."""
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An open WebSocket."""

    id: str
    user_id: UserId
    credential: Credential | None = None
    """As its ticket's."""
    connected_at: datetime


ChannelKind = Literal["user", "device"]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Something to listen to, in its owner's namespace: events go to `owner` of the object that changed."""

    owner: UserId
    kind: ChannelKind
    object_id: str

    @property
    def name(self) -> str:
        """The name that clients use."""
        return f"{self.kind}:{self.object_id}"

    @classmethod
    def parse(cls, name: str, *, owner: UserId) -> Channel | None:
        """Read `<kind>:<id>`; None when it is not one."""
        kind, _, object_id = name.partition(":")
        for known in get_args(ChannelKind):
            if kind == known and is_id(object_id):
                return cls(owner=owner, kind=known, object_id=object_id)
        return None
