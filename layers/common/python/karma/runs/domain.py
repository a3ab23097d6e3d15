"""Runs and their logs: types, and rules that need no I/O.

A run executes on a thread; a thread has at most one active run:

    running ──> finished      RUN_FINISHED was logged (also with calls of frontend tools left pending)
            ├─> cancelled     RUN_FINISHED with outcome cancelled: it was stopped on purpose, by a request or since its
            │                 conversation went on without it
            ├─> failed        RUN_ERROR was logged, by the run itself or by the watchdog for it
            └─> paused        no process executes it until it is resumed ──> running, cancelled, failed

The state of a run is that of its log: segments 1, 2, 3, ... each written once, by the writer with the lease
that the segment before names. A process that finds a later segment of another writer has lost the run. Once the lease
is over another process takes the run over, by the next segment, and goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from karma.billing.allowances import Adjustment
from karma.conversations.domain import Json
from karma.core.errors import Conflict
from karma.core.ids import AgentId, RunId, ThreadId, UserId
from karma.models.domain import Usages

ENGINE_SCHEMA = 2
"""Layout of what is stored of a run; a release goes on with runs of its own layout and the one before, not with newer.

1: a log. 2: also the setup and checkpoints, so that another process can take the run over (docs/adr/0042).
"""

BUSY_RETRY_S = 5
"""Seconds after which a client that met a busy thread may ask again."""

LEASE = timedelta(seconds=30)
"""Time for which a segment gives its writer the lease of the run."""

MAX_REASON_CHARS = 500
"""Characters of the reason that a request to cancel gives, at the most."""

MAX_PAUSE = timedelta(days=7)
"""Time after which a paused run is cancelled."""

PAUSE_EXPIRED_REASON = f"It was paused for {MAX_PAUSE.days} days"
"""`cancel_reason` of a run that nobody resumed."""

CLIENT_LEFT_REASON = "Its client disconnected"
"""`cancel_reason` of a run that was to end with its client."""

MOVED_ON_REASON = "The conversation went on without it"
"""`cancel_reason` of a run whose client asked something else."""

MAX_TAKE_OVERS = 3
"""Processes that may take a run over without reaching its next checkpoint: beyond, the run itself ends processes."""


class RunStatus(StrEnum):
    """State of a run."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.PAUSED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.FINISHED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.FAILED: frozenset(),
}


ACTIVE = frozenset({RunStatus.RUNNING, RunStatus.PAUSED})
"""States of a run that has not ended, and so keeps its thread."""


class Wish(StrEnum):
    """Request of another process about a run; stored beside its log, read by its writer, which alone carries it out."""

    MOVED_ON = "moved_on"
    """The run's client has asked something else: it does not wait for the answer any more."""
    CANCEL = "cancel"
    """A request has cancelled the run."""
    PAUSE = "pause"
    """A request wants the run paused; taken back by one that resumes it first."""
    NEXT = "next"
    """Another client wants to continue the thread; the writer ends the run only if its own client has disconnected."""


Wishes = Mapping[Wish, str]
"""The wishes for a run, each with the reason that was given for it; "": none was."""


def cancel_reason(wishes: Wishes) -> str | None:
    """Return the reason for which wishes cancel a run, "" where none was given; None: they do not.

    The request of somebody goes before what a client's next message implies.
    """
    if Wish.CANCEL in wishes:
        return wishes[Wish.CANCEL]
    return MOVED_ON_REASON if Wish.MOVED_ON in wishes else None


class RunErrorCode(StrEnum):
    """`code` of RUN_ERROR; part of the API."""

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
    RunErrorCode.CANCELLED: "The run was cancelled",
    RunErrorCode.INTERNAL: "An unexpected error occurred",
}


class RunExists(Conflict):
    """The run id was used before, by another request."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__(f"Run {run_id} exists already and answers another request; take a new runId")


class ThreadBusy(Conflict):
    """The thread has an active run; `details.run_id` names it, and `Retry-After` tells when to try again."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__("The thread has an active run", details={"run_id": run_id})
        self.headers["Retry-After"] = str(BUSY_RETRY_S)


class ThreadChanged(Conflict):
    """Another run began or ended after the thread was read: read it again."""

    def __init__(self) -> None:
        super().__init__("The thread was changed by another run; try again")
        self.headers["Retry-After"] = "1"


class RunHasEnded(Conflict):
    """The run has ended otherwise than was asked for; `details` has its id and its status."""

    code = "RUN_ENDED"

    def __init__(self, run: Run) -> None:
        told = {"run_id": run.key.run_id, "status": run.status.value}
        super().__init__(f"The run has ended: it is {run.status}", details=told)


class OwnershipLost(Exception):
    """The log has a segment of another writer: this process must not go on with the run."""


class WishesChanged(Exception):
    """The run is not to be paused any more: the wish was taken back, or another one cancels the run."""


class RunFailed(Exception):
    """The run ends with RUN_ERROR of this code; the message has no text of a provider."""

    def __init__(self, code: RunErrorCode) -> None:
        super().__init__(ERROR_MESSAGES[code])
        self.code = code


