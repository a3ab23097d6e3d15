"""The port of language models: takes a request, yields events. One implementation a provider in `integrations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from karma.conversations.domain import Json, Message
from karma.models.domain import ModelErrorCode, Target, Usage


class ToolSpec(NamedTuple):
    """A tool as a model is told of it."""

    name: str
    description: str
    parameters: Json
    """JSON Schema of type object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model."""

    target: Target
    system: Sequence[str]
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    max_tokens: int
    fallbacks: Sequence[Target] = ()
    """Models that are asked in this order where the one before has not begun to answer."""
    patience_s: float = 0.0
    """Seconds within which a call that failed before its answer began may be repeated; 0: it is not."""
    log_keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of each log line about the call, such as the id of the run that makes it."""


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
    by: Target | None = None
    """Model that answered; None: the one that was asked."""


ModelEvent = TextDelta | ToolBegun | ToolArguments | ToolEnded | TurnEnded


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

        Closing the generator closes the model's stream.

        Raises:
            ModelFailed: the call failed, before or within its stream.
        """
