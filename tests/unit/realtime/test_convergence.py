"""A client's copy comes to equal what is stored, whatever is doubled, reordered, lost or cut on the way.

Router, pusher, connections and messages are the real ones, over stores in memory; the client is a model of sdk/js.
Every message that is sent either way is checked against the committed schema.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import jsonschema_rs
import pytest

from karma.core.dynamo.items import Key
from karma.core.happenings import ItemChange
from karma.core.ids import UserId, new_id
from karma.core.live import LiveSource
from karma.core.streams import StreamRecord
from karma.realtime.domain import Connection, Rights
from karma.realtime.live import LiveAccount
from karma.realtime.messages import answer, parse
from karma.realtime.ports import Delivered
from karma.realtime.pushing import Pusher, PushJob
from karma.realtime.routing import LiveRouter
from karma.realtime.service import ConnectionService
from tests.fakes.identity import MovableClock
from tests.fakes.live import LiveThings, image
from tests.fakes.realtime import MemoryChannels, MemoryRealtime
from tests.support.live_client import Json, LiveClient

SCHEMA_TEXT = (Path(__file__).parents[3] / "docs" / "realtime.schema.json").read_text()
# The fake's own kind of channel.
VALID = jsonschema_rs.validator_for(json.loads(SCHEMA_TEXT.replace("(user|device|", "(user|thing|device|")))
SEEDS = 20
CUTS = 10
USER = UserId(new_id())
IDS = [f"t{number}" for number in range(6)]


class Wire:
    """The way of messages to one client: they may be held up, and a cut loses those that are under way."""

    def __init__(self) -> None:
        self.connected = ""
        self.under_way: list[Json] = []

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        return [self._send(connection, body) for connection, body in messages]

    def _send(self, connection: str, body: bytes) -> Delivered:
        if connection != self.connected:
            return Delivered.GONE
        message = json.loads(body)
        VALID.validate(message)
        self.under_way.append(message)
        return Delivered.SENT


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = MovableClock()
        self.tickets = MemoryRealtime()
        self.channels = MemoryChannels(self.tickets)
        self.things = LiveThings()
        sources: list[LiveSource] = [LiveAccount(), self.things]
        self.service = ConnectionService(store=self.tickets, channels=self.channels, sources=sources, clock=self.clock)
        self.jobs: list[str] = []
        self.router = LiveRouter(sources, self.channels, self, self.clock)
        self.wire = Wire()
        self.pusher = Pusher(self.tickets, self.channels, self.wire, self.clock)
        self.records: list[StreamRecord] = []
        self.client = LiveClient(read=lambda _: {"read": True}, listed=lambda _: self.listed())
        self.cuts = 0

    def send_many(self, bodies: list[str]) -> None:
        self.jobs += bodies

    def listed(self) -> dict[str, tuple[int, Json]]:
        return {
            f"thing:{name}": (version, {"version": version, "text": ""})
            for (_, name), version in self.things.things.items()
        }

    # What may happen

    def change(self) -> None:
        name = self.random.choice(IDS)
        key = (USER, name)
        before = self.things.things.get(key)
        read = {"read": "1"} if self.random.random() < 0.3 else {}
        old = None if before is None else image("thing", space=USER, id=name, version=before)
        if before is not None and self.random.random() < 0.2:
            del self.things.things[key]
            self.things.logs.pop(key, None)
            self._record(ItemChange(old, None))
            IDS[IDS.index(name)] = f"{name}x"  # ids are never given again
            return
        self.things.things[key] = (before or 0) + 1
        self._record(ItemChange(old, image("thing", space=USER, id=name, version=(before or 0) + 1, **read)))

    def grow(self) -> None:
        grown = [key for key in self.things.things if key[1] in self.watched_ids()]
        if grown:
            key = self.random.choice(grown)
            for _ in range(self.random.choice((1, 1, 3, 25))):
                self.things.logs[key] = n = self.things.logs.get(key, 0) + 1
                self._record(ItemChange(None, image("piece", space=USER, id=key[1], n=n)))

    def _record(self, change: ItemChange) -> None:
        self.records.append(
            StreamRecord(
                Key("pk", "sk"),
                change,
                str(len(self.records)),
            )
        )

    def route(self) -> None:
        batch = self.records[: self.random.randint(1, 8)]
        self.router.take(batch)
        if self.random.random() < 0.8:  # else it died behind the queue, and all come again
            del self.records[: len(batch)]

    def push(self) -> None:
        if not self.jobs:
            return
        at = self.random.randrange(len(self.jobs))
        self.pusher.push([PushJob.read(self.jobs[at])])
        if self.random.random() < 0.8:  # else it is delivered again
            del self.jobs[at]

    def wait(self) -> None:
        self.clock.pass_(seconds=self.random.choice((0.1, 1.5)))

    def deliver(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            if self.wire.under_way:
                at = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.wire.under_way))
                self.client.take(self.wire.under_way.pop(at))
        self.speak()

    def speak(self) -> None:
        """Let the client send, and put the answers on the wire."""
        while self.wire.connected and self.client.outgoing:
            text = self.client.outgoing.pop(0)
            VALID.validate(json.loads(text))
            said = answer(self.service, self.wire.connected, parse(text))
            message = json.loads(_dumps(said))
            VALID.validate(message)
            self.wire.under_way.append(message)

    def cut(self) -> None:
        self.cuts += 1
        gone, self.wire.connected = self.wire.connected, ""
        self.wire.under_way.clear()
        if self.random.random() < 0.5:
            self.service.disconnect(gone)
        for _ in range(self.random.randint(0, 12)):
            self.random.choice((self.change, self.grow, self.route, self.push))()
        self.connect()

    def connect(self) -> None:
        self.wire.connected = new_id()
        self.tickets.connections[self.wire.connected] = Connection(
            id=self.wire.connected, user_id=USER, rights=Rights(role="user"), connected_at=self.clock.now()
        )
        self.client.connected()
        self.speak()

    def watched_ids(self) -> list[str]:
        return [name.partition(":")[2] for name in self.client.watched if name.startswith("thing:")]

    def settle(self) -> None:
        """Let everything that is under way arrive, in some order."""
        while self.records or self.jobs or self.wire.under_way or self.client.outgoing:
            if self.records:
                self.route()
            for _ in range(min(5, len(self.jobs))):
                self.push()
            self.deliver()


def _dumps(said: dict[str, object]) -> bytes:
    import orjson

    return orjson.dumps(said)


@pytest.mark.req("R-K-21")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_the_client_holds_equals_the_store_after_any_cuts(seed: int) -> None:
    global IDS
    IDS = [f"t{number}" for number in range(6)]
    world = World(seed)
    world.client.watch(f"user:{USER}")
    for name in IDS[:3]:
        world.client.watch(f"thing:{name}")
    world.connect()
    steps = [world.change, world.change, world.grow, world.route, world.push, world.push, world.wait, world.deliver]
    for _ in range(CUTS):
        for _ in range(world.random.randint(5, 40)):
            world.random.choice(steps)()
        world.cut()
    world.settle()
    listed = world.listed()
    lists = world.client.watched[f"user:{USER}"].objects
    assert {name: data["version"] for name, data in lists.items()} == {name: each[0] for name, each in listed.items()}
    for channel, found in world.client.watched.items():
        if not channel.startswith("thing:"):
            continue
        name = channel.partition(":")[2]
        version = world.things.things.get((USER, name))
        assert (found.objects.get(f"thing:{name}") or {}).get("version") == version, channel
        if version is not None:
            pieces = found.objects.get(f"log:{name}", {"pieces": []})["pieces"]
            assert pieces == list(range(1, world.things.logs.get((USER, name), 0) + 1)), channel
    assert world.cuts == CUTS
