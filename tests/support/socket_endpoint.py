"""The management endpoint of a WebSocket API, as far as pushes need it: it counts them, and answers as AWS may.

What it answers is in the connection's id: `gone…` 410, `large…` 413, `refused…` 403, `busy…` 429 each time, `again…`
429 once, `later…` 429 with `Retry-After: 1` until a second is over, `slow…` 200 after a second, `hang…` nothing,
`drop…` 200 and then the end of the TCP connection; others 200. What somebody in `sockets` takes is handed on to them.

`python -m tests.support.socket_endpoint` serves in a process of its own, whose work is then nobody else's: it prints
its port, and answers `GET /counts`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote
from urllib.request import urlopen

from local.processes import running

SLOW_S = 1.0


class CountingEndpoint:
    """Counts what is posted to each connection."""

    def __init__(self) -> None:
        self.posts: Counter[str] = Counter()
        self.bodies: dict[str, list[bytes]] = {}
        self.authorizations: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.tcp_connections = 0
        self.sockets: dict[str, Callable[[bytes], None]] = {}
        self._begun: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one TCP connection."""
        self.tcp_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = lines[0].split(" ")[1]
                if path == "/counts":
                    self._write(writer, 200, json.dumps(self.report()).encode())
                    continue
                connection = unquote(path.rpartition("/")[2])
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                self.posts[connection] += 1
                self.bodies.setdefault(connection, []).append(body)
                if len(self.authorizations) < 100:
                    self.authorizations.append(head)
                try:
                    if not await self._answer(writer, connection):
                        return
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, connection: str) -> bool:
        kind = connection.rstrip("0123456789=")
        if kind == "hang":
            await asyncio.sleep(60)
        if kind == "slow":
            await asyncio.sleep(SLOW_S)
        status = {"gone": 410, "large": 413, "refused": 403, "busy": 429}.get(kind, 200)
        if kind == "again" and self.posts[connection] == 1:
            status = 429
        waits = kind == "later" and time.monotonic() - self._begun.setdefault(connection, time.monotonic()) < SLOW_S
        if waits:
            status = 429
        if status == 200 and connection in self.sockets:
            self.sockets[connection](self.bodies[connection][-1])
        self._write(writer, status, b"" if status == 200 else b'{"message": "no"}', waits=waits)
        await writer.drain()
        return kind != "drop"

    @staticmethod
    def _write(writer: asyncio.StreamWriter, status: int, body: bytes, *, waits: bool = False) -> None:
        after = "Retry-After: 1\r\n" if waits else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{after}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def report(self) -> dict[str, Any]:
        """Return the counts as JSON has them."""
        return {
            "posts": dict(self.posts),
            "most_in_flight": self.most_in_flight,
            "tcp_connections": self.tcp_connections,
        }


@contextmanager
def counting_endpoint() -> Iterator[tuple[CountingEndpoint, str]]:
    """Serve in a thread of this process; yields what it counts, and its WebSocket URL."""
    endpoint = CountingEndpoint()
    loop = asyncio.new_event_loop()
    server: asyncio.Server = loop.run_until_complete(
        asyncio.start_server(endpoint.serve, "127.0.0.1", 0, limit=1 << 20, backlog=512)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield endpoint, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
    finally:
        loop.call_soon_threadsafe(_stop, loop, server)
        thread.join()
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    # The next round, so that what was cancelled has ended.
    loop.call_soon(lambda: loop.call_soon(loop.stop))


@contextmanager
def endpoint_process() -> Iterator[str]:
    """Serve in a process of its own; yields its WebSocket URL. `counts_of` reads what it has counted."""
    command = [sys.executable, "-m", "tests.support.socket_endpoint"]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout as said:
            yield f"ws://127.0.0.1:{int(said.readline())}/live"


def counts_of(url: str) -> dict[str, Any]:
    """Read what the endpoint in a process has counted."""
    with urlopen(f"http{url.removeprefix('ws').removesuffix('/live')}/counts", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


async def _main() -> None:
    server = await asyncio.start_server(CountingEndpoint().serve, "127.0.0.1", 0, limit=1 << 20, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
