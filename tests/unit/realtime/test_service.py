from __future__ import annotations

import pytest

from karma.core.errors import Forbidden, NotFound, QuotaExceeded, Unauthenticated
from karma.core.ids import UserId, new_id
from karma.identity.domain import Caller, Role
from karma.realtime.domain import MAX_CHANNELS
from karma.realtime.service import ConnectionService, RealtimeUnavailable, TicketService
from tests.fakes.identity import MovableClock
from tests.fakes.realtime import MemoryRealtime


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.store = MemoryRealtime()
        self.tickets = TicketService(store=self.store, clock=self.clock, url="wss://live.example.com")
        self.connections = ConnectionService(store=self.store, clock=self.clock)
        self.caller = Caller(
            user_id=UserId(new_id()),
            role=Role.USER,
            method="jwt",
            scopes=frozenset(),
            email_verified=True,
            name="Ada",
            avatar=None,
        )

    def ticket(self) -> str:
        return self.tickets.issue(self.caller).ticket


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.req("R-K-01")
class TestATicket:
    def test_opens_one_connection(self, world: World) -> None:
        ticket = world.ticket()
        assert world.connections.connect("c1", ticket).user_id == world.caller.user_id
        with pytest.raises(Unauthenticated):
            world.connections.connect("c2", ticket)
        assert set(world.store.connections) == {"c1"}

    def test_opens_its_connection_again_when_the_event_is_repeated(self, world: World) -> None:
        ticket = world.ticket()
        world.connections.connect("c1", ticket)
        world.connections.connect("c1", ticket)

    def test_is_good_for_a_minute(self, world: World) -> None:
        issued = world.tickets.issue(world.caller)
        assert (issued.expires_in_s, issued.url) == (60, "wss://live.example.com")
        world.clock.pass_(seconds=60)
        with pytest.raises(Unauthenticated):
            world.connections.connect("c1", issued.ticket)

    @pytest.mark.parametrize("ticket", ["", "unknown", "x" * 1000, "\u00fc"])
    def test_of_nobody_is_refused(self, world: World, ticket: str) -> None:
        with pytest.raises(Unauthenticated):
            world.connections.connect("c1", ticket)

    def test_is_stored_as_a_hash(self, world: World) -> None:
        assert world.ticket() not in repr(world.store)

    def test_is_not_given_out_where_there_is_no_websocket(self, world: World) -> None:
        nowhere = TicketService(store=world.store, clock=world.clock, url="")
        with pytest.raises(RealtimeUnavailable):
            nowhere.issue(world.caller)


class TestASubscription:
    @pytest.fixture(autouse=True)
    def _connected(self, world: World) -> None:
        world.connections.connect("c1", world.ticket())

    def test_to_an_own_channel_is_stored_once(self, world: World) -> None:
        name = f"device:{new_id()}"
        for _ in range(2):
            assert world.connections.subscribe("c1", name).name == name
        assert [channel.name for channel in world.store.listening["c1"]] == [name]

    def test_lies_in_the_caller_s_namespace(self, world: World) -> None:
        channel = world.connections.subscribe("c1", f"device:{new_id()}")
        assert channel.owner == world.caller.user_id

    def test_to_another_person_is_forbidden(self, world: World) -> None:
        world.connections.subscribe("c1", f"user:{world.caller.user_id}")
        with pytest.raises(Forbidden):
            world.connections.subscribe("c1", f"user:{new_id()}")

    @pytest.mark.parametrize(
        "name", ["", "device", "device:", "device:#", "run:01a201be-3567-787e-99b4-6db7735f5850", "device:" + "x" * 36]
    )
    def test_to_what_is_no_channel_is_not_found(self, world: World, name: str) -> None:
        with pytest.raises(NotFound):
            world.connections.subscribe("c1", name)

    def test_of_an_unknown_connection_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.connections.subscribe("c2", f"device:{new_id()}")

    def test_is_limited_in_number(self, world: World) -> None:
        names = [f"device:{new_id()}" for _ in range(MAX_CHANNELS)]
        for name in names:
            world.connections.subscribe("c1", name)
        with pytest.raises(QuotaExceeded):
            world.connections.subscribe("c1", f"device:{new_id()}")
        world.connections.subscribe("c1", names[0])

    def test_ends_by_itself_or_with_the_connection(self, world: World) -> None:
        first, second = f"device:{new_id()}", f"device:{new_id()}"
        world.connections.subscribe("c1", first)
        world.connections.subscribe("c1", second)
        world.connections.unsubscribe("c1", first)
        assert [channel.name for channel in world.store.channels("c1")] == [second]
        for _ in range(2):
            world.connections.disconnect("c1")
        assert not world.store.connections
        assert not world.store.listening
