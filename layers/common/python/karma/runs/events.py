"""AG-UI 1.0 events as JSON bytes, and the messages and calls that a stream of them has open.

Built by constant prefixes and orjson rather than by ag_ui's models: those cost 4 us an event and .9 of a cold start.
`tests/contract/agents` proves that every event made here is one that ag_ui.core and @ag-ui/client accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

PROTOCOL_VERSION = "1.0"
"""The server's version of the protocol, sent on RUN_STARTED; not the client's."""

Version = tuple[int, int]
CURRENT: Version = (1, 0)
BEFORE_1_0: Version = (0, 0)
"""Version of clients that name none: the field was introduced with 1.0."""

SINCE: Mapping[str, Mapping[str, Version]] = {
    "RUN_STARTED": {"protocolVersion": (1, 0)},
    "RUN_FINISHED": {"outcome": (1, 0), "usage": (1, 0)},
    "RUN_ERROR": {"usage": (1, 0)},
    "TOOL_CALL_RESULT": {"metadata": (1, 0)},
}
"""Version that introduced a field; fields that a client's version does not have are left out. Clients
of 0.0.54 to 0.0.59 refuse a whole run because of `outcome.pendingToolCallIds`, applications built on them because of
others."""

_LINE_ENDS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\u0085\u2028\u2029")

_dumps = orjson.dumps


class Event(NamedTuple):
    """One event; `ref` is the id of the message or call that it opens or closes, "" for other events."""

    type: str
    ref: str
    data: bytes


class DeltaPrefix(NamedTuple):
    """The constant start of all deltas of one message or tool call."""

    ref: str
    data: bytes


def encode_delta(prefix: DeltaPrefix, delta: str) -> bytes:
    """Append a delta to its prefix: the one encoding that runs thousands of times a run."""
    return prefix.data + _dumps(delta) + b"}"


def text_deltas(message_id: str) -> DeltaPrefix:
    """Return the prefix of TEXT_MESSAGE_CONTENT events."""
    return DeltaPrefix(message_id, b'{"type":"TEXT_MESSAGE_CONTENT","messageId":' + _dumps(message_id) + b',"delta":')


def args_deltas(tool_call_id: str) -> DeltaPrefix:
    """Return the prefix of TOOL_CALL_ARGS events."""
    return DeltaPrefix(tool_call_id, b'{"type":"TOOL_CALL_ARGS","toolCallId":' + _dumps(tool_call_id) + b',"delta":')


def run_started(*, thread_id: str, run_id: str, parent_run_id: str = "", speaks: Version = CURRENT) -> Event:
    """Make RUN_STARTED, with the server's protocol version."""
    body = {"threadId": thread_id, "runId": run_id, "protocolVersion": PROTOCOL_VERSION}
    if parent_run_id:
        body["parentRunId"] = parent_run_id
    return _event("RUN_STARTED", "", body, speaks)


def state_snapshot(state: object) -> Event:
    """Make STATE_SNAPSHOT; a state is any JSON value."""
    return _event("STATE_SNAPSHOT", "", {"snapshot": state})


def text_start(message_id: str) -> Event:
    """Make TEXT_MESSAGE_START of the assistant."""
    return _event("TEXT_MESSAGE_START", message_id, {"messageId": message_id, "role": "assistant"})


def text_end(message_id: str) -> Event:
    """Make TEXT_MESSAGE_END."""
    return _event("TEXT_MESSAGE_END", message_id, {"messageId": message_id})


def tool_start(*, tool_call_id: str, name: str, parent_message_id: str) -> Event:
    """Make TOOL_CALL_START; without the parent's id clients would show a message of its own for the call."""
    body = {"toolCallId": tool_call_id, "toolCallName": name, "parentMessageId": parent_message_id}
    return _event("TOOL_CALL_START", tool_call_id, body)


def tool_end(tool_call_id: str) -> Event:
    """Make TOOL_CALL_END."""
    return _event("TOOL_CALL_END", tool_call_id, {"toolCallId": tool_call_id})


def tool_result(*, message_id: str, tool_call_id: str, content: str, failed: bool, speaks: Version = CURRENT) -> Event:
    """Make TOOL_CALL_RESULT; the protocol has no field for a failure, so it is in the content and in the metadata."""
    body: dict[str, object] = {"messageId": message_id, "toolCallId": tool_call_id, "content": content, "role": "tool"}
    if failed:
        body["metadata"] = {"failed": True}
    return _event("TOOL_CALL_RESULT", "", body, speaks)


def run_finished(
    *,
    thread_id: str,
    run_id: str,
    pending_tool_call_ids: Sequence[str] = (),
    usage: Sequence[Mapping[str, object]] = (),
    result: Mapping[str, object] | None = None,
    speaks: Version = CURRENT,
) -> Event:
    """Make RUN_FINISHED with outcome success."""
    outcome: dict[str, object] = {"type": "success"}
    if pending_tool_call_ids:
        outcome["pendingToolCallIds"] = list(pending_tool_call_ids)
    body: dict[str, object] = {"threadId": thread_id, "runId": run_id, "outcome": outcome}
    if result is not None:
        body["result"] = result
    if usage:
        body["usage"] = list(usage)
    return _event("RUN_FINISHED", "", body, speaks)


