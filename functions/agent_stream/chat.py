"""`POST /chat`: a message to an agent as the Agio API has it, answered by named events or as a whole.

    {"stream": true}    event: run_started, step_started, content_delta, …, at last run_completed or error
    {"stream": false}   200 with the answer, or the status of what went wrong

Each refusal has a status in both forms, but for an agent that nobody has: a stream says so in an `error` event. A whole
answer that takes longer than clients and proxies wait is kept alive by line feeds before its JSON; its status is 200 by
then, and a failure is the body's `error`. The run does not end with its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

import orjson

from agent_stream import services
from agent_stream.exchange import Request, Send, respond
from agent_stream.open_streams import counted_reading
from agent_stream.sse import HEADERS, SseWriter
from karma.core.clock import epoch_ms
from karma.core.errors import AppError, Conflict, NotFound, Upstream
from karma.http.envelope import failure, require_json, style_of, success
from karma.identity.domain import Caller
from karma.runs.chat import Chat, ChatEvent, calls_in, parse_chat
from karma.runs.events import frame
from karma.runs.ports import Sink
from karma.runs.service import StartedRun

_SILENT_S: Final = 20.0
"""Seconds for which a whole answer may take without a sign of life; clients and proxies often wait thirty."""
_SIGN_EVERY_S: Final = 10.0
_JSON: Final = (b"content-type", b"application/json")


class RunWaits(Conflict):
    """The run of a chat has ended with questions; `details` has them and what it said before."""

    code = "INTERRUPTED"

    def __init__(self, told: Chat, message: str) -> None:
        details = {"run_id": told.run_id, "status": "interrupted", "response": told.response}
        super().__init__(message, details={**details, "interrupts": list(told.questions)})


class RunNotCompleted(Upstream):
    """The run of a chat has failed, or was cancelled; `code` is the run's."""

    status = 502
    retryable = False


async def chat(request: Request, caller: Caller, _: Mapping[str, str], send: Send) -> int:
    """Serve one request."""
    require_json(request.header(b"content-type"), request.header(b"content-encoding"))
    key = request.idempotency_key or ""
    read = partial(parse_chat, user_id=caller.user_id, key=key)
    async with counted_reading(caller, read, await request.body(), until=request.deadline) as (asked, counted_in):
        try:
            runs = services.run_service()
            started = await runs.start(caller, asked.run, deadline=request.deadline, admission=counted_in)
        except NotFound as exc:
            if not asked.is_streamed:
                raise
            return await _refused(send, exc)
        run = _stream if asked.is_streamed else _whole
        return await run(request, started, send)


async def _refused(send: Send, error: AppError) -> int:
    event = _named(ChatEvent("error", {"error": error.message, "code": error.code}))
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": event})
    return 200


async def _stream(request: Request, started: StartedRun, send: Send) -> int:
    writer = SseWriter(send)
    run = started.execute(ChatSink(Chat(services.clock(), lambda: calls_in(started.messages)), writer))
    run.add_done_callback(lambda _: writer.end())
    await respond(request, writer)
    await run  # also without its client: until then the process serves nobody else
    return 200


async def _whole(request: Request, started: StartedRun, send: Send) -> int:
    told = Chat(services.clock(), lambda: calls_in(started.messages))
    run = started.execute(ChatSink(told, None))
    done, _ = await asyncio.wait([run], timeout=_SILENT_S)
    if done:
        status, body = _body(request, told)
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return status
    await send({"type": "http.response.start", "status": 200, "headers": [_JSON]})
    while not done:
        await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        done, _ = await asyncio.wait([run], timeout=_SIGN_EVERY_S)
    await send({"type": "http.response.body", "body": _body(request, told)[1]})
    return 200


def _body(request: Request, told: Chat) -> tuple[int, bytes]:
    now_ms = epoch_ms(services.clock().now())
    if told.is_complete:
        bare = style_of(request.path) == "agio"
        return 200, orjson.dumps(told.answer()) if bare else success(told.answer(), now_ms=now_ms)
    code, message = told.failure or ("UPSTREAM_ERROR", "The run goes on in another process; read it by its id")
    error: AppError = RunNotCompleted(message, code=code, details={"run_id": told.run_id})
    if told.questions:
        error = RunWaits(told, message)
    return error.status, failure(error, path=request.path, request_id=request.id, now_ms=now_ms)


class ChatSink:
    """Sink of a run that hands its events on as a chat's; without a writer they are only counted into the answer."""

    def __init__(self, told: Chat, writer: Sink | None) -> None:
        self._told = told
        self._writer = writer

    @property
    def is_lost(self) -> bool:
        """Tell whether the client is known to have disconnected."""
        return self._writer is not None and self._writer.is_lost

    def write(self, data: bytes) -> None:
        """Translate frames of AG-UI, of which each has one line of data."""
        for line in data.split(b"\n"):
            if line.startswith(b"data: "):
                events = b"".join(map(_named, self._told.take(orjson.loads(line[6:]))))
                if events and self._writer is not None:
                    self._writer.write(events)


def _named(event: ChatEvent) -> bytes:
    return b"event: " + event.name.encode() + b"\n" + frame(orjson.dumps(event.data))
