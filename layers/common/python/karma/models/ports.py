"""The port of language models: takes a request, yields events. `integrations.anthropic` implements it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from karma.conversations.domain import Json, Message
from karma.models.domain import ModelErrorCode, Usage


class ToolSpec(NamedTuple):
    """A tool as a model is told of it."""

    name: str
    description: str
    parameters: Json
    """JSON Schema of type object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model."""

    model: str
    system: Sequence[str]
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    max_tokens: int


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


class ToolBegun(NamedTuple):
    """The beginning of a call of a tool."""

    id: str
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


ModelEvent = TextDelta | ToolBegun | ToolArguments | ToolEnded | TurnEnded


class ModelFailed(Exception):
    """A call failed, before or within its stream. `usage` is what is known to have been spent."""

    def __init__(self, code: ModelErrorCode, *, usage: Usage | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.usage = usage or Usage()


class Model(Protocol):
    """Language models behind one API; a request names its model."""

    provider: str

    def prepare(self) -> None:
        """Check what must work before a run starts; may block.

        Raises:
            ModelNotConfigured: the deployment has no key for the model's provider.
        """

    def preload(self) -> None:
        """Start loading what the first call needs, concurrently with other work."""

    def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        """Call the model; yield events that arrived together as one batch, TurnEnded last.

        Raises:
            ModelFailed: the call failed, before or within its stream.
        """