class RunKey(NamedTuple):
    """Key of a run: its owner and its id, which the client may have chosen."""

    user_id: UserId
    run_id: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One committed part of a run's log."""

    key: RunKey
    n: int
    writer: str
    """Token of the process that wrote it, a new one for each that executes the run."""
    epoch: int
    """Number of writers of the log so far, from 1."""
    lease_until: datetime
    events: tuple[bytes, ...]
    """AG-UI events as JSON, in order; () in a segment that only renews the lease."""
    shows: int | None = None
    """Position of a message: after the events clients are shown the conversation up to it anew, which withdraws what
    they have of an unfinished turn. The snapshot is made when the log is read (replay.py). None: they keep what they
    have."""
    terminal: bool = False

    def is_expired(self, now: datetime) -> bool:
        """Tell whether the lease has expired, so that the writer counts as dead."""
        return now > self.lease_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Work that a run has done, of all the processes that executed it."""

    turns: int = 0
    """Calls of the model."""
    usages: Usages = field(default_factory=Usages)
    """Tokens of these calls by model, with the estimate for calls that were lost."""
    spent_micros: int = 0
    """Cost of these calls, in micro-dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A point of a run from which another process can go on: after a turn of the model, or after results of tools.

    It refers to the log and the thread, and copies nothing of them.
    """

    n: int
    """Number of the segment in whose transaction it was written."""
    epoch: int
    """Epoch of that segment."""
    position: int
    """Position of the last message of the run's branch at that point."""
    progress: Progress


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
    """Version of the agent when the run began; None as for `agent_id`."""
    parent_run_id: str = ""
    finished_at: datetime | None = None
    error_code: str = ""
    cancel_reason: str = ""
    """Reason for which it was cancelled; "": it was not, or none was given."""
    turns: int = 0
    usages: tuple[Json, ...] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None
    """Cost of its model calls, counted in its owner's plan, in micro-dollars; None until it ended, or unknown."""
    pending_tool_call_ids: tuple[str, ...] = ()
    asked_hash: str = ""
    """Digest of the request that began it: an equal request asks for the same answer, not for another run."""
    answers: int = -1
    """Position of the message that it answers; -1: none, or a run stored before there was this field."""
    begins_at: int = -1
    """Number of messages of its thread when it began, and so the position of the first one that it adds."""
    last_message: int = -1
    """Position of the last message of its branch when it ended; -1: it added none, or has not ended."""
    paused_at: datetime | None = None
    """Moment since which it is paused; None: it is not."""
    paused_ms: int = 0
    """Milliseconds that it was paused before, in all; they do not count towards its time limit."""
    resumed_epoch: int = 0
    """Epoch of the segment that resumed it last; 0: none did."""
    reserved_micros: int = 0
    """Model spend that was reserved for it, in micro-dollars; its end corrects this to what it spent."""
    engine_schema: int = ENGINE_SCHEMA

    @property
    def usage(self) -> Json | None:
        """Return the AG-UI TokenUsage of all its calls together; None when nothing is known."""
        return usage_of(self.usages)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPause:
    """The state of a run that is paused."""

    at: datetime
    turns: int | None = None
    """Calls of the model until then; None, as with the cost: nobody knows, since its process is lost."""
    usages: Sequence[Json] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """The final state of a run."""

    status: RunStatus
    was: RunStatus = RunStatus.RUNNING
    """State in which the run must be."""
    at: datetime
    error_code: str = ""
    cancel_reason: str = ""
    turns: int = 0
    usages: Sequence[Json] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None
    correction: Adjustment | None = None
    """Correction of the model spend that the run reserved; None: all of it stays counted."""
    pending_tool_call_ids: tuple[str, ...] = ()
    last_message: int = -1


def usage_of(usages: Sequence[Json]) -> Json | None:
    """Return the sum of AG-UI TokenUsages, under the first one's model; None: there are none."""
    total: dict[str, object] = {}
    for usage in usages:
        for name, value in usage.items():
            known = total.get(name)
            total[name] = known + value if isinstance(known, int) and isinstance(value, int) else known or value
    return total or None


def end(run: Run, how: RunEnd) -> Run:
    """Apply the end of a run.

    Raises:
        Conflict: the run has ended already.
    """
    if run.status is not how.was or how.status not in TRANSITIONS[run.status]:
        raise Conflict(f"Run {run.key.run_id} is {run.status}")
    return replace(
        run,
        status=how.status,
        finished_at=how.at,
        error_code=how.error_code,
        cancel_reason=how.cancel_reason,
        turns=how.turns,
        usages=tuple(how.usages),
        cost_micros=how.cost_micros,
        pending_tool_call_ids=how.pending_tool_call_ids,
        last_message=how.last_message,
        paused_at=None,
    )


def pause(run: Run, how: RunPause) -> Run:
    """Apply the pause of a run that is running."""
    turns = run.turns if how.turns is None else how.turns
    return replace(
        run,
        status=RunStatus.PAUSED,
        paused_at=how.at,
        turns=turns,
        usages=tuple(how.usages),
        cost_micros=how.cost_micros,
    )


def resume(run: Run, *, at: datetime, epoch: int) -> Run:
    """Apply the end of a run's pause; what it did until then is known again when it ends."""
    return replace(
        run,
        status=RunStatus.RUNNING,
        paused_at=None,
        paused_ms=paused_until(run, at),
        resumed_epoch=epoch,
        turns=0,
        usages=(),
        cost_micros=None,
    )


def paused_until(run: Run, at: datetime) -> int:
    """Return the milliseconds for which a run was paused until a moment, in all its pauses."""
    now_ms = round((at - run.paused_at).total_seconds() * 1000) if run.paused_at is not None else 0
    return run.paused_ms + max(0, now_ms)
