"""A response of server-sent events whose frames are written by another coroutine.

The writer never makes a run wait: frames are collected, and sent together as fast as the client takes them. A client
that leaves, or does not read, loses only its stream.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEEP_ALIVE_S = 10.0
_KEEP_ALIVE = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
MAX_UNREAD_BYTES = 8 * 1024 * 1024
"""Unread bytes after which a client counts as gone; it can reconnect with the last id."""

_SSE = "text/event-stream"
_JSON = "application/json"
_NOT_TAKEN = re.compile(r"q=0(\.0{0,3})?")
HEADERS = [
    (b"content-type", _SSE.encode()),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""Headers of each answer of events: caches keep none of it, and proxies neither compress it, which would hold events
back until a block is full, nor collect it (nginx and those that heed its header)."""


def wants_done(accept: str) -> bool:
    """Tell whether the client asks for the closing `data: [DONE]`, which AG-UI 1.0 clients cannot read."""
    return any(media_type == _SSE and "done=1" in parameters for media_type, parameters in _accepted(accept))


def wants_page(accept: str) -> bool:
    """Tell whether the client asks for JSON and not for a stream."""
    media_types = {media_type for media_type, _ in _accepted(accept)}
    return _JSON in media_types and _SSE not in media_types


def _accepted(accept: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the media types that a client takes, with their parameters; one of weight 0 it does not take."""
    for each in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in each.split(";"))
        if not any(_NOT_TAKEN.fullmatch(parameter) for parameter in parameters):
            yield media_type, parameters


class SseWriter:
    """Sink of frames that are sent as an ASGI response."""

    def __init__(self, send: Send, *, done: bool = False, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._send = send
        self._done = done
        self._keep_alive_s = keep_alive_s
        self._frames: list[bytes] = []
        self._unread = 0
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._lost = False
        self._sent_since_tick = False
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Write a frame; see ports.Sink."""
        if self._lost:
            return
        self._frames.append(data)
        self._unread += len(data)
        if self._unread > MAX_UNREAD_BYTES:
            self.lose()
        self._rouse()

    def end(self) -> None:
        """End the response after the frames written until now."""
        self._ended = True
        self._rouse()

    def lose(self) -> None:
        """Drop all frames: the client is gone."""
        self._lost = True
        self._frames.clear()
        self._rouse()

    @property
    def is_lost(self) -> bool:
        """Tell whether the client is gone."""
        return self._lost

    async def respond(self) -> None:
        """Send the response until the end, or until the client is lost. Raises nothing for a client that leaves."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._keep_alive_s, self._tick, loop)
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            while not self._lost:
                if self._frames:
                    body = b"".join(self._frames)
                    self._frames.clear()
                    self._unread = 0
                    self._sent_since_tick = True
                    await self._send({"type": "http.response.body", "body": body, "more_body": True})
                elif self._ended:
                    break
                else:
                    self._wake = loop.create_future()
                    await self._wake
            await self._send({"type": "http.response.body", "body": _DONE if self._done else b"", "more_body": False})
        except OSError:
            # ASGI 2.4: the response cannot be delivered any more.
            self.lose()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._sent_since_tick:
            self.write(_KEEP_ALIVE)
        self._sent_since_tick = False
        self._timer = loop.call_later(self._keep_alive_s, self._tick, loop)

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)
