"""Prepares a conversation for the model: calls with their results.

`system` and `developer` messages and `context` of a client's application hold for one request only; the model is shown
them after our own instructions. branches.py decides of which messages a conversation consists.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from karma.conversations.domain import Json, Message, ToolCall
from karma.core.ids import short_id

STOPPED = '{"error":"The run ended before this call had a result. It may have taken effect or not."}'
"""The result of a call of a server's own tool whose run ended during the call."""
STOPPED_READING = '{"error":"The run ended before this call had a result. It only reads: nothing was changed."}'
"""The same of a tool that only reads."""
STOPPED_REPEATABLE = (
    '{"error":"The run ended before this call had a result. It may be called again: its server says that a second call '
    'with the same arguments has no further effect."}'
)
"""The same of a tool of an MCP server that declares it so."""
READING = frozenset({"searchDatabase", "readTelemetry", "waitForFile"})
"""Names of our tools that only read, which no other tool of a run has."""


def pending_calls(messages: Iterable[Message]) -> dict[str, ToolCall]:
    """Return the calls without a result, by id, in order."""
    pending: dict[str, ToolCall] = {}
    for message in messages:
        for call in message.tool_calls:
            pending[call.id] = call
        if message.role == "tool":
            pending.pop(message.tool_call_id, None)
    return pending


def awaited_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """Return the calls of the last model turn that have no result; those of earlier turns were abandoned."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    return tuple(pending_calls(messages[last:]).values())


def stopped(call: ToolCall, *, repeatable: Container[str] = ()) -> Message:
    """Make the result of a server's own call whose run ended before it had one, so that the turn is complete.

    `repeatable` are names of tools whose servers say that a second call has no further effect.
    """
    content = stopped_words(call, repeatable)
    return Message(id=short_id(), role="tool", content=content, tool_call_id=call.id, failed=True, effect="unknown")


def stopped_words(call: ToolCall, repeatable: Container[str]) -> str:
    """Return the result of such a call, as JSON text."""
    if call.name in READING:
        return STOPPED_READING
    return STOPPED_REPEATABLE if call.name in repeatable else STOPPED


def late_results(messages: Sequence[Message]) -> Iterator[Message]:
    """Turn results that came late into user messages: models accept a result only directly after its call.

    Those keep the id of their call, which tells them from what a user has said.
    """
    names: dict[str, str] = {}
    waiting: set[str] = set()
    for message in messages:
        if message.role != "tool":
            waiting = {call.id for call in message.tool_calls}
            names |= {call.id: call.name for call in message.tool_calls}
        elif message.tool_call_id not in waiting:
            yield _in_words(message, names.get(message.tool_call_id, ""))
            continue
        else:
            waiting.discard(message.tool_call_id)
        yield message


def _in_words(result: Message, name: str) -> Message:
    outcome = "failed" if result.failed else "gave its result"
    text = f"The call {result.tool_call_id} of {name or 'a tool'}, open until now, {outcome}:"
    if isinstance(result.content, str):
        content: str | Sequence[Json] = f"{text}\n{result.content}"
    else:
        content = ({"type": "text", "text": text}, *result.content)
    return Message(id=result.id, role="user", content=content, tool_call_id=result.tool_call_id)
