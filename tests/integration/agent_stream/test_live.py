"""GET /realtime/stream: acknowledgements, then what there is to tell, and on behind the last id of a client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema_rs
import pytest

from agent_stream import live as module
from agent_stream import services
from agent_stream.app import app
from karma.core.dynamo.access import put, update
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.core.leases import Pool
from karma.identity.domain import Role
from karma.identity.items import SessionItem, UserItem, session_key, user_key
from karma.identity.limits import ALL_LIVE_STREAMS, LIVE_STREAMS
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from karma.realtime.delivery import LiveDelivery
from karma.realtime.inbox_repository import MAX_BYTES, StreamInboxRepository
from karma.realtime.ports import Delivered
from karma.realtime.repository import RealtimeRepository
from tests.integration.agent_stream.conftest import Streams
from tests.support.asgi import Exchange
from tests.support.event_loop import nothing_blocks

PATH = "/api/v1/realtime/stream"
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "realtime.schema.json").read_text())
VALID = jsonschema_rs.validator_for(SCHEMA)
NO_KEY = ApiKeyId("")
Another = Callable[..., tuple[UserId, str]]


@dataclass
class Told:
    """The messages of a response, and the last id in it."""

    messages: list[dict[str, Any]]
    last_id: str


def told(request: Exchange) -> Told:
    assert request.status == 200, request.data
    assert request.answer_headers["content-type"] == "text/event-stream"
    assert request.answer_headers["x-accel-buffering"] == "no"
    messages, last_id = [], ""
    retry, *frames = request.data.decode().split("\n\n")
    assert retry == "retry: 1000"
    for frame in frames:
        for line in frame.split("\n"):
            name, _, value = line.partition(": ")
            if name == "data":
                messages.append(json.loads(value))
                VALID.validate(messages[-1])
            elif name == "id":
                last_id = value
    return Told(messages, last_id)


@pytest.fixture(autouse=True)
def _shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_S", 0.0)
    monkeypatch.setattr(module, "LOOK_S", 0.02)


def asked(streams: Streams, *channels: str, after: str = "", method: str = "GET", **more: Any) -> Exchange:
    query = urlencode({"channels": " ".join(channels), **more.pop("query", {})})
    return streams.make(method, PATH, query=query, headers={"last-event-id": after, **more.pop("headers", {})}, **more)


def message(streams: Streams, n: int, *, size: int = 0) -> str:
    body = {"type": "event", "channel": f"user:{streams.user_id}", "object": "task:1", "kind": "changed"}
    return json.dumps({**body, "version": n, "at": None, "ref": "/api/v1/tasks", "data": {"x": "x" * size}})


def add(stream: Told, *bodies: str) -> Delivered:
    connection = stream.last_id.partition(":")[0]
    return StreamInboxRepository().add(connection, bodies, now=services.clock().now())


def begun(streams: Streams, *channels: str) -> Told:
    return told(streams.run(asked(streams, *(channels or [f"user:{streams.user_id}"]))))


class TestBeginning:
    def test_tells_the_state_of_every_channel_first(self, streams: Streams) -> None:
        mine, missing = f"user:{streams.user_id}", f"task:{new_id()}"
        found = begun(streams, mine, missing, f"project:{new_id()}")
        assert [each["channel"] for each in found.messages][:2] == [mine, missing]
        assert found.messages[0]["gap"] is False
        assert found.messages[0]["head"]["seq"] == 0
        assert found.last_id.endswith(":0")

    def test_compares_with_what_is_held(self, streams: Streams) -> None:
        mine = f"user:{streams.user_id}"
        head = begun(streams).messages[0]["head"]
        for seq, gap in ((head["seq"], False), (head["seq"] + 1, True)):
            held = json.dumps({mine: {"objects": {}, "head": {**head, "seq": seq}}})
            [said] = told(streams.run(asked(streams, mine, query={"held": held}))).messages
            assert said["gap"] is gap

    def test_names_a_wrong_parameter(self, streams: Streams) -> None:
        wrong: list[tuple[dict[str, str], str]] = [
            ({}, "channels"),
            ({"channels": ""}, "channels"),
            ({"channels": "a  b"}, "channels"),
            ({"channels": " ".join(f"task:{n}" for n in range(51))}, "channels"),
            ({"channels": "user:x", "held": "{"}, "held"),
            ({"channels": "user:x", "held": '{"user:x": {"objects": {"a": "b"}}}'}, "held"),
            ({"channels": "user:x", "held": '"' + "x" * 6_000 + '"'}, "held"),
            ({"channels": "user:x", "after": "x" * 65}, "after"),
            ({"channels": "user:x", "more": "x"}, "more"),
        ]
        for query, field in wrong:
            refused = streams.run(streams.make("GET", PATH, query=urlencode(query)))
            assert (refused.status, refused.json["error"]["code"]) == (422, "VALIDATION_ERROR")
            assert [each["field"] for each in refused.json["error"]["details"]] == [field]

    def test_refuses_with_a_status_and_leaves_nothing(self, streams: Streams, another_user: Another) -> None:
        other, _ = another_user()
        for channel, status in ((f"user:{other}", 403), ("weather:1", 404)):
            assert streams.run(asked(streams, f"user:{streams.user_id}", channel)).status == status
        assert RealtimeRepository().connections_of(streams.user_id) == []
        assert streams.run(asked(streams, "user:x", headers={"authorization": ""})).status == 401

    @pytest.mark.fault("F-10d")
    def test_head_opens_nothing(self, streams: Streams) -> None:
        request = streams.run(asked(streams, f"user:{streams.user_id}", method="HEAD"))
        assert (request.status, request.data) == (200, b"")
        assert RealtimeRepository().connections_of(streams.user_id) == []


class TestComingBack:
    def test_gets_exactly_what_is_missing(self, streams: Streams) -> None:
        first = begun(streams)
        assert add(first, message(streams, 1), message(streams, 2)) is Delivered.SENT
        assert add(first, message(streams, 3)) is Delivered.SENT
        again = told(streams.run(asked(streams, f"user:{streams.user_id}", after=first.last_id)))
        assert [each["version"] for each in again.messages] == [1, 2, 3]
        connection = first.last_id.partition(":")[0]
        for header in (True, False):
            given: dict[str, Any] = {"after": f"{connection}:2"} if header else {"query": {"after": f"{connection}:2"}}
            third = told(streams.run(asked(streams, f"user:{streams.user_id}", **given)))
            assert [each["version"] for each in third.messages] == [3]
        assert told(streams.run(asked(streams, f"user:{streams.user_id}", after=again.last_id))).messages == []

    def test_is_told_of_a_gap_where_that_cannot_be_known(
        self, streams: Streams, another_user: Another, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, first = f"user:{streams.user_id}", begun(streams)
        connection = first.last_id.partition(":")[0]
        for after in ("x", f"sse-{new_id()}:4", f"{connection}:9", f"{connection}:99999999999"):
            said = told(streams.run(asked(streams, mine, after=after)))
            assert [each["gap"] for each in said.messages] == [True]
        other, token = another_user()
        theirs = asked(streams, f"user:{other}", after=first.last_id, headers={"authorization": f"Bearer {token}"})
        found = told(streams.run(theirs))
        assert found.last_id.partition(":")[0] != connection, "it is somebody else's"
        monkeypatch.setattr("karma.realtime.streaming.STREAM_TTL", timedelta(0))
        assert told(streams.run(asked(streams, mine, after=first.last_id))).messages[0]["gap"] is True

    def test_is_told_of_a_gap_where_there_was_no_room(self, streams: Streams) -> None:
        first = begun(streams)
        assert add(first, message(streams, 1, size=MAX_BYTES - 1_000)) is Delivered.SENT
        assert add(first, message(streams, 2, size=2_000)) is Delivered.BUSY
        found = told(streams.run(asked(streams, f"user:{streams.user_id}", after=first.last_id)))
        assert [(each["type"], each["gap"]) for each in found.messages] == [("ack", True)]
        assert found.last_id.endswith(":1")

    def test_forgets_streams_that_nobody_came_back_to(self, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        first = begun(streams)
        monkeypatch.setattr("karma.realtime.streaming.KEPT", timedelta(seconds=-6))
        second = begun(streams)
        assert add(second, message(streams, 1)) is Delivered.GONE
        third = begun(streams)
        left = {each.id for each in RealtimeRepository().connections_of(streams.user_id)}
        assert left == {each.last_id.partition(":")[0] for each in (first, third)}


class TestWhileItIsOpen:
    @pytest.fixture(autouse=True)
    def _long(self, _shortly: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "HOLD_S", 30.0)

    def during(self, streams: Streams, request: Exchange, *steps: Callable[[Told], object], ends: bool = True) -> Told:
        """Serve a request, and do each step once something came that the step before has caused."""

        async def serve() -> None:
            with nothing_blocks():
                running = asyncio.create_task(request.run(app))
                for step in steps:
                    await asyncio.wait_for(request.arrived.wait(), 10)
                    request.arrived.clear()
                    await asyncio.to_thread(step, told(request))
                if not ends:
                    await asyncio.wait_for(request.arrived.wait(), 10)
                    request.left.set()
                await asyncio.wait_for(running, 10)

        streams.serve(serve())
        return told(request)

    def test_tells_what_comes_and_keeps_little_of_it(self, streams: Streams) -> None:
        steps = [lambda seen, n=n: add(seen, message(streams, n, size=9_000)) for n in range(1, 6)]
        found = self.during(streams, asked(streams, f"user:{streams.user_id}"), *steps, ends=False)
        assert [each["version"] for each in found.messages[1:]] == [1, 2, 3, 4, 5]
        inbox = StreamInboxRepository().read(found.last_id.partition(":")[0])
        assert inbox is not None
        assert inbox.last == 5
        assert inbox.size < 30_000, "what was sent some time ago is dropped"

    def test_ends_with_its_connection(self, streams: Streams) -> None:
        def over(seen: Told) -> None:
            RealtimeRepository().disconnect(seen.last_id.partition(":")[0])

        found = self.during(streams, asked(streams, f"user:{streams.user_id}"), over)
        assert (found.messages[-1]["type"], found.messages[-1]["code"]) == ("error", "UNAUTHORIZED")

    def test_ends_when_its_client_has_come_back_elsewhere(self, streams: Streams) -> None:
        def back(seen: Told) -> None:
            reader = StreamInboxRepository()
            assert reader.take_over(seen.last_id.partition(":")[0], "r", kept_until=services.clock().now())

        found = self.during(streams, asked(streams, f"user:{streams.user_id}"), back)
        assert [each["type"] for each in found.messages] == ["ack"]

    def test_tells_of_a_gap_when_something_found_no_room(self, streams: Streams) -> None:
        def overflow(seen: Told) -> None:
            assert add(seen, "x" * (MAX_BYTES + 1)) is Delivered.BUSY

        found = self.during(streams, asked(streams, f"user:{streams.user_id}"), overflow, ends=False)
        assert [each["gap"] for each in found.messages] == [False, True]


class TestRights:
    @pytest.mark.parametrize("how", ["session", "role", "disabled"])
    def test_a_session_that_is_over_gets_no_stream(self, streams: Streams, how: str) -> None:
        user, session = streams.user_id, new_id()
        put(SessionItem(*session_key(user, session), created_at="2026-11-21T12:00:00.000Z"))
        ring = KeyRing.parse(streams.stack.secret_values["auth"])
        now = services.clock().now()
        streams.token = tokens.issue(user, ring=ring, now=now, session_id=session, authenticated_at=now)
        first = begun(streams)
        if how == "session":
            update(SessionItem(*session_key(user, session)), [SessionItem.revoked_at.set("2026-11-21T12:00:01.000Z")])
        elif how == "role":
            update(UserItem(*user_key(user)), [UserItem.role.set(Role.VIEWER)])
        else:
            update(UserItem(*user_key(user)), [UserItem.disabled_at.set("2026-11-21T12:00:01.000Z")])
        assert add(first, message(streams, 1)) is Delivered.SENT
        again = streams.run(asked(streams, f"user:{user}", after=first.last_id))
        if how == "role":
            found = told(again)
            assert [each["type"] for each in found.messages] == ["ack"], "nothing of before, and a stream of its own"
            connection = RealtimeRepository().get_connection(found.last_id.partition(":")[0])
            assert connection is not None
            assert connection.rights.role == "viewer"
        else:
            assert again.status == (401 if how == "session" else 403)


class TestHowMany:
    def test_may_be_open_of_an_account_and_of_all(self, streams: Streams) -> None:
        until = services.clock().now() + timedelta(minutes=1)
        taken = [services.open_requests(LIVE_STREAMS).open(streams.user_id, until=until) for _ in range(4)]
        self.refused(streams, LIVE_STREAMS)
        services.open_requests(LIVE_STREAMS).close(taken[0])
        one = Pool(ALL_LIVE_STREAMS.name, 100, ALL_LIVE_STREAMS.longest)
        leases = [services.open_requests(one).open(UserId(""), until=until) for _ in range(100)]
        self.refused(streams, ALL_LIVE_STREAMS)
        services.open_requests(one).close(leases[0])
        for _ in range(2):  # each gives its places back
            begun(streams)

    def refused(self, streams: Streams, pool: Pool) -> None:
        request = streams.run(asked(streams, f"user:{streams.user_id}"))
        assert (request.status, request.json["error"]["details"]["limit"]) == (429, pool.name)
        assert 1 <= int(request.answer_headers["retry-after"]) <= 10
        assert RealtimeRepository().connections_of(streams.user_id) == []

    def test_who_comes_back_waits_for_its_own_place(self, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        first = begun(streams)
        until = services.clock().now() + timedelta(minutes=1)
        for _ in range(4):
            lease = services.open_requests(LIVE_STREAMS).open(streams.user_id, until=until)
        threading.Timer(0.3, lambda: services.open_requests(LIVE_STREAMS).close(lease)).start()
        again = told(streams.run(asked(streams, f"user:{streams.user_id}", after=first.last_id)))
        assert again.messages == []
        monkeypatch.setattr(module, "_FREED_S", 0.1)
        services.open_requests(LIVE_STREAMS).open(streams.user_id, until=until)
        assert streams.run(asked(streams, f"user:{streams.user_id}", after=first.last_id)).status == 429


def test_a_push_to_streams_and_sockets_says_what_became_of_each(streams: Streams) -> None:
    class Gateway:
        def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
            sent.extend(messages)
            return [Delivered.BUSY for _ in messages]

    sent: list[tuple[str, bytes]] = []
    one, two = begun(streams), begun(streams)
    ids = [each.last_id.partition(":")[0] for each in (one, two)]
    delivery = LiveDelivery(Gateway(), StreamInboxRepository, services.clock())
    given = [("c1", b"a"), (ids[0], b"b"), (f"sse-{new_id()}", b"c"), (ids[1], b"d"), (ids[0], b"e"), ("c2", b"f")]
    outcomes = delivery.send_all(given)
    busy, ok, gone = Delivered.BUSY, Delivered.SENT, Delivered.GONE
    assert outcomes == [busy, ok, gone, ok, ok, busy]
    assert sent == [("c1", b"a"), ("c2", b"f")]
    kept = [StreamInboxRepository().read(each) for each in ids]
    assert [each and list(each.bodies) for each in kept] == [["b", "e"], ["d"]]
