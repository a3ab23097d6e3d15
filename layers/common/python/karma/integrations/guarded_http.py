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
from functools import cache
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


class ConnectionEnded(Exception):
    """The peer has closed the connection: the cause of a ReadError, where httpcore2 would speak of broken HTTP."""


def has_ended(exc: BaseException) -> bool:
    """Tell whether a failure to read a body is one of a connection that its peer has closed in order.

    Of one to read a head it is never told: httpcore2's pool drops the cause of that.
    """
    return isinstance(exc.__cause__, ConnectionEnded)


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


@cache
def _ending() -> Callable[[httpcore2.AsyncNetworkStream], httpcore2.AsyncNetworkStream]:
    """Return what makes a stream say that it has ended; the import of httpcore2 waits for who connects."""
    import httpcore2

    class Ending(httpcore2.AsyncNetworkStream):
        """A stream that says so when it has ended: else a server that died is not told from one that speaks no HTTP."""

        def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
            self._inner = inner

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore2's
            data = await self._inner.read(max_bytes, timeout)
            if not data:
                raise httpcore2.ReadError("the peer has closed the connection") from ConnectionEnded()
            return data

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's
            await self._inner.write(buffer, timeout)

        async def aclose(self) -> None:
            await self._inner.aclose()

        async def start_tls(
            self,
            ssl_context: ssl.SSLContext,
            server_hostname: str | None = None,
            timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore2's
        ) -> httpcore2.AsyncNetworkStream:
            return Ending(await self._inner.start_tls(ssl_context, server_hostname, timeout))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    return Ending


def make_pool(
    *, is_allowed: Callable[[str], bool] = is_public, resolve: Resolve = resolved
) -> httpcore2.AsyncConnectionPool:
    """Make a pool of connections to allowed addresses; what opens one raises AddressRefused for any other.

    Whoever reads behind the end of a connection gets a ReadError, also behind a body that has no other end than that:
    `has_ended` tells these.
    """
    import httpcore2

    backend, ending = httpcore2.AnyIOBackend(), _ending()

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
            return ending(await backend.connect_tcp(addresses[0], port, timeout, local_address, socket_options))

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
