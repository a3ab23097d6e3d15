"""One call of the model while it streams: what it has said and called so far, and how that is sent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from karma.conversations.domain import MAX_ADDED_BYTES, Message, ToolCall
from karma.core.ids import short_id
from karma.core.texts import GrowingText
from karma.models.domain import ANTHROPIC, ModelErrorCode, Target, Usage
from karma.models.ports import (
    CallIds,
    Meter,
    Model,
    ModelFailed,
    ModelRequest,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.models.prices import utf8_size
from karma.runs import events
from karma.runs.domain import RunErrorCode, RunFailed
from karma.runs.events import DeltaPrefix, Event
from karma.runs.ports import Sink, Voice
from karma.runs.reasoning import Reasoning
from karma.runs.spending import tokens_of

_UNIQUE_CHARS: Final = 16
"""Characters of an id of a call from which it is not counted: providers' own ids are random; some gateways' are not."""


@dataclass
class Turn:
    """One call of the model while it streams."""

    message_id: str
    text: DeltaPrefix
    reasoning: Reasoning
    meter: Meter
    ids: CallIds
    args: dict[str, DeltaPrefix] = field(default_factory=dict)
    """Prefixes of argument deltas by the id under which the model's port tells of a call; a prefix has our id of it."""
    said: GrowingText = field(default_factory=GrowingText)
    args_chars: int = 0
    size: int = 0
    """UTF-8 bytes of what it said and called."""
    calls: list[ToolCall] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    held: list[Event] = field(default_factory=list)
    """Ends of calls: a client may make its own calls when it sees them, so they are stored before they are sent."""
    ended: TurnEnded | None = None
    is_settled: bool = False
    """It is stored, or was withdrawn."""

    @property
    def has_words(self) -> bool:
        """Tell whether it says anything; blank text is nothing."""
        return bool(str(self.said).strip())


class Speaker:
    """Calls the model, and sends to a run's client what it says while it says it."""

    def __init__(
        self,
        model: Model,
        log: Voice,
        sink: Sink,
        *,
        call_ids: set[str],
        calls_overlap: bool,
        shows_reasoning: bool = False,
        is_heard: bool = True,
    ) -> None:
        """Build the speaker of a run.

        Args:
            model: the run's model.
            log: the run's log, or the voice of a subagent in it.
            sink: receiver of the frames of what is said.
            call_ids: ids of the calls that its conversation has already; new ones are added.
            calls_overlap: its client takes the beginning of a call before the end of the one before; then all ends are
                stored with the turn, by one write.
            shows_reasoning: what the model thinks is sent, too.
            is_heard: its client is told what it says.
        """
        self._shows_reasoning = shows_reasoning
        self._calls_overlap = calls_overlap
        self._model = model
        self._log = log
        self._sink = sink
        self._call_ids = call_ids
        self._is_heard = is_heard
        self._turn: Turn | None = None

    @property
    def shows_half(self) -> bool:
        """Tell whether clients were shown a turn of which the conversation has nothing."""
        turn = self._turn
        if turn is None or turn.is_settled or not self._is_heard:
            return False
        thought = turn.reasoning.size if self._shows_reasoning else 0
        return turn.size + thought > 0 or bool(turn.names)

    def settle(self) -> None:
        """Note that the turn at hand is stored, or was withdrawn."""
        if self._turn is not None:
            self._turn.is_settled = True

    @property
    def heard(self) -> int:
        """Return the UTF-8 bytes of the turn at hand, or of the last one, that have arrived."""
        turn = self._turn
        return 0 if turn is None else turn.size + turn.reasoning.size

    @property
    def unseen(self) -> int:
        """Return the UTF-8 bytes of the turn at hand, or of the last one, that the log does not have."""
        turn = self._turn
        if turn is None:
            return 0
        thoughts = 0 if self._shows_reasoning and self._is_heard else turn.reasoning.size
        return thoughts if self._is_heard else thoughts + turn.size

    async def say(self, request: ModelRequest) -> Turn:
        """Call the model once; the connection to it is closed when this returns, however it does.

        Raises:
            ModelFailed: the call failed, before or within its stream; or MODEL_EMPTY_ANSWER.
            RunFailed: ANSWER_TOO_LARGE: what it says could not be stored, and it was stopped.
            OwnershipLost, Upstream: as `RunLog.commit`.
        """
        message_id = short_id()
        reasoning = Reasoning(self._log, message_id, is_shown=self._shows_reasoning)
        text = events.text_deltas(message_id)
        ids = CallIds(self._call_ids)
        turn = Turn(message_id=message_id, text=text, reasoning=reasoning, meter=request.meter, ids=ids)
        self._turn = turn
        log, write = self._log, self._sink.write
        async with aclosing(self._model.stream(request)) as stream:
            async for batch in stream:
                frames: list[bytes] = []
                for event in batch:
                    if type(event) is ReasoningDelta:
                        if turn.held:
                            await self._release(turn)
                        frames += reasoning.add(event.text)
                        continue
                    if reasoning.is_open:
                        frames += reasoning.end()
                    if type(event) is TextDelta:
                        if not log.has_open_text(message_id):
                            if turn.held:
                                await self._release(turn)
                            frames.append(log.soft(events.text_start(message_id)))
                        turn.said.add(event.text)
                        turn.size += utf8_size(event.text)
                        frames.append(log.delta(turn.text, event.text))
                    elif type(event) is ToolArguments:
                        turn.args_chars += len(event.delta)
                        turn.size += utf8_size(event.delta)
                        frames.append(log.delta(turn.args[event.id], event.delta))
                    elif type(event) is ToolBegun:
                        at_once, stored = self._begins_call(turn, event)
                        frames += at_once
                        if stored:
                            write(b"".join(frames))
                            frames = []
                            await log.commit(stored)
                    else:
                        self._note(turn, event)
                if frames:
                    write(b"".join(frames))
                # Arguments are stored twice: as the model wrote them, and in its blocks.
                if turn.said.size + 2 * turn.args_chars + reasoning.chars > MAX_ADDED_BYTES:
                    # It could not be stored: the model is stopped rather than paid to go on.
                    raise RunFailed(RunErrorCode.ANSWER_TOO_LARGE)
        _require_answer(turn, request)
        return turn

    def end_text(self, turn: Turn) -> list[Event]:
        """Return the event that ends a turn's text, where that is open."""
        return [events.text_end(turn.message_id)] if self._log.has_open_text(turn.message_id) else []

    def _note(self, turn: Turn, event: object) -> None:
        if isinstance(event, ToolEnded):
            call_id = turn.ids[event.call_id]
            turn.held.append(events.tool_end(call_id))
            turn.calls.append(ToolCall(call_id, turn.names[event.call_id], event.arguments))
        elif isinstance(event, TurnEnded):
            turn.ended = event
            # Known from here on, whoever stops the run.
            turn.meter.usage, turn.meter.by = event.usage, event.by or turn.meter.by

    def _begins_call(self, turn: Turn, event: ToolBegun) -> tuple[list[bytes], list[Event]]:
        """Begin a call; return the frames that are sent at once, or else the events that are stored before.

        Like text, the beginning of a call is stored within a second: nobody makes it before its end. An id that its
        provider may use again, if the turn has to be made again, is stored first, so that it is known by then.

        Raises:
            ModelFailed: as `CallIds.begin`.
        """
        call_id = turn.ids.begin(event.id)
        begin = events.tool_start(tool_call_id=call_id, name=event.name, parent_message_id=turn.message_id)
        turn.args[event.id] = events.args_deltas(call_id)
        turn.names[event.id] = event.name
        told = [*self.end_text(turn), begin]
        if len(call_id) >= _UNIQUE_CHARS and (self._calls_overlap or not turn.held):
            return [self._log.soft(each) for each in told], []
        held, turn.held = turn.held, []
        return [], [*held, *told]

    async def _release(self, turn: Turn) -> None:
        held, turn.held = turn.held, []
        await self._log.commit(held)


