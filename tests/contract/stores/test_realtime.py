"""Tickets, connections and subscriptions: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.ids import UserId, new_id
from karma.realtime.domain import CONNECTION_TTL, Channel, Connection, Ticket, TooManyConnections
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import Tickets
from tests.fakes.realtime import MemoryRealtime
from tests.support.accounts import open_account
from tests.support.stores import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
LISTENER = UserId(new_id())
MOST = 5


@pytest.fixture
def tickets(store: Store) -> Tickets:
    if store.in_memory:
        return MemoryRealtime(most_open=MOST)
    open_account(LISTENER)
    return RealtimeRepository(most_open=MOST)


class TestTheWebSocket:
    @pytest.fixture
    def connection(self, tickets: Tickets) -> Connection:
        found = Connection(id="c1=", user_id=LISTENER, connected_at=NOW)
        ticket = Ticket(hash="t" * 64, user_id=found.user_id, expires_at=LATER)
        tickets.put_ticket(ticket, now=NOW)
        assert tickets.get_ticket(ticket.hash) == ticket
        assert tickets.connect(ticket, found)
        assert tickets.connect(ticket, found), "a repeat for the same connection succeeds"
        assert not tickets.connect(ticket, replace(found, id="c2="))
        return found

    def test_remembers_who_is_connected(self, tickets: Tickets, connection: Connection) -> None:
        assert tickets.get_connection("c1=") == connection
        assert tickets.get_connection("c2=") is None
        assert tickets.connections_of(LISTENER) == [connection]
        assert tickets.connections_of(UserId(new_id())) == []
        assert tickets.get_ticket("unknown") is None

    @pytest.mark.fault("F-22c")
    def test_lists_all_connections_of_an_account(self, tickets: Tickets, connection: Connection) -> None:
        others = [replace(connection, id=f"d{number}=") for number in range(4)]
        for each in others:
            assert _connect(tickets, each)
        found = tickets.connections_of(LISTENER, page=2)
        assert sorted(found, key=lambda each: each.id) == [connection, *others]

    @pytest.mark.fault("F-22c")
    def test_has_a_bound_for_each_account(self, tickets: Tickets, connection: Connection) -> None:
        for each in [connection, *(replace(connection, id=f"d{number}=") for number in range(MOST - 1))]:
            assert _connect(tickets, each), "a repeat takes no other place"
        with pytest.raises(TooManyConnections) as refused:
            _connect(tickets, replace(connection, id="e="))
        assert refused.value.status == 429
        assert tickets.get_connection("e=") is None
        for _ in range(2):
            tickets.disconnect("d0=")
        assert _connect(tickets, replace(connection, id="e=")), "the refused ticket is still good"
        with pytest.raises(TooManyConnections):
            _connect(tickets, replace(connection, id="f="))
        later = replace(connection, id="f=", connected_at=NOW + CONNECTION_TTL + timedelta(milliseconds=1))
        assert _connect(tickets, later), "connections whose end nobody told count as long as they may live"

    def test_is_open_while_its_account_is_there(self, tickets: Tickets, connection: Connection) -> None:
        assert tickets.is_open(connection, now=NOW)

    def test_remembers_what_is_listened_to(self, tickets: Tickets, connection: Connection) -> None:
        channels = [Channel(owner=connection.user_id, kind="device", object_id=new_id()) for _ in range(3)]
        for channel in channels:
            tickets.subscribe(connection, channel, now=NOW)
        assert _named(tickets) == {channel.name for channel in channels}
        for _ in range(2):
            tickets.unsubscribe("c1=", channels[0])
        assert _named(tickets) == {channel.name for channel in channels[1:]}

    def test_forgets_all_with_the_connection(self, tickets: Tickets, connection: Connection) -> None:
        tickets.subscribe(connection, Channel(owner=connection.user_id, kind="user", object_id=new_id()), now=NOW)
        for _ in range(2):
            tickets.disconnect("c1=")
        assert tickets.get_connection("c1=") is None
        assert _named(tickets) == set()


def _connect(tickets: Tickets, connection: Connection) -> bool:
    ticket = Ticket(hash=connection.id * 20, user_id=connection.user_id, expires_at=LATER)
    if connection.id != "c1=" and tickets.get_ticket(ticket.hash) is None:
        tickets.put_ticket(ticket, now=NOW)
    return tickets.connect(replace(ticket, hash="t" * 64) if connection.id == "c1=" else ticket, connection)


def _named(tickets: Tickets) -> set[str]:
    return {channel.name for channel in tickets.channels("c1=")}
