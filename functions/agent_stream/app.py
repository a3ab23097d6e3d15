"""The streaming function: AG-UI runs and their logs as server-sent events. Plain ASGI, for a short cold start.

    POST /api/agent, /api/v1/agent          start a run of the built-in agent, or of the one that
                                            `forwardedProps.agent_id` names, and stream it to its terminal event
    POST /api/chat, /api/v1/chat            say something to an agent as the Agio API has it, streaming or not
    POST /api/v1/llm/messages               call a configured model once, streaming or not
    GET  /api/v1/runs/{id}/events?after=n   replay a run's log from segment n+1 and follow it for up to 55 s;
                                            asked for application/json alone: a page of it, as the API gives it;
                                            with join=true the conversation and state first, for any client
    GET  /api/v1/realtime/stream            tell what changes, for up to 55 s, to who has no WebSocket
    GET  /health, /openapi.json

Refusals are answered with a status, before the stream begins; after the first byte a failure is a RUN_ERROR.
CORS and security headers are the edge's. The run does not depend on its client: AWS tells nobody that one has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import orjson

from agent_stream import services
from agent_stream.exchange import ClientLeft, Receive, Request, Response, Scope, Send, respond
from agent_stream.open_streams import counted, counted_reading
from agent_stream.sse import HEADERS, SseWriter, wants_done, wants_page
from karma.core.clock import epoch_ms, monotonic
from karma.core.errors import (
    AppError,
    MethodNotAllowed,
    ValidationFailed,
)
from karma.core.ids import RunId
from karma.core.observability import count, log_request, logger
from karma.core.records import Record, compile_all
from karma.core.runtime.memory import relieve
from karma.core.runtime.snapshot import before_snapshot
from karma.http.admission import ORIGIN_HEADER, Headers
from karma.http.envelope import UNTAKEN, InternalError, failure, require_json, require_unconditional, success
from karma.identity.domain import Caller
from karma.runs.domain import Segment
from karma.runs.events import frames, position
from karma.runs.requests import parse_run_input

if TYPE_CHECKING:
    from karma.runs.joining import Joined

PathValues = Mapping[str, str]
"""Values of a path for the `{names}` of its route."""

FOLLOW_S = 55.0
"""Seconds after which the stream of a run's log ends; its client reconnects with the last id."""

_POLL_S = 0.25
_MAX_POLL_S = 1.0
_PAGE = 50
_MAX_AFTER = 10**8 - 1
_LIMIT = 100
_MAX_LIMIT = 1000
_CLOSE_MARGIN_S = 5.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request, or the lifespan protocol of servers that have one."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not served")
    started = monotonic()
    request = Request(scope, receive)
    response = Response(send, request_id=request.id, bodyless=request.method == "HEAD")
    status = 500
    try:
        status = await _route(request, response)
    except ClientLeft:
        status = 499
    except AppError as exc:
        status = await _refuse(request, exc, response)
    except Exception:  # noqa: BLE001 - the process edge: whatever happened before the first byte becomes an answer
        logger.exception("request.broken", request_id=request.id)
        count("UnhandledError")
        status = await _refuse(request, InternalError(), response)
    finally:
        log_request(
            request_id=request.id,
            method=request.method,
            status=status,
            duration_s=round(monotonic() - started, 3),
        )
        relieve()


async def _route(request: Request, response: Response) -> int:
    if request.path == "/health":
        _require_method(request, "GET", "HEAD")
        request.require_known(())
        return await _answer(response, 200, orjson.dumps({"status": "ok"}))
    if request.path == "/openapi.json":
        _require_method(request, "GET", "HEAD")
        request.require_known(())
        from agent_stream import openapi  # local: runs do not need it

        return await _answer(response, 200, orjson.dumps(openapi.document(ROUTES)))
    for route in ROUTES:
        values = route.match(request.path)
        if values is not None:
            _require_method(request, *route.methods)
            caller = await _admit(request, route, response)
            request.require_known(route.query)
            if route.method != "GET":
                require_unconditional({name: request.header(name.encode()) for name in UNTAKEN})
            return await route.serve(request, caller, values, response)
    from karma.http.addresses import Address, no_route  # local: runs do not need it

    raise no_route(request.path, at=Address.STREAM)


async def _run(request: Request, caller: Caller, _: PathValues, send: Send) -> int:
    require_json(request.header(b"content-type"), request.header(b"content-encoding"))
    body, runs = await request.body(), services.run_service()
    read = partial(parse_run_input, taken=runs.own_tools)
    async with counted_reading(caller, read, body, until=request.deadline) as (asked, counted_in):
        started = await runs.start(caller, asked, deadline=request.deadline, admission=counted_in)
        writer = SseWriter(send, done=wants_done(request.header(b"accept")))
        run = started.execute(writer)
        run.add_done_callback(lambda _: writer.end())
        await respond(request, writer)
        await run  # also without its client: until then the process serves nobody else
    return 200


