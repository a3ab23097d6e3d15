"""GET /realtime/stream: what a WebSocket would say, as server-sent events, for clients that cannot open one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson

from agent_stream import services
from agent_stream.exchange import Request, Send, respond
from agent_stream.sse import HEADERS, SseWriter
from karma.core import freeform
from karma.core.clock import monotonic
from karma.core.errors import AppError, InvalidRequest, RateLimited, Unauthenticated, ValidationFailed
from karma.core.ids import UserId
from karma.core.leases import Lease
from karma.core.observability import logger
from karma.identity.domain import Caller
from karma.identity.limits import ALL_LIVE_STREAMS, LIVE_STREAMS
from karma.realtime.domain import MAX_CHANNELS, Held, Position
from karma.realtime.messages import error_message, read_held
from karma.realtime.streaming import BegunStream, StreamService

QUERY = frozenset({"channels", "held", "after"})
"""Query parameters of the route."""
HOLD_S = 55.0
"""Seconds after which a response ends; its client comes back with the last id."""
LOOK_S = 1.0
"""Seconds between two looks at what there is to be told."""
MAX_HELD_CHARS = 6_000
_MAX_CHANNELS_CHARS = MAX_CHANNELS * 129
_MAX_POSITION_CHARS = 64
_RETRY = b"retry: 1000\n\n"
_CLOSE_MARGIN_S = 5.0
_FREED_S = 3.0
"""Seconds for which who comes back waits for the place of the response before, which ends at its next look."""


async def stream(request: Request, caller: Caller, _: Mapping[str, str], send: Send) -> int:
    """Serve the messages of some channels until the client has left, the session is over, or it is time to come back.

    Raises:
        ValidationFailed: a parameter is wrong.
        RateLimited: as many streams are open as there may be.
        AppError: see StreamService; nothing was sent then.
    """
    ValidationFailed.together(lambda: _channels(request), lambda: _held(request), lambda: _position(request))
    channels, held, position = _channels(request), _held(request), _position(request)
    if request.method == "HEAD":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body"})
        return 200
    now, seconds = services.clock().now(), HOLD_S
    if request.deadline is not None:
        seconds = max(0.0, min(seconds, (request.deadline - now).total_seconds() - _CLOSE_MARGIN_S))
    longest_s = seconds + _CLOSE_MARGIN_S
    until, live = now + timedelta(seconds=longest_s), await asyncio.to_thread(services.live_streams)
    given = request.header(b"last-event-id") or request.query.get("after", "")
    begun = await asyncio.to_thread(live.resume, caller, channels, position, until=until) if position else None
    async with _counted(caller, until=until, patience_s=_FREED_S if begun else 0.0):
        if begun is None:

            def open_() -> BegunStream:
                return live.open(caller, channels, held=held, has_missed=bool(given), until=until)

            begun = await asyncio.to_thread(open_)
        writer = SseWriter(send)
        told = asyncio.create_task(_tell(writer, live, begun, channels, seconds=seconds))
        try:
            async with asyncio.timeout(longest_s):
                await respond(request, writer)
        except TimeoutError:
            # A client that does not read: cut off, or it would keep a process that is counted no more.
            logger.warning("live.unread", connection_id=begun.connection_id)
        finally:
            told.cancel()
            await asyncio.wait([told])
    return 200


async def _tell(
    writer: SseWriter, live: StreamService, begun: BegunStream, channels: Sequence[str], *, seconds: float
) -> None:
    until = monotonic() + seconds
    try:
        writer.write(_RETRY)
        _acknowledge(writer, begun)
        after = settled = begun.after
        while not writer.is_lost:
            inbox = await asyncio.to_thread(live.read, begun)
            if inbox is None:
                raise Unauthenticated("The connection is over: its session, its rights or its time")
            if inbox.reader != begun.reader:
                return
            messages = inbox.after(after)
            if messages is None or inbox.missed > begun.missed:
                begun = await asyncio.to_thread(live.again, begun, channels, inbox)
                _acknowledge(writer, begun)
                after = settled = begun.after
            else:
                for number, body in messages:
                    writer.write(_frame(body.encode(), begun, number))
                await asyncio.to_thread(live.drop, begun, inbox, settled=settled)
                settled, after = after, inbox.last
            if monotonic() >= until:
                return
            await asyncio.sleep(min(LOOK_S, max(0.0, until - monotonic())))
    except AppError as exc:
        # Its client comes back, and is refused, or goes on with the last id that it has.
        logger.warning("live.cut", connection_id=begun.connection_id, code=exc.code)
        writer.write(b"data: %s\n\n" % orjson.dumps(error_message(exc, None)))
    finally:
        writer.end()


def _acknowledge(writer: SseWriter, begun: BegunStream) -> None:
    *first, last = begun.acknowledgements or (b"",)
    for each in first:
        # Without an id: who has not got all of them begins anew.
        writer.write(b"data: %s\n\n" % each)
    if last:
        writer.write(_frame(last, begun, begun.after))


def _frame(body: bytes, begun: BegunStream, number: int) -> bytes:
    return b"data: %s\nid: %s\n\n" % (body, str(Position(begun.connection_id, number)).encode())


@asynccontextmanager
async def _counted(caller: Caller, *, until: datetime, patience_s: float) -> AsyncIterator[None]:
    """Count a stream as open, of its account's and of all, while the block runs.

    Raises:
        RateLimited: there are as many as may be, and none ended in time.
    """

    def take() -> list[Lease]:
        own = services.open_requests(LIVE_STREAMS).open(caller.user_id, until=until)
        try:
            return [own, services.open_requests(ALL_LIVE_STREAMS).open(UserId(""), until=until)]
        except AppError:
            services.open_requests(LIVE_STREAMS).close(own)
            raise

    patient_until = monotonic() + patience_s
    while True:
        try:
            leases = await asyncio.to_thread(take)
            break
        except RateLimited:
            if monotonic() >= patient_until:
                raise
            await asyncio.sleep(0.5)
    try:
        yield
    finally:
        for lease in leases:
            await asyncio.to_thread(services.open_requests(lease.pool).close, lease)


def _channels(request: Request) -> list[str]:
    given = request.query.get("channels", "")
    names = list(dict.fromkeys(given.split(" "))) if given else []
    if len(given) > _MAX_CHANNELS_CHARS or not 0 < len(names) <= MAX_CHANNELS or not all(names):
        raise ValidationFailed.of("channels", f"must be 1 to {MAX_CHANNELS} names, separated by one space each")
    return names


def _held(request: Request) -> dict[str, Held]:
    given = request.query.get("held", "")
    if not given:
        return {}
    wrong = ValidationFailed.of(
        "held", f"must be a JSON object of at most {MAX_HELD_CHARS} characters: by channel what `subscribe` takes"
    )
    if len(given) > MAX_HELD_CHARS:
        raise wrong
    try:
        found: Any = freeform.loads(given)
        if not isinstance(found, dict):
            raise wrong
        return {name: read_held(each) for name, each in found.items()}
    except (freeform.OutOfBounds, freeform.NotJson):
        raise wrong from None
    except InvalidRequest as exc:
        raise ValidationFailed.of("held", exc.message) from None


def _position(request: Request) -> Position | None:
    """Return where the client is; of one that is ours no more it is known that something is missing, and no more."""
    for name, given in _positions(request):
        if len(given) > _MAX_POSITION_CHARS:
            raise ValidationFailed.of(name, f"must be the id of an event, of at most {_MAX_POSITION_CHARS} characters")
    # The header first: clients that come back by themselves ask for the same URL, with the last id in the header.
    given = next((given for _, given in _positions(request) if given), "")
    return Position.parse(given)


def _positions(request: Request) -> Iterator[tuple[str, str]]:
    yield "Last-Event-ID", request.header(b"last-event-id")
    yield "after", request.query.get("after", "")
