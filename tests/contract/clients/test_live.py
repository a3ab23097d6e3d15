"""The npm package's live channel in Node.js, over real sockets that are cut: what it shows comes to equal the store.

The server is the real protocol (connections, messages, router, pusher) over stores in memory.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from karma.core.dynamo.items import Key
from karma.core.happenings import ItemChange
from karma.core.ids import UserId, new_id
from karma.core.live import LiveSource
from karma.core.streams import StreamRecord
from karma.identity.domain import Caller, Role
from karma.realtime.delivery import LiveDelivery
from karma.realtime.domain import Connection, Position, Rights
from karma.realtime.live import LiveAccount
from karma.realtime.messages import answer, parse, read_held
from karma.realtime.ports import Delivered
from karma.realtime.pushing import Pusher, PushJob
from karma.realtime.routing import LiveRouter
from karma.realtime.service import ConnectionService
from karma.realtime.streaming import StreamService
from sdk.clients import generate
from tests.fakes.identity import MovableClock
from tests.fakes.live import LiveThings, image
from tests.fakes.realtime import MemoryChannels, MemoryInboxes, MemoryRealtime
from tests.support import made_clients

SCRIPT = Path(__file__).with_name("live.mjs")
NODE = shutil.which("node")
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")
CUTS = int(os.environ.get("CUTS", "12"))
"""Cuts of a socket's run, `CUTS=200` for more; a stream has a third of them, since it comes back after a second."""
CALLER = Caller(
    user_id=USER,
    role=Role.USER,
    method="jwt",
    scopes=frozenset(),
    email_verified=True,
    name="Ada",
    avatar=None,
)
DEADLINE_S = 30

pytestmark = pytest.mark.skipif(
    NODE is None or not (generate.NODE_TOOLS / "tsc").exists(), reason="node or typescript is not installed"
)


class LiveServer:
    """Tickets over HTTP, the protocol over WebSockets, and changes as a test makes them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = MovableClock()
        self.tickets = MemoryRealtime()
        self.channels = MemoryChannels(self.tickets)
        self.things = LiveThings()
        sources: list[LiveSource] = [LiveAccount(), self.things]
        self.service = ConnectionService(store=self.tickets, channels=self.channels, sources=sources, clock=self.clock)
        self.jobs: list[str] = []
        self.router = LiveRouter(sources, self.channels, self, self.clock)
        self.inboxes = MemoryInboxes(self.tickets)
        delivery = LiveDelivery(self, lambda: self.inboxes, self.clock)
        self.pusher = Pusher(self.tickets, self.channels, delivery, self.clock)
        self.streams = StreamService(
            connections=self.service, store=self.tickets, inboxes=self.inboxes, clock=self.clock
        )
        self.responses: set[socket.socket] = set()
        self.sockets: dict[str, ServerConnection] = {}
        self.connected = self.resumed = 0
        self.url, self.http_url = "", ""

    def send_many(self, bodies: list[str]) -> None:
        self.jobs += bodies

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        return [self._send(connection, body) for connection, body in messages]

    def _send(self, connection: str, body: bytes) -> Delivered:
        try:
            self.sockets[connection].send(body.decode())
        except (KeyError, ConnectionClosed, OSError):
            return Delivered.GONE
        return Delivered.SENT

    def talk(self, connection: ServerConnection) -> None:
        name = new_id()
        with self.lock:
            self.tickets.connections[name] = Connection(
                id=name, user_id=USER, rights=Rights(role="user"), connected_at=self.clock.now()
            )
            self.sockets[name] = connection
            self.connected += 1
        with suppress(ConnectionClosed, OSError):
            for text in connection:
                with self.lock:
                    connection.send(orjson.dumps(answer(self.service, name, parse(str(text)))).decode())
        self.sockets.pop(name, None)

    def stream(self, channels: list[str], held: dict[str, Any], last_id: str, *, write: Any, cut: Any) -> None:
        """Serve a response as agent_stream.live does, which looks once a second."""
        until, position = self.clock.now() + timedelta(seconds=55), Position.parse(last_id)
        with self.lock:
            begun = self.streams.resume(CALLER, channels, position, until=until) if position else None
            begun = begun or self.streams.open(
                CALLER,
                channels,
                held={name: read_held(each) for name, each in held.items()},
                has_missed=bool(last_id),
                until=until,
            )
            self.resumed += begun.acknowledgements == ()
            self.connected += 1
        after = begun.after
        for each in begun.acknowledgements:
            write(f"data: {each.decode()}\n\n")
        write(f"id: {Position(begun.connection_id, after)}\n\n")
        while not cut():
            with self.lock:
                inbox = self.streams.read(begun)
                told = inbox.after(after) if inbox is not None and inbox.reader == begun.reader else None
            if told is None:
                return
            for after, body in told:
                write(f"data: {body}\nid: {Position(begun.connection_id, after)}\n\n")
            threading.Event().wait(0.005)

    def cut(self) -> None:
        """End every TCP connection at once, without a word."""
        for response in list(self.responses):
            with suppress(OSError):
                response.shutdown(socket.SHUT_RDWR)
        for each in list(self.sockets.values()):
            with suppress(OSError):
                each.socket.shutdown(socket.SHUT_RDWR)

    def change(self, chance: random.Random) -> None:
        name = chance.choice("abc")
        key = (USER, name)
        with self.lock:
            if chance.random() < 0.4 and key in self.things.things:
                self.things.logs[key] = n = self.things.logs.get(key, 0) + 1
                change = ItemChange(None, image("piece", space=USER, id=name, n=n))
            else:
                self.things.things[key] = version = self.things.things.get(key, 0) + 1
                change = ItemChange(None, image("thing", space=USER, id=name, version=version))
            for _ in range(chance.choice((1, 1, 2))):
                self.router.take([StreamRecord(Key("pk", "sk"), change, "1")])
            chance.shuffle(self.jobs)
            while len(self.jobs) > chance.randint(0, 3):
                self.pusher.push([PushJob.read(self.jobs.pop())])

    def settle(self) -> None:
        with self.lock:
            while self.jobs:
                self.pusher.push([PushJob.read(self.jobs.pop())])

    def listed(self) -> dict[str, int]:
        return {f"thing:{name}": version for (_, name), version in self.things.things.items()}

    def expected(self) -> dict[str, Any]:
        shown: dict[str, Any] = {f"user:{USER}": self.listed()}
        for (_, name), version in self.things.things.items():
            log = list(range(1, self.things.logs.get((USER, name), 0) + 1))
            shown[f"thing:{name}"] = {f"thing:{name}": version, **({f"log:{name}": log} if log else {})}
        return shown


@contextmanager
def served() -> Iterator[LiveServer]:
    made = LiveServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._say({"data": {"ticket": "t", "url": made.url}})

        def do_GET(self) -> None:
            if self.path.startswith("/api/v1/realtime/stream"):
                self._stream()
                return
            with made.lock:
                self._say(made.listed())

        def _stream(self) -> None:
            asked = {name: each[0] for name, each in parse_qs(urlsplit(self.path).query).items()}
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            made.responses.add(self.connection)

            def write(text: str) -> None:
                self.wfile.write(text.encode())

            with suppress(OSError):
                made.stream(
                    asked["channels"].split(" "),
                    json.loads(asked["held"]),
                    self.headers.get("Last-Event-ID", ""),
                    write=write,
                    cut=lambda: _is_cut(self.connection),
                )
            made.responses.discard(self.connection)

        def _say(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sockets: Server = serve(made.talk, "127.0.0.1", 0)
    made.url = f"ws://127.0.0.1:{sockets.socket.getsockname()[1]}"
    threads = [threading.Thread(target=each.serve_forever) for each in (http, sockets)]
    for each in threads:
        each.start()
    made.http_url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield made
    finally:
        http.shutdown()
        http.server_close()
        sockets.shutdown()
        for each in threads:
            each.join()


def _is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


class Page:
    """Holds the line that the Node.js process printed last."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.shown: Any = None
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.shown = json.loads(line)
                self.changed.notify_all()

    def wait_for(self, expected: Any) -> None:
        with self.changed:
            arrived = self.changed.wait_for(lambda: self.shown == expected, DEADLINE_S)
        assert arrived, f"shows {self.shown}, and not {expected}"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return made_clients.agent(tmp_path / "agent") / "dist"


