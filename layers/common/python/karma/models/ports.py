"""The port of language models: one is asked by a request, and yields events. `integrations.anthropic` fulfils it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from karma.conversations.domain import Json, Message
from karma.models.domain import ModelErrorCode, Usage


class ToolSpec(NamedTuple):
    """A tool as a model is told about it."""

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
    """Why a model stopped."""

    END = "end"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    PAUSED = "paused"
    REFUSED = "refused"
    CONTEXT_FULL = "context_full"


class TextDelta(NamedTuple):
    """More text."""

    text: str


class ToolBegun(NamedTuple):
    """The model begins to call a tool."""

    id: str
    name: str


class ToolArguments(NamedTuple):
    """More of the JSON text of a call's arguments."""

    id: str
    delta: str


class ToolEnded(NamedTuple):
    """The call is complete."""

    call_id: str
    arguments: str


class TurnEnded(NamedTuple):
    """The model's turn is complete: the one sign that nothing was cut off."""

    stop: StopReason
    usage: Usage
    blocks: Sequence[Json]


ModelEvent = TextDelta | ToolBegun | ToolArguments | ToolEnded | TurnEnded


class ModelFailed(Exception):
    """The call failed, before or within its stream. Usage holds what is known to have been spent."""

    def __init__(self, code: ModelErrorCode, *, usage: Usage | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.usage = usage or Usage()


class Model(Protocol):
    """Language models behind one API; a request names which."""

    provider: str

    def prepare(self) -> None:
        """Do what must work before a run starts; may block.

        Raises:
            ModelNotConfigured: no key.
        """

    def preload(self) -> None:
        """Start loading what the first call needs, beside other work."""

    def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        """Call the model; yields what arrived together, together. TurnEnded comes last or ModelFailed is raised."""
