"""Refuses cross-origin requests: listeners of the local environment serve programs, and pages of this machine.

Listeners here do not authenticate callers, and a web page can reach every listener on the machine of its reader.
Browsers ask first (a preflight) for some requests only, and a site may have its own name lead to 127.0.0.1 (DNS
rebinding): then its pages count as of the same origin, and browsers send neither `Origin` nor `Sec-Fetch-*` with what
they fetch. What a page cannot choose is the header `Host`: it has the name of the page's address. So:

* `Host` is a name that leads to this machine whoever answers DNS: an address of the loopback, `localhost`, or a name
  below it (RFC 6761).
* `Origin`, or without one `Sec-Fetch-Site`, names a page of this machine, or there is neither, as with programs.
* What steers a listener (`Kind.CONTROL`) takes no page at all, and asks for a header that a page could send only after
  a preflight.

Imports the standard library alone: the engine and the Stripe peer use it from environments of their own.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from enum import Enum
from http.server import BaseHTTPRequestHandler
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTROL_HEADER = "x-karma-control"
"""Header that programs which control a listener send, with any value."""
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://(?P<host>.+)")
_ANSWERED = "this environment answers programs, and web pages that this machine serves"
_POLICY_VIOLATION = 1008


class Kind(Enum):
    """Effect that a request can have without knowing its sender."""

    CALL = "call"
    """It changes or shows data."""
    VISIT = "visit"
    """Its `GET` changes nothing, so that links on any page, or a login elsewhere, may lead here."""
    CONTROL = "control"
    """It decides what the listener answers to others, or shows others' requests."""


def is_loopback_host(host: str) -> bool:
    """Tell whether a host, with or without a port, is this machine whoever answers DNS."""
    matched = _HOST.fullmatch(host.lower())
    if matched is None:
        return False
    name = matched["name"].removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_page_of_this_machine(origin: str) -> bool:
    """Tell whether an `Origin` is a page that this machine serves."""
    matched = _ORIGIN.fullmatch(origin.lower())
    return matched is not None and is_loopback_host(matched["host"])


def refusal(
    headers: Iterable[tuple[str, str]], *, method: str = "", kind: Kind = Kind.CALL, origins: Collection[str] = ()
) -> str:
    """Return the reason why a request is refused, "" if it is not.

    `origins` are those of other sites whose pages may call, too.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip())
    hosts, pages, sites = (found.get(name, []) for name in ("host", "origin", "sec-fetch-site"))
    for host in hosts:
        if not is_loopback_host(host):
            return f"this environment answers under names of this machine (localhost, 127.0.0.1), not as {host[:200]!r}"
    if kind is Kind.CONTROL:
        if pages or sites:
            return "this path is for programs, not for web pages"
        return "" if found.get(CONTROL_HEADER) else f"this path is for programs that send the header {CONTROL_HEADER}"
    for page in pages:
        if page not in origins and not is_page_of_this_machine(page):
            return (
                f"this environment answers programs, and web pages that this machine serves, not one of {page[:200]!r}"
            )
    if pages or set(sites) <= {"none", "same-origin", "same-site"}:
        return ""
    document = found.get("sec-fetch-mode") == ["navigate"] and found.get("sec-fetch-dest") == ["document"]
    if kind is Kind.VISIT and document and method in ("GET", "HEAD"):
        return ""
    return f"{_ANSWERED}, not those of other sites"


def body(why: str) -> bytes:
    """Return the body of the 403 answer to a refused request."""
    return json.dumps({"message": why}).encode()


class CrossOriginProtection:
    """An ASGI application that answers refused requests itself, and passes on the others."""

    def __init__(self, application: Application, kind: Kind = Kind.CALL) -> None:
        self._application = application
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope.get("headers", ())]
        why = refusal(headers, method=scope.get("method", ""), kind=self._kind)
        if not why:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            said = body(why)
            answer = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": answer})
            await send({"type": "http.response.body", "body": said})


def refuse(handler: BaseHTTPRequestHandler, kind: Kind = Kind.CALL) -> bool:
    """Answer the request that a handler of `http.server` has read, if it is to be refused; return whether it was."""
    why = refusal(handler.headers.items(), method=handler.command, kind=kind)
    if why:
        said = body(why)
        handler.close_connection = True
        handler.send_response(403)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(said)))
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(said)
    return bool(why)
