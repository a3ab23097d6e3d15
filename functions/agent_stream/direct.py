"""`POST /api/v1/llm/messages`: one call of a configured model, as a stream of its pieces or as a whole.

    {"stream": true}    data: {"type": "text", "delta": …} and the like, at last `end` with the whole answer, or `error`
    otherwise           200 with the answer, or the status of what went wrong

A client that is known to have left ends the call; where the platform does not tell, it is made to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson

from agent_stream import services
from agent_stream.exchange import Request, Send, respond, until_gone
from agent_stream.open_streams import counted_reading
from agent_stream.sse import SseWriter
from karma.core.clock import epoch_ms
from karma.core.errors import AppError
from karma.core.observability import count, logger
from karma.http.envelope import InternalError, require_json, success
from karma.identity.domain import Caller
from karma.runs.direct import DirectCall
from karma.runs.direct_requests import parse_direct_input


async def call_model(request: Request, caller: Caller, _: Mapping[str, str], send: Send) -> int:
    """Serve one request."""
    require_json(request.header(b"content-type"), request.header(b"content-encoding"))
    body = await request.body()
    async with counted_reading(caller, parse_direct_input, body, until=request.deadline) as (asked, counted_in):
        await counted_in()
        call = await services.direct_calls().admit(caller, asked)
        work = _stream if asked.is_streamed else _whole
        try:
            return await work(request, call, send)
        finally:
            await services.direct_calls().release(call)


async def _whole(request: Request, call: DirectCall, send: Send) -> int:
    answering = asyncio.create_task(_answer(call))
    gone = asyncio.create_task(until_gone(request))
    try:
        await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not answering.done():
            answering.cancel()  # nobody waits for it any more
        await asyncio.wait([answering, gone])
    if answering.cancelled():
        return 499
    body = success(answering.result(), now_ms=epoch_ms(services.clock().now()))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return 200


async def _answer(call: DirectCall) -> dict[str, object]:
    async for _ in services.direct_calls().events(call):
        pass
    return call.view()


async def _stream(request: Request, call: DirectCall, send: Send) -> int:
    writer = SseWriter(send)
    telling = asyncio.create_task(_tell(call, writer))
    try:
        await respond(request, writer)
    finally:
        if writer.is_lost:
            telling.cancel()
        await asyncio.wait([telling])
    return 200


async def _tell(call: DirectCall, writer: SseWriter) -> None:
    try:
        async for events in services.direct_calls().events(call):
            writer.write(b"".join(map(_frame, events)))
        writer.write(_frame({"type": "end", **call.view()}))
    except AppError as exc:
        later = {"retry_after_s": int(exc.headers["Retry-After"])} if "Retry-After" in exc.headers else {}
        told = {"type": "error", "code": exc.code, "message": exc.message, "retryable": exc.retryable, **later}
        writer.write(_frame(told))
    except Exception:  # noqa: BLE001 - the edge of the call: its client must be told
        logger.exception("call.broken", call_id=call.id)
        count("UnhandledError")
        error = InternalError()
        writer.write(_frame({"type": "error", "code": error.code, "message": error.message, "retryable": False}))
    finally:
        writer.end()


def _frame(event: Mapping[str, object]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
