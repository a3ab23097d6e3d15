"""Use cases of the WebSocket: tickets, connections, subscriptions. What is pushed: routing.py and pushing.py."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

from karma.core.clock import Clock, monotonic
from karma.core.errors import Forbidden, NotFound, QuotaExceeded, Unauthenticated, Upstream
from karma.core.ids import UserId
from karma.core.live import Channel, LiveSource, by_kind
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.identity.domain import Caller, Credential
from karma.realtime.domain import (
    CONNECTION_TTL,
    MAX_CHANNELS,
    NOTHING_HELD,
    TICKET_TTL,
    Connection,
    Held,
    Rights,
    Subscribed,
    Ticket,
    is_streamed,
)
from karma.realtime.ports import Channels, Sockets, Tickets

_T = TypeVar("_T")
_Result = TypeVar("_Result")
_MAX_TICKET_CHARS = 128
_AT_ONCE = 16
"""Connections that are checked and closed at the same moment: one after the other they would take seconds."""
_CLOSING_S = 5.0
"""Seconds that a logout waits for closing connections at the most."""


class RealtimeUnavailable(Upstream):
    """This stage has no WebSocket."""

    status = 503
    code = "REALTIME_UNAVAILABLE"


class IssuedTicket(Record, kw_only=True):
    """A new ticket, which is returned only once."""

    ticket: str
    expires_in_s: int
    url: str


class TicketService:
    """Makes tickets for the WebSocket, to which browsers cannot send an Authorization header."""

    def __init__(self, *, store: Tickets, clock: Clock, url: str) -> None:
        """Make the service; `url` is the WebSocket's, "" when there is none."""
        self._store = store
        self._clock = clock
        self._url = url

    def issue(self, caller: Caller) -> IssuedTicket:
        """Make a ticket for one connection within a minute; only its hash is stored.

        Raises:
            RealtimeUnavailable: the stage has no WebSocket.
            Unauthenticated: the caller's session or API key has ended meanwhile.
        """
        if not self._url:
            raise RealtimeUnavailable("This stage has no WebSocket")
        now = self._clock.now()
        ticket = secrets.token_urlsafe(32)
        self._store.put_ticket(
            Ticket(
                hash=_sha256(ticket),
                user_id=caller.user_id,
                credential=caller.credential,
                rights=Rights(role=caller.role, scopes=caller.scopes if caller.method == "api_key" else None),
                expires_at=now + TICKET_TTL,
            ),
            now=now,
        )
        return IssuedTicket(ticket=ticket, expires_in_s=TICKET_TTL // timedelta(seconds=1), url=self._url)


class ConnectionService:
    """Opens and closes connections, and changes their subscriptions.

    A connection ends with the session or API key that opened it: each message checks whether that has ended (logged
    out, password changed, account disabled or deleted), and then deletes the connection's subscriptions. `SocketCloser`
    closes connections before that; one that it has missed and that sends nothing, API Gateway closes after ten minutes.
    """

    def __init__(self, *, store: Tickets, channels: Channels, sources: Sequence[LiveSource], clock: Clock) -> None:
        self._store = store
        self._channels = channels
        self._sources = by_kind(sources)
        self._clock = clock

    def connect(self, connection_id: str, ticket: str) -> Connection:
        """Use a ticket and store the connection; a repeat for the same connection succeeds.

        Raises:
            Unauthenticated: the ticket is missing, unknown, used or expired, or its session or API key has ended.
            TooManyConnections: the account has `MAX_OPEN` connections open; the ticket stays good for its minute.
        """
        refused = Unauthenticated("A ticket that was not used before is required")
        if not 0 < len(ticket) <= _MAX_TICKET_CHARS:
            raise refused
        now = self._clock.now()
        found = self._store.get_ticket(_sha256(ticket))
        if found is None or now >= found.expires_at:
            raise refused
        connection = Connection(
            id=connection_id,
            user_id=found.user_id,
            credential=found.credential,
            rights=found.rights,
            connected_at=now,
        )
        if not self._store.connect(found, connection):
            raise refused
        return connection

    def require_open(self, connection_id: str) -> None:
        """Refuse a connection that does not exist, or whose session or API key has ended.

        Raises:
            NotFound: the connection does not exist.
            Unauthenticated: the connection's session or API key has ended.
        """
        self._connection(connection_id)

    def disconnect(self, connection_id: str) -> None:
        """Delete a connection and its subscriptions."""
        self._store.disconnect(connection_id)

    def missed(self, connection_id: str) -> int:
        """Return how many messages a connection did not take; refuses as `require_open`."""
        return self._connection(connection_id).missed

    def subscribe(self, connection_id: str, name: str, held: Held = NOTHING_HELD) -> Subscribed:
        """Subscribe to a channel, and read what it is about behind that.

        A channel of what the caller may not see is subscribed to all the same, in the caller's own space, where nothing
        is ever said of it: the answer does not reveal whether it exists.

        Raises:
            NotFound: the connection does not exist, or there is no such kind of channel.
            Unauthenticated: the connection's session or API key has ended.
            Forbidden: the channel is another account's, or the caller lacks the permission to read what it is about.
            QuotaExceeded: the connection has `MAX_CHANNELS` subscriptions.
        """
        connection = self._connection(connection_id)
        channel = self._admitted(connection, name)
        listened = self._store.channels(connection_id)
        elsewhere = [each for each in listened if each.name == name and each != channel]
        if channel not in listened and not elsewhere and len(listened) >= MAX_CHANNELS:
            raise QuotaExceeded(f"A connection listens to at most {MAX_CHANNELS} channels")
        for each in elsewhere:
            self._store.unsubscribe(connection_id, each)
        now = self._clock.now()
        if channel.is_counted:
            self._channels.begin_counting(channel, now=now)
        if channel not in listened:
            self._store.subscribe(connection, channel, now=now)
        # From here on every change is pushed, and what is read now has every change before.
        head = self._channels.head(channel) if channel.is_counted else None
        states = self._sources[channel.kind].states(channel, connection.user_id, held.objects)
        if states is None:
            count("SubscriptionUnseen")
            if channel.space != connection.user_id:  # the right to it has ended within these milliseconds
                self._store.unsubscribe(connection_id, channel)
            head = None
        return Subscribed(channel=channel, states=states or (), head=head, missed=connection.missed)

    def _admitted(self, connection: Connection, name: str) -> Channel:
        own = self._own(connection, name)
        # An account's channel tells of everything.
        kinds = self._sources if own.kind == "user" else (own.kind,)
        for kind in kinds:
            permission = self._sources[kind].permissions[kind]
            if not connection.rights.allow(permission):
                raise Forbidden.lacking(permission)
        space = self._sources[own.kind].space(own.kind, own.object_id, connection.user_id)
        return own._replace(space=space)

    def _own(self, connection: Connection, name: str) -> Channel:
        """Return the channel of a name in the caller's own space."""
        own = Channel.parse(name, space=connection.user_id)
        if own is None or own.kind not in self._sources:
            raise NotFound(f"Channels are {', '.join(f'{kind}:<id>' for kind in sorted(self._sources))}")
        if own.kind == "user" and own.object_id != connection.user_id:
            raise Forbidden("The channel user:<id> is open to that account only")
        return own

    def unsubscribe(self, connection_id: str, name: str) -> str:
        """Unsubscribe from a channel, and return its name; an absent subscription counts as ended.

        Raises:
            NotFound, Unauthenticated, Forbidden: as in `subscribe`.
        """
        connection = self._connection(connection_id)
        self._own(connection, name)
        for channel in self._store.channels(connection_id):
            if channel.name == name:
                self._store.unsubscribe(connection_id, channel)
        return name

    def _connection(self, connection_id: str) -> Connection:
        found, now = self._store.get_connection(connection_id), self._clock.now()
        if found is None or now >= found.connected_at + CONNECTION_TTL:
            raise NotFound("The connection is not known; connect again")
        if not self._store.is_open(found, now=now):
            self._store.disconnect(connection_id)
            raise Unauthenticated("The session is over; log in again and connect with a new ticket")
        return found


class SocketCloser:
    """Closes connections whose session or API key has ended."""

    def __init__(self, *, store: Tickets, sockets: Sockets, clock: Clock, closing_s: float = _CLOSING_S) -> None:
        """Make the closer; `closing_s` is how long it goes on closing at the most."""
        self._closing_s = closing_s
        self._store = store
        self._sockets = sockets
        self._clock = clock

    def close_ended(self, user_id: UserId) -> None:
        """Close all of a user's connections whose session or API key has ended; called when one of them has.

        Never fails, since the session has ended already: a connection that stays open is refused at its next message.
        """
        try:
            self._close_ended(user_id)
        except Upstream as exc:
            logger.warning("realtime.left_open", user_id=user_id, code=exc.code)
            count("SocketsLeftOpen")
        except Exception:  # noqa: BLE001  a bug here must not undo the answer to a log-out
            logger.exception("realtime.left_open", user_id=user_id)
            count("UnhandledError")

    def _close_ended(self, user_id: UserId) -> None:
        until = monotonic() + self._closing_s
        by_credential: dict[Credential | None, list[Connection]] = {}
        for connection in self._store.connections_of(user_id):
            by_credential.setdefault(connection.credential, []).append(connection)

        def is_over(of_one: list[Connection]) -> list[Connection]:
            return [] if self._store.is_open(of_one[0], now=self._clock.now()) else of_one

        def close(connection: Connection) -> None:
            if monotonic() > until:
                raise RealtimeUnavailable("Closing connections takes too long")
            if is_streamed(connection.id):
                self._store.disconnect(connection.id)
                return
            # API Gateway then sends `$disconnect`, which removes what is stored of it.
            self._sockets.close(connection.id)

        ended = [each for of_one in _each_of(list(by_credential.values()), is_over) for each in of_one]
        _each_of(ended, close)


def _each_of(things: Sequence[_T], work: Callable[[_T], _Result]) -> list[_Result]:
    """Do the work for each thing, several at once, and return the results; one that fails stops no other.

    Raises:
        Exception: the first of those that the work raised, when all are done.
    """
    if not things:
        return []
    # The first alone: it makes the clients that the others share.
    first, *rest = things
    outcomes = [_outcome(work, first)]
    if rest:
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(rest))) as threads:
            outcomes += threads.map(partial(_outcome, work), rest)
    for each in outcomes:
        if isinstance(each, _Failed):
            raise each.error
    return [each for each in outcomes if not isinstance(each, _Failed)]


class _Failed(Record):
    error: Exception


def _outcome(work: Callable[[_T], _Result], thing: _T) -> _Result | _Failed:
    try:
        return work(thing)
    except Exception as exc:  # noqa: BLE001  raised again when all others are done
        return _Failed(exc)


def _sha256(text: str) -> str:
    # A ticket that is no ticket may hold anything, half a surrogate pair too.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
