"""HTTP/1.1 as the Lambda Runtime API speaks it: one keep-alive connection over loopback, on a raw socket.

Between invocations the process has nothing else to do, so requests block. While an app streams, its chunks are handed
to the kernel at once (`TCP_NODELAY`, one `send` a chunk); a full socket buffer makes the writer wait, never the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from karma.core.records import Record

_RECEIVE_BYTES = 65536
_LAST_CHUNK = b"0\r\n"


class RuntimeApiUnreachable(OSError):
    """The Runtime API closed the connection without an answer; the execution environment is ending."""


class Reply(Record):
    """A complete HTTP response."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    keep_alive: bool


class ReplyParser:
    """Incremental parser of one HTTP response; no I/O of its own."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._keep_alive = False

    def feed(self, data: bytes) -> Reply | None:
        """Take received bytes (empty: the peer closed) and return the response once it is whole.

        Raises:
            RuntimeApiUnreachable: the peer closed in the middle of the response.
            ValueError: the response is not HTTP/1.x.
        """
        if not data:
            return self._at_end_of_stream()
        self._buffer += data
        while not self._status:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._read_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        return self._reply() if self._has_whole_body() else None

    def _read_head(self, head: bytes) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, code = status_line.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP/1 response: {status_line!r}")
        self._status = 0 if code.startswith("1") else int(code)
        self._headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        connection = self._headers.get("connection", "").lower()
        self._keep_alive = connection != "close" if version == "HTTP/1.1" else connection == "keep-alive"

    def _has_whole_body(self) -> bool:
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunks()
        length = self._headers.get("content-length")
        if self._status in (204, 304):
            length = "0"
        if length is None:
            self._keep_alive = False
            return False
        if len(self._buffer) < int(length):
            return False
        self._body = self._buffer[: int(length)]
        return True

    def _read_chunks(self) -> bool:
        while (line_end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:line_end].split(b";")[0], 16)
            if size == 0:
                return self._buffer.find(b"\r\n\r\n", line_end) >= 0
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return False
            self._body += self._buffer[start : start + size]
            del self._buffer[: start + size + 2]
        return False

    def _at_end_of_stream(self) -> Reply:
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        if not self._status or framed:
            raise RuntimeApiUnreachable("the Runtime API closed the connection before it answered")
        self._body = self._buffer
        return self._reply()

    def _reply(self) -> Reply:
        return Reply(self._status, self._headers, bytes(self._body), self._keep_alive)


def request_head(method: str, path: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return the request line and the header block, blank line included."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body; `data` must not be empty, an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Mapping[str, str]) -> bytes:
    """Return the end of a chunked body with its trailers."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers.items())
    return _LAST_CHUNK + lines.encode("latin-1") + b"\r\n"


class RuntimeConnection:
    """The one connection of this process to the Runtime API, opened when first needed."""

    def __init__(self, address: str) -> None:
        """`address` is `host:port`, as Lambda gives it in `AWS_LAMBDA_RUNTIME_API`."""
        self.host = address
        name, _, port = address.rpartition(":")
        self._peer = (name, int(port))
        self._socket: socket.socket | None = None
        self._backlog = bytearray()
        self._draining: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """Send one request and wait for its answer, however long it takes (`next` waits until there is work).

        A kept connection that turns out to be closed before any byte of the answer is opened anew, once.

        Raises:
            OSError: the Runtime API cannot be reached.
        """
        reused = self._socket is not None
        try:
            return self._exchange(method, path, headers, body)
        except OSError:
            self.close()
            if not reused:
                raise
        return self._exchange(method, path, headers, body)

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        connected = self._open()
        connected.setblocking(True)
        sized = dict(headers) if method == "GET" else {**headers, "Content-Length": str(len(body))}
        connected.sendall(request_head(method, path, self.host, sized) + body)
        parser = ReplyParser()
        while (reply := parser.feed(connected.recv(_RECEIVE_BYTES))) is None:
            pass
        if not reply.keep_alive:
            self.close()
        return reply

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._peer)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def start_streaming(self) -> None:
        """Make the connection ready for `write`, replacing one that the peer has closed in the meantime."""
        connected = self._open()
        connected.setblocking(False)
        try:
            if connected.recv(1, socket.MSG_PEEK) == b"":
                raise ConnectionResetError
        except BlockingIOError:
            return
        except OSError:
            self.close()
            self._open().setblocking(False)

    async def write(self, data: bytes) -> None:
        """Hand bytes to the kernel; waits, without blocking the loop, only while its buffer is full.

        Writers may be concurrent and may be cancelled: what was taken is sent whole and in order all the same.

        Raises:
            OSError: the Runtime API closed the connection.
        """
        if self._draining is None:
            connected = self._open()
            try:
                sent = connected.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            self._backlog += memoryview(data)[sent:]
            self._draining = asyncio.ensure_future(self._drain(connected))
        else:
            self._backlog += data
        await asyncio.shield(self._draining)

    async def _drain(self, connected: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._backlog:
                pending, self._backlog = self._backlog, bytearray()
                await loop.sock_sendall(connected, pending)
        finally:
            self._backlog.clear()
            self._draining = None

    async def read_reply(self) -> Reply:
        """Wait for the answer to the streamed request.

        Raises:
            OSError: the connection broke.
        """
        connected = self._open()
        loop = asyncio.get_running_loop()
        parser = ReplyParser()
        while (reply := parser.feed(await loop.sock_recv(connected, _RECEIVE_BYTES))) is None:
            pass
        if not reply.keep_alive:
            self.close()
        return reply
