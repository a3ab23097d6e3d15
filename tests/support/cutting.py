"""A network that cuts connections: a relay in front of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


@asynccontextmanager
async def cutting(url: str, lasts: Callable[[], int | None]) -> AsyncIterator[str]:
    """Relay to the server of `url`; yield the address of the relay.

    Each connection ends by a reset once the server has sent as many bytes as `lasts` answers; None: it is not cut.
    """
    server_of = urlsplit(url)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        beyond_reader, beyond_writer = await asyncio.open_connection(server_of.hostname, server_of.port)
        asking = asyncio.create_task(_relay(reader, beyond_writer))
        try:
            await _relay(beyond_reader, writer, most=lasts())
        finally:
            asking.cancel()
            for each in (writer, beyond_writer):
                each.transport.abort()
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, most: int | None = None) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk if most is None else chunk[:most])
            await writer.drain()
            if most is not None:
                most -= len(chunk)
                if most <= 0:
                    return
