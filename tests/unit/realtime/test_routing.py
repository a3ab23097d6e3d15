"""Changes become push jobs, jobs become messages, and whoever may not listen any more hears nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from karma.core.dynamo.items import Key
from karma.core.happenings import ItemChange
from karma.core.ids import UserId, new_id
from karma.core.live import Channel, LiveSource
from karma.core.streams import StreamRecord
from karma.identity.domain import Credential, Role, User
from karma.integrations.sockets import SocketsUnavailable
from karma.realtime.domain import Connection, Rights
from karma.realtime.live import LiveAccount
from karma.realtime.ports import Delivered
from karma.realtime.pushing import SURE_MS, Pusher, PushJob
from karma.realtime.routing import CONNECTIONS_A_JOB, ConnectionRights, LiveRouter, SubscriptionRights
from tests.fakes.identity import MovableClock
from tests.fakes.live import LiveThings, image
from tests.fakes.realtime import MemoryChannels, MemoryRealtime

ADA, BOB = UserId(new_id()), UserId(new_id())


@dataclass
class Gateway:
    """API Gateway's side: what was sent to whom, and what it answers."""

    answers: dict[str, Delivered] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    refuses_to_close: bool = False

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        self.sent += [(connection, json.loads(body)) for connection, body in messages]
        return [self.answers.get(connection, Delivered.SENT) for connection, _ in messages]

    def close(self, connection_id: str) -> None:
        if self.refuses_to_close:
            raise SocketsUnavailable("down")
        self.closed.append(connection_id)


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.tickets = MemoryRealtime()
        self.channels = MemoryChannels(self.tickets)
        self.things = LiveThings()
        self.sources: list[LiveSource] = [LiveAccount(), self.things]
        self.jobs: list[str] = []
        self.users: dict[UserId, User] = {}
        self.gateway = Gateway()
        self.router = LiveRouter(self.sources, self.channels, self, self.clock)
        self.rights = SubscriptionRights(self.sources, self.tickets, self.channels)
        self.connection_rights = ConnectionRights(self.sources, self.tickets, self, self.gateway, self.clock)
        self.pusher = Pusher(self.tickets, self.channels, self.gateway, self.clock)

    def send_many(self, bodies: list[str]) -> None:
        self.jobs += bodies

    def read_user(self, user_id: UserId) -> User | None:
        return self.users.get(user_id)

    def connect(self, name: str, user: UserId, *channels: Channel) -> None:
        connection = Connection(id=name, user_id=user, rights=Rights(role="user"), connected_at=self.clock.now())
        self.tickets.connections[name] = connection
        for channel in channels:
            if channel.is_counted:
                self.channels.begin_counting(channel, now=self.clock.now())
            self.tickets.subscribe(connection, channel, now=self.clock.now())

    def change(
        self, version: int, *, user: str = ADA, name: str = "a", gone: bool = False, **more: str
    ) -> StreamRecord:
        new = image("thing", space=user, id=name, version=version, **more)
        change = ItemChange(new, None) if gone else ItemChange(None, new)
        return StreamRecord(Key("pk", "sk"), change, str(version))

    def push(self) -> list[bool]:
        jobs, self.jobs = [PushJob.read(each) for each in self.jobs], []
        return self.pusher.push(jobs)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")
    return World()


def thing(name: str = "a", user: str = ADA) -> Channel:
    return Channel(user, "thing", name)


OWN = Channel(ADA, "user", ADA)


