"""One call of the model while it streams: what it has said and called so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from karma.conversations.domain import ToolCall
from karma.core.texts import GrowingText
from karma.models.ports import TurnEnded
from karma.runs.events import DeltaPrefix, Event


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
