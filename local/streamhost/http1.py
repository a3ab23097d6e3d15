"""HTTP/1.1 on asyncio streams, as little as the host's two servers need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

READ_BYTES = 65536
HEAD_LIMIT = 65536
_BODYLESS = (204, 304)


class BadRequest(Exception):
    """The peer did not speak HTTP/1.1."""


class BodyTooLarge(Exception):
    """The body is larger than its reader allows."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line with its headers."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    """Header pairs with names in lower case; repeated ones are kept apart."""

    def header(self, name: str) -> str:
        """Return all values of a header, joined; "" when absent."""
        return ",".join(value for key, value in self.headers if key == name)

    @property
    def wants_keep_alive(self) -> bool:
        """Tell whether the peer will send another request on this connection."""
        return self.version == "HTTP/1.1" and self.header("connection").lower() != "close"


async def read_head(reader: asyncio.StreamReader) -> RequestHead | None:
    """Read a request's head; None when the peer closed between requests.

    Raises:
        BadRequest: the request is not HTTP/1.x, or its head has more than 64 KiB.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial.strip():
            raise BadRequest("the head ended early") from exc
        return None
    except asyncio.LimitOverrunError as exc:
        raise BadRequest("the head is too large") from exc
    request_line, *lines = _decode(raw).strip("\r\n").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(f"not an HTTP/1 request line: {request_line[:80]!r}")
    pairs = tuple((name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    return RequestHead(parts[0], parts[1], parts[2], pairs)


def _decode(head: bytes) -> str:
    """Decode as UTF-8 if it is that, else as Latin-1, which any bytes are."""
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError:
        return head.decode("latin-1")


class BodyReader:
    """Reads a request's body piece by piece, each at most 64 KiB and never across a chunk's end."""

    def __init__(self, reader: asyncio.StreamReader, head: RequestHead) -> None:
        self._reader = reader
        self._chunked = "chunked" in head.header("transfer-encoding").lower()
        length = head.header("content-length") or "0"
        if not self._chunked and not length.isdigit():
            raise BadRequest("content-length is not a number")
        self.declared_length = 0 if self._chunked else int(length)
        self._left = self.declared_length
        self._ended = False
        self.trailers: dict[str, str] = {}
        """Trailers with names in lower case; complete once `read` has returned nothing."""

    async def read(self) -> bytes:
        """Return the next piece, or nothing at the end.

        Raises:
            IncompleteReadError: the peer closed in the middle of the body.
            BadRequest: a chunk's size is not a number.
        """
        if self._chunked and not self._left and not self._ended:
            await self._next_chunk()
        if not self._left:
            return b""
        piece = await self._reader.read(min(self._left, READ_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(piece)
        if self._chunked and not self._left:
            await self._reader.readexactly(2)
        return piece

    async def read_all(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            BodyTooLarge: the body has more than `limit` bytes.
        """
        body = bytearray()
        if self.declared_length > limit:
            raise BodyTooLarge
        while piece := await self.read():
            body += piece
            if len(body) > limit:
                raise BodyTooLarge
        return bytes(body)

    async def discard(self) -> None:
        """Read the rest of the body and drop it."""
        while await self.read():
            pass

    async def _next_chunk(self) -> None:
        try:
            self._left = int((await self._line()).split(";")[0], 16)
        except ValueError as exc:
            raise BadRequest("a chunk's size is not a number") from exc
        if self._left == 0:
            self._ended = True
            while line := await self._line():
                name, _, value = line.partition(":")
                self.trailers[name.strip().lower()] = value.strip()

    async def _line(self) -> str:
        return (await self._reader.readuntil(b"\r\n")).decode("latin-1").strip()


def response_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a status line and headers, blank line included."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


class ClientResponse:
    """A response to the client. Once the client has disconnected, writes are ignored."""

    def __init__(self, writer: asyncio.StreamWriter, request: RequestHead) -> None:
        self._writer = writer
        self._is_head = request.method == "HEAD"
        self._chunked = request.version == "HTTP/1.1"
        self._bodyless = False
        self.keep_alive = request.wants_keep_alive
        self.started = False
        self.ended = False

    async def proceed(self) -> None:
        """Send 100 Continue to a client that waits for it before it sends its body."""
        await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send the head; its body follows in chunks."""
        self.started = True
        self._bodyless = self._is_head or status in _BODYLESS
        framing = [("date", formatdate(usegmt=True)), ("connection", "keep-alive" if self.keep_alive else "close")]
        if self._chunked and not self._bodyless:
            framing.append(("transfer-encoding", "chunked"))
        await self._send(response_head(status, [*headers, *framing]))

    async def write(self, data: bytes) -> None:
        """Send one piece of the body at once."""
        if data and not self._bodyless:
            await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """Finish the body."""
        self.ended = True
        if self._chunked and not self._bodyless:
            await self._send(b"0\r\n\r\n")

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a whole response of a known length."""
        self.started = self.ended = True
        connection = "keep-alive" if self.keep_alive else "close"
        length = [] if status in _BODYLESS else [("content-length", str(len(body)))]
        head = response_head(status, [*headers, *length, ("date", formatdate(usegmt=True)), ("connection", connection)])
        await self._send(head if self._is_head or status in _BODYLESS else head + body)

    def cut(self) -> None:
        """Close the connection without finishing the body, so that the client sees a failure."""
        self.ended, self.keep_alive = True, False
        transport = self._writer.transport
        # `close` flushes what was written: the client keeps every whole chunk, and misses the last one.
        transport.close()

    async def _send(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            self.keep_alive = False
            return
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            self.keep_alive = False
