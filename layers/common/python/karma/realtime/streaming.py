"""Use cases of streams: connections for who cannot open a WebSocket (docs/adr/0067).

A stream's connection is stored as a socket's is, listens, and loses its rights as that does. What it is told waits in
an inbox, from which responses take it, one after the other: each lives for less than a minute, and the next one says
by the id of the last event where it goes on. What cannot be told so is told as the state of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import orjson

from karma.core.clock import Clock
from karma.core.errors import AppError, NotFound
from karma.core.ids import new_id
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.realtime import wire
from karma.realtime.domain import (
    ALL_MISSED,
    NOTHING_HELD,
    STREAM_TTL,
    STREAMED,
    Connection,
    Held,
    Inbox,
    Position,
    Rights,
    is_streamed,
)
from karma.realtime.ports import Inboxes, Tickets
from karma.realtime.service import ConnectionService

KEPT: Final = timedelta(seconds=60)
"""The time for which a stream listens on behind its last response, for a client that comes back."""
_KEPT_BYTES: Final = 16_384
"""Bytes of an inbox from which on that is dropped which was sent before: each look reads and pays for all of it."""


class BegunStream(Record, kw_only=True):
    """A response to a client, before its first message."""

    connection_id: str
    reader: str
    acknowledgements: Sequence[bytes] = ()
    """Empty: it goes on where the one before ended."""
    after: int = 0
    """Number of the last message that the client has, or need not have."""
    missed: int = 0
    """Messages for which there was no room, and of which the acknowledgements tell."""


class StreamService:
    """Begins streams and goes on with them, and reads what they are told."""

    def __init__(self, *, connections: ConnectionService, store: Tickets, inboxes: Inboxes, clock: Clock) -> None:
        self._connections = connections
        self._store = store
        self._inboxes = inboxes
        self._clock = clock

    def resume(
        self, caller: Caller, channels: Sequence[str], position: Position, *, until: datetime
    ) -> BegunStream | None:
        """Go on with the caller's stream of the same channels behind a position, and end the response before this one.

        `until` is the end of this response. Where messages behind the position are kept no more, the state of
        everything is told.

        Returns:
            None: there is no such stream any more, or what the caller may hear is not the same.

        Raises:
            Unauthenticated: the caller's session or API key has ended.
        """
        connection, now = self._store.get_connection(position.connection_id), self._clock.now()
        if connection is None or connection.user_id != caller.user_id or connection.credential != caller.credential:
            return None
        is_young = now < connection.connected_at + STREAM_TTL
        # Whoever left a project listens to it no more, and may not be given what was kept of it.
        is_same = {each.name for each in self._store.channels(connection.id)} == set(channels)
        if not (is_young and is_same and connection.rights == _rights(caller)):
            return None
        if not self._store.is_open(connection, now=now):
            self._store.disconnect(connection.id)
            return None
        begun = BegunStream(connection_id=connection.id, reader=new_id(), after=position.number)
        inbox = self._inboxes.take_over(connection.id, begun.reader, kept_until=until + KEPT)
        if inbox is None:
            return None
        if inbox.missed or inbox.after(position.number) is None:
            try:
                return self.again(begun, channels, inbox)
            except NotFound:
                return None
        return begun

    def open(
        self,
        caller: Caller,
        channels: Sequence[str],
        *,
        held: Mapping[str, Held],
        has_missed: bool,
        until: datetime,
    ) -> BegunStream:
        """Begin a stream with the state of its channels.

        Args:
            caller: of the request, read afresh.
            channels: their names.
            held: what the client holds, by channel.
            has_missed: it comes back to a stream that cannot go on, so that what it holds cannot be told.
            until: end of the response.

        Raises:
            Unauthenticated: the caller's session or API key has ended.
            NotFound, Forbidden, QuotaExceeded, TooManyConnections: see ConnectionService.
        """
        begun = BegunStream(connection_id=self._connect(caller, until), reader=new_id())
        known = {name: held.get(name, NOTHING_HELD) for name in channels}
        if has_missed:
            known = {name: replace(each, head=each.head or ALL_MISSED.head) for name, each in known.items()}
        try:
            self._inboxes.take_over(begun.connection_id, begun.reader, kept_until=until + KEPT)
            return self._acknowledged(begun, known)
        except AppError:
            self._store.disconnect(begun.connection_id)
            raise

    def again(self, begun: BegunStream, channels: Sequence[str], inbox: Inbox) -> BegunStream:
        """Tell the state of everything, as of now, to a client that has missed messages.

        Raises:
            NotFound, Unauthenticated, Forbidden: see ConnectionService; the connection is over.
        """
        told = replace(begun, after=inbox.last, missed=inbox.missed)
        return self._acknowledged(told, dict.fromkeys(channels, ALL_MISSED))

    def read(self, begun: BegunStream) -> Inbox | None:
        """Read what the stream is told; None: its connection is over. One Get."""
        return self._inboxes.read(begun.connection_id)

    def drop(self, begun: BegunStream, inbox: Inbox, *, settled: int) -> None:
        """Forget messages up to one that was sent some time ago, when they are many."""
        if inbox.size > _KEPT_BYTES:
            self._inboxes.drop(begun.connection_id, inbox, number=settled)

    def _connect(self, caller: Caller, until: datetime) -> str:
        now = self._clock.now()
        for each in self._store.connections_of(caller.user_id):
            # Nobody tells us that a client has left for good.
            if is_streamed(each.id) and not self._is_kept(each.id, now):
                self._store.disconnect(each.id)
        connection = Connection(
            id=f"{STREAMED}{new_id()}",
            user_id=caller.user_id,
            credential=caller.credential,
            rights=_rights(caller),
            connected_at=now,
        )
        self._store.connect_stream(connection, kept_until=until + KEPT)
        return connection.id

    def _is_kept(self, connection_id: str, now: datetime) -> bool:
        inbox = self._inboxes.read(connection_id)
        return inbox is not None and now < inbox.kept_until

    def _acknowledged(self, begun: BegunStream, held: Mapping[str, Held]) -> BegunStream:
        found = ((self._connections.subscribe(begun.connection_id, name, each), each) for name, each in held.items())
        return replace(begun, acknowledgements=[orjson.dumps(wire.acknowledgement(*each)) for each in found])


def _rights(caller: Caller) -> Rights:
    return Rights(role=caller.role, scopes=caller.scopes if caller.method == "api_key" else None)
