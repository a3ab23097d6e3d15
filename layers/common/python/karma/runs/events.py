"""AG-UI 1.0 events as JSON bytes, and the messages and calls that a stream of them has open.

Built by constant prefixes and orjson rather than by ag_ui's models: those cost 4 us an event and .9 of a cold start.
`tests/contract/agents` proves that every event made here is one that ag_ui.core and @ag-ui/client accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from karma.core.json_patch import difference, follow
from karma.tools.domain import ACTIVITY_TYPES

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

COMPACTING = "karma.compacting"
COMPACTED = "karma.compacted"
"""Names of the CUSTOM events before and after the beginning of a conversation is summarised."""
COMPACTION_FAILED = "karma.compaction_failed"
"""Name of the event in the place of the latter where there is no summary, whatever ended its writing."""

CALLS_OVERLAP_SINCE: Version = (1, 0)
"""Version whose clients take the beginning of a call before the end of another; older ones refuse it."""
ACTIVITIES_SINCE: Version = (1, 0)
"""Version that introduced activities: older clients are told of a call and of its result alone."""
SUBAGENTS_SINCE: Version = (1, 0)
"""Version that introduced subagents: older clients are told nothing of what they say."""

_OF_SUBAGENT = b',"subagentRunId":'
_DELTA = b',"delta":'

_LINE_ENDS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\u0085\u2028\u2029")

_OF_STATE = b'{"type":"STATE_'
_UNPATCHED = re.compile(r"/(__proto__|constructor/prototype)(?=/|$)")
"""Parts of paths that fast-json-patch, which clients use, does not apply."""

_dumps = orjson.dumps


class Event(NamedTuple):
    """One event; `ref` is the id of the message or call that it opens or closes, "" for other events."""

    type: str
    ref: str
    data: bytes


def tagged(event: Event, subagent: str) -> Event:
    """Return an event of a subagent's, which says whose it is."""
    return event._replace(data=event.data[:-1] + _OF_SUBAGENT + _dumps(subagent) + b"}")


def tagged_deltas(prefix: DeltaPrefix, subagent: str) -> DeltaPrefix:
    """Return the prefix of deltas of a subagent's message or call."""
    return prefix._replace(data=prefix.data.removesuffix(_DELTA) + _OF_SUBAGENT + _dumps(subagent) + _DELTA)


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


def reasoning_deltas(message_id: str) -> DeltaPrefix:
    """Return the prefix of REASONING_MESSAGE_CONTENT events."""
    head = b'{"type":"REASONING_MESSAGE_CONTENT","messageId":'
    return DeltaPrefix(message_id, head + _dumps(message_id) + b',"delta":')


def run_started(*, thread_id: str, run_id: str, parent_run_id: str = "", speaks: Version = CURRENT) -> Event:
    """Make RUN_STARTED, with the server's protocol version."""
    body = {"threadId": thread_id, "runId": run_id, "protocolVersion": PROTOCOL_VERSION}
    if parent_run_id:
        body["parentRunId"] = parent_run_id
    return _event("RUN_STARTED", "", body, speaks)


def state_snapshot(state: object) -> Event:
    """Make STATE_SNAPSHOT; a state is any JSON value."""
    return _event("STATE_SNAPSHOT", "", {"snapshot": state})


def state_changed(old: object, new: object) -> list[Event]:
    """Make the event that tells of a new state: STATE_DELTA, or STATE_SNAPSHOT where that is shorter; [] if it is none.

    Clients refuse patches of some names, which a snapshot may have.
    """
    patch = difference(old, new)
    if not patch:
        return []
    delta, snapshot = _event("STATE_DELTA", "", {"delta": patch}), state_snapshot(new)
    is_refused = any(_UNPATCHED.search(operation["path"]) for operation in patch)
    return [snapshot if is_refused or len(delta.data) >= len(snapshot.data) else delta]


def state_after(log: Iterable[bytes], state: Any = None) -> Any:
    """Return the state after events, as a client holds it; `state` is the one before them."""
    for data in log:
        if data.startswith(_OF_STATE):
            event = orjson.loads(data)
            state = event["snapshot"] if event["type"] == "STATE_SNAPSHOT" else follow(state, event["delta"])
    return state


def text_start(message_id: str) -> Event:
    """Make TEXT_MESSAGE_START of the assistant."""
    return _event("TEXT_MESSAGE_START", message_id, {"messageId": message_id, "role": "assistant"})


def text_end(message_id: str) -> Event:
    """Make TEXT_MESSAGE_END."""
    return _event("TEXT_MESSAGE_END", message_id, {"messageId": message_id})


def reasoning_begun(message_id: str) -> list[Event]:
    """Make REASONING_START and REASONING_MESSAGE_START: one message a span, of the same id."""
    return [
        _event("REASONING_START", message_id, {"messageId": message_id}),
        _event("REASONING_MESSAGE_START", message_id, {"messageId": message_id, "role": "reasoning"}),
    ]


