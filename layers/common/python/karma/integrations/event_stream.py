"""Cuts a model's stream of server-sent events into their data, within bounds of size and of time.

Providers are configured, not trusted: a line without an end, a stream without an end and one that only keeps the
connection alive are each ended here, as broken streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from karma.core.clock import monotonic

MAX_EVENT_BYTES: Final = 1024 * 1024
"""Bytes of one event at the most; the largest that providers send is a whole call of a tool."""
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
"""Bytes of one answer at the most: some hundred for each of the tokens that a model may say."""
QUIET_S: Final = 600.0
"""Seconds for which a stream may keep the connection alive and say nothing: as long as SDKs wait for a whole answer."""

SILENCE_S: Final = 60.0
"""Seconds for which a stream may send nothing; providers send pings every few seconds."""

_DRAIN_S: Final = 0.2


class StreamTooLarge(Exception):
    """An event, or the whole stream, is larger than any answer."""


class StreamQuiet(Exception):
    """The stream goes on for too long without saying anything."""


class StreamSilent(Exception):
    """The stream sends nothing for too long."""


async def next_chunk(chunks: AsyncIterator[bytes], *, silence_s: float) -> bytes | None:
    """Return the next bytes of a body; None: it has ended.

    The transport has a time limit of its own, but not in every state: behind a chunk that is no HTTP, aiohttp's does
    not end.

    Raises:
        StreamSilent: nothing came for `silence_s` seconds.
    """
    try:
        async with asyncio.timeout(silence_s):
            return await anext(chunks, None)
    except TimeoutError as exc:
        raise StreamSilent from exc


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of a body whose last event has arrived, so that its connection can be used again; raises nothing."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in chunks:
                return
    except Exception:  # noqa: BLE001 - the answer is complete: whatever its connection does now is no failure
        return


class EventStream:
    """Collects the bytes of one stream."""

    def __init__(self, *, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._parts: list[bytes] = []
        """Bytes of an event that is not complete."""
        self._size = 0
        """Bytes in `_parts`."""
        self._total = 0
        self._carriage = b""
        self._said_at = monotonic()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that these bytes complete; comments and events without data are left out.

        Raises:
            StreamTooLarge, StreamQuiet: as `blocks`.
        """
        return [block[at + 5 :] for block in self.blocks(chunk) if (at := block.find(b"data:")) >= 0]

    def blocks(self, chunk: bytes) -> list[bytes]:
        """Return the events that these bytes complete, comments too, each with all its lines.

        Raises:
            StreamTooLarge: see the bounds above.
            StreamQuiet: see `QUIET_S`.
        """
        self._total += len(chunk)
        if self._total > MAX_STREAM_BYTES:
            raise StreamTooLarge
        if monotonic() - self._said_at > self._quiet_s:
            raise StreamQuiet
        if self._carriage or b"\r" in chunk:
            chunk = self._carriage + chunk
            self._carriage = b"\r" if chunk.endswith(b"\r") else b""
            chunk = chunk.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._parts:
            # Joined only where an event ends: a chunk of one byte each would be copied as often as there are bytes.
            if b"\n\n" not in self._parts[-1][-1:] + chunk:
                return self._keep(chunk)
            chunk = b"".join((*self._parts, chunk))
        *complete, rest = chunk.split(b"\n\n")
        self._parts, self._size = [], 0
        self._keep(rest)
        return complete

    def spoke(self) -> None:
        """Note that the stream has said something: it is not quiet."""
        self._said_at = monotonic()

    def _keep(self, part: bytes) -> list[bytes]:
        if part:
            self._parts.append(part)
            self._size += len(part)
            if self._size > MAX_EVENT_BYTES:
                raise StreamTooLarge
        return []
