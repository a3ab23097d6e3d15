"""Items of the realtime table and their keys; those of webhooks: karma/webhooks/items.py.

| item | pk | sk |
| --- | --- | --- |
| ticket | TICKET#<sha256> | TICKET |
| connection | CONN#<connection id> | META |
| inbox of a connection that is a stream | CONN#<connection id> | INBOX |
| subscription, by connection | CONN#<connection id> | SUB#<channel> |
| subscription, by channel | CHANNEL#<space>#<channel> | CONN#<connection id> |
| number of a counted channel's messages | CHANNEL#<space>#<channel> | HEAD |
| open connections of an account | USER#<user id> | OPEN |

Tickets, connections and the item of open ones are in gsi1 under USER#<user id>. The latter has a set of
`<moment of the connection, 13 digits of ms>#<connection id>`: an entry is put in by the transaction that stores the
connection, and bounds their number; a repeat of either end changes nothing. An entry whose `$disconnect` never came is
taken out when the set is full and the connection's time is over.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pynamodb.attributes import ListAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import ApiKeyId, UserId
from karma.core.live import Channel
from karma.identity.domain import Credential
from karma.realtime.domain import CONNECTION_TTL, NO_RIGHTS, VIEWER, Connection, Rights

CONNECTION = "CONN#"
SUBSCRIPTION = "SUB#"


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
    role = UnicodeAttribute(null=True)
    scopes = UnicodeSetAttribute(null=True)
    """Of an API key; absent: it has none, or an access token asked. `api_key_id` tells which."""
    valid_until = UnicodeAttribute()
    used_by = UnicodeAttribute(null=True)


class ConnectionItem(RealtimeItem, discriminator="connection"):
    """An open WebSocket."""

    user_id = UnicodeAttribute()
    session_id = UnicodeAttribute(null=True)
    api_key_id = UnicodeAttribute(null=True)
    session_began_at = UnicodeAttribute(null=True)
    role = UnicodeAttribute(null=True)
    scopes = UnicodeSetAttribute(null=True)
    missed = NumberAttribute(default=0)


class InboxItem(RealtimeItem, discriminator="inbox"):
    """Messages for a stream, which reads it once a second; absent: the connection is over."""

    kept_until = NumberAttribute()
    """Epoch millisecond until which its client may come back; nothing is put in behind that."""
    first = NumberAttribute(default=1)
    bodies: ListAttribute[str] = ListAttribute(default=list)
    size = NumberAttribute(default=0)
    """Bytes of all bodies."""
    missed = NumberAttribute(default=0)
    reader = UnicodeAttribute(null=True)


class ChannelSubscriptionItem(RealtimeItem, discriminator="channel_subscription"):
    """A subscription of a connection to a channel."""

    user_id = UnicodeAttribute()
    connection_id = UnicodeAttribute()
    space = UnicodeAttribute(null=True)
    """Absent: the account's own."""
    channel = UnicodeAttribute()


class ChannelHead(RealtimeItem, discriminator="channel_head"):
    """Number of the last message of a counted channel; absent: nobody has listened for a day."""

    epoch = UnicodeAttribute()
    seq = NumberAttribute(default=0)


class OpenConnections(RealtimeItem, discriminator="open_connections"):
    """The connections of an account that may be open."""

    open_ids = UnicodeSetAttribute(null=True)


def open_key(user_id: UserId) -> Key:
    """Return the key of an account's open connections."""
    return Key(user_pk(user_id), "OPEN")


def ticket_key(ticket_hash: str) -> Key:
    """Return the key of a ticket."""
    return Key(f"TICKET#{ticket_hash}", "TICKET")


def connection_key(connection_id: str) -> Key:
    """Return the key of a connection."""
    return Key(f"CONN#{connection_id}", "META")


def inbox_key(connection_id: str) -> Key:
    """Return the key of a stream's inbox."""
    return Key(f"CONN#{connection_id}", "INBOX")


def channel_pk(channel: Channel) -> str:
    """Return the partition of a channel's subscriptions."""
    return f"CHANNEL#{channel.space}#{channel.name}"


def head_key(channel: Channel) -> Key:
    """Return the key of a counted channel's number."""
    return Key(channel_pk(channel), "HEAD")


def subscription_keys(connection_id: str, channel: Channel) -> tuple[Key, Key]:
    """Return the two keys of a subscription: by its connection, and by its channel."""
    connection = f"{CONNECTION}{connection_id}"
    return Key(connection, f"{SUBSCRIPTION}{channel.name}"), Key(channel_pk(channel), connection)


def user_pk(user_id: UserId) -> str:
    """Return the partition of an account, in the table and in the index."""
    return f"USER#{user_id}"


def open_entry(connection: Connection) -> str:
    """Return a connection's entry in the set of open ones."""
    return f"{epoch_ms(connection.connected_at):013d}#{connection.id}"


def deletion(connected_at: datetime) -> int:
    """Return the epoch second after which what belongs to a connection may be deleted."""
    return epoch_ms(connected_at + CONNECTION_TTL) // 1000


def credential_attributes(credential: Credential | None, rights: Rights) -> dict[str, Any]:
    """Return the attributes of a ticket or connection that say who asked for it."""
    granted = {"role": rights.role, "scopes": set(rights.scopes) if rights.scopes else None}
    if credential is None:
        return granted
    return {
        **granted,
        "session_id": credential.session_id,
        "api_key_id": credential.api_key_id,
        "session_began_at": iso(credential.began_at),
    }


def credential_of(item: TicketItem | ConnectionItem) -> Credential | None:
    """Return the session or API key of a ticket or connection."""
    if not item.session_began_at:
        return None
    return Credential(
        user_id=UserId(item.user_id),
        session_id=item.session_id,
        api_key_id=ApiKeyId(item.api_key_id) if item.api_key_id else None,
        began_at=parse_iso(item.session_began_at),
    )


def rights_of(item: TicketItem | ConnectionItem) -> Rights:
    """Return the rights of a ticket or connection; the least, of one that a former release stored."""
    if not item.role:
        return NO_RIGHTS if item.api_key_id else VIEWER
    return Rights(role=item.role, scopes=frozenset(item.scopes or ()) if item.api_key_id else None)


def connection_of_item(item: ConnectionItem) -> Connection:
    """Return a connection as stored."""
    return Connection(
        id=item.pk.removeprefix(CONNECTION),
        user_id=UserId(item.user_id),
        credential=credential_of(item),
        rights=rights_of(item),
        connected_at=parse_iso(item.created_at or ""),
        missed=int(item.missed),
    )
