"""Guards requests to addresses that users name: only public addresses, and an end of their time.

Not public are private and shared (CGNAT) networks, loopback, link-local addresses with the metadata services among
them, multicast and reserved ones, also when an IPv6 address carries them inside (IPv4-mapped). Addresses that lead
through a translator or a tunnel (NAT64, 6to4, Teredo) are never public.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress

from karma.core.clock import monotonic

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


def is_public_or_loopback(address: str) -> bool:
    """Tell whether an address is public, or this machine's: for stages that run on the machine of their developer."""
    try:
        return ipaddress.ip_address(address).is_loopback or is_public(address)
    except ValueError:
        return False


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not any(address in network for network in _SPECIAL)


class Cutoff:
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


def within(cutoff: Cutoff, resolve: Callable[[], Sequence[str]]) -> Sequence[str]:
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
    wait([found], timeout=max(0.0, cutoff.until - monotonic()))
    if not found.done():
        cutoff.ring()
        raise TimeoutError
    return found.result()
