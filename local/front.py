"""A reverse proxy on loopback that gives the HTTP API its own host, as it has in AWS.

The engine serves an API under `/_aws/execute-api/{id}/$default/`; through this proxy `/docs` and links without a path
work. It also keeps the number of function instances small: the engine starts one for each request in flight, and many
at once take it seconds. Two requests run at a time, others wait; one that takes longer than a second (a caller
waiting for a device) does not count any more.

    python -m local.front PORT UPSTREAM_URL [--host HOST] [--also PATH UPSTREAM_URL HOST]

`--host` is for engines that know an API by the header `Host` alone; `--also` for a path that another API serves.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping

import httpx
import uvicorn

from local.cross_origin import CrossOriginProtection, Kind, Receive, Scope, Send
from local.origins import KNOWN_ORIGIN, is_loopback
from local.upstream import Upstream

_AT_ONCE = 2
_KNOWN_ORIGIN = KNOWN_ORIGIN.encode()
_SLOW_S = 1.0
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
    )
)


def _length(method: str, answer: Iterable[tuple[bytes, bytes]], content: bytes) -> bytes:
    """Return the Content-Length of an answer, b"" for none.

    HEAD's is that of the body which GET would have (RFC 9110, 8.6): who answers may know it. A gateway that measures
    what a function returns says 0, which is wrong, and nothing is better than that.
    """
    if method != "HEAD":
        return b"%d" % len(content)
    said = next((value for name, value in answer if name.lower() == b"content-length"), b"")
    return b"" if said == b"0" else said


class Turnstile:
    """Limits requests to `_AT_ONCE` at a time; one that takes longer than `_SLOW_S` does not count any more."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def enter(self) -> Callable[[], None]:
        """Wait for a place; return the function that frees it, which happens after `_SLOW_S` at the latest."""
        await self._places.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            timer.cancel()
            if not given_back:
                given_back = True
                self._places.release()

        timer = asyncio.get_running_loop().call_later(_SLOW_S, give_back)
        return give_back


class Front:
    """ASGI application that forwards everything to `upstream`, method, path, query, headers and body unchanged.

    An upstream with a host gets that instead of the caller's. `also` has upstreams of single paths.

    CORS is the deployed API's, whose settings list whole origins. A front end under development is served at any port
    of this machine, so the upstream sees one of the listed origins in the place of another loopback origin, and the
    caller gets its own back.
    """

    def __init__(self, upstream: Upstream, also: Mapping[str, Upstream] | None = None) -> None:
        self._upstream = upstream
        self._also = also or {}
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(60, connect=5), limits=httpx.Limits(max_connections=100), trust_env=False
        )
        # Otherwise the client's own User-Agent and Accept headers would join the caller's.
        self._client.headers.clear()
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; there is no lifespan and no WebSocket."""
        if scope["type"] != "http":
            return
        body = await _read(receive)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        upstream = self._also.get(scope["path"], self._upstream)
        kept = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
        # Judged here already, and less strictly than the engine would: a login elsewhere leads back to the API.
        headers = [(name, value) for name, value in kept if name != b"sec-fetch-site"]
        origin = next((value for name, value in headers if name == b"origin"), b"")
        if is_loopback(origin.decode("latin-1")):
            headers = [(name, _KNOWN_ORIGIN if name == b"origin" else value) for name, value in headers]
        if upstream.host:
            headers = [(name, value) for name, value in headers if name != b"host"]
            headers.append((b"host", upstream.host.encode()))
        request = self._client.build_request(
            scope["method"],
            httpx.URL(upstream.url + (scope["raw_path"] + query).decode("latin-1")),
            headers=headers,
            content=body,
        )
        leave = await self._turnstile.enter()
        try:
            response = await self._client.send(request, stream=True)
            # Raw: a compressed body stays compressed.
            content = b"".join([piece async for piece in response.aiter_raw()])
            await response.aclose()
            status, answer = response.status_code, response.headers.raw
        except httpx.HTTPError as failure:
            # What API Gateway answers when it cannot reach the integration.
            print(f"front: {failure!r}", file=sys.stderr, flush=True)
            status, answer = 503, [(b"content-type", b"application/json")]
            content = b'{"message":"Service Unavailable"}'
        finally:
            leave()
        passed = [(name.lower(), value) for name, value in answer if name.lower() not in _HOP_BY_HOP]
        allowed = (b"access-control-allow-origin", _KNOWN_ORIGIN)
        if is_loopback(origin.decode("latin-1")):
            passed = [(name, origin if (name, value) == allowed else value) for name, value in passed]
        length = _length(scope["method"], answer, content)
        passed += [(b"content-length", length)] if length else []
        await send({"type": "http.response.start", "status": status, "headers": passed})
        await send({"type": "http.response.body", "body": content})


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(pieces)
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.front")
    parser.add_argument("port", type=int)
    parser.add_argument("upstream")
    parser.add_argument("--host", default="")
    parser.add_argument("--also", nargs=3, action="append", default=[], metavar=("PATH", "UPSTREAM_URL", "HOST"))
    given = parser.parse_args()
    front = Front(Upstream(given.upstream, given.host), {path: Upstream(url, host) for path, url, host in given.also})
    uvicorn.run(
        # Visits: a login at GitHub or Google leads back here.
        CrossOriginProtection(front, Kind.VISIT),
        host="127.0.0.1",
        port=given.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main()
