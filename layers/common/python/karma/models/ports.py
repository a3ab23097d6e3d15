"""The port of language models: takes a request, yields events. One implementation a provider in `integrations`."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from karma.conversations.domain import Json, Message
from karma.core.ids import short_id
from karma.core.records import Record
from karma.models.domain import ModelErrorCode, ReasoningEffort, Target, Usage

_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolSpec(NamedTuple):
    """A tool as a model is told of it."""

    name: str
    description: str
    parameters: Json
    """JSON Schema of type object."""


class Heard(NamedTuple):
    """As much as is known of an answer that was stopped, or lost."""

    said: int = 0
    """UTF-8 bytes of it that arrived."""
    usage: Usage = Usage()
    """Usage that its provider has reported; what is None was not."""
    by: tuple[str, str] | None = None
    """Provider and model that answered; None: nobody knows."""


class Meter:
    """Knows of one call, while it is made, what its provider has counted of it, and which model was asked last.

    Whoever stops a call counts it by this. The implementations of `Model` write it: usage as soon as it is reported,
    output tokens once they are known for the whole answer.
    """

    __slots__ = ("by", "thought", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.by: Target | None = None
        """None: nobody has said which model it is."""
        self.thought = 0
        """UTF-8 bytes that the model has thought and that are not among the events."""

    def heard(self, said: int) -> Heard:
        """Return what is known of an answer of which so many UTF-8 bytes are among the events."""
        by = None if self.by is None else (self.by.provider, self.by.model)
        return Heard(said + self.thought, self.usage, by)


class ModelRequest(Record, kw_only=True):
    """One call of a model."""

    target: Target
    system: Sequence[str]
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    max_tokens: int
    reasoning: ReasoningEffort | None = None
    """Effort of its reasoning, which is then part of the events; None: the model's own default, and it is not."""
    fallbacks: Sequence[Target] = ()
    """Models that are asked in this order where the one before has not begun to answer."""
    is_cached: bool = True
    """Further requests will begin as this one does: the provider is asked to cache it, which costs more than reading it
    plainly."""
    patience_s: float = 0.0
    """Seconds within which a call that failed before its answer began may be repeated; 0: it is not."""
    log_keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of each log line about the call, such as the id of the run that makes it."""
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    """Count of this call's tokens; copies of the request that narrow it share it."""


class StopReason(StrEnum):
    """Reason why a model stopped."""

    END = "end"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    PAUSED = "paused"
    REFUSED = "refused"
    CONTEXT_FULL = "context_full"


class TextDelta(NamedTuple):
    """A further piece of text."""

    text: str


class ReasoningDelta(NamedTuple):
    """A further piece of the reasoning that the model shows."""

    text: str


class ReasoningEnded(NamedTuple):
    """The end of a block of reasoning; text that follows belongs to another one."""


class ToolBegun(NamedTuple):
    """The beginning of a call of a tool."""

    id: str
    """No other call of the answer has it, whatever its provider says."""
    name: str


class ToolArguments(NamedTuple):
    """A further piece of the JSON text of a call's arguments."""

    id: str
    delta: str


class ToolEnded(NamedTuple):
    """The end of a call: its arguments are complete."""

    call_id: str
    arguments: str


class TurnEnded(NamedTuple):
    """The end of the model's turn; without it, the answer was cut off."""

    stop: StopReason
    usage: Usage
    blocks: Sequence[Json]
    by: Target | None = None
    """Model that answered; None: the one that was asked."""


ModelEvent = TextDelta | ReasoningDelta | ReasoningEnded | ToolBegun | ToolArguments | ToolEnded | TurnEnded


class ModelFailed(Exception):
    """A call failed, before or within its stream.

    Attributes:
        code: why.
        usage: what is known to have been spent.
        is_transient: the same call may succeed if it is repeated.
        retry_after_s: seconds that the provider asks to wait before it is; None: it says nothing.
        by: model that failed; None: the one that was asked.
    """

    def __init__(
        self,
        code: ModelErrorCode,
        *,
        usage: Usage | None = None,
        is_transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.usage = usage or Usage()
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s
        self.by: Target | None = None


class CallIds:
    """Ids of the calls of one answer as they are known outside: no other call of its conversation has one of them."""

    def __init__(self, taken: set[str]) -> None:
        """Begin an answer; `taken` are the ids that its conversation has, to which those of its calls are added."""
        self._taken = taken
        self._own: dict[str, str] = {}
        """By the id with which the answer's events tell of a call."""

    def begin(self, told: str) -> str:
        """Return the id of a call that begins: its provider's, or a new one if the conversation has that already.

        Providers count calls anew in each conversation, some gateways in each answer; clients append to the call with
        the id.

        Raises:
            ModelFailed: the answer has a call of this id, so that what follows could be of either.
        """
        if told in self._own:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT)
        own = told if _CALL_ID.fullmatch(told) and told not in self._taken else f"call_{short_id()}"
        self._taken.add(own)
        self._own[told] = own
        return own

    def __getitem__(self, told: str) -> str:
        """Return the id of a call that has begun."""
        return self._own[told]

    def within(self, blocks: Sequence[Json]) -> Sequence[Json]:
        """Return the blocks of the answer, those of type tool_use with these ids."""
        return tuple(
            {**block, "id": self._own.get(str(block["id"]), block["id"])} if block["type"] == "tool_use" else block
            for block in blocks
        )


def call_ids_of(messages: Iterable[Message]) -> set[str]:
    """Return the ids of the calls of a conversation."""
    return {call.id for message in messages for call in message.tool_calls}


class Model(Protocol):
    """Language models behind one API; a request names its model."""

    def prepare(self, target: Target) -> None:
        """Check what must work before a model is asked; may block.

        Raises:
            ModelNotConfigured: the deployment has no key for the model.
        """

    def preload(self, target: Target) -> None:
        """Start loading what the first call of a model needs, concurrently with other work."""

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        """Call the model; yield events that arrived together as one batch, TurnEnded last.

        Closing the generator closes the model's stream. Usage is in the request's `meter` as soon as it is reported.

        Raises:
            ModelFailed: the call failed, before or within its stream.
        """
