"""Fetches URLs that users name, without giving access to internal networks (SSRF).

A host name is resolved once, every address it has must be a public one, and the connection goes to such an address, so
that a later answer of DNS cannot change it. Redirects are followed by the same rules, a few of them. Nothing is
sent but a plain GET: no cookie, no credential, no header of ours. Bytes and time are bounded.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import SplitResult, urljoin, urlsplit

from karma.conversations.ports import Fetched, NotFetched
from karma.core.clock import monotonic
from karma.integrations.guard import Cutoff, is_public, within

PORT = 443
MAX_REDIRECTS = 3
MAX_URL_CHARS = 2048
TIME_S = 10.0
"""Seconds for a fetch, with all redirects and the whole body."""
_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
Resolve = Callable[[str], Sequence[str]]
Connect = Callable[[str, str], socket.socket]
"""Opens a connection to an address for a host name."""


def resolve(host: str) -> Sequence[str]:
    """Return all addresses of a name from the system's resolver."""
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


def connect(address: str, host: str) -> socket.socket:
    """Open a TLS connection to the address; the certificate must be the host's."""
    plain = socket.create_connection((address, PORT), timeout=_CONNECT_S)
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


class Fetcher:
    """Fetches https: URLs."""

    def __init__(self, *, resolve: Resolve = resolve, connect: Connect = connect, time_s: float = TIME_S) -> None:
        self._resolve = resolve
        self._connect = connect
        self._time_s = time_s

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        """Return the content of a URL; blocks.

        Raises:
            NotFetched: the URL may not be fetched, or could not be; the message reveals nothing about our network.
        """
        cutoff = Cutoff(monotonic() + self._time_s)
        timer = threading.Timer(self._time_s, cutoff.ring)
        timer.daemon = True
        timer.start()
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(_checked(url), max_bytes=max_bytes, cutoff=cutoff)
                if cutoff.has_rung:
                    raise NotFetched("was cut off")  # a cut connection may look like the end of a body
                if isinstance(answer, Fetched):
                    return answer
                url = urljoin(url, answer)
            raise NotFetched(f"redirects more than {MAX_REDIRECTS} times")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if isinstance(exc, NotFetched) and not cutoff.has_rung:
                raise
            reason = f"was not there within {self._time_s:g} s" if cutoff.has_rung else "could not be fetched"
            raise NotFetched(reason) from exc
        finally:
            timer.cancel()

    def _get(self, url: SplitResult, *, max_bytes: int, cutoff: Cutoff) -> Fetched | str:
        """Send one request; return the target of a redirect, or the content."""
        host = str(url.hostname).rstrip(".").encode("idna").decode("ascii")
        addresses = list(within(cutoff, lambda: self._resolve(host)))
        if not addresses or not all(map(is_public, addresses)):
            raise NotFetched("is not at a public address")
        with self._connection(addresses[0], host, cutoff) as connection, ExitStack() as closing:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "Accept": "*/*"})
            answer = closing.enter_context(connection.getresponse())
            if answer.status in _REDIRECTS:
                place = answer.headers.get("location")
                if not place:
                    raise NotFetched("redirects to nowhere")
                return str(place)
            if answer.status != 200:
                raise NotFetched(f"is answered with status {answer.status}")
            if (answer.length or 0) > max_bytes:
                raise NotFetched(f"has more than {max_bytes} bytes")
            body = bytearray()
            while chunk := answer.read(_CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    raise NotFetched(f"has more than {max_bytes} bytes")
            if answer.length:
                raise http.client.IncompleteRead(bytes(body), answer.length)
            return Fetched(bytes(body), str(answer.headers.get("content-type") or ""))

    @contextmanager
    def _connection(self, address: str, host: str, cutoff: Cutoff) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(host, PORT)
        with self._connect(address, host) as connected:
            connection.sock = connected
            cutoff.watch(connected)
            try:
                yield connection
            finally:
                connection.close()


def _checked(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARS or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise NotFetched(f"must be a URL of at most {MAX_URL_CHARS} ASCII characters")
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        raise NotFetched("must be a URL") from None
    if found.scheme.lower() != "https":
        raise NotFetched("must be an https: URL")
    if not found.hostname or found.username is not None or found.password is not None or port not in (None, PORT):
        raise NotFetched("must be a URL with a host, without a user and without a port of its own")
    return found
