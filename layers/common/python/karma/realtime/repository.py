"""Tickets, connections and subscriptions in the realtime table.

| item | pk | sk |
| --- | --- | --- |
| ticket | TICKET#<sha256> | TICKET |
| connection | CONN#<connection id> | META |
| subscription, by connection | CONN#<connection id> | SUB#<channel> |
| subscription, by channel | CHANNEL#<owner>#<channel> | CONN#<connection id> |
| open connections of an account | USER#<user id> | OPEN |

Tickets, connections and the item of open ones are in gsi1 under USER#<user id>. The latter has a set of
`<moment of the connection, 13 digits of ms>#<connection id>`: an entry is put in by the transaction that stores the
connection, and bounds their number; a repeat of either end changes nothing. An entry whose `$disconnect` never came is
taken out when the set is full and the connection's time is over.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pynamodb.attributes import UnicodeAttribute, UnicodeSetAttribute
from pynamodb.expressions.condition import size

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import delete_keys, pages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, Unauthenticated
from karma.core.ids import ApiKeyId, UserId
from karma.core.purge import PurgeAttempt
from karma.identity.domain import Credential
from karma.identity.transactional import AccountGone, require_account, require_credential
from karma.realtime.domain import (
    CONNECTION_TTL,
    MAX_CHANNELS,
    MAX_OPEN,
    Channel,
    Connection,
    Ticket,
    TooManyConnections,
)

_CONNECTION = "CONN#"
_SUBSCRIPTION = "SUB#"
_PAGE = 100


class RealtimeItem(Item):
    """Base of all items in the realtime table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "realtime"


class TicketItem(RealtimeItem, discriminator="ticket"):
    """A ticket; `used_by` is the id of the connection that used it."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute(null=True)
    api_key_id = UnicodeAttribute(null=True)
    session_began_at = UnicodeAttribute(null=True)
    valid_until = UnicodeAttribute()
    used_by = UnicodeAttribute(null=True)


class ConnectionItem(RealtimeItem, discriminator="connection"):
    """An open WebSocket."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute(null=True)
    api_key_id = UnicodeAttribute(null=True)
    session_began_at = UnicodeAttribute(null=True)


class ChannelSubscriptionItem(RealtimeItem, discriminator="channel_subscription"):
    """A subscription of a connection to a channel."""

    user_id = UnicodeAttribute()
    connection_id = UnicodeAttribute()
    channel = UnicodeAttribute()


class OpenConnections(RealtimeItem, discriminator="open_connections"):
    """The connections of an account that may be open."""

    open_ids = UnicodeSetAttribute(null=True)


def open_key(user_id: UserId) -> Key:
    """Return the key of an account's open connections."""
    return Key(_user_pk(user_id), "OPEN")


def ticket_key(ticket_hash: str) -> Key:
    """Return the key of a ticket."""
    return Key(f"TICKET#{ticket_hash}", "TICKET")


def connection_key(connection_id: str) -> Key:
    """Return the key of a connection."""
    return Key(f"CONN#{connection_id}", "META")


