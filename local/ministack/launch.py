"""Runs the embedded engine (MiniStack) in its own virtual environment, so that only this machine reaches it.

Three things differ from its own launcher; each is checked by tests/integration/local/test_loopback.py:

* Whatever listens, listens on 127.0.0.1: its MQTT broker asks for every interface, whatever BIND_HOST says.
* A device without a certificate does not get through the TLS handshake, as with AWS: the engine would let it in.
* MQTT over WebSocket is refused. It carries no certificate, and the engine does not check signatures in its place.

    python -P launch.py PORT
"""

import argparse
import asyncio
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from ministack.app import app
from ministack.services import iot

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOOPBACK = "127.0.0.1"
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


async def without_mqtt_over_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the engine's application, except WebSockets that are to carry MQTT."""
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
    config = uvicorn.Config(
        without_mqtt_over_websocket,
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
