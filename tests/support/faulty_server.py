"""A TCP server on loopback that answers HTTP requests byte by byte as it is told, however wrong that is.

with FaultyServer() as server:
    server.next(status(429, {"retry-after": "2"}), stream(b"data: {}\\n\\n", end=CUT))

Its journal, `calls`, has the times of each call: of its request, and of the moment at which its client closed the
connection.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from karma.core.clock import monotonic

Behaviour = Callable[["Wire"], None]


@dataclass
class Call:
    """One call as the server has seen it; times are monotonic seconds."""

    request: Any
    """Body of the request."""
    asked_at: float
    """Time at which the whole request was there."""
    sent: int = 0
    """Bytes of the answer that were handed to the connection."""
    left_at: float | None = None
    """Time at which the client closed the connection while it was answered; None: it has not."""
    answered_at: float | None = None
    """Time at which the server was done with the answer; None: it is not, or the client left before."""

    @property
    def is_open(self) -> bool:
        """Tell whether the client still waits for more of the answer."""
        return self.left_at is None and self.answered_at is None


class Wire:
    """One connection after its request was read."""

    def __init__(self, connected: socket.socket, closing: threading.Event, call: Call) -> None:
        self._socket = connected
        self.closing = closing
        """Set when the server is stopped: whatever goes on for ever ends then."""
        self.call = call

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self._left()
            raise
        self.call.sent += len(data)

    def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Begin an answer, with the word that its connection is closed after it.

        Without that word a client may keep the connection for its next request, and ask it a moment before it learns
        of its end: which fails or does not by chance.
        """
        told = {"connection": "close", **(headers or {})}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in told.items())]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def reset(self) -> None:
        """Break the connection off with a RST, as a crashed peer's system does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait_until_left(self) -> bool:
        """Wait until the client has closed the connection, or the server is stopped; tell whether the client has."""
        while not self.closing.is_set():
            if self.has_left(within_s=0.05):
                return True
        return False

    def has_left(self, *, within_s: float) -> bool:
        """Wait for so long at the most; tell, at the moment at which it does, whether the client closes the connection.

        What it sends is read and dropped.
        """
        until = monotonic() + within_s
        while (left_s := until - monotonic()) > 0:
            if select.select([self._socket], [], [], left_s)[0] and self._is_at_end():
                self._left()
                return True
        return False

    def _is_at_end(self) -> bool:
        try:
            return self._socket.recv(4096) == b""
        except OSError:
            return True

    def _left(self) -> None:
        if self.call.left_at is None:
            self.call.left_at = monotonic()


END: Behaviour = lambda wire: wire.send(b"0\r\n\r\n")  # noqa: E731
CUT: Behaviour = lambda _: None  # noqa: E731
RESET: Behaviour = Wire.reset


def status(code: int, headers: Mapping[str, str] | None = None, body: object = None) -> Behaviour:
    """Answer an error as providers write it, with a text that must never be shown to anybody."""
    told = {"type": "error", "error": {"type": "some_error", "message": "provider's secret"}} if body is None else body
    data = told if isinstance(told, bytes) else json.dumps(told).encode()

    def behave(wire: Wire) -> None:
        wire.head(code, {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})})
        wire.send(data)

    return behave


def stream(*chunks: bytes, end: Behaviour = END, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answer 200 and these chunks of an event stream, then end it in some way."""
    return endless(chunks, end=end, headers=headers)


def endless(chunks: Iterable[bytes], *, end: Behaviour = END, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answer 200 and chunks, until there are no more or the client has left."""

    def behave(wire: Wire) -> None:
        wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})})
        for chunk in chunks:
            wire.chunk(chunk)
            if wire.closing.is_set():
                return
        end(wire)

    return behave


def trickle(*first: bytes, every: bytes, every_s: float = 0.02) -> Behaviour:
    """Answer 200 and the first chunks, then one chunk again and again, until the client leaves."""

    def behave(wire: Wire) -> None:
        wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for chunk in first:
            wire.chunk(chunk)
        while not wire.closing.is_set() and not wire.has_left(within_s=every_s):
            wire.chunk(every)

    return behave


def hang_up(_: Wire) -> None:
    """Close the connection without any answer."""


@dataclass
class FaultyServer:
    behaviours: list[Behaviour] = field(default_factory=list)
    choose: Callable[[Any], Behaviour] | None = None
    """Returns what to do for a request's body, in place of `behaviours`; None: they are taken in order."""
    calls: list[Call] = field(default_factory=list)
    """The journal: each call, in the order in which their requests were there."""
    requests: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Monotonic seconds at which each request was there."""
    has_left: threading.Event = field(default_factory=threading.Event)
    """Set once a client has closed a connection that a behaviour kept open by `hold`."""

    def __post_init__(self) -> None:
        self._closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def next(self, *behaviours: Behaviour) -> None:
        """Answer the next requests in these ways, one each; beyond them connections are closed."""
        self.behaviours += behaviours

    def hold(self, first: Behaviour = lambda _: None) -> Behaviour:
        """Do something, then keep the connection open until the client leaves."""

        def behave(wire: Wire) -> None:
            first(wire)
            if wire.wait_until_left():
                self.has_left.set()

        return behave

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            serving = threading.Thread(target=self._serve, args=(connected,), daemon=True)
            self._threads.append(serving)
            serving.start()

    def _serve(self, connected: socket.socket) -> None:
        with connected:
            connected.settimeout(10)
            try:
                call = self._read(connected)
                if call is not None:
                    self._answer(Wire(connected, self._closing, call))
            except OSError:
                pass  # the client has left

    def _answer(self, wire: Wire) -> None:
        if self.choose is not None:
            behave = self.choose(wire.call.request)
        else:
            behave = self.behaviours.pop(0) if self.behaviours else hang_up
        behave(wire)
        if wire.call.left_at is None:
            wire.call.answered_at = monotonic()

    def _read(self, connected: socket.socket) -> Call | None:
        """Read a request and note it in the journal; None: the client closed the connection before."""
        data = b""
        while b"\r\n\r\n" not in data:
            received = connected.recv(65536)
            if not received:
                return None
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += connected.recv(65536)
        call = Call(json.loads(body) if body else None, monotonic())
        self.times.append(call.asked_at)
        self.paths.append(first.split(" ")[1])
        self.headers.append(headers)
        self.requests.append(call.request)
        self.calls.append(call)
        return call

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)