async def _chat(request: Request, caller: Caller, values: PathValues, send: Send) -> int:
    from agent_stream.chat import chat  # local, as those below: most processes serve runs of AG-UI alone

    return await chat(request, caller, values, send)


async def _call_model(request: Request, caller: Caller, values: PathValues, send: Send) -> int:
    from agent_stream.direct import call_model

    return await call_model(request, caller, values, send)


async def _live_stream(request: Request, caller: Caller, values: PathValues, send: Send) -> int:
    from agent_stream.live import stream

    return await stream(request, caller, values, send)


async def _events(request: Request, caller: Caller, values: PathValues, send: Send) -> int:
    from karma.runs.joining import Joined

    run_id = RunId(values["run_id"])
    reader = services.run_reader()
    paged = wants_page(request.header(b"accept"))
    of_page = [lambda: _page_size(request)] if paged else []
    ValidationFailed.together(lambda: _after(request), *of_page, lambda: _joins(request, paged=paged))
    after, joins = _after(request), _joins(request, paged=paged)
    if paged:
        from karma.runs.answers import events_view

        limit = _page_size(request)

        def page() -> list[Segment]:
            reader.get(caller.user_id, run_id)
            return reader.first_segments(caller.user_id, run_id, after=after, limit=limit)

        data = events_view(await asyncio.to_thread(page), after=after)
        body = success(data, now_ms=epoch_ms(services.clock().now()))
        return await _answer(send, 200, body, [(b"vary", b"accept")])
    joined = Joined((), after, is_over=False)
    if joins and not after:
        joined = await asyncio.to_thread(reader.joined, caller.user_id, run_id)
    else:
        await asyncio.to_thread(reader.get, caller.user_id, run_id)
    if request.method == "HEAD":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body"})
        return 200
    writer = SseWriter(send, done=wants_done(request.header(b"accept")))
    seconds = FOLLOW_S
    if request.deadline is not None:
        left_s = (request.deadline - services.clock().now()).total_seconds() - _CLOSE_MARGIN_S
        seconds = max(0.0, min(seconds, left_s))
    longest_s = seconds + _CLOSE_MARGIN_S
    async with counted(caller, until=services.clock().now() + timedelta(seconds=longest_s)):
        follow = asyncio.create_task(_follow(writer, caller, run_id, joined=joined, seconds=seconds))
        try:
            async with asyncio.timeout(longest_s):
                await respond(request, writer)
        except TimeoutError:
            # A client that does not read: cut off, or it would keep a stream that is counted no more.
            logger.warning("events.unread", run_id=run_id)
        finally:
            follow.cancel()
            await asyncio.wait([follow])
    return 200


async def _follow(writer: SseWriter, caller: Caller, run_id: RunId, *, joined: Joined, seconds: float) -> None:
    if joined.events:
        writer.write(frames(joined.events, n=joined.n))
    if joined.is_over:
        writer.end()
        return
    after, reader = joined.n, services.run_reader()
    until = monotonic() + seconds
    pause_s = _POLL_S
    read = reader.segments if joined.events else reader.first_segments
    try:
        while not writer.is_lost:
            segments = await asyncio.to_thread(read, caller.user_id, run_id, after=after, limit=_PAGE)
            read = reader.segments
            for segment in segments:
                after = segment.n
                writer.write(frames(segment.events, n=after))
                if segment.terminal:
                    return
            if segments:
                pause_s = _POLL_S
                continue
            if monotonic() >= until:
                writer.write(position(after))
                return
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_POLL_S, pause_s * 1.5)
    except AppError as exc:
        # The client comes back with the last id it has.
        logger.warning("events.cut", run_id=run_id, code=exc.code)
    finally:
        writer.end()


async def _admit(request: Request, route: Route, response: Response) -> Caller:
    """Authenticate the caller, and count the request.

    Raises:
        Unauthenticated: there is no credential, or it does not verify.
        Forbidden: the caller lacks the route's permission.
        RateLimited: the caller, or its network, has sent too many requests.
    """

    def admit() -> tuple[Caller, Headers]:
        services.build()
        admission = services.admission()
        is_proven = admission.require_origin(request.header(ORIGIN_HEADER).encode("latin-1"))
        if route.network_limit:
            admission.count_network(route.network_limit, request.address(is_proven=is_proven))
        given = request.header(b"authorization") or None, request.header(b"x-api-key") or None
        caller = admission.caller(*given, method="POST" if route.is_afresh else request.method)
        return caller, admission.admit(caller, permission=route.permission, limit=route.limit)

    caller, response.limit = await asyncio.to_thread(admit)
    return caller


