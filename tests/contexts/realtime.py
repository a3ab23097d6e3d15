"""Declarations of the WebSocket for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property

import pytest

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import update
from karma.core.errors import NotFound, Unauthenticated
from karma.core.ids import new_id
from karma.core.live import Channel, declared
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.domain import CONNECTION_TTL, MAX_OPEN, Connection, Inbox, Ticket, TooManyConnections
from karma.realtime.inbox_repository import StreamInboxRepository
from karma.realtime.items import OpenConnections, open_key
from karma.realtime.ports import Delivered
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import ConnectionService
from tests.fakes.devices import FakeClock
from tests.fakes.realtime import MemoryChannels, MemoryInboxes, MemoryRealtime
from tests.integration.permissions.world import Queries
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.rows import LATER, NOW, AccountRows


class RealtimeRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.realtime = RealtimeRepository()
        self.channels = ChannelRepository()
        self.inboxes = StreamInboxRepository()

    @cached_property
    def ticket(self) -> Ticket:
        return Ticket(hash=f"ticket-{self.id}", user_id=self.ada.id, expires_at=LATER)

    @cached_property
    def admitted(self) -> Ticket:
        self.realtime.put_ticket(self.ticket, now=NOW)
        return self.ticket

    @cached_property
    def new_connection(self) -> Connection:
        return Connection(id=f"c-{self.id}", user_id=self.ada.id, connected_at=NOW)

    @cached_property
    def connection(self) -> Connection:
        assert self.realtime.connect(self.admitted, self.new_connection)
        return self.new_connection

    @cached_property
    def new_stream(self) -> Connection:
        return Connection(id=f"sse-{new_id()}", user_id=self.ada.id, connected_at=NOW)

    @cached_property
    def streamed(self) -> Connection:
        self.realtime.connect_stream(self.new_stream, kept_until=LATER)
        return self.new_stream

    @cached_property
    def told(self) -> Inbox:
        assert self.inboxes.add(self.streamed.id, ["{}", "{}"], now=NOW) is Delivered.SENT
        found = self.inboxes.read(self.streamed.id)
        assert found is not None
        return found

    @cached_property
    def channel(self) -> Channel:
        return Channel(self.ada.id, "device", self.id)

    @cached_property
    def counted(self) -> Channel:
        return Channel(self.ada.id, "user", self.ada.id)

    @cached_property
    def numbered(self) -> Channel:
        self.channels.begin_counting(self.counted, now=NOW)
        return self.counted

    @cached_property
    def listening(self) -> Channel:
        self.realtime.subscribe(self.connection, self.channel, now=NOW)
        return self.channel


FAKES: Fakes = {
    MemoryRealtime: (RealtimeRepository,),
    MemoryChannels: (ChannelRepository,),
    MemoryInboxes: (StreamInboxRepository,),
}


def _service(rows: RealtimeRows, at: datetime) -> ConnectionService:
    return ConnectionService(store=rows.realtime, channels=rows.channels, sources=declared(), clock=FakeClock(at))


SCENARIOS = Scenarios[RealtimeRows](
    RealtimeRows,
    {
        "RealtimeRepository.put_ticket": made(
            lambda r: r.ticket, lambda r, ticket: r.realtime.put_ticket(ticket, now=NOW)
        ),
        "RealtimeRepository.get_ticket": made(
            lambda r: r.admitted, lambda r, ticket: r.realtime.get_ticket(ticket.hash)
        ),
        "RealtimeRepository.connect": made(
            lambda r: (r.admitted, r.new_connection), lambda r, n: r.realtime.connect(n[0], n[1])
        ),
        "RealtimeRepository.get_connection": made(lambda r: r.connection, lambda r, c: r.realtime.get_connection(c.id)),
        "RealtimeRepository.connections_of": made(
            lambda r: r.connection, lambda r, c: r.realtime.connections_of(c.user_id)
        ),
        "RealtimeRepository.is_open": made(lambda r: r.connection, lambda r, c: r.realtime.is_open(c, now=NOW)),
        "RealtimeRepository.channels": made(lambda r: r.connection, lambda r, c: r.realtime.channels(c.id)),
        "RealtimeRepository.subscribe": made(
            lambda r: (r.connection, r.channel), lambda r, n: r.realtime.subscribe(n[0], n[1], now=NOW)
        ),
        "RealtimeRepository.unsubscribe": made(
            lambda r: r.listening, lambda r, channel: r.realtime.unsubscribe(r.connection.id, channel)
        ),
        "ChannelRepository.begin_counting": made(
            lambda r: r.counted, lambda r, channel: r.channels.begin_counting(channel, now=NOW)
        ),
        "ChannelRepository.head": made(lambda r: r.numbered, lambda r, channel: r.channels.head(channel)),
        "ChannelRepository.advance": made(lambda r: r.numbered, lambda r, channel: r.channels.advance(channel, 2)),
        "ChannelRepository.listeners": made(
            lambda r: r.listening, lambda r, channel: list(r.channels.listeners(channel))
        ),
        "ChannelRepository.still_listening": made(
            lambda r: r.listening, lambda r, channel: r.channels.still_listening(channel, [r.connection.id, "c"])
        ),
        "ChannelRepository.note_missed": made(
            lambda r: r.connection, lambda r, connection: r.channels.note_missed(connection.id)
        ),
        "RealtimeRepository.connect_stream": made(
            lambda r: r.new_stream, lambda r, stream: r.realtime.connect_stream(stream, kept_until=LATER)
        ),
        "StreamInboxRepository.take_over": made(
            lambda r: r.streamed, lambda r, stream: r.inboxes.take_over(stream.id, "r", kept_until=LATER)
        ),
        "StreamInboxRepository.read": made(lambda r: r.streamed, lambda r, stream: r.inboxes.read(stream.id)),
        "StreamInboxRepository.add": made(
            lambda r: r.streamed, lambda r, stream: r.inboxes.add(stream.id, ["{}"], now=NOW)
        ),
        "StreamInboxRepository.drop": made(
            lambda r: (r.streamed, r.told), lambda r, n: r.inboxes.drop(n[0].id, n[1], number=1)
        ),
        "RealtimeRepository.disconnect": made(
            lambda r: r.listening, lambda r, _: r.realtime.disconnect(r.connection.id)
        ),
        "RealtimeRepository.purge_account": made(
            lambda r: (r.listening, r.purge()), lambda r, n: r.realtime.purge_account(n[1])
        ),
    },
)


QUERIES: Queries = {"GET /api/v1/realtime/stream": lambda: (f"channels=task:{new_id()}", {})}


def _ticket_over(rows: RealtimeRows) -> None:
    ticket = rows.realtime.get_ticket(rows.admitted.hash)
    assert ticket is not None
    service = _service(rows, ticket.expires_at)
    with pytest.raises(Unauthenticated):
        service.connect("c1", rows.admitted.hash)


def _connection_over(rows: RealtimeRows) -> None:
    channel = rows.listening
    end = NOW + CONNECTION_TTL
    _service(rows, end - timedelta(milliseconds=1)).subscribe(rows.connection.id, channel.name)
    with pytest.raises(NotFound):
        _service(rows, end).subscribe(rows.connection.id, channel.name)


def _inbox_over(rows: RealtimeRows) -> None:
    stream = rows.streamed
    assert rows.inboxes.add(stream.id, ["{}"], now=LATER - timedelta(milliseconds=1)) is Delivered.SENT
    assert rows.inboxes.add(stream.id, ["{}"], now=LATER) is Delivered.GONE


def _entries_over(rows: RealtimeRows) -> None:
    """A connection whose `$disconnect` never came counts for as long as a connection lives."""
    first = rows.connection
    entries = {f"{epoch_ms(NOW):013d}#c{number}" for number in range(MAX_OPEN - 1)}
    update(OpenConnections(*open_key(first.user_id)), [OpenConnections.open_ids.add(entries)])
    again = replace(rows.ticket, hash=f"again-{rows.id}")
    rows.realtime.put_ticket(again, now=NOW)
    end = NOW + CONNECTION_TTL
    with pytest.raises(TooManyConnections):
        rows.realtime.connect(again, replace(first, id="late", connected_at=end))
    assert rows.realtime.connect(again, replace(first, id="late", connected_at=end + timedelta(milliseconds=1)))


EXPIRES = Checks[RealtimeRows](
    RealtimeRows,
    {
        "ticket": _ticket_over,
        "connection": _connection_over,
        "inbox": _inbox_over,
        "channel_subscription": _connection_over,
        "open_connections": _entries_over,
    },
)
