"""Requests and responses of the stream, over ASGI alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from agent_stream.sse import SseWriter
from karma.core.clock import from_epoch_ms, monotonic
from karma.core.errors import (
    ValidationFailed,
)
from karma.core.ids import new_id
from karma.http.admission import Headers
from karma.http.envelope import completed, repeated_parameters, unknown_parameters
from karma.http.headers import caller_address, read_idempotency_key
from karma.runs.requests import check_size

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_DEADLINE = "karma.deadline"
_INVOCATION = "karma.invocation"


class ClientLeft(Exception):
    """The client left before it had sent its request."""


class Request:
    """Request, as routes read it from an ASGI scope."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.receive = receive
        self._scope = scope
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        self.id: str = (extensions.get(_INVOCATION) or {}).get("request_id") or new_id()
        deadline = extensions.get(_DEADLINE)
        self.deadline: datetime | None = from_epoch_ms(deadline["epoch_ms"]) if deadline else None

    def header(self, name: bytes) -> str:
        """Return a header by its name in lower case; "" when the request has none."""
        return self._headers.get(name, b"").decode("latin-1")

    @property
    def idempotency_key(self) -> str | None:
        """Return the request's Idempotency-Key; None: it has none.

        Raises:
            InvalidRequest: as `read_idempotency_key`.
        """
        given = self._headers.get(b"idempotency-key")
        return read_idempotency_key(None if given is None else given.decode("latin-1"))

    def address(self, *, is_proven: bool) -> str:
        """Return the caller's address, as CloudFront says where the request has proven to come from there."""
        viewer = self.header(b"cloudfront-viewer-address") if is_proven else ""
        client = self._scope.get("client")
        return caller_address(viewer=viewer, peer=str(client[0]) if client else "")

    @cached_property
    def query(self) -> Mapping[str, str]:
        """Return the query's parameters."""
        return dict(self._pairs)

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        return parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def require_known(self, known: Collection[str]) -> None:
        """Refuse query parameters that a route does not have, or that are given twice.

        Raises:
            ValidationFailed: a parameter is unknown or repeated; each is named.
        """
        names = [name for name, _ in self._pairs]
        wrong = {
            "repeated_parameter": repeated_parameters(names, known),
            "unknown_parameter": unknown_parameters(names, known),
        }
        details = [
            {"field": name, "message": message, "type": kind} for kind, each in wrong.items() for name, message in each
        ]
        if details:
            raise ValidationFailed("Request validation failed", details=details)

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            PayloadTooLarge: the body exceeds the limit, announced or not.
        """
        announced = self.header(b"content-length")
        if announced.isascii() and announced.isdigit():
            check_size(int(announced[:19]))
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk = message.get("body", b"")
            size += len(chunk)
            check_size(size)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


async def until_gone(request: Request) -> None:
    """Wait until the client is known to have left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def respond(request: Request, writer: SseWriter) -> None:
    """Send a response of events to its end, or until the client is known to have left."""
    gone = asyncio.create_task(until_gone(request))
    gone.add_done_callback(lambda done: None if done.cancelled() else writer.lose())
    try:
        await writer.respond()
    finally:
        gone.cancel()
        await asyncio.wait([gone])


class Response:
    """Response that knows how much of it was sent."""

    def __init__(self, send: Send, *, request_id: str, bodyless: bool = False) -> None:
        self._send = send
        self._request_id = request_id
        self._started = monotonic()
        self._bodyless = bodyless
        self.status = 0
        """HTTP status; 0: nothing was sent, every answer is still possible."""
        self.is_complete = False
        self.limit: Headers = []
        """Headers that tell the caller's rate limit; empty: the request was not counted."""

    async def __call__(self, message: Message) -> None:
        """Send an ASGI message, with the headers that every answer has, and note how far the response is."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = [*message["headers"], *self.limit]
            took_s = monotonic() - self._started
            message = {**message, "headers": completed(given, request_id=self._request_id, took_s=took_s)}
        else:
            self.is_complete = not message.get("more_body", False)
            if self._bodyless:
                message = {**message, "body": b""}
        await self._send(message)