class RealtimeRepository:
    """Store of tickets, connections and subscriptions over DynamoDB."""

    name = "realtime"
    """Name of its step in the deletion of an account."""

    def __init__(self, *, most_open: int = MAX_OPEN) -> None:
        """Make a store that keeps up to `most_open` connections of an account."""
        self._most_open = most_open

    def put_ticket(self, ticket: Ticket, *, now: datetime) -> None:
        """Store a ticket.

        Raises:
            Unauthenticated: the session or API key that asks for it has ended.
            AccountGone: the user's account is deleted.
        """
        tx = Transaction()
        _require_open(tx, ticket.user_id, ticket.credential, now)
        tx.put(
            TicketItem(
                *ticket_key(ticket.hash),
                user_id=ticket.user_id,
                **_attributes(ticket.credential),
                valid_until=iso(ticket.expires_at),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=epoch_ms(ticket.expires_at) // 1000 + 3600,
                gsi1pk=_user_pk(ticket.user_id),
                gsi1sk=f"TICKET#{ticket.hash}",
            )
        )
        tx.commit()

    def get_ticket(self, ticket_hash: str) -> Ticket | None:
        """Read a ticket, used or not; None: it does not exist."""
        item = get(TicketItem, ticket_key(ticket_hash), consistent=True)
        if item is None:
            return None
        return Ticket(
            hash=ticket_hash,
            user_id=UserId(item.user_id),
            credential=_credential(item),
            expires_at=parse_iso(item.valid_until),
        )

    def connect(self, ticket: Ticket, connection: Connection) -> bool:
        """Mark the ticket as used and store the connection, in one transaction; False: another connection used it.

        A repeat for the same connection succeeds.

        Raises:
            Unauthenticated: the session or API key that asked for the ticket has ended.
            AccountGone: the user's account is deleted.
            TooManyConnections: the account has `MAX_OPEN` connections; the ticket is not used.
        """
        try:
            return self._connect(ticket, connection)
        except TooManyConnections:
            if not self._forget_over(connection.user_id, now=connection.connected_at):
                raise
        return self._connect(ticket, connection)

    def _forget_over(self, user_id: UserId, *, now: datetime) -> bool:
        """Take out the entries of connections whose time is over; False: there are none."""
        found = get(OpenConnections, open_key(user_id), consistent=True)
        before = f"{epoch_ms(now - CONNECTION_TTL):013d}"
        over = {entry for entry in (found.open_ids or () if found else ()) if entry < before}
        if over:
            update(OpenConnections(*open_key(user_id)), [OpenConnections.open_ids.delete(over)])
        return bool(over)

    def _connect(self, ticket: Ticket, connection: Connection) -> bool:
        now = iso(connection.connected_at)
        tx = Transaction()
        _require_open(tx, connection.user_id, connection.credential, connection.connected_at)
        tx.update(
            TicketItem(*ticket_key(ticket.hash)),
            [TicketItem.used_by.set(connection.id), TicketItem.updated_at.set(now)],
            TicketItem.pk.exists() & TicketItem.used_by.does_not_exist(),
        )
        item = ConnectionItem(
            *connection_key(connection.id),
            user_id=connection.user_id,
            **_attributes(connection.credential),
            created_at=now,
            updated_at=now,
            expires_at=_deletion(connection.connected_at),
            gsi1pk=_user_pk(connection.user_id),
            gsi1sk=f"CONN#{connection.id}",
        )
        tx.put(item)
        entries = OpenConnections.open_ids
        tx.upsert(
            OpenConnections(*open_key(connection.user_id)),
            [
                entries.add({_entry(connection)}),
                OpenConnections.updated_at.set(now),
                OpenConnections.expires_at.set(_deletion(connection.connected_at)),
                OpenConnections.gsi1pk.set(_user_pk(connection.user_id)),
                OpenConnections.gsi1sk.set("OPEN"),
            ],
            entries.does_not_exist() | (size(entries) < self._most_open),
            on_fail=TooManyConnections(),
        )
        try:
            tx.commit()
        except ConditionFailed:
            # Both were written at once: a ticket that names this connection means that it is stored as well.
            used = get(TicketItem, ticket_key(ticket.hash), consistent=True)
            return used is not None and used.used_by == connection.id
        return True

    def get_connection(self, connection_id: str) -> Connection | None:
        """Read a connection; None: it does not exist."""
        item = get(ConnectionItem, connection_key(connection_id), consistent=True)
        if item is None:
            return None
        return _connection(item)

    def connections_of(self, user_id: UserId, *, page: int = _PAGE) -> list[Connection]:
        """List all of a user's connections, `page` a call; one of the last second may be missing."""
        found: list[Connection] = []
        start: dict[str, str] | None = None
        while True:
            part = query(
                RealtimeItem,
                _user_pk(user_id),
                RealtimeItem.gsi1sk.startswith(_CONNECTION),
                limit=page,
                start=start,
                index=RealtimeItem.gsi1,
            )
            found += [_connection(item) for item in part.items if isinstance(item, ConnectionItem)]
            start = part.last
            if start is None:
                return found

    def is_open(self, connection: Connection, *, now: datetime) -> bool:
        """Tell whether a connection's session or API key has not ended, strongly consistent; nothing is written."""
        tx = Transaction()
        _require_open(tx, connection.user_id, connection.credential, now)
        try:
            tx.commit()
        except (Unauthenticated, AccountGone):
            return False
        return True

    def channels(self, connection_id: str) -> list[Channel]:
        """List the channels that a connection subscribes to."""
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
            if isinstance(item, ChannelSubscriptionItem)
        ]
        return [channel for channel in found if channel]

    def subscribe(self, connection: Connection, channel: Channel, *, now: datetime) -> None:
        """Store a subscription under its connection and under its channel; a repeat changes nothing.

        Raises:
            Unauthenticated: the session or API key that opened the connection has ended.
            AccountGone: the user's account is deleted.
            NotFound: the connection does not exist.
        """
        tx = Transaction()
        _require_open(tx, connection.user_id, connection.credential, now)
        over = NotFound("The connection is not known; connect again")
        tx.check(ConnectionItem, connection_key(connection.id), ConnectionItem.pk.exists(), on_fail=over)
        for key in _subscription_keys(connection.id, channel):
            tx.put(
                ChannelSubscriptionItem(
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
        """Delete a subscription; an absent one counts as deleted."""
        # Both items at once: with one of them left, a new subscription would have no effect.
        tx = Transaction()
        for key in _subscription_keys(connection_id, channel):
            tx.delete(ChannelSubscriptionItem(*key))
        tx.commit()

    def disconnect(self, connection_id: str) -> None:
        """Delete a connection after its subscriptions, so that an interrupted attempt can be repeated."""
        found = self.get_connection(connection_id)
        for channel in self.channels(connection_id):
            self.unsubscribe(connection_id, channel)
        if found is not None:
            self._take_out(found)
        delete(ConnectionItem(*connection_key(connection_id)))

    def _take_out(self, connection: Connection) -> None:
        try:
            update(
                OpenConnections(*open_key(connection.user_id)), [OpenConnections.open_ids.delete({_entry(connection)})]
            )
        except ConditionFailed:
            return  # the account is deleted, or the connection is older than the item

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete a deleted account's tickets and connections; True when none is left."""
        for page in pages(RealtimeItem, _user_pk(purge.user_id), index=RealtimeItem.gsi1):
            for key in page:
                if purge.over():
                    return False
                if key.pk.startswith(_CONNECTION):
                    self._purge_connection(key, purge)
                else:
                    delete_keys(RealtimeItem, [key])
        return True

    def _purge_connection(self, connection: Key, purge: PurgeAttempt) -> None:
        for page in pages(RealtimeItem, connection.pk, prefix=_SUBSCRIPTION):
            channels = [f"CHANNEL#{purge.user_id}#{key.sk.removeprefix(_SUBSCRIPTION)}" for key in page]
            delete_keys(RealtimeItem, [*(Key(channel, connection.pk) for channel in channels), *page])
        delete_keys(RealtimeItem, [connection])


def _require_open(tx: Transaction, user_id: UserId, credential: Credential | None, now: datetime) -> None:
    if credential is None:
        require_account(tx, user_id)
    else:
        require_credential(tx, credential, now=now)


def _attributes(credential: Credential | None) -> dict[str, Any]:
    if credential is None:
        return {}
    return {
        "session_id": credential.session_id,
        "api_key_id": credential.api_key_id,
        "session_began_at": iso(credential.began_at),
    }


def _credential(item: TicketItem | ConnectionItem) -> Credential | None:
    if not item.session_began_at:
        return None
    return Credential(
        user_id=UserId(item.user_id),
        session_id=item.session_id,
        api_key_id=ApiKeyId(item.api_key_id) if item.api_key_id else None,
        began_at=parse_iso(item.session_began_at),
    )


def _connection(item: ConnectionItem) -> Connection:
    return Connection(
        id=item.pk.removeprefix(_CONNECTION),
        user_id=UserId(item.user_id),
        credential=_credential(item),
        connected_at=parse_iso(item.created_at or ""),
    )


def _entry(connection: Connection) -> str:
    return f"{epoch_ms(connection.connected_at):013d}#{connection.id}"


def _user_pk(user_id: UserId) -> str:
    return f"USER#{user_id}"


def _subscription_keys(connection_id: str, channel: Channel) -> tuple[Key, Key]:
    connection = f"CONN#{connection_id}"
    return (
        Key(connection, f"SUB#{channel.name}"),
        Key(f"CHANNEL#{channel.owner}#{channel.name}", connection),
    )


def _deletion(connected_at: datetime) -> int:
    return epoch_ms(connected_at + CONNECTION_TTL) // 1000
