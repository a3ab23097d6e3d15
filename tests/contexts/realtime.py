"""Declarations of the WebSocket for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cached_property

import pytest

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import update
from karma.core.errors import NotFound, Unauthenticated
from karma.realtime.domain import CONNECTION_TTL, MAX_OPEN, Channel, Connection, Ticket, TooManyConnections
from karma.realtime.repository import OpenConnections, RealtimeRepository, open_key
from karma.realtime.service import ConnectionService
from tests.fakes.devices import FakeClock
from tests.fakes.realtime import MemoryRealtime
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.rows import LATER, NOW, AccountRows


class RealtimeRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.realtime = RealtimeRepository()

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
    def channel(self) -> Channel:
        return Channel(owner=self.ada.id, kind="device", object_id=self.id)

    @cached_property
    def listening(self) -> Channel:
        self.realtime.subscribe(self.connection, self.channel, now=NOW)
        return self.channel


FAKES: Fakes = {MemoryRealtime: (RealtimeRepository,)}

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
        "RealtimeRepository.disconnect": made(
            lambda r: r.listening, lambda r, _: r.realtime.disconnect(r.connection.id)
        ),
        "RealtimeRepository.purge_account": made(
            lambda r: (r.listening, r.purge()), lambda r, n: r.realtime.purge_account(n[1])
        ),
    },
)


def _ticket_over(rows: RealtimeRows) -> None:
    ticket = rows.realtime.get_ticket(rows.admitted.hash)
    assert ticket is not None
    service = ConnectionService(store=rows.realtime, clock=FakeClock(ticket.expires_at))
    with pytest.raises(Unauthenticated):
        service.connect("c1", rows.admitted.hash)


def _connection_over(rows: RealtimeRows) -> None:
    channel = rows.listening
    end = NOW + CONNECTION_TTL
    ConnectionService(store=rows.realtime, clock=FakeClock(end - timedelta(milliseconds=1))).subscribe(
        rows.connection.id, channel.name
    )
    with pytest.raises(NotFound):
        ConnectionService(store=rows.realtime, clock=FakeClock(end)).subscribe(rows.connection.id, channel.name)


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
        "channel_subscription": _connection_over,
        "open_connections": _entries_over,
    },
)
