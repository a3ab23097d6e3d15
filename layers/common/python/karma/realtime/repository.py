"""Tickets, connections and subscriptions over DynamoDB; items.py has the access patterns."""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import size

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import batch_get, delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import delete_keys, pages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, Unauthenticated
from karma.core.ids import UserId
from karma.core.live import Channel
from karma.core.purge import PurgeAttempt
from karma.identity.domain import Credential
from karma.identity.transactional import AccountGone, require_account, require_credential
from karma.realtime.domain import (
    CONNECTION_TTL,
    MAX_CHANNELS,
    MAX_OPEN,
    Connection,
    Ticket,
    TooManyConnections,
    is_streamed,
)
from karma.realtime.items import (
    CONNECTION,
    SUBSCRIPTION,
    ChannelSubscriptionItem,
    ConnectionItem,
    InboxItem,
    OpenConnections,
    RealtimeItem,
    TicketItem,
    channel_pk,
    connection_key,
    connection_of_item,
    credential_attributes,
    credential_of,
    deletion,
    inbox_key,
    open_entry,
    open_key,
    rights_of,
    subscription_keys,
    ticket_key,
    user_pk,
)


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
                **credential_attributes(ticket.credential, ticket.rights),
                valid_until=iso(ticket.expires_at),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=epoch_ms(ticket.expires_at) // 1000 + 3600,
                gsi1pk=user_pk(ticket.user_id),
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
            credential=credential_of(item),
            rights=rights_of(item),
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
        tx.update(
            TicketItem(*ticket_key(ticket.hash)),
            [TicketItem.used_by.set(connection.id), TicketItem.updated_at.set(now)],
            TicketItem.pk.exists() & TicketItem.used_by.does_not_exist(),
        )
        self._add(tx, connection)
        try:
            tx.commit()
        except ConditionFailed:
            # Both were written at once: a ticket that names this connection means that it is stored as well.
            used = get(TicketItem, ticket_key(ticket.hash), consistent=True)
            return used is not None and used.used_by == connection.id
        return True

    def _add(self, tx: Transaction, connection: Connection) -> None:
        """Store a connection whose credential has not ended, if the account may have one more."""
        now = iso(connection.connected_at)
        _require_open(tx, connection.user_id, connection.credential, connection.connected_at)
        item = ConnectionItem(
            *connection_key(connection.id),
            user_id=connection.user_id,
            **credential_attributes(connection.credential, connection.rights),
            created_at=now,
            updated_at=now,
            expires_at=deletion(connection.connected_at),
            gsi1pk=user_pk(connection.user_id),
            gsi1sk=connection_key(connection.id).pk,
        )
        tx.put(item)
        entries = OpenConnections.open_ids
        tx.upsert(
            OpenConnections(*open_key(connection.user_id)),
            [
                entries.add({open_entry(connection)}),
                OpenConnections.updated_at.set(now),
                OpenConnections.expires_at.set(deletion(connection.connected_at)),
                OpenConnections.gsi1pk.set(user_pk(connection.user_id)),
                OpenConnections.gsi1sk.set("OPEN"),
            ],
            entries.does_not_exist() | (size(entries) < self._most_open),
            on_fail=TooManyConnections(),
        )

    def connect_stream(self, connection: Connection, *, kept_until: datetime) -> None:
        """Store a connection that is a stream, with an empty inbox, in one transaction.

        Raises:
            Unauthenticated: the session or API key of its caller has ended.
            AccountGone: the user's account is deleted.
            TooManyConnections: the account has `MAX_OPEN` connections.
        """
        try:
            self._connect_stream(connection, kept_until)
        except TooManyConnections:
            if not self._forget_over(connection.user_id, now=connection.connected_at):
                raise
            self._connect_stream(connection, kept_until)

    def _connect_stream(self, connection: Connection, kept_until: datetime) -> None:
        tx = Transaction()
        self._add(tx, connection)
        now = iso(connection.connected_at)
        tx.put(
            InboxItem(
                *inbox_key(connection.id),
                kept_until=epoch_ms(kept_until),
                created_at=now,
                updated_at=now,
                expires_at=deletion(connection.connected_at),
            )
        )
        tx.commit()

    def get_connection(self, connection_id: str) -> Connection | None:
        """Read a connection; None: it does not exist."""
        item = get(ConnectionItem, connection_key(connection_id), consistent=True)
        if item is None:
            return None
        return connection_of_item(item)

    def connections_of(self, user_id: UserId) -> list[Connection]:
        """List all of a user's connections, strongly consistent: a Get, and a BatchGet a hundred of them."""
        entries = get(OpenConnections, open_key(user_id), consistent=True)
        ids = sorted(entry.partition("#")[2] for entry in (entries and entries.open_ids) or ())
        found = batch_get(ConnectionItem, [connection_key(each) for each in ids], consistent=True)
        return [connection_of_item(item) for item in found.values()]

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
            connection_key(connection_id).pk,
            RealtimeItem.sk.startswith(SUBSCRIPTION),
            limit=MAX_CHANNELS,
            consistent=True,
        )
        found = [
            Channel.parse(item.channel, space=item.space or item.user_id)
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
        for key in subscription_keys(connection.id, channel):
            tx.put(
                ChannelSubscriptionItem(
                    *key,
                    user_id=connection.user_id,
                    connection_id=connection.id,
                    space=channel.space,
                    channel=channel.name,
                    created_at=iso(now),
                    updated_at=iso(now),
                    expires_at=deletion(connection.connected_at),
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
        for key in subscription_keys(connection_id, channel):
            tx.delete(ChannelSubscriptionItem(*key))
        tx.commit()

    def disconnect(self, connection_id: str) -> None:
        """Delete a connection after its subscriptions, so that an interrupted attempt can be repeated."""
        if is_streamed(connection_id):
            # First of all: whoever reads it ends by that.
            delete(InboxItem(*inbox_key(connection_id)))
        found = self.get_connection(connection_id)
        for channel in self.channels(connection_id):
            self.unsubscribe(connection_id, channel)
        if found is not None:
            self._take_out(found)
        delete(ConnectionItem(*connection_key(connection_id)))

    def _take_out(self, connection: Connection) -> None:
        try:
            taken_out = OpenConnections.open_ids.delete({open_entry(connection)})
            update(OpenConnections(*open_key(connection.user_id)), [taken_out])
        except ConditionFailed:
            return  # the account is deleted, or the connection is older than the item

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete a deleted account's tickets and connections; True when none is left."""
        for page in pages(RealtimeItem, user_pk(purge.user_id), index=RealtimeItem.gsi1):
            for key in page:
                if purge.over():
                    return False
                if key.pk.startswith(CONNECTION):
                    self._purge_connection(key, purge)
                else:
                    delete_keys(RealtimeItem, [key])
        return True

    def _purge_connection(self, connection: Key, purge: PurgeAttempt) -> None:
        for page in pages(RealtimeItem, connection.pk, prefix=SUBSCRIPTION):
            names = [key.sk.removeprefix(SUBSCRIPTION) for key in page]
            channels = [Channel.parse(name, space=purge.user_id) for name in names]
            shared = [Channel(each.object_id, each.kind, each.object_id) for each in channels if each]
            # The account's own channel is in its space either way, and a batch may name an item once.
            found = dict.fromkeys(channel_pk(each) for each in (*channels, *shared) if each)
            # A batch is no transaction: by what goes last, an attempt that was interrupted finds what it left.
            delete_keys(RealtimeItem, [Key(channel, connection.pk) for channel in found])
            delete_keys(RealtimeItem, page)
        if is_streamed(connection_id := connection.pk.removeprefix(CONNECTION)):
            delete_keys(RealtimeItem, [inbox_key(connection_id)])
        delete_keys(RealtimeItem, [connection])


def _require_open(tx: Transaction, user_id: UserId, credential: Credential | None, now: datetime) -> None:
    if credential is None:
        require_account(tx, user_id)
    else:
        require_credential(tx, credential, now=now)
