"""The realtime table in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.errors import NotFound, Unauthenticated
from karma.core.ids import UserId, short_id
from karma.core.live import Channel
from karma.identity.transactional import AccountGone
from karma.realtime.domain import (
    CONNECTION_TTL,
    HEAD_TTL,
    MAX_OPEN,
    Connection,
    Head,
    Inbox,
    Ticket,
    TooManyConnections,
)
from karma.realtime.inbox_repository import MAX_BYTES
from karma.realtime.ports import Delivered


@dataclass
class MemoryRealtime:
    """Tickets, connections and subscriptions in dictionaries, as RealtimeRepository stores them."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    used_by: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    listening: dict[str, list[Channel]] = field(default_factory=dict)
    inboxes: dict[str, Inbox] = field(default_factory=dict)
    gone: set[UserId] = field(default_factory=set)
    """Accounts that are deleted."""

    most_open: int = MAX_OPEN
    over: set[str | None] = field(default_factory=set)
    """Sessions and API keys that have ended, by their ids."""

    def _require(self, of: Ticket | Connection) -> None:
        shown = of.credential
        if shown is None and of.user_id in self.gone:
            raise AccountGone(of.user_id)
        if shown is not None and (of.user_id in self.gone or (shown.session_id or shown.api_key_id) in self.over):
            raise Unauthenticated("The session is over; log in again")

    def put_ticket(self, ticket: Ticket, *, now: datetime) -> None:
        self._require(ticket)
        self.tickets[ticket.hash] = ticket

    def get_ticket(self, ticket_hash: str) -> Ticket | None:
        return self.tickets.get(ticket_hash)

    def connect(self, ticket: Ticket, connection: Connection) -> bool:
        self._require(connection)
        if self.used_by.get(ticket.hash, connection.id) != connection.id:
            return False
        if connection.id not in self.connections and self._open(connection) >= self.most_open:
            raise TooManyConnections
        self.used_by[ticket.hash] = connection.id
        self.connections[connection.id] = connection
        return True

    def connect_stream(self, connection: Connection, *, kept_until: datetime) -> None:
        self._require(connection)
        if self._open(connection) >= self.most_open:
            raise TooManyConnections
        self.connections[connection.id] = connection
        self.inboxes[connection.id] = Inbox(first=1, bodies=[], kept_until=kept_until)

    def _open(self, new: Connection) -> int:
        others = self.connections_of(new.user_id)
        return sum(new.connected_at - each.connected_at <= CONNECTION_TTL for each in others)

    def get_connection(self, connection_id: str) -> Connection | None:
        return self.connections.get(connection_id)

    def connections_of(self, user_id: UserId) -> list[Connection]:
        return [each for each in self.connections.values() if each.user_id == user_id]

    def is_open(self, connection: Connection, *, now: datetime) -> bool:
        try:
            self._require(connection)
        except (AccountGone, Unauthenticated):
            return False
        return True

    def channels(self, connection_id: str) -> list[Channel]:
        return list(self.listening.get(connection_id, []))

    def subscribe(self, connection: Connection, channel: Channel, *, now: datetime) -> None:
        self._require(connection)
        if connection.id not in self.connections:
            raise NotFound("The connection is not known; connect again")
        if channel not in self.channels(connection.id):
            self.listening.setdefault(connection.id, []).append(channel)

    def unsubscribe(self, connection_id: str, channel: Channel) -> None:
        if channel in self.listening.get(connection_id, []):
            self.listening[connection_id].remove(channel)

    def disconnect(self, connection_id: str) -> None:
        self.inboxes.pop(connection_id, None)
        self.listening.pop(connection_id, None)
        self.connections.pop(connection_id, None)


@dataclass
class MemoryInboxes:
    """Messages of streams, as StreamInboxRepository stores them."""

    realtime: MemoryRealtime
    most_bytes: int = MAX_BYTES

    def take_over(self, connection_id: str, reader: str, *, kept_until: datetime) -> Inbox | None:
        found = self.read(connection_id)
        if found is not None:
            found = self.realtime.inboxes[connection_id] = replace(found, reader=reader, kept_until=kept_until)
        return found

    def read(self, connection_id: str) -> Inbox | None:
        return self.realtime.inboxes.get(connection_id)

    def add(self, connection_id: str, bodies: Sequence[str], *, now: datetime) -> Delivered:
        found = self.read(connection_id)
        if found is None or now >= found.kept_until:
            return Delivered.GONE
        grown = replace(found, bodies=[*found.bodies, *bodies])
        fits = grown.size <= self.most_bytes
        self.realtime.inboxes[connection_id] = grown if fits else replace(found, missed=found.missed + len(bodies))
        return Delivered.SENT if fits else Delivered.BUSY

    def drop(self, connection_id: str, inbox: Inbox, *, number: int) -> None:
        found, count = self.read(connection_id), max(0, number - inbox.first + 1)
        if found is not None and found.first == inbox.first:
            left = replace(found, first=found.first + count, bodies=found.bodies[count:])
            self.realtime.inboxes[connection_id] = left


@dataclass
class MemoryChannels:
    """Listeners and numbers of channels, as ChannelRepository stores them."""

    realtime: MemoryRealtime
    heads: dict[Channel, tuple[Head, datetime]] = field(default_factory=dict)

    def begin_counting(self, channel: Channel, *, now: datetime) -> None:
        head, until = self.heads.get(channel, (None, now))
        if head is None or until <= now:
            head = Head(epoch=short_id(), seq=head.seq if head else 0)
        self.heads[channel] = head, now + HEAD_TTL

    def head(self, channel: Channel) -> Head | None:
        return self.heads[channel][0] if channel in self.heads else None

    def advance(self, channel: Channel, count: int) -> Head | None:
        if channel not in self.heads:
            return None
        head, until = self.heads[channel]
        self.heads[channel] = replace(head, seq=head.seq + count), until
        return self.heads[channel][0]

    def listeners(self, channel: Channel) -> Iterator[Sequence[str]]:
        yield [each for each, channels in self.realtime.listening.items() if channel in channels]

    def still_listening(self, channel: Channel, connection_ids: Sequence[str]) -> set[str]:
        return {each for each in connection_ids if channel in self.realtime.channels(each)}

    def note_missed(self, connection_id: str) -> None:
        if connection_id in self.realtime.connections:
            found = self.realtime.connections[connection_id]
            self.realtime.connections[connection_id] = replace(found, missed=found.missed + 1)