def asks_again(failure: ModelFailed, *, was_empty: bool) -> bool:
    """Tell whether a turn is asked for again: one that broke off, and one that was empty for the first time.

    A failure before the answer began is none of them, since `karma.models.retrying` has repeated that.
    """
    if not failure.is_transient:
        return False
    return not was_empty if failure.code is ModelErrorCode.MODEL_EMPTY_ANSWER else failure.usage != Usage()


def is_refusal(failure: ModelFailed) -> bool:
    """Tell whether a provider has refused a request for what it holds, before its answer began: it is unpaid."""
    return failure.code is ModelErrorCode.MODEL_REJECTED and failure.usage == Usage()


def said_with_calls(messages: Sequence[Message]) -> str:
    """Return what a model has said with the calls whose results are the last messages; "": nothing, or none are."""
    before = next((message for message in reversed(messages) if message.role != "tool"), None)
    if before is None or before is messages[-1] or before.role != "assistant" or not isinstance(before.content, str):
        return ""
    return before.content if before.content.strip() else ""


def _require_answer(turn: Turn, request: ModelRequest) -> None:
    """Refuse a turn that says and calls nothing, though it should; reasoning alone is no answer.

    Anthropic's models end a turn so when they have said all before the calls whose results they were told.
    https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons

    Raises:
        ModelFailed: MODEL_STREAM_CUT: it has no end; MODEL_EMPTY_ANSWER.
    """
    ended = turn.ended
    if ended is None:
        raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT)
    if ended.stop not in {StopReason.END, StopReason.TOOL_USE} or turn.calls or turn.has_words:
        return
    is_meant = ended.stop is StopReason.END and (ended.by or request.target).provider == ANTHROPIC
    if not (is_meant and said_with_calls(request.messages)):
        empty = ModelFailed(ModelErrorCode.MODEL_EMPTY_ANSWER, usage=ended.usage, is_transient=True)
        empty.by = ended.by
        raise empty


def message_of(turn: Turn, ended: TurnEnded, *, asked: Target) -> Message:
    """Return a complete turn as the conversation keeps it; `asked` is the model that was asked, if no other answered.

    Raises:
        RunFailed: MODEL_REFUSED, CONTEXT_WINDOW_EXCEEDED, MAX_TOKENS: the turn is not kept. After a refusal the model
            would refuse again for as long as it sees it; a call that was cut off cannot be made, and an answer that was
            cut off before its first word says nothing.
    """
    if ended.stop is StopReason.REFUSED:
        raise RunFailed(RunErrorCode.MODEL_REFUSED)
    if ended.stop is StopReason.CONTEXT_FULL:
        raise RunFailed(RunErrorCode.CONTEXT_WINDOW_EXCEEDED)
    if ended.stop is StopReason.MAX_TOKENS and (turn.calls or not turn.has_words):
        raise RunFailed(RunErrorCode.MAX_TOKENS)
    return Message(
        id=turn.message_id,
        role="assistant",
        content=str(turn.said),
        tool_calls=tuple(turn.calls),
        blocks=turn.ids.within(ended.blocks),
        model=(ended.by or asked).model,
        tokens=tokens_of(ended.usage),
    )
