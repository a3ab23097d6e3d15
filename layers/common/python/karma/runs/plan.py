"""A run before its first model call: its conversation, its limits, and the requests to its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.conversations.repair import repair
from karma.core.ids import RunId
from karma.models.domain import Target
from karma.models.ports import ModelRequest, ToolSpec
from karma.runs.domain import Progress, RunKey
from karma.runs.events import CURRENT, Version
from karma.tools.toolbox import Toolbox

_PATIENCE = 0.25
"""Share of a run's remaining time for which a call of the model that has not begun to answer is repeated."""
_MAX_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """Budgets of a run."""

    max_tokens: int = 8192
    """Output tokens of one call of the model."""
    run_timeout_s: float = 24 * 3600.0
    """Seconds that a run may take, of however many processes."""
    reserve_s: float = 10.0
    """Seconds before the end that are reserved for closing the run properly, or for handing it over."""


@dataclass(kw_only=True)
class RunPlan:
    """Everything from which one run starts."""

    run_id: RunId
    thread: ThreadKey
    target: Target
    """The run's model."""
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
    fallbacks: Sequence[Target] = ()
    """Models that may answer in its place."""
    ends_with_client: bool = False
    """The run is cancelled once its client is known to have disconnected."""
    pending: Sequence[ToolCall] = ()
    """Calls of the client's tools without a result; the run ends at once and names them."""
    is_kept: bool = True
    """The attachments of its messages are stored; else the run fails, since the model could not be shown them."""
    until: datetime
    """Moment at which the run ends, of whichever process."""
    deadline: datetime | None = None
    """Moment at which the platform stops this process, which hands the run over before; None: never."""
    progress: Progress = field(default_factory=Progress)
    """Work of earlier processes."""
    asks_title: bool = False
    """A title is to be asked for when the run has ended."""
    lost: LostTurn | None = None
    """The step that an earlier process did not finish; None: this one begins the run."""

    @property
    def stops_at(self) -> datetime:
        """Return the moment at which this process stops executing the run."""
        return self.until if self.deadline is None else min(self.until, self.deadline)

    @property
    def is_handed_over(self) -> bool:
        """Tell whether another process goes on with the run at that moment."""
        return self.stops_at < self.until

    @property
    def key(self) -> RunKey:
        """Return the run's key."""
        return RunKey(self.thread.user_id, self.run_id)


@dataclass(frozen=True, kw_only=True)
class LostTurn:
    """The point at which another process goes on with a run."""

    calls: Sequence[ToolCall]
    """Calls of the run's last turn without a result: those of the server's tools may have taken effect or not."""
    call_ids: frozenset[str]
    """Ids of all calls in the log, also of those that were withdrawn: a client has seen them."""
    answers: Sequence[int]
    """Characters of each of the model's answers that broke off since, as far as they were recorded."""


def model_request(plan: RunPlan, toolbox: Toolbox, limits: RunLimits, *, left_s: float = 0.0) -> ModelRequest:
    """Return the next request to a run's model; `left_s` are the seconds that its process has left for the run."""
    own = toolbox.specs()
    names = {tool.name for tool in own}
    return ModelRequest(
        target=plan.target,
        fallbacks=plan.fallbacks,
        system=plan.system,
        messages=repair(plan.messages),
        tools=[*own, *(tool for tool in plan.frontend_tools if tool.name not in names)],
        max_tokens=limits.max_tokens,
        patience_s=max(0.0, min(_MAX_PATIENCE_S, left_s * _PATIENCE)),
        log_keys={"run_id": plan.run_id},
    )
