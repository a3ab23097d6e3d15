"""Runs the embedded engine (MiniStack) in its own virtual environment, so that only this machine reaches it.

Five things differ from its own launcher; tests/integration/local/test_loopback.py checks the first four of them, and
test_watch.py the last:

* Whatever listens, listens on 127.0.0.1: its MQTT broker asks for every interface, whatever BIND_HOST says.
* A device without a certificate does not get through the TLS handshake, as with AWS: the engine would let it in.
* A web page of another site reaches nothing. The engine lets any page call it and believes any signature, so that a
  page in the browser of whoever runs this could deploy code of its own.
* MQTT over WebSocket is refused. It carries no certificate, and the engine does not check signatures in its place.

    python -P launch.py PORT
"""

import argparse
import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from ministack.app import app
from ministack.core import lambda_runtime
from ministack.services import iot

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOOPBACK = "127.0.0.1"
_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Of this machine, as pages and calls name it."""
_POLICY_VIOLATION = 1008


# asyncio's own loop, not uvloop: some devices do not get through the latter's TLS.
class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers are reached from this machine alone."""

    async def create_server(self, protocol_factory: Any, host: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Bind to loopback, whichever address was asked for; a socket that is given is bound already."""
        asked = host if kwargs.get("sock") is not None else _LOOPBACK
        return await super().create_server(protocol_factory, asked, *args, **kwargs)


def require_certificates() -> None:
    """Have the broker's TLS ask every client for a certificate, instead of taking one if there is one."""
    optional = iot._mtls_build_ssl_context  # noqa: SLF001 -- the engine has no setting for it

    def required() -> ssl.SSLContext:
        context: ssl.SSLContext = optional()
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    iot._mtls_build_ssl_context = required  # noqa: SLF001


def let_calls_finish() -> None:
    """Have instances end after the call that they carry out, as in AWS; the engine would end them under it.

    They get no further call, and the next one finds a new instance. The wait is at most the function's own time limit,
    at which the engine ends the call.
    """
    kill = lambda_runtime.kill_workers

    def end(worker: Any) -> None:
        with worker._lock:  # noqa: SLF001 -- the engine holds it from an instance's start to the end of its call
            kill([worker])

    def end_all(workers: Iterable[Any]) -> None:
        idle = []
        for worker in workers:
            if worker is not None and worker._lock.locked():  # noqa: SLF001
                threading.Thread(target=end, args=(worker,), daemon=True).start()
            else:
                idle.append(worker)
        kill(idle)

    lambda_runtime.kill_workers = end_all


def is_foreign(scope: Scope) -> bool:
    """Tell whether a browser sends this for a page that this machine does not serve, or under a name not its own.

    Browsers say which page asks in `Origin`, else in `Sec-Fetch-Site`; other programs send neither. The name is looked
    at because a site may have its own name lead here (DNS rebinding): its pages then count as of the same origin.
    """
    headers: dict[bytes, str] = {
        name.lower(): value.decode("latin-1").lower() for name, value in scope.get("headers", ())
    }
    if urlsplit(f"//{headers.get(b'host', '')}").hostname in _NAMES or not _is_browser(headers):
        origin = headers.get(b"origin")
        if origin is not None:
            return urlsplit(origin).hostname not in _NAMES
        return headers.get(b"sec-fetch-site", "none") == "cross-site"
    return True


def _is_browser(headers: dict[bytes, str]) -> bool:
    return b"origin" in headers or b"sec-fetch-site" in headers


async def for_this_machine(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the engine's application, except to pages of other sites and to WebSockets that are to carry MQTT."""
    if scope["type"] == "http" and is_foreign(scope):
        body = b'{"message": "this environment takes calls of web pages that this machine serves, and of programs"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    if scope["type"] == "websocket" and is_foreign(scope):
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    offered = [
        protocol.strip().lower()
        for name, value in scope.get("headers", ())
        if name.lower() == b"sec-websocket-protocol"
        for protocol in value.decode("latin-1").split(",")
    ]
    if scope["type"] == "websocket" and any(protocol.startswith("mqtt") for protocol in offered):
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    await app(scope, receive, send)


def main() -> None:
    """Serve until SIGTERM; the engine writes its state then."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int)
    port = parser.parse_args().port
    require_certificates()
    let_calls_finish()
    config = uvicorn.Config(
        for_this_machine,
        host=_LOOPBACK,
        port=port,
        # A quarter less CPU for each call than with Hypercorn, the engine's own server.
        http="httptools",
        ws="wsproto",
        access_log=False,
        # The application writes these by itself, as AWS does, and knows itself whom it believes about addresses.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    with asyncio.Runner(loop_factory=LoopbackLoop) as runner:
        runner.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