def _require_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        error = MethodNotAllowed(f"{request.path[:200]} allows {', '.join(methods)}")
        error.headers["Allow"] = ", ".join(methods)
        raise error


def _after(request: Request) -> int:
    """Return the last segment that the client has.

    The header goes before the query: clients that reconnect by themselves ask for the same URL again, with the id of
    the last event in the header.
    """
    given = request.query.get("after", ""), request.header(b"last-event-id")

    def asked() -> int:
        return _whole("after", given[0], default=0, high=_MAX_AFTER)

    ValidationFailed.together(asked, lambda: _whole("Last-Event-ID", given[1], high=_MAX_AFTER))
    return _whole("Last-Event-ID", given[1], default=asked(), high=_MAX_AFTER)


def _joins(request: Request, *, paged: bool) -> bool:
    """Tell whether the client joins the run; a position goes before it, as clients that reconnect send the same URL."""
    given = request.query.get("join", "false")
    if given not in {"true", "false"}:
        raise ValidationFailed.of("join", "must be true or false")
    if paged and given == "true":
        raise ValidationFailed.of("join", "must be false where JSON is asked for: only a stream can be joined")
    return given == "true"


def _page_size(request: Request) -> int:
    return _whole("limit", request.query.get("limit", ""), default=_LIMIT, low=1, high=_MAX_LIMIT)


def _whole(name: str, text: str, *, default: int = 0, low: int = 0, high: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high):
        raise ValidationFailed.of(name, f"must be a whole number from {low} to {high}")
    return int(text)


async def _refuse(request: Request, error: AppError, response: Response) -> int:
    if response.status:
        # No second answer is possible. One that is not complete is cut off by the server, which its client notices.
        logger.error("response.broken", request_id=request.id, code=error.code, complete=response.is_complete)
        return response.status
    body = failure(error, path=request.path, request_id=request.id, now_ms=epoch_ms(services.clock().now()))
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return await _answer(response, error.status, body, headers)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> int:
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})
    return status


class Route(Record):
    """A route that needs a caller: all of them but `/health`."""

    method: str
    path: str
    """Path with `{names}` for the parts that vary."""
    permission: str
    limit: str
    """Name of a row of karma.identity.limits."""
    serve: Callable[[Request, Caller, PathValues, Send], Awaitable[int]]
    query: frozenset[str] = frozenset()
    """Query parameters of the route; others are refused."""
    network_limit: str = ""
    """Name of a row that counts by network, before the caller is known; "": none does."""

    is_afresh: bool = False
    """Its caller is read anew, and not believed for some seconds as readers are."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the route's methods: HEAD beside GET."""
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)

    def match(self, path: str) -> PathValues | None:
        """Return the values of the path's `{names}`; None: the path is another."""
        wanted, given = self.path.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        values = {part[1:-1]: value for part, value in zip(wanted, given, strict=True) if part.startswith("{")}
        fixed = all(part == value for part, value in zip(wanted, given, strict=True) if not part.startswith("{"))
        return values if fixed else None


ROUTES = (
    Route("POST", "/api/agent", "agent:run", "run", _run),
    Route("POST", "/api/v1/agent", "agent:run", "run", _run),
    Route("POST", "/api/chat", "agent:run", "run", _chat, network_limit="chat"),
    Route("POST", "/api/v1/chat", "agent:run", "run", _chat, network_limit="chat"),
    Route("POST", "/api/v1/llm/messages", "agent:run", "run", _call_model),
    Route("GET", "/api/v1/runs/{run_id}/events", "run:read", "default", _events, frozenset({"after", "limit", "join"})),
    Route(
        "GET",
        "/api/v1/realtime/stream",
        "realtime:connect",
        "default",
        _live_stream,
        frozenset({"channels", "held", "after"}),
        is_afresh=True,
    ),
)


LATER = (
    "agent_stream.chat",
    "agent_stream.direct",
    "agent_stream.finding",
    "agent_stream.live",
    "karma.core.foreign",
    "karma.files.awaiting",
    "karma.http.addresses",
    "karma.integrations.kms",
    "karma.integrations.mcp",
    "karma.integrations.openai",
    "karma.mcp.service",
    "karma.realtime.channel_repository",
    "karma.realtime.inbox_repository",
    "karma.realtime.repository",
    "karma.realtime.streaming",
    "karma.runs.answers",
    "karma.runs.reading",
    "karma.threads.titles",
)
"""Modules that only some requests need; they are imported by these, or before a snapshot of the process is taken."""


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await services.model().close()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


@before_snapshot
def warm() -> None:
    """Load all that a first request would load, before SnapStart's snapshot; restoring drops clients and keys."""
    from karma.integrations.anthropic import load_sdk

    load_sdk()
    services.build()
    for name in LATER:
        import_module(name)
    compile_all()
