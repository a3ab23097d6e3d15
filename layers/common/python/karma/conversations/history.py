"""What the model is shown of a conversation: calls with their results, and what the client's application adds.

`system` and `developer` messages and `context` are of one request only: shown to the model as the application's wishes,
behind our own instructions. Which messages a conversation consists of is decided in branches.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from karma.conversations.domain import Message, ToolCall
from karma.core.ids import short_id

STOPPED = '{"error":"The run ended before this call had a result. It may have taken effect or not."}'
"""The result of a call of one of our own tools whose run was ended while it was under way."""


def pending_calls(messages: Iterable[Message]) -> dict[str, ToolCall]:
    """Calls without a result, in order."""
    pending: dict[str, ToolCall] = {}
    for message in messages:
        for call in message.tool_calls:
            pending[call.id] = call
        if message.role == "tool":
            pending.pop(message.tool_call_id, None)
    return pending


def awaited_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """Calls of the last model turn that still lack a result; those of earlier turns were passed over."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    return tuple(pending_calls(messages[last:]).values())


def stopped(call: ToolCall) -> Message:
    """Answer a call of our own whose run ended without its result, so that the turn is whole."""
    return Message(id=short_id(), role="tool", content=STOPPED, tool_call_id=call.id, failed=True)
