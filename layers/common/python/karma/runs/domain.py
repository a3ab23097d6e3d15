"""Runs and their logs: what they are, and the rules that need no I/O.

A run executes on a thread; a thread has at most one active run:

    running ──> finished      RUN_FINISHED was logged (also with calls of frontend tools left pending)
            ├─> cancelled     it was stopped: its conversation went on without it
            └─> failed        RUN_ERROR was logged, by the run itself or by the watchdog for it

The run's log is its truth: segment 1, 2, 3, ... each written once, by the writer that holds the lease named in the
segment before. Who finds a higher segment of another writer has lost the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from karma.billing.allowances import Adjustment
from karma.conversations.domain import Json
from karma.core.errors import Conflict
from karma.core.ids import AgentId, RunId, ThreadId, UserId

ENGINE_SCHEMA = 1
"""Layout of a run's log; a release continues only what it can read."""

BUSY_RETRY_S = 5
"""When a client that met a busy thread may ask again."""

LEASE = timedelta(seconds=30)
"""How long a segment keeps its writer in possession of the run."""


class RunStatus(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.RUNNING: frozenset({RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.FINISHED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.FAILED: frozenset(),
}


class Wish(StrEnum):
    """Why somebody else wants a run to end; written beside its log, read by its owner, who alone ends it."""

    MOVED_ON = "moved_on"
    """The client that the run answers sends what it answers, and more: it does not wait for the answer."""
    NEXT = "next"
    """Somebody wants to go on with the thread; who still listens to the run is its owner's to know."""


class RunErrorCode(StrEnum):
    """`code` of RUN_ERROR; part of the contract."""

    MODEL_OVERLOADED = "MODEL_OVERLOADED"
    MODEL_RATE_LIMITED = "MODEL_RATE_LIMITED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    MODEL_TIMEOUT = "MODEL_TIMEOUT"
    MODEL_STREAM_CUT = "MODEL_STREAM_CUT"
    MODEL_REJECTED = "MODEL_REJECTED"
    MODEL_REFUSED = "MODEL_REFUSED"
    MAX_TOKENS = "MAX_TOKENS"
    MAX_TURNS = "MAX_TURNS"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    CONTEXT_WINDOW_EXCEEDED = "CONTEXT_WINDOW_EXCEEDED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    OWNER_LOST = "OWNER_LOST"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


ERROR_MESSAGES: Mapping[RunErrorCode, str] = {
    RunErrorCode.MODEL_OVERLOADED: "The model is overloaded; try again later",
    RunErrorCode.MODEL_RATE_LIMITED: "The model's rate limit is reached; try again later",
    RunErrorCode.MODEL_UNAVAILABLE: "The model could not be reached; try again later",
    RunErrorCode.MODEL_TIMEOUT: "The model did not answer in time",
    RunErrorCode.MODEL_STREAM_CUT: "The model's answer broke off; what arrived is incomplete",
    RunErrorCode.MODEL_REJECTED: "The model does not accept this conversation",
    RunErrorCode.MODEL_REFUSED: "The model declined to answer",
    RunErrorCode.MAX_TOKENS: "The answer reached its token limit within a tool call",
    RunErrorCode.MAX_TURNS: "The run reached its limit of model turns",
    RunErrorCode.ANSWER_TOO_LARGE: "The model's answer is larger than a conversation can hold",
    RunErrorCode.CONTEXT_WINDOW_EXCEEDED: "The conversation is longer than the model can read",
    RunErrorCode.DEADLINE_EXCEEDED: "The run reached its time limit",
    RunErrorCode.QUOTA_EXCEEDED: "The plan's model spend of this month does not cover the next model call",
    RunErrorCode.STORAGE_UNAVAILABLE: "The run could not be recorded; try again later",
    RunErrorCode.OWNER_LOST: "The process that executed the run was lost",
    RunErrorCode.CANCELLED: "The run was stopped, since its conversation went on",
    RunErrorCode.INTERNAL: "An unexpected error occurred",
}


class RunExists(Conflict):
    """A run id is used once."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__(f"Run {run_id} exists already and answers another request; take a new runId")


class ThreadBusy(Conflict):
    """The thread has an active run; `details.run_id` names it, and `Retry-After` says when to come again."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__("The thread has an active run", details={"run_id": run_id})
        self.headers["Retry-After"] = str(BUSY_RETRY_S)


class ThreadChanged(Conflict):
    """Another run began or ended between our reading of the thread and our write: read again."""

    def __init__(self) -> None:
        super().__init__("The thread was changed by another run; try again")
        self.headers["Retry-After"] = "1"


class OwnershipLost(Exception):
    """The log holds a segment of another writer: this process may not go on with the run."""


class RunFailed(Exception):
    """The run ends with RUN_ERROR of this code; nothing of a provider's text is in it."""

    def __init__(self, code: RunErrorCode) -> None:
        super().__init__(ERROR_MESSAGES[code])
        self.code = code


class RunKey(NamedTuple):
    """A run belongs to its user; the id may be the client's own."""

    user_id: UserId
    run_id: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One committed piece of a run's log."""

    key: RunKey
    n: int
    writer: str
    """Token of the process that wrote it, new for each possession of the run."""
    epoch: int
    """Counts the owners of the run, from 1."""
    lease_until: datetime
    events: tuple[bytes, ...]
    """AG-UI events as JSON, in order; none in a segment that only renews the lease."""
    terminal: bool = False

    def is_expired(self, now: datetime) -> bool:
        """Tell whether the writer may be presumed dead."""
        return now > self.lease_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, without its events."""

    key: RunKey
    thread_id: ThreadId
    status: RunStatus
    model: str
    created_at: datetime
    agent_id: AgentId | None = None
    """None in runs that were stored before there were agents."""
    agent_version: int | None = None
    """The agent as it was when the run began."""
    parent_run_id: str = ""
    finished_at: datetime | None = None
    error_code: str = ""
    turns: int = 0
    usage: Json | None = None
    cost_micros: int | None = None
    """What its model calls count for in its owner's plan, in micro-dollars; None until it ended, and where unknown."""
    pending_tool_call_ids: tuple[str, ...] = ()
    asked_hash: str = ""
    """Digest of the request that began it: the same one again asks for its answer, not for another run."""
    answers: int = -1
    """Position of the message that it answers; -1 where it answers none, and in runs that were stored without it."""
    begins_at: int = -1
    """Number of messages that its thread had when it began: the position of the first one that it adds."""
    last_message: int = -1
    """Position of the last message of its branch when it ended; -1 where it added none or has not ended."""
    engine_schema: int = ENGINE_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """What ends a run."""

    status: RunStatus
    at: datetime
    error_code: str = ""
    turns: int = 0
    usage: Json | None = None
    cost_micros: int | None = None
    correction: Adjustment | None = None
    """Of what the run reserved of its owner's model spend; None leaves all of it taken."""
    pending_tool_call_ids: tuple[str, ...] = ()
    last_message: int = -1


def end(run: Run, how: RunEnd) -> Run:
    """Apply the end of a run.

    Raises:
        Conflict: the run has ended already.
    """
    if how.status not in TRANSITIONS[run.status]:
        raise Conflict(f"Run {run.key.run_id} is {run.status}")
    return replace(
        run,
        status=how.status,
        finished_at=how.at,
        error_code=how.error_code,
        turns=how.turns,
        usage=how.usage,
        cost_micros=how.cost_micros,
        pending_tool_call_ids=how.pending_tool_call_ids,
        last_message=how.last_message,
    )
