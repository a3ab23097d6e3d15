"""Tickets, connections and subscriptions: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.ids import UserId, new_id
from karma.realtime.domain import Channel, Connection, Ticket
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import Tickets
from tests.fakes.realtime import MemoryRealtime
from tests.support.accounts import open_account
from tests.support.stores import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
LISTENER = UserId(new_id())


@pytest.fixture
def tickets(store: Store) -> Tickets:
    if store.in_memory:
        return MemoryRealtime()
    open_account(LISTENER)
    return RealtimeRepository()


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
        assert tickets.connections_of(LISTENER, limit=10) == [connection]
        assert tickets.connections_of(UserId(new_id()), limit=10) == []
        assert tickets.get_ticket("unknown") is None

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


def _named(tickets: Tickets) -> set[str]:
    return {channel.name for channel in tickets.channels("c1=")}