@pytest.mark.req("R-K-21")
@pytest.mark.parametrize("way", ["socket", "stream"])
def test_a_page_shows_what_is_stored_after_any_cuts(package: Path, way: str, seed: int) -> None:
    chance = random.Random(seed)
    cuts = CUTS if way == "socket" else CUTS // 3
    with served() as server:
        if way == "stream":
            server.url = "ws://127.0.0.1:9"  # as behind a proxy that lets no WebSocket through
        channels = [f"user:{USER}", "thing:a", "thing:b", "thing:c"]
        # Old releases of Node.js have WebSocket behind this flag, new ones know it no more.
        flags = ["--experimental-websocket"] if _needs_flag() else []
        command = [str(NODE), "--no-warnings", *flags, str(SCRIPT), str(package), server.http_url, *channels]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "WAY": way}
        ) as process:
            page = Page(process)
            try:
                for cut in range(cuts):
                    _until(partial(_has_connected, server, cut + 1))
                    for _ in range(chance.randint(1, 12)):
                        server.change(chance)
                    server.cut()
                    for _ in range(chance.randint(0, 3)):
                        server.change(chance)
                _until(partial(_has_connected, server, cuts + 1))
                for name in "abc":
                    server.things.things.setdefault((USER, name), 1)
                for _ in range(5):
                    server.change(chance)
                server.settle()
                # Names that nobody has told of yet.
                server.cut()
                page.wait_for(server.expected())
                assert way == "socket" or server.resumed, "a stream goes on where it was"
            except AssertionError as exc:
                raise AssertionError(f"seed {seed}: {exc}") from exc
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(timeout=10)
                page.reader.join()


def _needs_flag() -> bool:
    said = subprocess.run([str(NODE), "--version"], capture_output=True, text=True, check=True, env={**os.environ})
    return int(said.stdout.removeprefix("v").split(".")[0]) < 22


def _has_connected(server: LiveServer, times: int) -> bool:
    return server.connected >= times


def _until(true: Any) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, "the client does not come back"
        threading.Event().wait(0.01)
