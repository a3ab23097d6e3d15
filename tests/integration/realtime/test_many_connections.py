"""A change, thousands of stored connections, some of them real sockets, and an endpoint that answers all that AWS may.

`CONNECTIONS=10000` stores as many instead of a thousand.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.sync.server import ServerConnection, serve

from karma.core.dynamo.access import get
from karma.core.dynamo.items import Item
from karma.core.ids import UserId, new_id
from karma.core.live import Channel
from karma.integrations.pushes import IN_FLIGHT
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.items import (
    ChannelSubscriptionItem,
    ConnectionItem,
    connection_key,
    deletion,
    subscription_keys,
    user_pk,
)
from tests.contexts.tasks import TaskRows
from tests.integration.realtime.conftest import Json, Live
from tests.support.rows import NOW

CONNECTIONS = int(os.environ.get("CONNECTIONS", "1000"))
SOCKETS = 20
KINDS = {0: "gone", 1: "slow", 2: "again", 3: "later", 4: "large"}
"""Of each hundred connections; all others are as they should be."""
TRIES = {"again": 2, "later": 2}
"""Posts until a message is taken; whoever waits as long as `later` says is not told so a second time."""


def names() -> list[str]:
    return [f"{KINDS.get(number % 100, 'c')}{number}=" for number in range(CONNECTIONS)]


def kind_of(name: str) -> str:
    return name.rstrip("0123456789=")


def stored(live: Live, channel: Channel) -> None:
    """Store connections that listen, each of an account of its own, as the function stores them."""
    requests = [{"PutRequest": {"Item": item}} for name in names() for item in _items(name, channel)]
    table = live.stack.tables["realtime"]
    for at in range(0, len(requests), 25):
        answer = live.stack.aws("dynamodb").batch_write_item(RequestItems={table: requests[at : at + 25]})
        assert not answer["UnprocessedItems"]


def _items(name: str, channel: Channel) -> Iterator[Json]:
    user = UserId(new_id())
    common: dict[str, Any] = {"user_id": user, "created_at": "2026-11-21T12:00:00.000Z", "expires_at": deletion(NOW)}
    subscribed = {**common, "connection_id": name, "space": channel.space, "channel": channel.name}
    items: list[Item] = [
        ConnectionItem(*connection_key(name), role="user", gsi1pk=user_pk(user), gsi1sk=f"CONN#{name}", **common),
        *(ChannelSubscriptionItem(*key, **subscribed) for key in subscription_keys(name, channel)),
    ]
    for item in items:
        yield item.serialize()


@contextmanager
def real_sockets(live: Live, user: UserId, channel: Channel) -> Iterator[Sequence[Connection]]:
    """Open WebSockets to a server of the protocol's functions, to whose connections the endpoint hands messages on."""
    lock = threading.Lock()

    def talk(socket: ServerConnection) -> None:
        with lock:
            name = f"socket{len(live.endpoint.sockets)}="
            live.connect(user, name)
            live.endpoint.sockets[name] = lambda body: socket.send(body.decode())
        with suppress(ConnectionClosed):
            for text in socket:
                with lock:
                    socket.send(json.dumps(live.say(name, **json.loads(text))))

    with serve(talk, "127.0.0.1", 0) as server, ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        opened = [stack.enter_context(connect(url, proxy=None)) for _ in range(SOCKETS)]
        for each in opened:
            each.send(json.dumps({"action": "subscribe", "channel": channel.name}))
            assert json.loads(each.recv(timeout=10))["type"] == "ack"
        yield opened


def heard(socket: Connection) -> list[Json]:
    """Return the messages before the answer to a ping, which is behind all that was sent."""
    socket.send(json.dumps({"action": "ping"}))
    found: list[Json] = []
    while (said := json.loads(socket.recv(timeout=10)))["type"] != "pong":
        found.append(said)
    assert said["missed"] == 0
    return found


@pytest.mark.req("R-K-21")
def test_each_of_many_connections_is_told_once_whatever_becomes_of_the_others(live: Live) -> None:
    rows = TaskRows()
    task, _ = rows.task
    channel = Channel(rows.ada.id, "task", task.id)
    live.route("work")  # nobody listens yet
    stored(live, channel)
    of_kind = Counter(map(kind_of, names()))
    with real_sockets(live, rows.ada.id, channel) as sockets:
        for change in (1, 2):
            task_now = replace(task, title=f"x{change}", version=change + 1)
            rows.tasks.replace(replace(task, version=change), task_now, ended=[])
            live.endpoint.posts.clear()
            live.endpoint.bodies.clear()
            assert live.route("work") == -(-(CONNECTIONS + SOCKETS - (of_kind["gone"] if change == 2 else 0)) // 100)
            live.push()
            for socket in sockets:
                assert [(each["version"], each["data"]["title"]) for each in heard(socket)] == [
                    (change + 1, f"x{change}")
                ]
            _require_all_told(live, change)
    listening = {each for page in ChannelRepository().listeners(channel) for each in page}
    assert listening == {*live.endpoint.sockets, *(each for each in names() if kind_of(each) != "gone")}
    for name in names()[:200]:
        connection = get(ConnectionItem, connection_key(name), consistent=True)
        assert (connection and int(connection.missed)) == {"gone": None, "large": 2}.get(kind_of(name), 0)


def _require_all_told(live: Live, change: int) -> None:
    tries = TRIES if change == 1 else {**TRIES, "later": 1}
    posts = {name: tries.get(kind_of(name), 1) for name in names() if change == 1 or kind_of(name) != "gone"}
    assert live.endpoint.posts == {**posts, **dict.fromkeys(live.endpoint.sockets, 1)}
    [body] = {body for bodies in live.endpoint.bodies.values() for body in bodies}
    assert json.loads(body)["version"] == change + 1
    assert live.endpoint.most_in_flight <= IN_FLIGHT