def run_cancelled(
    *, thread_id: str, run_id: str, message: str, code: str, usage: Sequence[Mapping[str, object]], speaks: Version
) -> Event:
    """Make RUN_FINISHED with outcome cancelled, or RUN_ERROR for clients that would take that for a success."""
    if speaks < (1, 0):
        return run_error(message=message, code=code, usage=usage, speaks=speaks)
    body: dict[str, object] = {"threadId": thread_id, "runId": run_id, "outcome": {"type": "cancelled"}}
    if usage:
        body["usage"] = list(usage)
    return _event("RUN_FINISHED", "", body, speaks)


def run_error(
    *, message: str, code: str, usage: Sequence[Mapping[str, object]] = (), speaks: Version = CURRENT
) -> Event:
    """Make RUN_ERROR."""
    body: dict[str, object] = {"message": message, "code": code}
    if usage:
        body["usage"] = list(usage)
    return _event("RUN_ERROR", "", body, speaks)


def spoken_in(started: bytes) -> Version:
    """Return the version of the protocol that a run speaks, or the next one that differs, from its RUN_STARTED."""
    return CURRENT if "protocolVersion" in orjson.loads(started) else BEFORE_1_0


def messages_snapshot(messages: Sequence[Mapping[str, object]]) -> Event:
    """Make MESSAGES_SNAPSHOT; clients drop messages that are not in it."""
    return _event("MESSAGES_SNAPSHOT", "", {"messages": list(messages)})


def input_ignored(notes: Sequence[Mapping[str, str]]) -> Event:
    """Make a CUSTOM event that names the parts of the client's request that were left out."""
    return _event("CUSTOM", "", {"name": "karma.input_ignored", "value": list(notes)})


def run_paused(run_id: str) -> Event:
    """Make a CUSTOM event: no process executes the run until it is resumed, and streams of it end without its end."""
    return _event("CUSTOM", "", {"name": "karma.run_paused", "value": {"runId": run_id}})


def run_resumed(run_id: str) -> Event:
    """Make a CUSTOM event: the run, which was paused, goes on; its next events come from another process."""
    return _event("CUSTOM", "", {"name": "karma.run_resumed", "value": {"runId": run_id}})


def _event(kind: str, ref: str, body: Mapping[str, object], speaks: Version = CURRENT) -> Event:
    since = SINCE.get(kind, {})
    known = {name: value for name, value in body.items() if since.get(name, BEFORE_1_0) <= speaks}
    return Event(kind, ref, _dumps({"type": kind, **known}))


class OpenItems:
    """Text messages and tool calls that have begun and not ended, in order."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._tools: dict[str, None] = {}

    def follow(self, event: Event) -> None:
        """Record an event that was sent."""
        if event.type == "TEXT_MESSAGE_START":
            self._texts[event.ref] = None
        elif event.type == "TEXT_MESSAGE_END":
            self._texts.pop(event.ref, None)
        elif event.type == "TOOL_CALL_START":
            self._tools[event.ref] = None
        elif event.type == "TOOL_CALL_END":
            self._tools.pop(event.ref, None)

    def has_text(self, message_id: str) -> bool:
        """Tell whether this message is open."""
        return message_id in self._texts

    def closing(self) -> list[Event]:
        """Return the events that close everything that is open, as must happen before a terminal event."""
        return [*map(text_end, self._texts), *map(tool_end, self._tools)]


def parse(data: bytes) -> Event:
    """Read an event that this module made, from the log."""
    body = orjson.loads(data)
    kind = body["type"]
    if kind.startswith("TEXT_MESSAGE_"):
        return Event(kind, body["messageId"], data)
    return Event(kind, body["toolCallId"] if kind in {"TOOL_CALL_START", "TOOL_CALL_END"} else "", data)


def open_after(log: Iterable[bytes]) -> OpenItems:
    """Return the messages and calls that a log leaves open."""
    items = OpenItems()
    for data in log:
        items.follow(parse(data))
    return items


def frame(data: bytes) -> bytes:
    """Make one server-sent event, with LF as line end, as the protocol demands.

    No character of the data ends a line: U+0085, U+2028 and U+2029, at which Python's `splitlines` and the clients
    made with it end one too, are escaped. orjson escapes the others (U+000B, U+000C, U+001C to U+001E).
    """
    if not data.isascii():
        for char, escape in _LINE_ENDS:
            data = data.replace(char, escape)
    return b"data: " + data + b"\n\n"


def frames(events: Iterable[bytes], *, n: int) -> bytes:
    """Frame the events of committed segments; the last frame carries `id: n`.

    `id: n` means that the client has exactly the segments up to n: with `?after=n` it misses and repeats nothing.
    """
    listed = list(events)
    if not listed:
        return position(n)
    return b"".join(map(frame, listed[:-1])) + b"id: %d\n" % n + frame(listed[-1])


def position(n: int) -> bytes:
    """Make a frame without data: clients take its id and dispatch no event."""
    return b"id: %d\n\n" % n
