"""Tickets, connections and subscriptions, and their end with the session that they belong to."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from karma.core.errors import Forbidden, NotFound, QuotaExceeded, Unauthenticated
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.identity.domain import Caller, Credential, Role
from karma.integrations.sockets import SocketsUnavailable
from karma.realtime.domain import MAX_CHANNELS, Head, Held
from karma.realtime.live import LiveAccount
from karma.realtime.messages import answer, parse
from karma.realtime.service import ConnectionService, RealtimeUnavailable, SocketCloser, TicketService
from tests.fakes.identity import MovableClock
from tests.fakes.live import LiveThings
from tests.fakes.realtime import MemoryChannels, MemoryRealtime


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.store = MemoryRealtime()
        self.tickets = TicketService(store=self.store, clock=self.clock, url="wss://live.example.com")
        self.channels = MemoryChannels(self.store)
        self.live = LiveThings()
        self.live.permissions = {"thing": "device:read", "project": "project:read"}
        self.connections = ConnectionService(
            store=self.store, channels=self.channels, sources=[LiveAccount(), self.live], clock=self.clock
        )
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
        name = f"thing:{new_id()}"
        for _ in range(2):
            assert world.connections.subscribe("c1", name).channel.name == name
        assert [channel.name for channel in world.store.listening["c1"]] == [name]

    def test_lies_in_the_caller_s_namespace(self, world: World) -> None:
        channel = world.connections.subscribe("c1", f"thing:{new_id()}").channel
        assert channel.space == world.caller.user_id

    def test_to_another_person_is_forbidden(self, world: World) -> None:
        world.connections.subscribe("c1", f"user:{world.caller.user_id}")
        with pytest.raises(Forbidden):
            world.connections.subscribe("c1", f"user:{new_id()}")

    @pytest.mark.parametrize(
        "name", ["", "thing", "thing:", "thing:#", "run:01a201be-3567-787e-99b4-6db7735f5850", "thing:" + "x" * 121]
    )
    def test_to_what_is_no_channel_is_not_found(self, world: World, name: str) -> None:
        with pytest.raises(NotFound):
            world.connections.subscribe("c1", name)

    def test_of_an_unknown_connection_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.connections.subscribe("c2", f"thing:{new_id()}")

    def test_is_limited_in_number(self, world: World) -> None:
        names = [f"thing:{new_id()}" for _ in range(MAX_CHANNELS)]
        for name in names:
            world.connections.subscribe("c1", name)
        with pytest.raises(QuotaExceeded):
            world.connections.subscribe("c1", f"thing:{new_id()}")
        world.connections.subscribe("c1", names[0])

    def test_ends_by_itself_or_with_the_connection(self, world: World) -> None:
        first, second = f"thing:{new_id()}", f"thing:{new_id()}"
        world.connections.subscribe("c1", first)
        world.connections.subscribe("c1", second)
        world.connections.unsubscribe("c1", first)
        assert [channel.name for channel in world.store.channels("c1")] == [second]
        for _ in range(2):
            world.connections.disconnect("c1")
        assert not world.store.connections
        assert not world.store.listening


class TestWhatASubscriptionIsAnswered:
    @pytest.fixture(autouse=True)
    def _connected(self, world: World) -> None:
        world.connections.connect("c1", world.ticket())

    def test_is_how_the_object_stands_behind_the_subscription(self, world: World) -> None:
        """Read after it was stored: whatever changes later is pushed."""
        world.live.things[world.caller.user_id, "a"] = 3
        stored = world.connections.subscribe("c1", "thing:a")
        assert [(each.name, each.version) for each in stored.states] == [("thing:a", 3)]
        assert stored.head is None

    def test_of_what_one_may_not_see_is_as_of_what_does_not_exist(self, world: World) -> None:
        """Another's thing, and another's project: accepted, silent, in the caller's own space."""
        world.live.things["another", "a"] = 3
        world.live.members["p"] = {"another"}
        for name in ("thing:a", "thing:none", "project:p", "project:none"):
            found = world.connections.subscribe("c1", name)
            assert (found.states, found.head, found.channel.space) == ((), None, world.caller.user_id)
        assert all(channel.space == world.caller.user_id for channel in world.store.channels("c1"))

    def test_of_a_project_is_shared_with_its_members(self, world: World) -> None:
        world.live.members["p"] = {world.caller.user_id}
        found = world.connections.subscribe("c1", "project:p")
        assert (found.channel.space, found.head is not None and found.head.seq) == ("p", 0)

    def test_becomes_shared_with_who_becomes_a_member_and_subscribes_again(self, world: World) -> None:
        world.connections.subscribe("c1", "project:p")
        world.live.members["p"] = {world.caller.user_id}
        world.connections.subscribe("c1", "project:p")
        assert [(each.space, each.name) for each in world.store.channels("c1")] == [("p", "project:p")]

    def test_of_a_right_that_ends_meanwhile_leaves_no_subscription(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever ended it may have looked for subscriptions before this one was stored."""
        monkeypatch.setattr(world.live, "space", lambda *_: "p")
        found = world.connections.subscribe("c1", "project:p")
        assert (found.states, found.head) == ((), None)
        assert world.store.channels("c1") == []

    def test_numbers_what_an_account_s_lists_are_told(self, world: World) -> None:
        name = f"user:{world.caller.user_id}"
        first = world.connections.subscribe("c1", name)
        assert first.head is not None
        world.channels.advance(first.channel, 2)
        again = world.connections.subscribe("c1", name, Held(objects={}, head=first.head))
        assert again.head == Head(epoch=first.head.epoch, seq=2)

    def test_begins_another_epoch_when_nobody_had_listened_for_a_day(self, world: World) -> None:
        name = f"user:{world.caller.user_id}"
        first = world.connections.subscribe("c1", name)
        world.clock.pass_(hours=25)
        world.connections.connect("c2", world.ticket())
        again = world.connections.subscribe("c2", name)
        assert first.head is not None
        assert again.head is not None
        assert first.head.epoch != again.head.epoch

    @pytest.mark.parametrize(
        ("scopes", "allowed"),
        [
            ({"realtime:connect"}, set()),
            ({"realtime:connect", "device:read"}, {"thing:a"}),
            ({"device:read", "project:read"}, {"thing:a", "project:p"}),
            ({"*"}, {"thing:a", "project:p", "user"}),
        ],
    )
    def test_takes_the_permission_to_read_what_it_is_about(
        self, world: World, scopes: set[str], allowed: set[str]
    ) -> None:
        """The channel of an account, which tells of everything, takes all of them."""
        world.caller = replace(world.caller, method="api_key", scopes=frozenset(scopes))
        world.connections.connect("key", world.ticket())
        for name in ("thing:a", "project:p", "user"):
            asked = f"user:{world.caller.user_id}" if name == "user" else name
            if name in allowed:
                world.connections.subscribe("key", asked)
            else:
                with pytest.raises(Forbidden):
                    world.connections.subscribe("key", asked)


class EndingWorld(World):
    """A world whose caller shows a session or an API key, which can end; so can the account."""

    def __init__(self, ends: str) -> None:
        super().__init__()
        self.ends = ends
        began, user_id = self.clock.now(), self.caller.user_id
        self.credential = Credential(user_id=user_id, session_id=new_id(), began_at=began)
        if ends == "api key":
            self.credential = Credential(user_id=user_id, api_key_id=ApiKeyId(new_id()), began_at=began)
        self.caller = replace(self.caller, credential=self.credential)

    def end(self) -> None:
        if self.ends == "account":
            self.store.gone.add(self.caller.user_id)
        else:
            self.store.over.add(self.credential.session_id or self.credential.api_key_id)


@pytest.mark.fault("F-21c")
class TestASessionThatEnds:
    """The ticket and the connection of a session, or of an API key, are worth as much as that."""

    @pytest.fixture(params=["session", "api key", "account"])
    def world(self, request: pytest.FixtureRequest) -> EndingWorld:
        return EndingWorld(request.param)

    def test_makes_no_ticket(self, world: EndingWorld) -> None:
        world.end()
        with pytest.raises(Unauthenticated):
            world.ticket()

    def test_admits_nobody_by_a_ticket_that_it_made(self, world: EndingWorld) -> None:
        ticket = world.ticket()
        world.end()
        with pytest.raises(Unauthenticated):
            world.connections.connect("c1", ticket)
        assert world.store.connections == {}

    @pytest.mark.parametrize("text", ['{"action": "ping"}', "subscribe", "unsubscribe"])
    def test_is_over_for_its_connections_with_their_next_message(self, world: EndingWorld, text: str) -> None:
        world.connections.connect("c1", world.ticket())
        channel = f"user:{world.caller.user_id}"
        world.connections.subscribe("c1", channel)
        if not text.startswith("{"):
            text = f'{{"action": "{text}", "channel": "{channel}"}}'
        assert answer(world.connections, "c1", parse(text))["type"] in {"ack", "pong"}
        world.connections.subscribe("c1", channel)
        world.end()
        with pytest.raises(Unauthenticated, match="session is over"):
            answer(world.connections, "c1", parse(text))
        assert (world.store.listening, world.store.connections) == ({}, {})
        with pytest.raises(NotFound):
            answer(world.connections, "c1", parse(text))

    def test_of_another_session_goes_on(self, world: EndingWorld) -> None:
        other = Credential(user_id=world.caller.user_id, session_id=new_id(), began_at=world.clock.now())
        ticket = world.tickets.issue(replace(world.caller, credential=other)).ticket
        world.connections.connect("c2", ticket)
        world.store.over.add(world.credential.session_id or world.credential.api_key_id)
        world.connections.require_open("c2")


class FakeSockets:
    """API Gateway that records the connections it has closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.failure: Exception | None = None
        self.broken: set[str] = set()
        self.together: threading.Barrier | None = None
        """Meets each ten closings that come at once; those that come alone fail."""

    def close(self, connection_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        if connection_id in self.broken:
            raise SocketsUnavailable("down")
        if self.together is not None:
            self.together.wait(timeout=5)
        self.closed.append(connection_id)


@pytest.mark.fault("F-21c")
class TestSocketsOfSessionsThatAreOver:
    @pytest.fixture
    def sockets(self, monkeypatch: pytest.MonkeyPatch) -> FakeSockets:
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")
        return FakeSockets()

    @pytest.fixture
    def closer(self, world: World, sockets: FakeSockets) -> SocketCloser:
        for connection_id, shown in (
            ("laptop", {"session_id": "s1"}),
            ("phone", {"session_id": "s2"}),
            ("script", {"api_key_id": ApiKeyId("k1")}),
        ):
            credential = Credential(user_id=world.caller.user_id, began_at=world.clock.now(), **shown)
            world.caller = replace(world.caller, credential=credential)
            world.connections.connect(connection_id, world.ticket())
        return SocketCloser(store=world.store, sockets=sockets, clock=world.clock)

    @pytest.mark.parametrize(
        ("over", "closed"),
        [((), []), (("s1",), ["laptop"]), (("k1",), ["script"]), (("s1", "s2"), ["laptop", "phone"])],
    )
    def test_those_alone_are_closed(
        self, world: World, closer: SocketCloser, sockets: FakeSockets, over: tuple[str, ...], closed: list[str]
    ) -> None:
        world.store.over.update(over)
        closer.close_ended(world.caller.user_id)
        assert sorted(sockets.closed) == closed

    def test_all_are_closed_when_the_account_is_gone(
        self, world: World, closer: SocketCloser, sockets: FakeSockets
    ) -> None:
        world.store.gone.add(world.caller.user_id)
        closer.close_ended(world.caller.user_id)
        assert sorted(sockets.closed) == ["laptop", "phone", "script"]

    def test_another_account_is_left_alone(self, world: World, closer: SocketCloser, sockets: FakeSockets) -> None:
        world.store.over.add("s1")
        closer.close_ended(UserId(new_id()))
        assert sockets.closed == []

    @pytest.mark.parametrize("failure", [SocketsUnavailable("down"), RuntimeError("a bug")])
    def test_a_failure_to_close_fails_nothing_else(
        self, world: World, closer: SocketCloser, sockets: FakeSockets, failure: Exception
    ) -> None:
        world.store.over.add("s1")
        sockets.failure = failure
        closer.close_ended(world.caller.user_id)
        assert sockets.closed == []

    @pytest.mark.fault("F-22c")
    def test_all_are_closed_however_many_and_whatever_fails(
        self, world: World, closer: SocketCloser, sockets: FakeSockets
    ) -> None:
        """Several at once, and each that fails alone, the first one too."""
        laptop, phone = world.store.connections["laptop"], world.store.connections["phone"]
        world.store.connections = {f"c{n}": replace(laptop if n % 3 else phone, id=f"c{n}") for n in range(1, 121)}
        sockets.together = threading.Barrier(10)
        sockets.broken = {"c1", *(f"c{n}" for n in range(10, 100, 10))}
        world.store.over.update({"s1", "s2"})
        closer.close_ended(world.caller.user_id)
        assert sorted(sockets.closed) == sorted({*world.store.connections} - sockets.broken)

    def test_no_log_out_waits_for_long(self, world: World, sockets: FakeSockets, closer: SocketCloser) -> None:
        world.store.over.add("s1")
        closer = SocketCloser(store=world.store, sockets=sockets, clock=world.clock, closing_s=-1)
        closer.close_ended(world.caller.user_id)
        assert sockets.closed == []
