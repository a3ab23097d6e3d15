"""Sends messages to connections of API Gateway's WebSocket, many at once: a small HTTP client with its own signature.

boto3 takes 1.5 ms of CPU for one message, most of it to build, sign and parse what is always alike; this takes a
twentieth (`make bench`, row "push"). It speaks HTTP/1.1 over connections that stay open, one request after the other on
each, and knows of SigV4 what this one call needs. Whoever adds another call to it uses boto3 instead.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

from karma.core import aws
from karma.core.clock import SystemClock
from karma.core.observability import logger
from karma.realtime.ports import Delivered

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

IN_FLIGHT: Final = 100
"""Messages that are on their way at the same moment, at the most."""
_TIMEOUT_S: Final = 2.0
_TRIES: Final = 4
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
"""Most of what `Retry-After` may ask for: a job is to end while its listeners are still believed."""
_MOST_HEAD: Final = 65_536
_OUTCOMES: Final = {
    200: Delivered.SENT,
    403: Delivered.REFUSED,
    410: Delivered.GONE,
    413: Delivered.TOO_LARGE,
}
_CLOCK: Final = SystemClock()
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})


class PushClient:
    """Sends to the connections of one WebSocket API; a process has one, whose sockets stay open between calls."""

    def __init__(self, url: str, *, in_flight: int = IN_FLIGHT, timeout_s: float = _TIMEOUT_S) -> None:
        """Make a client; `url` is the one that clients connect to, at which connections are also managed by HTTP."""
        found = urlsplit(f"http{url.removeprefix('ws')}")
        self._host = found.netloc
        self._address = (found.hostname or "", found.port or (443 if found.scheme == "https" else 80))
        self._tls = ssl.create_default_context() if found.scheme == "https" else None
        self._path = f"{found.path.rstrip('/')}/@connections/"
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self._idle: deque[socket.socket] = deque()
        aws.on_reset(self.close)

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        """Send each message to the connection beside it, at most `IN_FLIGHT` at once; see Pushes.

        Those to one connection are sent one after the other, in their order.
        """
        if not messages:
            return []
        signer = _Signer(self._host, self._path, aws.credentials(), aws.region())
        outcomes = [Delivered.UNREACHED] * len(messages)
        # Bodies are few and connections many: each is hashed once.
        digests = {body: hashlib.sha256(body).hexdigest() for body in {body for _, body in messages}}
        by_connection: dict[str, list[int]] = {}
        for index, (connection, _) in enumerate(messages):
            by_connection.setdefault(connection, []).append(index)
        left = deque(_Turn(connection, indexes) for connection, indexes in by_connection.items())

        def work() -> None:
            # Threads take one connection after the other: popleft and append of a deque are atomic.
            while True:
                try:
                    turn = left.popleft()
                except IndexError:
                    return
                again = self._take(turn, messages, lambda index: digests[messages[index][1]], signer, outcomes)
                if again is not None:
                    # Behind all others, who are not to wait for one that is throttled.
                    left.append(again)

        workers = min(self._in_flight, len(left))
        with ThreadPoolExecutor(max_workers=workers) as threads:
            for running in [threads.submit(work) for _ in range(workers)]:
                running.result()
        return outcomes

    def close(self) -> None:
        """Close the sockets that wait for a next message."""
        while self._idle:
            self._idle.pop().close()

    def _take(
        self,
        turn: _Turn,
        messages: Sequence[tuple[str, bytes]],
        digest_of: Callable[[int], str],
        signer: _Signer,
        outcomes: list[Delivered],
    ) -> _Turn | None:
        """Send what a connection is still to be sent; return what is left behind a passing refusal."""
        if turn.due:
            time.sleep(max(0.0, turn.due - time.monotonic()))
        tries = turn.tries
        for place, index in enumerate(turn.indexes):
            answer = self._answer(signer.request(turn.connection, messages[index][1], digest_of(index)))
            tries += 1
            if answer.status in _AGAIN and tries < _TRIES:
                asked = min(answer.retry_after_s, _LONGEST_PAUSE_S)
                pause = max(random.uniform(0, _PAUSE_S * 2**tries), asked)  # noqa: S311  no secret
                return _Turn(turn.connection, turn.indexes[place:], tries, time.monotonic() + pause)
            outcomes[index] = _outcome(answer.status)
            tries = 0
        return None

    def _answer(self, request: bytes) -> _Answer:
        """Send a request and return its answer, that of status 0 when there was none in time."""
        try:
            found: socket.socket | None = self._idle.pop()
        except IndexError:
            found = None
        if found is not None:
            answer = self._ask(found, request)
            if answer is not None:
                return answer
            # It had been closed while it waited: nobody has read the request, or the message comes twice.
        try:
            fresh = self._connected()
        except OSError:
            return _NONE
        return self._ask(fresh, request) or _NONE

    def _connected(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=self._timeout_s)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made if self._tls is None else self._tls.wrap_socket(made, server_hostname=self._address[0])
        except OSError:
            made.close()
            raise

    def _ask(self, connection: socket.socket, request: bytes) -> _Answer | None:
        """Ask over a connection and keep it for the next request; None: it ended without an answer.

        That of status 0: it hangs.
        """
        try:
            connection.sendall(request)
            answer = _read_answer(connection)
        except TimeoutError:
            connection.close()
            return _NONE
        except (OSError, ValueError):
            connection.close()
            return None
        if answer.keeps_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer


class _Turn(NamedTuple):
    """Messages that a connection is still to be sent, by their places; the first of them was tried already."""

    connection: str
    indexes: Sequence[int]
    tries: int = 0
    due: float = 0.0


class _Answer(NamedTuple):
    status: int
    keeps_open: bool
    retry_after_s: float = 0.0


_NONE: Final = _Answer(0, keeps_open=False)


def _outcome(status: int) -> Delivered:
    if status in _OUTCOMES:
        return _OUTCOMES[status]
    if status == 429:
        return Delivered.BUSY
    logger.debug("push.unreached", status=status)
    return Delivered.UNREACHED


def _read_answer(connection: socket.socket) -> _Answer:
    """Read an answer to its end, of which only the status counts.

    Raises:
        ValueError: it is no HTTP, or the connection ended within it.
    """
    data = connection.recv(4096)
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = connection.recv(4096)
        if not data or not more or len(data) > _MOST_HEAD:
            raise ValueError("no answer")
        data += more
    head = data[:end].lower()
    status = int(head[9:12])
    length = 0
    keeps_open = head.startswith(b"http/1.1") and b"\r\nconnection: close" not in head
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 : head.find(b"\r\n", at + 2) if head.find(b"\r\n", at + 2) > 0 else None])
    elif status != 204:
        keeps_open = False  # its end is not announced in a way that is read here
    left = length - (len(data) - end - 4)
    while keeps_open and left > 0:
        more = connection.recv(min(left, 65_536))
        if not more:
            break
        left -= len(more)
    return _Answer(status, keeps_open and left == 0, _retry_after(head) if status in _AGAIN else 0.0)


def _retry_after(head: bytes) -> float:
    """Return the seconds that an answer asks to wait; a date, which AWS never sends, is not read."""
    at = head.find(b"\r\nretry-after:")
    value = head[at + 14 :].partition(b"\r\n")[0].strip() if at >= 0 else b""
    return float(value) if value.isdigit() else 0.0


class _Signer:
    """Signs requests of one second after the other by AWS Signature Version 4."""

    def __init__(self, host: str, path: str, credentials: ReadOnlyCredentials, region: str) -> None:
        self._host = host
        self._path = path
        # The canonical path is encoded once more than the path itself: `@` as `%40`, `%3D` as `%253D`.
        self._canonical_path = quote(path, safe="/~")
        self._credentials = credentials
        self._region = region
        self._day = ""
        self._key = b""

    def request(self, connection: str, body: bytes, digest: str) -> bytes:
        """Return the bytes of the POST that sends a body, whose SHA-256 in hexadecimal is `digest`."""
        now = _CLOCK.now().strftime("%Y%m%dT%H%M%SZ")
        credentials = self._credentials
        name = quote(connection, safe="")
        token = f"x-amz-security-token:{credentials.token}\n" if credentials.token else ""
        signed = "host;x-amz-date;x-amz-security-token" if credentials.token else "host;x-amz-date"
        canonical = (
            f"POST\n{self._canonical_path}{quote(name, safe='~')}\n\n"
            f"host:{self._host}\nx-amz-date:{now}\n{token}\n{signed}\n{digest}"
        )
        scope = f"{now[:8]}/{self._region}/execute-api/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(now[:8]), text.encode(), "sha256").hex()
        sent_token = f"X-Amz-Security-Token: {credentials.token}\r\n" if credentials.token else ""
        head = (
            f"POST {self._path}{name} HTTP/1.1\r\nHost: {self._host}\r\nX-Amz-Date: {now}\r\n{sent_token}"
            f"Authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _signing_key(self, day: str) -> bytes:
        if self._day != day:
            key = f"AWS4{self._credentials.secret_key}".encode()
            for part in (day, self._region, "execute-api", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key, self._day = key, day
        return self._key