def reasoning_message_end(message_id: str) -> Event:
    """Make REASONING_MESSAGE_END."""
    return _event("REASONING_MESSAGE_END", message_id, {"messageId": message_id})


def reasoning_end(message_id: str) -> Event:
    """Make REASONING_END, which follows the end of the span's message."""
    return _event("REASONING_END", message_id, {"messageId": message_id})


def subagent_started(subagent: str, *, name: str, call_id: str, message_id: str, parent: str) -> Event:
    """Make SUBAGENT_STARTED; `parent` is the subagent whose model called it, "" where the run's own did."""
    body = {
        "subagentRunId": subagent,
        "name": name,
        **({"parentSubagentRunId": parent} if parent else {}),
        "parentToolCallId": call_id,
        **({"parentMessageId": message_id} if message_id else {}),
    }
    return _event("SUBAGENT_STARTED", subagent, body)


def subagent_finished(subagent: str, *, stop: str = "") -> Event:
    """Make SUBAGENT_FINISHED of a subagent that has given its answer; `stop` says why that is not whole."""
    told = {"result": {"stopReason": stop}} if stop else {}
    return _event("SUBAGENT_FINISHED", subagent, {"subagentRunId": subagent, **told, "outcome": {"type": "success"}})


def subagent_suspended(subagent: str, interrupt_ids: Sequence[str]) -> Event:
    """Make SUBAGENT_FINISHED of a subagent with which a later run goes on, once these questions are answered."""
    outcome = {"type": "suspended", **({"interruptIds": list(interrupt_ids)} if interrupt_ids else {})}
    return _event("SUBAGENT_FINISHED", subagent, {"subagentRunId": subagent, "outcome": outcome})


def subagent_error(subagent: str, *, message: str, code: str) -> Event:
    """Make SUBAGENT_ERROR."""
    return _event("SUBAGENT_ERROR", subagent, {"subagentRunId": subagent, "message": message, "code": code})


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
    interrupts: Sequence[Mapping[str, object]] = (),
    usage: Sequence[Mapping[str, object]] = (),
    result: Mapping[str, object] | None = None,
    speaks: Version = CURRENT,
) -> Event:
    """Make RUN_FINISHED with outcome success, or interrupt where a later run is to answer something."""
    outcome: dict[str, object] = {"type": "success"}
    if interrupts:
        outcome = {"type": "interrupt", "interrupts": list(interrupts)}
    elif pending_tool_call_ids:
        outcome["pendingToolCallIds"] = list(pending_tool_call_ids)
    body: dict[str, object] = {"threadId": thread_id, "runId": run_id, "outcome": outcome}
    if result is not None:
        body["result"] = result
    if usage:
        body["usage"] = list(usage)
    return _event("RUN_FINISHED", "", body, speaks)


def asked_in_words(interrupts: Sequence[Mapping[str, object]], speaks: Version) -> list[Event]:
    """Make the event that tells a client from before 1.0 of questions; [] for others, who read the outcome.

    It has the name under which front ends of that time ask their users.
    """
    if not interrupts or speaks >= (1, 0):
        return []
    return [_event("CUSTOM", "", {"name": "on_interrupt", "value": list(interrupts)})]


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


def messages_snapshot(messages: Sequence[Mapping[str, object]], *, has_activities: bool = False) -> Event:
    """Make MESSAGES_SNAPSHOT; clients drop messages that are not in it, but for activities.

    With `has_activities` they drop ours, too, and put those that are in it in their place.
    """
    owned = {"metadata": {"@ag-ui/client": {"authoritativeActivityTypes": list(ACTIVITY_TYPES)}}}
    return _event("MESSAGES_SNAPSHOT", "", {"messages": list(messages), **(owned if has_activities else {})})


def activity(message_id: str, kind: str, now: Mapping[str, object], *, before: object = None) -> Event:
    """Make ACTIVITY_SNAPSHOT of what an activity is now; ACTIVITY_DELTA where its client has what it was before."""
    body: dict[str, object] = {"messageId": message_id, "activityType": kind}
    if before is None:
        return _event("ACTIVITY_SNAPSHOT", "", {**body, "content": now})
    return _event("ACTIVITY_DELTA", "", {**body, "patch": difference(before, now)})


def input_ignored(notes: Sequence[Mapping[str, str]]) -> Event:
    """Make a CUSTOM event that names the parts of the client's request that were left out."""
    return _event("CUSTOM", "", {"name": "karma.input_ignored", "value": list(notes)})


def rolled_back(run_id: str, calls: Sequence[Mapping[str, str]]) -> Event:
    """Make a CUSTOM event: the conversation goes on where a run began that was cancelled; its calls were made."""
    return _event("CUSTOM", "", {"name": "karma.rolled_back", "value": {"runId": run_id, "toolCalls": list(calls)}})


def compacting(messages: int) -> Event:
    """Make a CUSTOM event: the first messages of the conversation are being summarised for the model."""
    return _event("CUSTOM", "", {"name": COMPACTING, "value": {"messages": messages}})


