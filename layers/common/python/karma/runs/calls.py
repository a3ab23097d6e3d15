"""Calls of the server's tools in a run: how they are made, and the messages with their results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import orjson

from karma.conversations.domain import Json, Message, ToolCall
from karma.conversations.history import STOPPED
from karma.core.ids import RunId, short_id
from karma.runs import events
from karma.runs.events import Event, Version
from karma.tools.toolbox import ToolOutcome


class MakeCall(Protocol):
    """A way to make a call of a server's tool: newly, or after a loss."""

    async def __call__(self, call: ToolCall, *, run_id: RunId, known: dict[str, object]) -> ToolOutcome:
        """Make the call; the tool records what it knows of its effect in `known`."""
        ...


def with_call_ids(blocks: Sequence[Json], calls: Sequence[ToolCall]) -> Sequence[Json]:
    """Put the ids of calls, in order, into the blocks of type tool_use."""
    ids = iter(call.id for call in calls)
    return tuple({**block, "id": next(ids, block["id"])} if block["type"] == "tool_use" else block for block in blocks)


def outcome_of(task: asyncio.Task[ToolOutcome] | None, known: Json) -> ToolOutcome:
    """Return the outcome of a call whose run ends; `known` is what its tool knows of its effect."""
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        return ToolOutcome(orjson.dumps({**orjson.loads(STOPPED), **known}).decode() if known else STOPPED, failed=True)
    return task.result()


def result_message(call: ToolCall, outcome: ToolOutcome) -> Message:
    """Make the message with the result of a call."""
    return Message(id=short_id(), role="tool", content=outcome.content, tool_call_id=call.id, failed=outcome.failed)


def told_of(results: Sequence[Message], speaks: Version) -> list[Event]:
    """Make the events that tell a client of results."""
    return [
        events.tool_result(
            message_id=each.id,
            tool_call_id=each.tool_call_id,
            content=str(each.content),
            failed=each.failed,
            speaks=speaks,
        )
        for each in results
    ]