class TestTheRouter:
    def test_tells_whoever_listens(self, world: World) -> None:
        world.connect("c1", ADA, thing())
        world.connect("c2", ADA, thing("b"))
        world.connect("c3", BOB, thing("a", BOB))
        world.router.take([world.change(3)])
        assert world.push() == [True]
        [(connection, message)] = world.gateway.sent
        assert connection == "c1"
        assert (message["object"], message["kind"], message["version"]) == ("thing:a", "changed", 3)
        assert message["data"] == {"version": 3, "text": ""}

    def test_makes_no_job_where_nobody_listens_and_counts_nothing(self, world: World) -> None:
        world.connect("c1", BOB, thing("a", BOB))
        assert world.router.take([world.change(1)]) == 0
        assert world.channels.heads == {}

    def test_tells_of_an_object_the_newest_state_of_a_batch_alone(self, world: World) -> None:
        world.connect("c1", ADA, thing())
        world.router.take([world.change(2), world.change(1), world.change(3)])
        world.push()
        assert [message["version"] for _, message in world.gateway.sent] == [3]

    def test_ends_with_the_end_of_an_object(self, world: World) -> None:
        world.connect("c1", ADA, thing())
        world.things.things[ADA, "a"] = 9
        for batch in (
            [world.change(2), world.change(2, gone=True)],
            [world.change(2, read="1"), world.change(2, gone=True)],
        ):
            world.router.take(batch)
            world.push()
            assert world.gateway.sent.pop()[1]["kind"] == "deleted"

    def test_tells_every_piece_of_a_log(self, world: World) -> None:
        world.connect("c1", ADA, thing())
        pieces = [ItemChange(None, image("piece", space=ADA, id="a", n=n)) for n in (1, 2, 3, 2)]
        world.router.take([StreamRecord(Key("pk", "sk"), each, "1") for each in pieces])
        world.push()
        assert [(each["seq"], each["prev"]) for _, each in world.gateway.sent] == [(1, 0), (2, 1), (3, 2)]

    def test_reads_what_several_items_make_up_once_a_batch(self, world: World) -> None:
        world.connect("c1", ADA, thing(), OWN)
        world.things.things[ADA, "a"] = 7
        world.router.take([world.change(1, read="1"), world.change(2, read="1")])
        world.push()
        assert [message["version"] for _, message in world.gateway.sent] == [7, 7]

    def test_numbers_the_messages_of_a_collection_without_a_hole(self, world: World) -> None:
        world.connect("c1", ADA, OWN)
        world.router.take([world.change(1, name=name) for name in "abc"])
        world.router.take([world.change(2)])
        world.push()
        heads = [message["head"] for _, message in world.gateway.sent]
        assert [(head["prev"], head["seq"]) for head in heads] == [(0, 1), (1, 2), (2, 3), (3, 4)]

    @pytest.mark.parametrize("listeners", [1, 100, 101, 250])
    def test_makes_a_job_for_each_hundred_listeners(self, world: World, listeners: int) -> None:
        for number in range(listeners):
            world.connect(f"c{number}", ADA, thing())
        made = world.router.take([world.change(1)])
        sizes = [len(json.loads(job)["connections"]) for job in world.jobs]
        assert made == len(sizes) == -(-listeners // CONNECTIONS_A_JOB)
        assert sum(sizes) == listeners
        assert max(sizes) <= CONNECTIONS_A_JOB
        world.push()
        assert sorted(name for name, _ in world.gateway.sent) == sorted(f"c{number}" for number in range(listeners))


class TestThePusher:
    @pytest.fixture(autouse=True)
    def _listening(self, world: World) -> None:
        for name in ("c1", "c2", "c3"):
            world.connect(name, ADA, thing())
        world.router.take([world.change(1)])

    def test_forgets_who_is_gone(self, world: World) -> None:
        world.gateway.answers["c2"] = Delivered.GONE
        assert world.push() == [True]
        assert set(world.tickets.connections) == {"c1", "c3"}
        assert not world.tickets.channels("c2")

    @pytest.mark.parametrize("outcome", [Delivered.BUSY, Delivered.UNREACHED, Delivered.TOO_LARGE])
    def test_notes_what_a_connection_did_not_take(self, world: World, outcome: Delivered) -> None:
        world.gateway.answers["c2"] = outcome
        assert world.push() == [True], "one connection fails no job"
        missed = {name: connection.missed for name, connection in world.tickets.connections.items()}
        assert missed == {"c1": 0, "c2": 1, "c3": 0}

    @pytest.mark.parametrize("outcome", [Delivered.UNREACHED, Delivered.REFUSED])
    def test_leaves_a_job_of_which_nobody_was_reached(self, world: World, outcome: Delivered) -> None:
        world.gateway.answers = dict.fromkeys(("c1", "c2", "c3"), outcome)
        jobs = [*world.jobs]
        assert world.push() == [False]
        assert not any(connection.missed for connection in world.tickets.connections.values())
        world.gateway.answers, world.jobs = {}, jobs
        assert world.push() == [True]

    @pytest.mark.parametrize(("age_ms", "heard"), [(SURE_MS, {"c1", "c2", "c3"}), (SURE_MS + 1, {"c1", "c3"})])
    def test_asks_of_an_old_job_who_still_listens(self, world: World, age_ms: int, heard: set[str]) -> None:
        world.clock.pass_(seconds=age_ms / 1000)
        world.tickets.unsubscribe("c2", thing())
        world.push()
        assert {name for name, _ in world.gateway.sent} == heard

    def test_is_done_with_a_job_to_which_nobody_listens_any_more(self, world: World) -> None:
        world.clock.pass_(seconds=5)
        for name in ("c1", "c2", "c3"):
            world.tickets.disconnect(name)
        assert world.push() == [True]
        assert world.gateway.sent == []


class TestRights:
    """Whether something is over is read when the change comes, not taken from its record."""

    def user(self, role: Role = Role.USER) -> User:
        now = MovableClock().now()
        return User(
            id=ADA,
            email="a@example.com",
            name="A",
            avatar=None,
            password_hash=None,
            role=role,
            email_verified=True,
            created_at=now,
            updated_at=now,
        )

    def member(self) -> StreamRecord:
        return StreamRecord(Key("p", "s"), ItemChange(image("member", project="p", user=ADA), None), "1")

    def account(self) -> StreamRecord:
        return StreamRecord(Key("p", "s"), ItemChange(image("account", user=ADA), None), "1")

    @pytest.fixture(autouse=True)
    def _listening(self, world: World) -> None:
        world.users[ADA] = self.user()
        world.things.members["p"] = {ADA, BOB}
        shared = Channel("p", "project", "p")
        world.connect("ada1", ADA, shared, OWN)
        world.connect("ada2", ADA, shared)
        world.connect("bob", BOB, shared)

    def test_a_member_who_left_hears_nothing_more_and_others_do(self, world: World) -> None:
        world.things.members["p"].discard(ADA)
        for ended in (2, 0):  # a repeat finds nothing
            assert world.rights.take([self.member(), self.member()]) == ended
        world.router.take([world.change(1, user="p")])
        world.push()
        assert [name for name, _ in world.gateway.sent] == ["bob"]
        assert [each.kind for each in world.tickets.channels("ada1")] == ["user"]

    @pytest.mark.fault("F-35c")
    def test_what_ends_for_everybody_is_asked_of_each_who_listens(self, world: World) -> None:
        world.things.members["p"].discard(BOB)
        ended = StreamRecord(Key("p", "s"), ItemChange(image("member", project="p", user=""), None), "1")
        assert world.rights.take([ended]) == 1
        assert world.tickets.channels("bob") == []
        assert len(world.tickets.channels("ada2")) == 1

    def test_a_late_record_of_somebody_who_came_back_ends_nothing(self, world: World) -> None:
        assert world.rights.take([self.member()]) == 0
        assert len(world.tickets.channels("ada2")) == 1

    def test_a_message_that_waited_is_not_sent_to_who_left_meanwhile(self, world: World) -> None:
        world.router.take([world.change(1, user="p")])
        world.things.members["p"].discard(ADA)
        world.rights.take([self.member()])
        world.clock.pass_(seconds=1.01)
        world.push()
        assert [name for name, _ in world.gateway.sent] == ["bob"]

    @pytest.mark.parametrize("how", ["session", "role", "account"])
    def test_connections_of_an_account_end_with_what_they_stand_on(self, world: World, how: str) -> None:
        ends: dict[str, Callable[[], object]] = {
            "session": lambda: world.tickets.over.add("s1"),
            "role": lambda: world.users.update({ADA: self.user(Role.VIEWER)}),
            "account": world.users.clear,
        }
        credential = Credential(user_id=ADA, session_id="s1", began_at=world.clock.now())
        found = world.tickets.connections
        found["ada1"] = replace(found["ada1"], credential=credential)
        assert world.connection_rights.take([self.account()]) == 0, "nothing has ended"
        ends[how]()
        world.connection_rights.take([self.account()])
        over = ["ada1"] if how == "session" else ["ada1", "ada2"]
        assert world.gateway.closed == over
        assert set(found) == {"ada1", "ada2", "bob"} - set(over)
        assert all(not world.tickets.channels(name) for name in over)

    def test_a_socket_that_cannot_be_closed_is_silent_all_the_same(self, world: World) -> None:
        world.gateway.refuses_to_close = True
        world.users.clear()
        assert world.connection_rights.take([self.account()]) == 2
        assert set(world.tickets.connections) == {"bob"}
