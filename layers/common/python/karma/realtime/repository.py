"""Tickets, connections and subscriptions in the realtime table.

| item | pk | sk |
| --- | --- | --- |
| ticket | TICKET#<sha256> | TICKET |
| connection | CONN#<connection id> | META |
| subscription, by connection | CONN#<connection id> | SUB#<channel> |
| subscription, by channel | CHANNEL#<owner>#<channel> | CONN#<connection id> |
"""

from __future__ import annotations

from datetime import datetime

from pynamodb.attributes import UnicodeAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import delete, get, put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.realtime.domain import CONNECTION_TTL, MAX_CHANNELS, Channel, Connection, Ticket


class RealtimeItem(Item):
    """Base of everything in the realtime table."""

    class Meta(TableMeta):
        """Replaced by `bind`."""

        table_name = "realtime"


class TicketItem(RealtimeItem, discriminator="ticket"):
    """Admission for one connection; `used_by` names it."""

    user_id = UnicodeAttribute()
    valid_until = UnicodeAttribute()
    used_by = UnicodeAttribute(null=True)


class ConnectionItem(RealtimeItem, discriminator="connection"):
    """An open WebSocket."""

    user_id = UnicodeAttribute()


class SubscriptionItem(RealtimeItem, discriminator="channel_subscription"):
    """A connection listens to a channel."""

    user_id = UnicodeAttribute()
    connection_id = UnicodeAttribute()
    channel = UnicodeAttribute()


def ticket_key(ticket_hash: str) -> Key:
    """Key of a ticket."""
    return Key(f"TICKET#{ticket_hash}", "TICKET")


def connection_key(connection_id: str) -> Key:
    """Key of a connection."""
    return Key(f"CONN#{connection_id}", "META")


class RealtimeRepository:
    """DynamoDB, by way of karma.core.dynamo."""

    def put_ticket(self, ticket: Ticket, *, now: datetime) -> None:
        """Store a ticket."""
        put(
            TicketItem(
                *ticket_key(ticket.hash),
                user_id=ticket.user_id,
                valid_until=iso(ticket.expires_at),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=epoch_ms(ticket.expires_at) // 1000 + 3600,
            )
        )

    def get_ticket(self, ticket_hash: str) -> Ticket | None:
        """Read a ticket, used or not."""
        item = get(TicketItem, ticket_key(ticket_hash), consistent=True)
        if item is None:
            return None
        return Ticket(hash=ticket_hash, user_id=UserId(item.user_id), expires_at=parse_iso(item.valid_until))

    def connect(self, ticket: Ticket, connection: Connection) -> bool:
        """Use the ticket up and store the connection, at once; False when another connection used it.

        A repeat for the same connection succeeds.
        """
        now = iso(connection.connected_at)
        tx = Transaction()
        tx.update(
            TicketItem(*ticket_key(ticket.hash)),
            [TicketItem.used_by.set(connection.id), TicketItem.updated_at.set(now)],
            TicketItem.pk.exists() & TicketItem.used_by.does_not_exist(),
        )
        item = ConnectionItem(
            *connection_key(connection.id),
            user_id=connection.user_id,
            created_at=now,
            updated_at=now,
            expires_at=_deletion(connection.connected_at),
        )
        tx.put(item)
        try:
            tx.commit()
        except ConditionFailed:
            # Both were written at once: a ticket that names this connection means that it is stored as well.
            used = get(TicketItem, ticket_key(ticket.hash), consistent=True)
            return used is not None and used.used_by == connection.id
        return True

    def get_connection(self, connection_id: str) -> Connection | None:
        """Read a connection."""
        item = get(ConnectionItem, connection_key(connection_id), consistent=True)
        if item is None:
            return None
        return Connection(id=connection_id, user_id=UserId(item.user_id), connected_at=parse_iso(item.created_at or ""))

    def channels(self, connection_id: str) -> list[Channel]:
        """List what a connection listens to."""
        page = query(
            RealtimeItem,
            f"CONN#{connection_id}",
            RealtimeItem.sk.startswith("SUB#"),
            limit=MAX_CHANNELS,
            consistent=True,
        )
        found = [
            Channel.parse(item.channel, owner=UserId(item.user_id))
            for item in page.items
            if isinstance(item, SubscriptionItem)
        ]
        return [channel for channel in found if channel]

    def subscribe(self, connection: Connection, channel: Channel, *, now: datetime) -> None:
        """Store a subscription under its connection and under its channel; a repeat changes nothing."""
        tx = Transaction()
        for key in _subscription_keys(connection.id, channel):
            tx.put(
                SubscriptionItem(
                    *key,
                    user_id=connection.user_id,
                    connection_id=connection.id,
                    channel=channel.name,
                    created_at=iso(now),
                    updated_at=iso(now),
                    expires_at=_deletion(connection.connected_at),
                )
            )
        try:
            tx.commit()
        except ConditionFailed:
            return

    def unsubscribe(self, connection_id: str, channel: Channel) -> None:
        """Drop a subscription; one that is not there is dropped already."""
        # The connection's own item goes last: an interrupted attempt still finds what is left.
        for key in reversed(_subscription_keys(connection_id, channel)):
            delete(SubscriptionItem(*key))

    def disconnect(self, connection_id: str) -> None:
        """Drop a connection after its subscriptions, so that an interrupted attempt can be repeated."""
        for channel in self.channels(connection_id):
            self.unsubscribe(connection_id, channel)
        delete(ConnectionItem(*connection_key(connection_id)))


def _subscription_keys(connection_id: str, channel: Channel) -> tuple[Key, Key]:
    connection = f"CONN#{connection_id}"
    return (
        Key(connection, f"SUB#{channel.name}"),
        Key(f"CHANNEL#{channel.owner}#{channel.name}", connection),
    )


def _deletion(connected_at: datetime) -> int:
    return epoch_ms(connected_at + CONNECTION_TTL) // 1000
