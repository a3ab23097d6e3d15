"""Fetches URLs that users name, without giving access to internal networks (SSRF).

A host name is resolved once, every address it has must be a public one, and the connection goes to such an address, so
that a later answer of DNS cannot change it. Redirects are followed by the same rules, a few of them. Nothing is
sent but a plain GET: no cookie, no credential, no header of ours. Bytes and time are bounded.

Not public are private and shared (CGNAT) networks, loopback, link-local addresses with the metadata services among
them, multicast and reserved ones, also when an IPv6 address carries them inside (IPv4-mapped). Addresses that lead
through a translator or a tunnel (NAT64, 6to4, Teredo) are never public.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from karma.conversations.ports import Fetched, NotFetched
from karma.core.clock import monotonic

PORT = 443
MAX_REDIRECTS = 3
MAX_URL_CHARS = 2048
TIME_S = 10.0
"""Seconds for a fetch, with all redirects and the whole body."""
_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNICAST = ipaddress.ip_network("2000::/3")
"""IPv6 addresses that IANA assigns for the internet; others have another use, or none yet."""
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        # IANA's special-purpose registries, and multicast. Blocks are closed as a whole: no server of the web is in
        # the few addresses of them that are reachable.
        [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "2620:4f:8000::/48",
            "3fff::/20",
        ],
    )
)

Resolve = Callable[[str], Sequence[str]]
Connect = Callable[[str, str], socket.socket]
"""Opens a connection to an address for a host name."""


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the public internet."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return _is_global(found.ipv4_mapped)
        return found in _UNICAST and _is_global(found)
    return _is_global(found)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not any(address in network for network in _SPECIAL)


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


class _Alarm:
    """Closes the current connection when the time is up: a server that sends single bytes never meets a timeout."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.has_rung = False
        self._watched: socket.socket | None = None

    def watch(self, connected: socket.socket) -> None:
        """Watch this connection from now on; close it at once when the time is up."""
        self._watched = connected
        if self.has_rung:
            self.ring()

    def ring(self) -> None:
        """Close the watched connection, and those that follow."""
        self.has_rung = True
        if self._watched is not None:
            with suppress(OSError):
                # Not TLS's own way, which changes the object that another thread is reading from.
                socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def _within(alarm: _Alarm, resolve: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Resolve in a separate thread, which is abandoned when the time is up, since a resolver cannot be interrupted.

    Raises:
        TimeoutError: the time is up.
        OSError: the name cannot be resolved.
    """
    found: Future[Sequence[str]] = Future()

    def run() -> None:
        try:
            found.set_result(resolve())
        except BaseException as exc:  # noqa: BLE001 - told to who waits
            found.set_exception(exc)

    threading.Thread(target=run, daemon=True, name="resolve").start()
    wait([found], timeout=max(0.0, alarm.until - monotonic()))
    if not found.done():
        alarm.ring()
        raise TimeoutError
    return found.result()


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
        alarm = _Alarm(monotonic() + self._time_s)
        timer = threading.Timer(self._time_s, alarm.ring)
        timer.daemon = True
        timer.start()
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(_checked(url), max_bytes=max_bytes, alarm=alarm)
                if alarm.has_rung:
                    raise NotFetched("was cut off")  # a cut connection may look like the end of a body
                if isinstance(answer, Fetched):
                    return answer
                url = urljoin(url, answer)
            raise NotFetched(f"redirects more than {MAX_REDIRECTS} times")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if isinstance(exc, NotFetched) and not alarm.has_rung:
                raise
            reason = f"was not there within {self._time_s:g} s" if alarm.has_rung else "could not be fetched"
            raise NotFetched(reason) from exc
        finally:
            timer.cancel()

    def _get(self, url: SplitResult, *, max_bytes: int, alarm: _Alarm) -> Fetched | str:
        """Send one request; return the target of a redirect, or the content."""
        host = str(url.hostname).rstrip(".").encode("idna").decode("ascii")
        addresses = list(_within(alarm, lambda: self._resolve(host)))
        if not addresses or not all(map(is_public, addresses)):
            raise NotFetched("is not at a public address")
        with self._connection(addresses[0], host, alarm) as connection, ExitStack() as closing:
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
    def _connection(self, address: str, host: str, alarm: _Alarm) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(host, PORT)
        with self._connect(address, host) as connected:
            connection.sock = connected
            alarm.watch(connected)
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
