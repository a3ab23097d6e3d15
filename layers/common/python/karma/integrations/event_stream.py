"""Cuts streams of server-sent events into events, within bounds of size and of time: models' answers, and MCP servers'.

The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation.

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
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


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
        self._has_begun = False
        """It is known whether it begins with a byte order mark."""
        self._ends_in_return = False
        """The last chunk ended with a carriage return, whose line feed may follow."""
        self._said_at = monotonic()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that these bytes complete; events without any, or with blanks, are left out.

        Raises:
            StreamTooLarge, StreamQuiet: as `blocks`.
        """
        found = []
        for block in self.blocks(chunk):
            # Nearly all are one line, or two of which the other is the name: those cost no parsing of fields.
            line = block[block.find(b"\n") + 1 :] if block.startswith(b"event:") else block
            is_plain = line.startswith(b"data: ") and b"\n" not in line
            data = line[6:] if is_plain else fields_of(block).get(b"data", b"")
            if data and not data.isspace():
                found.append(data)
        return found

    def blocks(self, chunk: bytes) -> list[bytes]:
        """Return the events that these bytes complete, comments too, each with all its lines, for `fields_of`.

        Raises:
            StreamTooLarge: see the bounds above.
            StreamQuiet: see `QUIET_S`.
        """
        self._total += len(chunk)
        if self._total > MAX_STREAM_BYTES:
            raise StreamTooLarge
        if monotonic() - self._said_at > self._quiet_s:
            raise StreamQuiet
        if not self._has_begun:
            chunk = self._begin(chunk)
        if self._ends_in_return and chunk:
            chunk, self._ends_in_return = chunk.removeprefix(b"\n"), False
        if b"\r" in chunk:
            self._ends_in_return = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
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

    def _begin(self, chunk: bytes) -> bytes:
        """Return the first bytes without the byte order mark; nothing as long as they may be the beginning of one."""
        chunk = b"".join((*self._parts, chunk))
        self._parts, self._size = [], 0
        if len(chunk) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(chunk):
            self._keep(chunk)
            return b""
        self._has_begun = True
        return chunk.removeprefix(BYTE_ORDER_MARK)

    def _keep(self, part: bytes) -> list[bytes]:
        if part:
            self._parts.append(part)
            self._size += len(part)
            if self._size > MAX_EVENT_BYTES:
                raise StreamTooLarge
        return []


def fields_of(block: bytes) -> dict[bytes, bytes]:
    """Return the fields of an event, the last of each name; of several lines of data their texts, one below the other.

    An event without data has none, which is not the same as data that are empty.
    """
    fields: dict[bytes, bytes] = {}
    data: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if not name:
            continue  # a comment, or what is left of a further blank line
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name != b"id" or b"\0" not in value:
            fields[name] = value
    return {**fields, b"data": b"\n".join(data)} if data else fields
