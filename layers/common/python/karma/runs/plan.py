"""A run before its first model call: what it starts from, how long it may go on, and what its model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.conversations.repair import repair
from karma.core.ids import RunId
from karma.models.ports import (
    ModelRequest,
    ToolSpec,
)
from karma.runs.events import CURRENT, Version
from karma.tools.toolbox import Toolbox


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """Budgets of a run."""

    max_tokens: int = 8192
    """Output tokens a call."""
    run_timeout_s: float = 600.0
    """Wall time of a run where the platform sets no earlier end."""
    reserve_s: float = 10.0
    """Kept before the end to close the run properly."""


@dataclass(kw_only=True)
class Plan:
    """What one run starts from."""

    run_id: RunId
    thread: ThreadKey
    model: str
    max_turns: int
    """Model calls."""
    system: Sequence[str]
    messages: list[Message]
    """The thread with what the client added; grows with the run."""
    stored: int
    """How many messages the thread holds in the store, in all its branches."""
    last: int = -1
    """Position of the last message of this branch; -1 for none."""
    speaks: Version = CURRENT
    """The client's version of the protocol."""
    frontend_tools: Sequence[ToolSpec]
    pending: Sequence[ToolCall] = ()
    """Frontend calls that still wait for the client: nothing to do but say so."""
    is_kept: bool = True
    """Whether what its messages refer to is kept; else the model would be shown that it is not there."""
    deadline: datetime


def model_request(plan: Plan, toolbox: Toolbox, limits: RunLimits) -> ModelRequest:
    """Return the next call of a run's model."""
    own = toolbox.specs()
    names = {tool.name for tool in own}
    return ModelRequest(
        model=plan.model,
        system=plan.system,
        messages=repair(plan.messages),
        tools=[*own, *(tool for tool in plan.frontend_tools if tool.name not in names)],
        max_tokens=limits.max_tokens,
    )
