"""Reads the answer of an MCP server: one message in JSON, or events of which one is the message.

Servers of revision 2025-03-26 may put it into a batch, a list of messages, in either of them.

Since revision 2025-11-25 a server may leave a stream before its answer, to go on in another one: it numbers its events,
and the client asks for those behind the last one. A connection that broke is taken up in the same way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from karma.core import freeform
from karma.integrations.event_stream import BYTE_ORDER_MARK, EventStream, StreamQuiet, StreamTooLarge, fields_of
from karma.integrations.guarded_http import has_ended
from karma.mcp.domain import McpErrorCode, McpFailed

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Bytes of one answer in JSON, and of one event, at the most."""
MAX_STREAM_BYTES: Final = 16 * MAX_ANSWER_BYTES
"""Bytes of all events of one answer: those before it are notifications, of which progress alone is read."""
MAX_EVENTS: Final = 50_000
"""Events of one answer at the most: a server may tell of each row that it has done. They take 5 us each, no memory."""
_MAX_LEVELS: Final = freeform.MAX_LEVELS + 4
"""Levels of a message: a value of the greatest depth that is shown, and those that the protocol puts around it."""
_MESSAGES: Final = (b"", b"message")
"""Kinds of events that are messages; others are for those who know them."""
_LENGTHS: Final = ("content-length", "transfer-encoding")
_MAX_ID_CHARS: Final = 512
_MIN_PAUSE_S: Final = 0.1
_MAX_PAUSE_DIGITS: Final = 7
_MAX_WORDS: Final = 500
"""Bytes of a body in plain words that are read."""


@dataclass
class StreamPlace:
    """Position in the stream of an answer, from which it can be taken up again."""

    is_resumable: bool
    """The server's revision knows streams that are taken up again."""
    event_id: str = ""
    """Id of the last event; "": there is none, or none that a header can have."""
    pause_s: float = 1.0
    """Seconds to wait before the stream is taken up."""
    is_left: bool = False
    """The stream has ended before the answer, and can be taken up."""
    said: str = ""
    """The beginning of a body in plain words, which is no message."""
    size: int = 0
    events: int = 0
    heed: Callable[[Mapping[str, Any]], None] | None = None
    """Is given each notification before the answer; None: nobody reads them."""
    reply: Callable[[Mapping[str, Any]], None] | None = None
    """Is given each request that the server makes before its answer, and does not wait; None: they are passed over."""

    def note(self, fields: Mapping[bytes, bytes]) -> None:
        """Note what an event says of the place."""
        event_id, pause = fields.get(b"id"), fields.get(b"retry", b"")
        if self.is_resumable and event_id is not None:
            text = event_id[: _MAX_ID_CHARS + 1].decode("latin-1")
            self.event_id = text if text.isascii() and text.isprintable() and len(text) <= _MAX_ID_CHARS else ""
        if pause.isdigit() and len(pause) <= _MAX_PAUSE_DIGITS:
            self.pause_s = max(_MIN_PAUSE_S, int(pause) / 1000)


async def read(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], request_id: int | None, place: StreamPlace
) -> dict[str, Any] | None:
    """Read the message that answers a request; None: the body is none, or `place` says where it goes on.

    Raises:
        McpFailed: as `read_events`.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return await read_events(chunks, request_id, place)
    import httpcore2

    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise McpFailed(McpErrorCode.TOO_LARGE, f"The server's answer is larger than {MAX_ANSWER_BYTES} bytes")
    except httpcore2.ReadError as exc:
        if not has_ended(exc) or not headers.keys().isdisjoint(_LENGTHS):
            raise
        # The end of its connection is the end of such a body.
    if kind == "application/json":
        messages = _messages(bytes(body).removeprefix(BYTE_ORDER_MARK)) or []
        return messages[0] if len(messages) == 1 else _answer_among(messages, request_id, place)
    if kind in {"", "text/plain"}:
        place.said = body[:_MAX_WORDS].decode(errors="replace")
    return None


async def read_events(
    chunks: AsyncIterator[bytes], request_id: int | None, place: StreamPlace
) -> dict[str, Any] | None:
    """Read events until the message that answers a request; None: `place` says where it goes on.

    Raises:
        McpFailed: the stream ended before the answer, is too large, or holds what is no message.
    """
    import httpcore2

    stream, place.is_left = EventStream(), False
    try:
        async for chunk in chunks:
            for block in _blocks(stream, chunk, place):
                message = _answer_in(block, request_id, place)
                if message is not None:
                    return message
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
        if not place.event_id:
            raise
    if not place.event_id:
        raise McpFailed(McpErrorCode.UNREACHABLE, "The server's stream ended before its answer")
    place.is_left = True
    return None


def _blocks(stream: EventStream, chunk: bytes, place: StreamPlace) -> list[bytes]:
    place.size += len(chunk)
    try:
        found = stream.blocks(chunk)
    except (StreamTooLarge, StreamQuiet):
        found, place.size = [], MAX_STREAM_BYTES + 1
    place.events += len(found)
    if place.size > MAX_STREAM_BYTES or place.events > MAX_EVENTS:
        raise McpFailed(McpErrorCode.TOO_LARGE, "The server's stream, or an event of it, is too large")
    return found


def _answer_in(block: bytes, request_id: int | None, place: StreamPlace) -> dict[str, Any] | None:
    fields = fields_of(block)
    place.note(fields)
    data = fields.get(b"data", b"")
    if not data.strip() or fields.get(b"event", b"") not in _MESSAGES:
        return None  # a comment, an event that only names the place, or one of no meaning here, such as a `ping`
    messages = _messages(data)
    if messages is None:
        raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's stream holds what is no message")
    return _answer_among(messages, request_id, place)


def _answer_among(
    messages: Sequence[Mapping[str, Any]], request_id: int | None, place: StreamPlace
) -> dict[str, Any] | None:
    """Return the message that answers a request; what else came with it is heeded. None: it is not among them."""
    answer: dict[str, Any] | None = None
    for message in messages:
        if "method" not in message:
            answer = answer or (dict(message) if _answers(message.get("id"), request_id) else None)
            continue
        take = place.reply if "id" in message else place.heed
        if take is not None:
            take(message)
    return answer


def _answers(message_id: object, request_id: int | None) -> bool:
    """Tell whether an answer is that of a request: some servers give the number back as a text, or not at all."""
    return message_id is None or message_id == request_id or message_id == str(request_id)


def _messages(body: bytes) -> list[dict[str, Any]] | None:
    """Read a message, or the batch of them that revision 2025-03-26 knows; None: it is neither."""
    is_batch = body.lstrip()[:1] == b"["
    try:
        value = freeform.loads(body, levels=_MAX_LEVELS + is_batch, replace_surrogates=True, is_exact=False)
    except ValueError:
        return None
    messages = value if isinstance(value, list) else [value]
    if not messages or not all(isinstance(each, dict) for each in messages):
        return None
    if any(map(_has_structure, messages)) and freeform.too_large(body):
        # What was found is told to a model, digit by digit; schemas of tools are no such texts.
        exact = freeform.loads(freeform.large_as_texts(body), levels=None, replace_surrogates=True)
        for message, digits in zip(messages, exact if is_batch else [exact], strict=True):
            if _has_structure(message):
                message["result"]["structuredContent"] = digits["result"]["structuredContent"]
    return messages


def _has_structure(message: Mapping[str, Any]) -> bool:
    found = message.get("result")
    return isinstance(found, dict) and found.get("structuredContent") is not None
