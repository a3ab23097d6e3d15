"""The layer around every request: id, origin check, errors, log line, timing.

It replaces FastAPI's middleware stack: one layer instead of six, and one place that presents errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from karma.core.clock import epoch_ms, monotonic
from karma.core.errors import (
    AppError,
    RateLimited,
)
from karma.core.ids import new_id
from karma.core.observability import log_request, logger
from karma.http import presenters
from karma.http.admission import ORIGIN_HEADER
from karma.http.envelope import completed, failure, style_of
from karma.http.errors import as_app_error
from karma.http.headers import caller_address
from karma.http.serving import Serving, begin

REQUEST_ID = "karma.request_id"
USER_ID = "karma.user_id"
"""Key of the scope for the caller's id, set by authentication, for the log."""
LIMIT_HEADERS = "karma.limit_headers"
"""Key of the scope for the headers of the rate limit, set by who counts the request."""
_PROVEN = "karma.origin_proven"
_NO_ROUTE = "(none)"
_POLICY = b"content-security-policy"


class Edge:
    """ASGI layer around the router."""

    def __init__(self, app: ASGIApp, *, serving: Callable[[], Serving]) -> None:
        """`serving` returns the function's parts, for each request anew."""
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and render every exception as an answer."""
        if scope["type"] != "http":
            # ASGI's way of saying so: a server goes on without lifespan.
            raise NotImplementedError(f"the API does not serve {scope['type']}")
        started = monotonic()
        parts = self._serving()
        begin(parts)
        request_id = scope[REQUEST_ID] = _request_id(scope)
        path: str = scope["path"]
        chosen = presenters.style.set(style_of(path))
        is_head = scope["method"] == "HEAD"
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*_with_policy(message.get("headers", ())), *scope.get(LIMIT_HEADERS, ())]
                message["headers"] = completed(given, request_id=request_id, took_s=monotonic() - started)
            elif is_head:
                message["body"] = b""
            await send(message)

        logger.append_keys(request_id=request_id)
        try:
            if parts.admission.require_origin(_header(scope, ORIGIN_HEADER)):
                scope[_PROVEN] = True
            await self._app(scope, receive, answer)
        except Exception as exc:  # noqa: BLE001  the process edge: whatever happened becomes an answer
            error = as_app_error(exc)
            if isinstance(error, RateLimited):  # names its own limit
                scope.pop(LIMIT_HEADERS, None)
            if status:  # an answer had begun: nothing more can be said
                logger.error("request.cut", status=status)
                return
            body = failure(error, path=path, request_id=request_id, now_ms=epoch_ms(parts.clock.now()))
            await _send(answer, error, body)
        finally:
            presenters.style.reset(chosen)
            route = scope.get("route")
            log_request(
                request_id=request_id,
                user_id=scope.get(USER_ID),
                method=scope["method"],
                route=getattr(route, "path", _NO_ROUTE),
                status=status,
                duration_s=round(monotonic() - started, 3),
            )
            logger.remove_keys(["request_id", "user_id"])


def address_of(scope: Mapping[str, Any]) -> str:
    """Return the address of the caller: as the gateway saw it, or as CloudFront says once it proved itself."""
    viewer = _header(scope, b"cloudfront-viewer-address").decode("latin-1") if scope.get(_PROVEN) else ""
    client = scope.get("client")
    return caller_address(viewer=viewer, peer=client[0] if client else "")


def _request_id(scope: Scope) -> str:
    # The gateway's id, never a caller's header: it goes into logs and answers.
    event = scope.get("aws.event")
    found = event["requestContext"].get("requestId") if event else None
    return found if isinstance(found, str) and found else new_id()


def _with_policy(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers with the policy that a route left out: a page loads nothing."""
    given = list(headers)
    said = dict(given)
    if said.get(b"content-type", b"").startswith(b"text/html") and _POLICY not in said:
        given.append((_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
    return given


def _header(scope: Mapping[str, Any], name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


async def _send(send: Send, error: AppError, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
