"""Conversion of HTTP API events, payload 2.0, to ASGI requests, and of answers back; nothing else calls this function.

Made of Mangum's parts, without its adapter: that one tries four kinds of events, fails on a `Host` whose port is no
number, and sets an event loop to work for every request.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any
from urllib.parse import unquote

from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from mangum.exceptions import UnexpectedMessage
from mangum.handlers import HTTPGateway
from mangum.protocols import HTTPCycle
from mangum.protocols.http import HTTPCycleState
from mangum.types import ASGI, LambdaConfig, LambdaContext, LambdaEvent, Message, Response, Scope

from karma.core.paging import FUNCTION_BYTES, bytes_as_string, bytes_in_base64

_CONFIG = LambdaConfig(api_gateway_base_path="/", text_mime_types=DEFAULT_TEXT_MIME_TYPES, exclude_headers=[])
_LOGGER = logging.getLogger("mangum.http")
_FITS_ANYHOW = FUNCTION_BYTES // 8
"""Bytes of a body that fits whatever its characters: none takes more than six times its bytes."""


class AnswerTooLarge(RuntimeError):
    """Lambda would not accept the answer; raised here, so that it fails on every stage and names the route."""


class Gateway:
    """Serves events with an ASGI app."""

    def __init__(self, app: ASGI) -> None:
        self._app = app

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Serve one event; whatever the app raises becomes a 500.

        Raises:
            AnswerTooLarge: the answer exceeds what Lambda accepts.
        """
        request = HttpApiEvent(event, context, _CONFIG)
        answer: dict[str, Any] = request(GatewayExchange(request.scope, request.body)(self._app))
        return answer


class HttpApiEvent(HTTPGateway):
    """An event as an ASGI scope."""

    def __init__(self, event: LambdaEvent, context: LambdaContext, config: LambdaConfig) -> None:
        super().__init__(event, context, config)
        self._scope = _scope(event, context)

    @property
    def scope(self) -> Scope:
        """Describe the request; text that is not Unicode is replaced, as in a URL."""
        return self._scope

    @property
    def body(self) -> bytes:
        """Return the body as bytes; what is not Unicode, or not base64, becomes bytes that are not JSON either."""
        text: str = self.event.get("body") or ""
        if self.event.get("isBase64Encoded"):
            try:
                return base64.b64decode(text)
            except ValueError:
                pass
        return text.encode(errors="surrogatepass")

    def __call__(self, response: Response) -> dict[str, Any]:
        """Return the function's response; a large body is sent in base64 where its quotes would take more bytes.

        Raises:
            AnswerTooLarge: the response exceeds what Lambda accepts.
        """
        answer: dict[str, Any] = super().__call__(response)
        body: bytes = response["body"]
        if len(body) <= _FITS_ANYHOW:
            return answer
        in_base64 = bytes_in_base64(body)
        size = in_base64 if answer["isBase64Encoded"] else bytes_as_string(body)
        if size > in_base64:
            size = in_base64
            answer.update(body=base64.b64encode(body).decode(), isBase64Encoded=True)
        size += len(json.dumps({**answer, "body": ""}))
        if size > FUNCTION_BYTES:
            raise AnswerTooLarge(f"{self._scope['method']} {self._scope['path']}: {size} bytes of {FUNCTION_BYTES}")
        return answer


class GatewayExchange(HTTPCycle):
    """One request and its answer, run by `complete`.

    A request has one message, and an answer is heard at once: Mangum's queue of an event loop, made for each request,
    takes 2.4 of its 120 us.
    """

    def __init__(self, scope: Scope, body: bytes) -> None:  # in place of Mangum's
        self.scope = scope
        self.state = HTTPCycleState.REQUEST
        self.logger = _LOGGER
        self._unread: bytes | None = body
        self._body = bytearray()
        self._over: asyncio.Event | None = None

    def __call__(self, app: ASGI) -> Response:
        """Run the app and return its answer."""
        complete(self.run(app))
        return {"status": self.status, "headers": self.headers, "body": self.body}

    async def receive(self) -> Message:
        """Return the request; to who asks once more, its end, when it has been answered."""
        if self._unread is not None:
            body, self._unread = self._unread, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self.state is not HTTPCycleState.COMPLETE:
            self._over = self._over or asyncio.Event()
            await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the answer.

        Raises:
            UnexpectedMessage: it is none that may follow those before.
        """
        kind = message["type"]
        if self.state is HTTPCycleState.REQUEST and kind == "http.response.start":
            self.status = message["status"]
            self.headers = message.get("headers", [])
            self.state = HTTPCycleState.RESPONSE
        elif self.state is HTTPCycleState.RESPONSE and kind == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self.body = bytes(self._body)
                self.state = HTTPCycleState.COMPLETE
                if self._over is not None:
                    self._over.set()
        else:
            raise UnexpectedMessage(f"Unexpected {kind}")


def complete(request: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end: without an event loop until it waits for something, then on one.

    Our routes never wait: they call blocking clients, since an environment serves one request at a time. Starting a
    loop for such a request would cost as much as everything else around its route.

    Whoever needs a loop (time-outs, tasks, threads; so also `def` routes, files and streamed answers) asks for it by
    `await asyncio.sleep(0)`. karma.http.dispatch does so before routes that are not of karma.http.routing.
    """
    context = copy_context()
    try:
        context.run(request.send, None)
    except StopIteration:
        return
    with asyncio.Runner() as runner:
        runner.run(_rest(request), context=context)


async def _rest(request: Coroutine[Any, Any, None]) -> None:
    await _Begun(request)


class _Begun:
    """A coroutine that has begun, made awaitable: `await` accepts only coroutines that have not."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, None]:
        return self._coroutine.__await__()


def _scope(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Describe a request as ASGI does.

    HTTP APIs decode the path before they write it into an event, all of it or all but percent signs, function URLs do
    not. It is decoded here in any case, so that names are read alike in each of these forms: none that a path holds
    has a percent sign (tests/unit/runs/test_ids_in_urls.py).
    """
    request = event["requestContext"]["http"]
    headers = [[_raw(name.lower()), _raw(value)] for name, value in (event.get("headers") or {}).items()]
    if event.get("cookies"):
        headers.append([b"cookie", _raw("; ".join(event["cookies"]))])
    return {
        "type": "http",
        "method": request["method"],
        "http_version": "1.1",
        "headers": headers,
        "path": unquote(request["path"]) or "/",
        "raw_path": None,
        "root_path": "",
        "scheme": "https",
        "query_string": _raw(event.get("rawQueryString", "")),
        "server": (event["requestContext"].get("domainName", ""), 443),
        "client": (request["sourceIp"], 0),
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "aws.event": event,
        "aws.context": context,
    }


def _raw(text: str) -> bytes:
    return text.encode(errors="replace")
