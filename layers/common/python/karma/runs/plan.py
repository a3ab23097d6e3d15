"""A run before its first model call: its conversation, its limits, and the requests to its model."""

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
    """Output tokens of one call of the model."""
    run_timeout_s: float = 600.0
    """Seconds that a run may take when the platform ends it no earlier."""
    reserve_s: float = 10.0
    """Seconds before the end that are reserved for closing the run properly."""


@dataclass(kw_only=True)
class Plan:
    """Everything from which one run starts."""

    run_id: RunId
    thread: ThreadKey
    model: str
    max_turns: int
    """Calls of the model at the most."""
    system: Sequence[str]
    messages: list[Message]
    """The thread's branch with the client's new messages; the run adds to it."""
    stored: int
    """Number of messages that the thread has in the store, in all its branches."""
    last: int = -1
    """Position of the last message of this branch; -1: none."""
    speaks: Version = CURRENT
    """The client's version of the protocol."""
    frontend_tools: Sequence[ToolSpec]
    pending: Sequence[ToolCall] = ()
    """Calls of the client's tools without a result; the run ends at once and names them."""
    is_kept: bool = True
    """The attachments of its messages are stored; else the run fails, since the model could not be shown them."""
    deadline: datetime


def model_request(plan: Plan, toolbox: Toolbox, limits: RunLimits) -> ModelRequest:
    """Return the next request to a run's model."""
    own = toolbox.specs()
    names = {tool.name for tool in own}
    return ModelRequest(
        model=plan.model,
        system=plan.system,
        messages=repair(plan.messages),
        tools=[*own, *(tool for tool in plan.frontend_tools if tool.name not in names)],
        max_tokens=limits.max_tokens,
    )
