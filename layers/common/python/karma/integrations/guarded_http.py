"""HTTP connections to addresses that users name, which never lead into a network of ours (SSRF).

A name is resolved when a connection is opened, all its addresses must be allowed, and the connection goes to one of
those: what DNS answers later cannot change it, and a kept connection stays with the address that was checked. The
certificate must be the name's. There are no redirects, no proxies and no cookies: httpcore2 knows none of them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from karma.integrations.guard import is_public

if TYPE_CHECKING:
    import httpcore2
    from httpcore2._types import SOCKET_OPTION

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns all addresses of a name."""

_CONNECTIONS: Final = 100
_IDLE_CONNECTIONS: Final = 20
_IDLE_S: Final = 30.0


class AddressRefused(Exception):
    """The name leads to an address that may not be asked."""


async def resolved(host: str, port: int) -> Sequence[str]:
    """Return all addresses of a name from the system's resolver.

    Raises:
        OSError: there are none, or the resolver did not answer.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # a name that cannot be, such as one with a label of 64 characters
        raise OSError("the name cannot be resolved") from exc
    return [str(each[4][0]) for each in found]


def make_pool(
    *, is_allowed: Callable[[str], bool] = is_public, resolve: Resolve = resolved
) -> httpcore2.AsyncConnectionPool:
    """Make a pool of connections to allowed addresses; what opens one raises AddressRefused for any other."""
    import httpcore2

    backend = httpcore2.AnyIOBackend()

    class Guarded(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore2's
            local_address: str | None = None,
            socket_options: Iterable[SOCKET_OPTION] | None = None,
        ) -> httpcore2.AsyncNetworkStream:
            try:
                addresses = await resolve(host, port)
            except OSError as exc:
                raise httpcore2.ConnectError("the name cannot be resolved") from exc
            if not addresses or not all(map(is_allowed, addresses)):
                raise AddressRefused
            return await backend.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

        async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
            raise AddressRefused

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    return httpcore2.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=_CONNECTIONS,
        max_keepalive_connections=_IDLE_CONNECTIONS,
        keepalive_expiry=_IDLE_S,
        network_backend=Guarded(),
    )
