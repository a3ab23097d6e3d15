"""One invocation between an ASGI app and the Runtime API.

Each body message leaves as a chunk of its own, at once. As ASGI demands, nothing is sent before the first body message
(an app that wants its headers out early sends an empty one with `more_body`); a failure before that is still a 502.
A client that disconnects is not noticed: AWS does not report it. `http.disconnect` is received once the response is
complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from karma.core.runtime.client import ResponseStream
from karma.core.runtime.faults import Fault
from karma.core.runtime.prelude import encode_prelude
from karma.core.runtime.scope import Message


class ProtocolViolation(RuntimeError):
    """The app's messages are not a valid ASGI response."""


class Exchange:
    """The `receive` and `send` of one request."""

    def __init__(self, body: bytes, stream: ResponseStream) -> None:
        self._body: bytes | None = body
        self._stream = stream
        self._prelude: bytes | None = None
        self._complete = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        """Tell whether the app has sent its last body message."""
        return self._complete.is_set()

    async def receive(self) -> Message:
        """Return the next message, as ASGI's `receive`: the whole body, then `http.disconnect` after the response."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._complete.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a message of the response, as ASGI defines `send`.

        Raises:
            ProtocolViolation: the message is not allowed in this state of the response.
            OSError: the response cannot be delivered any more.
        """
        if message["type"] == "http.response.start":
            self._start(int(message["status"]), message.get("headers", ()))
        elif message["type"] == "http.response.body":
            await self._send_body(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))
        else:
            raise ProtocolViolation(f"{message['type']} is not supported")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self._prelude is not None:
            raise ProtocolViolation("the response was started twice")
        self._prelude = encode_prelude(status, headers)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._prelude is None:
            raise ProtocolViolation("a body came before http.response.start")
        if self.is_complete:
            raise ProtocolViolation("a body came after the last one")
        if not more:
            self._complete.set()
        if self._stream.begun:
            await self._stream.write(body)
        else:
            await self._stream.begin(self._prelude, body)
        if not more:
            await self._stream.end()

    async def fail(self, fault: Fault) -> None:
        """Report to Lambda that the app failed, unless the response is complete or broken.

        Raises:
            OSError: the response cannot be delivered any more.
        """
        if self.is_complete or self._stream.broken:
            return
        self._complete.set()
        await self._stream.fail(fault)
