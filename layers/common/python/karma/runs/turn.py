"""One call of the model while it streams: what it has said and called so far, and how that is sent."""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass, field

from karma.conversations.domain import MAX_ADDED_BYTES, ToolCall
from karma.core.ids import short_id
from karma.core.texts import GrowingText
from karma.models.domain import ModelErrorCode
from karma.models.ports import (
    Model,
    ModelFailed,
    ModelRequest,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs import events
from karma.runs.domain import RunErrorCode, RunFailed
from karma.runs.events import DeltaPrefix, Event
from karma.runs.log import RunLog
from karma.runs.ports import Sink

_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Turn:
    """One call of the model while it streams."""

    message_id: str
    text: DeltaPrefix
    args: dict[str, DeltaPrefix] = field(default_factory=dict)
    """Prefixes of argument deltas by the provider's id of a call; a prefix has our id of the call."""
    said: GrowingText = field(default_factory=GrowingText)
    args_chars: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    held: list[Event] = field(default_factory=list)
    """Ends of tool calls, which are committed together with the events that follow them."""
    ended: TurnEnded | None = None


class Speaker:
    """Calls the model, and sends to a run's client what it says while it says it."""

    def __init__(self, model: Model, log: RunLog, sink: Sink, *, call_ids: set[str]) -> None:
        """Build the speaker of a run whose conversation has calls of these ids already; new ones are added."""
        self._model = model
        self._log = log
        self._sink = sink
        self._call_ids = call_ids

    async def say(self, request: ModelRequest) -> Turn:
        """Call the model once; the connection to it is closed when this returns, however it does.

        Raises:
            ModelFailed: the call failed, before or within its stream.
            RunFailed: ANSWER_TOO_LARGE: what it says could not be stored, and it was stopped.
            OwnershipLost, Upstream: as `RunLog.commit`.
        """
        message_id = short_id()
        turn = Turn(message_id=message_id, text=events.text_deltas(message_id))
        log, write = self._log, self._sink.write
        async with aclosing(self._model.stream(request)) as stream:
            async for batch in stream:
                frames: list[bytes] = []
                for event in batch:
                    if type(event) is TextDelta:
                        if not log.has_open_text(message_id):
                            if turn.held:
                                await self._release(turn)
                            frames.append(log.soft(events.text_start(message_id)))
                        turn.said.add(event.text)
                        frames.append(log.delta(turn.text, event.text))
                    elif type(event) is ToolArguments:
                        turn.args_chars += len(event.delta)
                        frames.append(log.delta(turn.args[event.id], event.delta))
                    else:
                        if frames:
                            write(b"".join(frames))
                            frames = []
                        await self._structure(turn, event)
                if frames:
                    write(b"".join(frames))
                if turn.said.size + turn.args_chars > MAX_ADDED_BYTES:
                    # It could not be stored: the model is stopped rather than paid to go on.
                    raise RunFailed(RunErrorCode.ANSWER_TOO_LARGE)
        if turn.ended is None:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT)
        return turn

    def end_text(self, turn: Turn) -> list[Event]:
        """Return the event that ends a turn's text, where that is open."""
        return [events.text_end(turn.message_id)] if self._log.has_open_text(turn.message_id) else []

    async def _structure(self, turn: Turn, event: object) -> None:
        if isinstance(event, ToolBegun):
            call_id = self._own_call_id(event.id)
            begin = events.tool_start(tool_call_id=call_id, name=event.name, parent_message_id=turn.message_id)
            turn.args[event.id] = events.args_deltas(call_id)
            turn.names[event.id] = event.name
            held, turn.held = turn.held, []
            await self._log.commit([*self.end_text(turn), *held, begin])
        elif isinstance(event, ToolEnded):
            call_id = turn.args[event.call_id].ref
            turn.held.append(events.tool_end(call_id))
            turn.calls.append(ToolCall(call_id, turn.names[event.call_id], event.arguments))
        elif isinstance(event, TurnEnded):
            turn.ended = event

    def _own_call_id(self, given: str) -> str:
        """Return the provider's id of a call, or a new one if the conversation has that id already.

        Providers count calls anew in each conversation, some gateways in each answer; clients append to the call with
        the id.
        """
        call_id = given if _CALL_ID.fullmatch(given) and given not in self._call_ids else f"call_{short_id()}"
        self._call_ids.add(call_id)
        return call_id

    async def _release(self, turn: Turn) -> None:
        held, turn.held = turn.held, []
        await self._log.commit(held)
