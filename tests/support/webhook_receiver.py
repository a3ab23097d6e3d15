"""A receiver of webhooks: a real HTTP server on a free port of this machine that does what its path says.

`/ok` answers 204 and keeps what came; `/status/<code>` answers with it; `/redirect` leads to `/ok`; `/busy` answers 429
with Retry-After; `/hang` takes the request and says nothing; `/reset` breaks the connection; `/drip` sends a byte of
its headers now and then; `/endless` sends headers without end; `/huge` answers 200 and 100 MB; `/garbage` is no HTTP.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

BUSY_S = 120
HUGE_BYTES = 100 * 1024 * 1024


class Got(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Requests that came to a server, and its address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[Got] = []
        self.over = threading.Event()
        self.answer: Any = None
        """Called with each request to `/ok` for its status; None: 204."""

    def wait_for(self, number: int, *, deadline_s: float = 20) -> list[Got]:
        """Return what came once it is so many requests."""
        until = time.monotonic() + deadline_s
        while len(self.got) < number:
            assert time.monotonic() < until, f"{len(self.got)} of {number} requests came"
            time.sleep(0.02)
        return list(self.got)


@contextmanager
def receiver(*, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver; with `tls` it speaks https."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    port = server.server_address[1]
    found = Receiver(f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}")
    server.receiver = found  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.over.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Serve, as long as the other side is there."""
        with suppress(OSError):
            super().handle()

    def do_POST(self) -> None:
        """Do what the path says."""
        found: Receiver = self.server.receiver
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        found.got.append(got)
        what, _, more = self.path.strip("/").partition("/")
        with suppress(OSError):
            getattr(self, f"_{what.partition('?')[0]}")(found, got, more)

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _ok(self, found: Receiver, got: Got, _: str) -> None:
        self._answer(204 if found.answer is None else found.answer(got))

    def _status(self, _: Receiver, __: Got, more: str) -> None:
        self._answer(int(more))

    def _redirect(self, found: Receiver, _: Got, __: str) -> None:
        self._answer(301, Location=f"{found.url}/ok")

    def _busy(self, _: Receiver, __: Got, ___: str) -> None:
        self._answer(429, Retry_After=str(BUSY_S))

    def _hang(self, found: Receiver, _: Got, __: str) -> None:
        found.over.wait(60)
        self.close_connection = True

    def _reset(self, _: Receiver, __: Got, ___: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _drip(self, found: Receiver, _: Got, __: str) -> None:
        self.connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not found.over.wait(0.05):
            self.connection.sendall(b"x")

    def _endless(self, found: Receiver, _: Got, __: str) -> None:
        self.connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not found.over.is_set():
            self.connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")

    def _huge(self, found: Receiver, _: Got, __: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(HUGE_BYTES))
        self.end_headers()
        sent = 0
        while sent < HUGE_BYTES and not found.over.is_set():
            self.wfile.write(b"x" * 65_536)
            sent += 65_536

    def _garbage(self, _: Receiver, __: Got, ___: str) -> None:
        self.connection.sendall(b"what is this?\r\n\r\n")
        self.close_connection = True