def compacted(*, messages: int, kept: int, model: str, tokens_before: int, tokens_after: int) -> Event:
    """Make a CUSTOM event: the model knows the first messages by a summary from now on; clients keep them.

    `kept` is the number of messages that it is still shown; tokens are estimates of what it is sent.
    """
    value: dict[str, object] = {"messages": messages, "kept": kept, "model": model}
    value |= {"tokensBefore": tokens_before, "tokensAfter": tokens_after}
    return _event("CUSTOM", "", {"name": COMPACTED, "value": value})


def compaction_failed() -> Event:
    """Make a CUSTOM event: the beginning of the conversation was not summarised."""
    return _event("CUSTOM", "", {"name": COMPACTION_FAILED, "value": {}})


def custom(name: str, value: Mapping[str, object]) -> Event:
    """Make a CUSTOM event of ours."""
    return _event("CUSTOM", "", {"name": name, "value": value})


def _event(kind: str, ref: str, body: Mapping[str, object], speaks: Version = CURRENT) -> Event:
    since = SINCE.get(kind, {})
    known = {name: value for name, value in body.items() if since.get(name, BEFORE_1_0) <= speaks}
    return Event(kind, ref, _dumps({"type": kind, **known}))


_ENDS: Mapping[str, Callable[[str], Event]] = {
    # A span of reasoning ends after its messages.
    "REASONING_MESSAGE_START": reasoning_message_end,
    "REASONING_START": reasoning_end,
    "TEXT_MESSAGE_START": text_end,
    "TOOL_CALL_START": tool_end,
}
"""Beginnings of items, each with what makes its end."""
_COMPACT = b"karma.compact"
_ENDS_COMPACTION = frozenset({COMPACTED, COMPACTION_FAILED})


class OpenItems:
    """Texts, calls and reasoning that have begun and not ended, in order."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, str]] = {kind: {} for kind in _ENDS}
        """By type of the beginning and id, the subagent whose each is; "": the run's own."""
        self._subagents: dict[str, None] = {}
        self._is_compacting = False

    def follow(self, event: Event) -> None:
        """Record an event that was sent."""
        if event.type in self._open:
            self._open[event.type][event.ref] = _subagent_of(event)
        elif event.type == "SUBAGENT_STARTED":
            self._subagents[event.ref] = None
        elif event.type in {"SUBAGENT_FINISHED", "SUBAGENT_ERROR"}:
            self._subagents.pop(event.ref, None)
        elif event.type == "CUSTOM" and _COMPACT in event.data:
            name = orjson.loads(event.data).get("name")
            self._is_compacting = name == COMPACTING or (self._is_compacting and name not in _ENDS_COMPACTION)
        elif event.type.endswith("_END"):
            self._open[f"{event.type.removesuffix('END')}START"].pop(event.ref, None)

    def has_text(self, message_id: str) -> bool:
        """Tell whether this message is open."""
        return message_id in self._open["TEXT_MESSAGE_START"]

    def begun(self) -> list[str]:
        """Return the type of the beginning and the id of all that is open, spans of reasoning before their messages."""
        kinds = sorted(_ENDS, key=lambda kind: kind != "REASONING_START")
        begun = [f"SUBAGENT_STARTED {ref}" for ref in self._subagents]
        return [*begun, *(f"{kind} {ref}" for kind in kinds for ref in self._open[kind])]

    @property
    def subagents(self) -> list[str]:
        """Return the subagents that have begun and not ended, those that others called behind these."""
        return list(self._subagents)

    def closing(self) -> list[Event]:
        """Return what closes all texts, calls and reasoning that are open, and a summary; subagents may go on."""
        ends = [(end(ref), whose) for kind, end in _ENDS.items() for ref, whose in self._open[kind].items()]
        failed = [compaction_failed()] if self._is_compacting else []
        return [*(tagged(each, whose) if whose else each for each, whose in ends), *failed]

    def ending(self, before: Sequence[Event] = ()) -> list[Event]:
        """Return what has to come before a terminal event: the ends of all that is open, and `before` with them."""
        ended = {event.ref for event in before if event.type.startswith("SUBAGENT_")}
        left = [each for each in reversed(self._subagents) if each not in ended]
        errors = [subagent_error(each, message="The run ended before it did", code="RUN_ENDED") for each in left]
        return [*self.closing(), *before, *errors]


def _subagent_of(event: Event) -> str:
    """Return the subagent whose event it is; "": it is the run's own."""
    return str(orjson.loads(event.data)["subagentRunId"]) if _OF_SUBAGENT in event.data else ""


def parse(data: bytes) -> Event:
    """Read an event that this module made, from the log."""
    body = orjson.loads(data)
    kind = body["type"]
    if kind.startswith(("TEXT_MESSAGE_", "REASONING_")):
        return Event(kind, body["messageId"], data)
    if kind.startswith("SUBAGENT_"):
        return Event(kind, body["subagentRunId"], data)
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
