"""The realtime table in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from karma.core.errors import NotFound, Unauthenticated
from karma.core.ids import UserId
from karma.identity.transactional import AccountGone
from karma.realtime.domain import CONNECTION_TTL, MAX_OPEN, Channel, Connection, Ticket, TooManyConnections


@dataclass
class MemoryRealtime:
    """Tickets, connections and subscriptions in dictionaries, as RealtimeRepository stores them."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    used_by: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    listening: dict[str, list[Channel]] = field(default_factory=dict)
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

    def _open(self, new: Connection) -> int:
        others = self.connections_of(new.user_id)
        return sum(new.connected_at - each.connected_at <= CONNECTION_TTL for each in others)

    def get_connection(self, connection_id: str) -> Connection | None:
        return self.connections.get(connection_id)

    def connections_of(self, user_id: UserId, *, page: int = 100) -> list[Connection]:
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
        self.listening.pop(connection_id, None)
        self.connections.pop(connection_id, None)
