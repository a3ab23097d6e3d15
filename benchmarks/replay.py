"""An AWS that answers at once: forwards each request to the engine the first time, and repeats the answer from then on.

So a cold start is measured with its calls of AWS, but independently of the engine's load. Reads are recognised by their
whole body, writes (whose ids and times differ each time) by their operation and table alone.

    python -m benchmarks.replay http://localhost:4566      prints its own address, serves until its input ends
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.parse
from typing import NamedTuple

_READS = frozenset({"GetItem", "Query", "BatchGetItem", "TransactGetItems", "GetSecretValue"})


class Exchange(NamedTuple):
    """One request as received."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Replay:
    """The proxy."""

    def __init__(self, upstream: str) -> None:
        parts = urllib.parse.urlsplit(upstream)
        self._host, self._port = parts.hostname or "localhost", parts.port or 80
        self._known: dict[tuple[bytes, ...], bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while (request := await _read(reader)) is not None:
                key = _key(request)
                if key not in self._known:
                    self._known[key] = await self._ask(request)
                writer.write(self._known[key])
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _ask(self, request: Exchange) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        headers = {**request.headers, b"connection": b"close"}
        head = b"".join(b"%b: %b\r\n" % pair for pair in headers.items())
        writer.write(request.line + head + b"\r\n" + request.body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return _with_length(answer)


async def _read(reader: asyncio.StreamReader) -> Exchange | None:
    line = await reader.readline()
    if not line:
        return None
    headers: dict[bytes, bytes] = {}
    while (field := await reader.readline()) not in {b"\r\n", b""}:
        name, _, value = field.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return Exchange(line, headers, await reader.readexactly(int(headers.get(b"content-length", b"0"))))


def _key(request: Exchange) -> tuple[bytes, ...]:
    operation = request.headers.get(b"x-amz-target", b"").rpartition(b".")[2]
    account = request.headers.get(b"authorization", b"").partition(b"Credential=")[2].partition(b"/")[0]
    if not operation or operation.decode() in _READS:
        return account, request.line, operation, request.body
    table = json.loads(request.body).get("TableName", "")
    return account, request.line, operation, str(table).encode()


def _with_length(answer: bytes) -> bytes:
    """Add the length to an answer, and keep the connection, whatever the engine sent."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].strip().lower() for line in lines]
    if b"transfer-encoding" in names:
        body = _dechunk(body)
    left_out = {b"content-length", b"transfer-encoding", b"connection"}
    kept = [line for line, name in zip(lines, names, strict=True) if name not in left_out]
    return b"\r\n".join([*kept, b"content-length: %d" % len(body), b"", body])


def _dechunk(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        whole += rest[:length]
        body = rest[length + 2 :] if length else b""
    return whole


async def main(upstream: str) -> None:
    """Serve until standard input ends, as it does when the starter ends."""
    server = await asyncio.start_server(Replay(upstream).serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
