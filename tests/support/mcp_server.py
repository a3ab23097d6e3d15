"""The official MCP server (`mcp` of PyPI) over real HTTP, in a thread, as a modern server and as one from before.

The package speaks all revisions. One from before 2026-07-28 refuses that revision's header as the package's releases
of that time do (400, with an error of JSON-RPC); everything else is answered by the package. A resumable one names the
beginning of each stream by an event without data. One that loses sessions by 400 answers as the TypeScript package's
example and what was made of it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve, Sample
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import CreateMessageResult, JSONRPCMessage, SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from karma.mcp.domain import MODERN

TOKEN = "kcanary_5d0c1e0f6b7a4b1f9a54c1f1a1c3b2d4"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Weather(BaseModel):
    city: str
    degrees: int


class Agreed(BaseModel):
    ok: bool


class Address(BaseModel):
    street: str = Field(min_length=2)
    floor: int = 0


def _asked() -> Elicit[Agreed]:
    return Elicit("May it be done?", Agreed)


def _agreed(answer: Annotated[Agreed, Resolve(_asked)]) -> Elicit[Address] | Address:
    """Ask for an address once it may be done."""
    return Elicit("Where to?", Address) if answer.ok else Address(street="nowhere")


def _addressed() -> Elicit[Address]:
    return Elicit("Where to?", Address)


def _sampled() -> Sample:
    words = SamplingMessage(role="user", content=TextContent(type="text", text="Say something"))
    return Sample([words], max_tokens=10)


@dataclass
class Seen:
    """Requests that reached the server."""

    headers: list[dict[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)


def make(seen: Seen) -> MCPServer:
    """Make a server with a tool for each kind of answer."""
    server = MCPServer("weather", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def weather(city: str) -> Weather:
        """Tell the weather of a city."""
        seen.calls.append(f"weather {city}")
        return Weather(city=city, degrees=21)

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True), structured_output=False)
    def echo(text: str) -> str:
        """Say a text again."""
        return text

    @server.tool(structured_output=False)
    def order(item: str) -> str:
        """Order something, which costs money each time."""
        seen.calls.append(f"order {item}")
        return f"ordered {item}"

    @server.tool(structured_output=False)
    def fail(why: str) -> str:
        """Fail."""
        raise RuntimeError(why)

    @server.tool(structured_output=False)
    async def told(steps: int, context: Context) -> str:
        """Tell about progress, in events before the result."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and the only thing that makes the package send events
            for step in range(steps):
                await context.info(f"step {step}")
        return "done"

    _offer_slow_tools(server, seen)
    return server


def _offer_slow_tools(server: MCPServer, seen: Seen) -> None:
    @server.tool(structured_output=False)
    async def leave(seconds: float, context: Context) -> str:
        """Leave the stream, work, and answer in the one that the client takes up."""
        seen.calls.append("leave")
        await context.close_sse_stream()
        await asyncio.sleep(seconds)
        return "worked"

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True), structured_output=False)
    async def advance(steps: int, context: Context) -> str:
        """Work, and report how far it is."""
        for step in range(steps + 1):
            await context.report_progress(step, steps, f"step {step}")
        return "done"

    @server.tool(structured_output=False)
    async def wait(seconds: float) -> str:
        """Wait."""
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            seen.cancelled.set()
            raise
        return "waited"

    @server.tool(structured_output=False)
    def large(characters: int) -> str:
        """Say a long text."""
        return "x" * characters

    @server.tool(structured_output=False)
    def ask(answer: Annotated[Agreed, Resolve(_asked)]) -> str:
        """Ask the user before anything is done."""
        seen.calls.append(f"ask {answer.ok}")
        return str(answer.ok)

    @server.tool(structured_output=False)
    def deliver(item: str, to: Annotated[Address, Resolve(_agreed)]) -> str:
        """Ask twice, one question after the other, and deliver."""
        seen.calls.append(f"deliver {item}")
        return f"{item} to {to.street}, floor {to.floor}"

    @server.tool(structured_output=False)
    def both(answer: Annotated[Agreed, Resolve(_asked)], more: Annotated[Address, Resolve(_addressed)]) -> str:
        """Ask for two things at once."""
        return f"{answer.ok} {more.street}"

    @server.tool(structured_output=False)
    def sample(said: Annotated[CreateMessageResult, Resolve(_sampled)]) -> str:
        """Ask for the client's model, which is not given."""
        return str(said)


def _before(app: App) -> App:
    async def refusing(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(b"mcp-protocol-version") != MODERN.encode():
            await app(scope, receive, send)
            return
        error = {"code": -32600, "message": "Bad Request: Unsupported protocol version"}
        body = json.dumps({"jsonrpc": "2.0", "id": "server-error", "error": error}).encode()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return refusing


class _Events(EventStore):
    """Keeps events in the order in which they came."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        asked = self._events[int(last_event_id) - 1][0]
        for n, (stream_id, message) in enumerate(self._events, 1):
            if n > int(last_event_id) and stream_id == asked and message is not None:
                await send_callback(EventMessage(message, str(n)))
        return asked


def _losing_by_400(app: App) -> App:
    async def losing(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        is_lost = False

        async def sent(message: Any) -> None:
            nonlocal is_lost
            if message["type"] == "http.response.start" and message["status"] == 404:
                is_lost = True
                message = {**message, "status": 400, "headers": [(b"content-type", b"application/json")]}
            elif is_lost:
                error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
                body = json.dumps({"jsonrpc": "2.0", "error": error, "id": None}).encode()
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await app(scope, receive, sent)

    return losing


def _guarded(app: App, seen: Seen) -> App:
    async def guarded(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        seen.headers.append(headers)
        if headers.get("authorization") == HEADERS["Authorization"]:
            await app(scope, receive, send)
            return
        wanted = b'Bearer resource_metadata="https://example.com/.well-known/oauth-protected-resource"'
        await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", wanted)]})
        await send({"type": "http.response.body", "body": b""})

    return guarded


@contextmanager
def serving(
    *, is_modern: bool = True, json_response: bool = False, is_resumable: bool = False, loses_by_400: bool = False
) -> Iterator[tuple[str, Seen]]:
    """Serve; yields the address of the server, which wants HEADERS, and what it sees."""
    seen = Seen()
    events = _Events() if is_resumable else None
    app: App = make(seen).streamable_http_app(json_response=json_response, event_store=events, retry_interval=100)
    app = _losing_by_400(app) if loses_by_400 else app
    app = _guarded(app if is_modern else _before(app), seen)
    # Named as TCP, or asyncio would not send small packets at once.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # from here on a client waits for the server, however long that takes to start
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", seen
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


@cache
def shared_url() -> str:
    """Return the address of a server that lasts as long as this process, for tests that need any."""
    stack = ExitStack()
    url, _ = stack.enter_context(serving())
    atexit.register(stack.close)
    return url
