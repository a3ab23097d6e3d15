"""Tickets, connections and subscriptions: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest

from karma.core.errors import StorageThrottled
from karma.core.ids import UserId, new_id
from karma.core.live import Channel
from karma.core.purge import PurgeAttempt
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.domain import CONNECTION_TTL, HEAD_TTL, Connection, Inbox, Ticket, TooManyConnections
from karma.realtime.inbox_repository import MAX_BYTES, StreamInboxRepository
from karma.realtime.ports import Channels, Delivered, Inboxes, Tickets
from karma.realtime.repository import RealtimeRepository
from tests.fakes.realtime import MemoryChannels, MemoryInboxes, MemoryRealtime
from tests.support.accounts import open_account
from tests.support.stores import Database, Store
from tests.support.wire import Params, Wire, on

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


@pytest.fixture
def channels(tickets: Tickets) -> Channels:
    return MemoryChannels(tickets) if isinstance(tickets, MemoryRealtime) else ChannelRepository()


@pytest.fixture
def inboxes(tickets: Tickets) -> Inboxes:
    return MemoryInboxes(tickets) if isinstance(tickets, MemoryRealtime) else StreamInboxRepository()


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
        found = tickets.connections_of(LISTENER)
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
        channels = [Channel(connection.user_id, "device", new_id()) for _ in range(3)]
        for channel in channels:
            tickets.subscribe(connection, channel, now=NOW)
        assert _named(tickets) == {channel.name for channel in channels}
        for _ in range(2):
            tickets.unsubscribe("c1=", channels[0])
        assert _named(tickets) == {channel.name for channel in channels[1:]}

    def test_forgets_all_with_the_connection(self, tickets: Tickets, connection: Connection) -> None:
        tickets.subscribe(connection, Channel(connection.user_id, "user", new_id()), now=NOW)
        for _ in range(2):
            tickets.disconnect("c1=")
        assert tickets.get_connection("c1=") is None
        assert _named(tickets) == set()

    def test_is_found_by_what_it_listens_to(self, tickets: Tickets, channels: Channels, connection: Connection) -> None:
        other = replace(connection, id="d=")
        assert _connect(tickets, other)
        channel = Channel(LISTENER, "user", LISTENER)
        for each in (connection, other):
            tickets.subscribe(each, channel, now=NOW)
        assert sorted(each for page in channels.listeners(channel) for each in page) == ["c1=", "d="]
        tickets.unsubscribe("d=", channel)
        assert [each for page in channels.listeners(channel) for each in page] == ["c1="]
        assert channels.still_listening(channel, ["c1=", "d=", "unknown"]) == {"c1="}

    def test_knows_how_many_messages_it_missed(
        self, tickets: Tickets, channels: Channels, connection: Connection
    ) -> None:
        for _ in range(2):
            channels.note_missed("c1=")
        channels.note_missed("closed=")
        assert tickets.get_connection("c1=") == replace(connection, missed=2)
        assert tickets.get_connection("closed=") is None


class TestStreams:
    @pytest.fixture
    def stream(self, tickets: Tickets) -> Connection:
        found = Connection(id=f"sse-{new_id()}", user_id=LISTENER, connected_at=NOW)
        tickets.connect_stream(found, kept_until=LATER)
        assert tickets.get_connection(found.id) == found
        assert tickets.connections_of(LISTENER) == [found]
        return found

    def test_have_what_they_were_told_in_its_order(self, inboxes: Inboxes, stream: Connection) -> None:
        empty = inboxes.read(stream.id)
        assert empty == Inbox(first=1, bodies=[], kept_until=LATER)
        for bodies in (["a"], ["b", "ü"]):
            assert inboxes.add(stream.id, bodies, now=NOW) is Delivered.SENT
        told = inboxes.read(stream.id)
        assert told == Inbox(first=1, bodies=["a", "b", "ü"], kept_until=LATER)
        assert told is not None
        for _ in range(2):  # a second time it is another inbox by now
            inboxes.drop(stream.id, told, number=2)
            assert inboxes.read(stream.id) == replace(told, first=3, bodies=["ü"])
        inboxes.drop(stream.id, replace(told, first=3, bodies=["ü"]), number=3)
        assert inboxes.add(stream.id, ["d"], now=NOW) is Delivered.SENT
        assert inboxes.read(stream.id) == replace(told, first=4, bodies=["d"])

    def test_forget_hundreds_of_messages(self, inboxes: Inboxes, stream: Connection) -> None:
        """In a few calls: an expression has 4 KB."""
        assert inboxes.add(stream.id, [str(number) for number in range(900)], now=NOW) is Delivered.SENT
        for _ in range(5):
            told = inboxes.read(stream.id)
            assert told is not None
            assert told.bodies[0] == str(told.first - 1)
            inboxes.drop(stream.id, told, number=899)
        assert inboxes.read(stream.id) == Inbox(first=900, bodies=["899"], kept_until=LATER)

    def test_have_room_for_so_much(self, inboxes: Inboxes, stream: Connection) -> None:
        half = "x" * (MAX_BYTES // 2)
        assert [inboxes.add(stream.id, [half], now=NOW) for _ in range(2)] == [Delivered.SENT] * 2
        assert inboxes.add(stream.id, ["y"], now=NOW) is Delivered.BUSY
        full = inboxes.read(stream.id)
        assert full is not None
        assert (full.last, full.missed) == (2, 1)
        inboxes.drop(stream.id, full, number=1)
        assert inboxes.add(stream.id, ["y"], now=NOW) is Delivered.SENT

    def test_go_to_the_response_that_came_last(self, inboxes: Inboxes, stream: Connection) -> None:
        later = LATER + timedelta(minutes=1)
        taken = inboxes.take_over(stream.id, "r1", kept_until=later)
        assert taken == Inbox(first=1, bodies=[], kept_until=later, reader="r1")
        assert inboxes.read(stream.id) == taken
        assert inboxes.add(stream.id, ["a"], now=LATER) is Delivered.SENT

    def test_end_with_their_connection_or_their_time(
        self, tickets: Tickets, inboxes: Inboxes, stream: Connection
    ) -> None:
        assert inboxes.add(stream.id, ["a"], now=LATER) is Delivered.GONE
        for _ in range(2):
            tickets.disconnect(stream.id)
        assert inboxes.read(stream.id) is None
        assert inboxes.take_over(stream.id, "r1", kept_until=LATER) is None
        assert inboxes.add(stream.id, ["a"], now=NOW) is Delivered.GONE
        assert tickets.connections_of(LISTENER) == []

    def test_count_among_an_account_s_connections(self, tickets: Tickets, stream: Connection) -> None:
        for _ in range(MOST - 1):
            tickets.connect_stream(replace(stream, id=f"sse-{new_id()}"), kept_until=LATER)
        with pytest.raises(TooManyConnections):
            tickets.connect_stream(replace(stream, id=f"sse-{new_id()}"), kept_until=LATER)
        later = NOW + CONNECTION_TTL + timedelta(milliseconds=1)
        tickets.connect_stream(replace(stream, id=f"sse-{new_id()}", connected_at=later), kept_until=later)


class TestNumbers:
    def test_are_of_a_channel_that_is_counted(self, channels: Channels) -> None:
        channel = Channel(LISTENER, "user", LISTENER)
        assert (channels.head(channel), channels.advance(channel, 1)) == (None, None)
        channels.begin_counting(channel, now=NOW)
        first = channels.head(channel)
        assert first is not None
        assert first.seq == 0
        assert channels.advance(channel, 2) == replace(first, seq=2)
        for later in (timedelta(hours=1), HEAD_TTL - timedelta(minutes=1)):
            channels.begin_counting(channel, now=NOW + later)
            assert channels.head(channel) == replace(first, seq=2), "a channel that is numbered keeps its number"

    def test_begin_again_in_another_epoch_a_day_after_the_last_subscription(self, channels: Channels) -> None:
        channel = Channel(LISTENER, "user", LISTENER)
        channels.begin_counting(channel, now=NOW)
        first = channels.head(channel)
        channels.begin_counting(channel, now=NOW + HEAD_TTL)
        again = channels.head(channel)
        assert first is not None
        assert again is not None
        assert first.epoch != again.epoch


def _connect(tickets: Tickets, connection: Connection) -> bool:
    ticket = Ticket(hash=connection.id * 20, user_id=connection.user_id, expires_at=LATER)
    if connection.id != "c1=" and tickets.get_ticket(ticket.hash) is None:
        tickets.put_ticket(ticket, now=NOW)
    return tickets.connect(replace(ticket, hash="t" * 64) if connection.id == "c1=" else ticket, connection)


def _named(tickets: Tickets) -> set[str]:
    return {channel.name for channel in tickets.channels("c1=")}


@pytest.mark.parametrize("kept", ["CHANNEL#", "SUB#", "INBOX"])
def test_an_account_s_connections_are_deleted_by_the_next_attempt_when_a_batch_was_cut(
    database: Database, kept: str
) -> None:
    """A batch is no transaction: what it did not process must be found again by what is still there."""
    open_account(LISTENER)
    store, table = RealtimeRepository(), database.tables["realtime"]
    stream = Connection(id=f"sse-{new_id()}", user_id=LISTENER, connected_at=NOW)
    store.connect_stream(stream, kept_until=LATER)
    store.subscribe(stream, Channel(LISTENER, "user", LISTENER), now=NOW)
    assert all(_kept(database, kind) for kind in ("CHANNEL#", "SUB#", "INBOX"))

    def cut(_number: int, operation: str, params: Params) -> dict[str, Any] | None:
        if operation != "BatchWriteItem":
            return None
        requests = params["RequestItems"][table]
        left = [each for each in requests if kept in str(each)]
        if done := [each for each in requests if each not in left]:
            database.client.batch_write_item(RequestItems={table: done})
        return {"UnprocessedItems": {table: left} if left else {}}

    def purge() -> PurgeAttempt:
        return PurgeAttempt(user_id=LISTENER, requested_at=NOW, ends_at=monotonic() + 60, settled=True)

    with on(Wire(answer=cut)), pytest.raises(StorageThrottled):
        store.purge_account(purge())
    assert store.purge_account(purge())
    assert database.client.scan(TableName=table)["Items"] == []


def _kept(database: Database, kind: str) -> bool:
    items = database.client.scan(TableName=database.tables["realtime"])["Items"]
    return any(kind in item["pk"]["S"] or kind in item["sk"]["S"] for item in items)
