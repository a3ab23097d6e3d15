"""Runs and their logs: types, and rules that need no I/O.

A run executes on a thread; a thread has at most one active run:

    queued  ──> running         its turn has come: it waited for the runs of its thread that came before
            └─> cancelled, failed  before its turn, without having cost anything
    running ──> finished      RUN_FINISHED was logged (also with calls of frontend tools left pending)
            ├─> interrupted   RUN_FINISHED with outcome interrupt: it asks something, which a later run answers
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
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from karma.billing.allowances import Adjustment
from karma.conversations.domain import History, Json
from karma.core.errors import Conflict
from karma.core.ids import AgentId, RunId, ThreadId, UserId
from karma.core.records import Record
from karma.models.budgets import NamedBudget, Spent
from karma.models.domain import Usages
from karma.models.told_usage import tokens_in, usage_of

if TYPE_CHECKING:
    from karma.runs.interrupts import Answered, Interrupt

ENGINE_SCHEMA = 7
"""Layout of what is stored of a run; a release goes on with runs of its own layout and the one before, not with newer.

1: a log. 2: also the setup and checkpoints, so that another process can take the run over (docs/adr/0042).
3: the setup also says which calls have to be approved, and what was decided about others (docs/adr/0048).
4: the run also has budgets, which an older release would not keep to (docs/adr/0055).
5: also subagents, what becomes of a call that nobody approves, rules of MCP servers' tools, summaries (docs/adr/0048,
   0056, 0057). 6: what was given to tools that had asked for it. 7: compressed. test_releases.py says when to raise it.
"""

BUSY_RETRY_S = 5
"""Seconds after which a client that met a busy thread may ask again."""
LEASE = timedelta(seconds=30)
"""Time for which a segment gives its writer the lease of the run."""
NOBODYS = -LEASE
"""Lease of a run that is anybody's to execute; over for longer than clocks of processes differ."""
NOT_EXECUTED = 0
"""Epoch of a log to which no process that executes the run has written: it began without one."""
NOT_KNOWN = -2
"""Position of a message, where it is not known; -1 is that of none."""
MAX_REASON_CHARS = 500
"""Characters of the reason that a request to cancel gives, at the most."""
MAX_PAUSE = timedelta(days=7)
"""Time after which a paused run is cancelled."""
PAUSE_EXPIRED_REASON = f"It was paused for {MAX_PAUSE.days} days"
"""`cancel_reason` of a run that nobody resumed."""
CLIENT_LEFT_REASON = "Its client disconnected"
"""`cancel_reason` of a run that was to end with its client."""
MAX_TAKE_OVERS = 3
"""Processes that may take a run over without reaching its next checkpoint: beyond, the run itself ends processes."""


class RunStatus(StrEnum):
    """State of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    FAILED = "failed"


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.RUNNING: frozenset(
        {RunStatus.PAUSED, RunStatus.FINISHED, RunStatus.INTERRUPTED, RunStatus.CANCELLED, RunStatus.FAILED}
    ),
    RunStatus.PAUSED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.FINISHED: frozenset(),
    RunStatus.INTERRUPTED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.FAILED: frozenset(),
}


ACTIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED})
"""States of a run that has not ended."""


class RunErrorCode(StrEnum):
    """`code` of RUN_ERROR; part of the API."""

    MODEL_OVERLOADED = "MODEL_OVERLOADED"
    MODEL_RATE_LIMITED = "MODEL_RATE_LIMITED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    MODEL_TIMEOUT = "MODEL_TIMEOUT"
    MODEL_STREAM_CUT = "MODEL_STREAM_CUT"
    MODEL_EMPTY_ANSWER = "MODEL_EMPTY_ANSWER"
    MODEL_NOT_CONFIGURED = "MODEL_NOT_CONFIGURED"
    MODEL_REJECTED = "MODEL_REJECTED"
    MODEL_REFUSED = "MODEL_REFUSED"
    MAX_TOKENS = "MAX_TOKENS"
    MAX_TURNS = "MAX_TURNS"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    CONTEXT_WINDOW_EXCEEDED = "CONTEXT_WINDOW_EXCEEDED"
    COMPACTION_FAILED = "COMPACTION_FAILED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
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
    RunErrorCode.MODEL_EMPTY_ANSWER: "The model answered nothing, though it was asked twice",
    RunErrorCode.MODEL_NOT_CONFIGURED: "The language model is not configured",
    RunErrorCode.MODEL_REJECTED: "The model does not accept this conversation",
    RunErrorCode.MODEL_REFUSED: "The model declined to answer",
    RunErrorCode.MAX_TOKENS: "The answer reached its token limit within a tool call, or before it said anything",
    RunErrorCode.MAX_TURNS: "The run reached its limit of model turns",
    RunErrorCode.ANSWER_TOO_LARGE: "The model's answer is larger than a conversation can hold",
    RunErrorCode.CONTEXT_WINDOW_EXCEEDED: "The conversation is longer than the model can read",
    RunErrorCode.COMPACTION_FAILED: "The conversation is too long for the model, and was not summarised; try again",
    RunErrorCode.DEADLINE_EXCEEDED: "The run reached its time limit",
    RunErrorCode.QUOTA_EXCEEDED: "The plan's model spend of this month does not cover the next model call",
    RunErrorCode.BUDGET_EXCEEDED: "A budget of the run does not cover the next model call",
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
    """The thread has an active run, or one that waits; `details.run_id` names it, `Retry-After` when to try again."""

    code = "THREAD_BUSY"

    def __init__(self, run_id: RunId, *, waits: bool = False) -> None:
        told = "A run waits for its turn in the thread" if waits else "The thread has an active run"
        super().__init__(told, details={"run_id": run_id})
        self.headers["Retry-After"] = str(BUSY_RETRY_S)


class RunHasEnded(Conflict):
    """The run has ended otherwise than was asked for; `details` has its id and its status."""

    code = "RUN_ENDED"

    def __init__(self, run: Run) -> None:
        told = {"run_id": run.key.run_id, "status": run.status.value}
        super().__init__(f"The run has ended: it is {run.status}", details=told)


class OwnershipLost(Exception):
    """The log has a segment of another writer: this process must not go on with the run."""


class RunFailed(Exception):
    """The run ends with RUN_ERROR of this code; the message has no text of a provider."""

    def __init__(self, code: RunErrorCode) -> None:
        super().__init__(ERROR_MESSAGES[code])
        self.code = code


class RunKey(NamedTuple):
    """Key of a run: its owner and its id, which the client may have chosen."""

    user_id: UserId
    run_id: RunId


class Segment(Record, kw_only=True):
    """One committed part of a run's log."""

    key: RunKey
    n: int
    writer: str
    """Token of the process that wrote it, a new one for each that executes the run."""
    epoch: int
    """Number of writers of the log so far, from 1; NOT_EXECUTED: a request has stored the run for whoever takes it."""
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


class Progress(Record, kw_only=True):
    """Work that a run has done, of all the processes that executed it."""

    turns: int = 0
    """Calls of the model, also those whose answers were stopped or broke off."""
    steps: int = 0
    """Answers of the model that came to their end."""
    usages: Usages = field(default_factory=Usages)
    """Tokens of these calls by model, with the estimate for calls that were lost."""
    spent_micros: int = 0
    """Cost of these calls, in micro-dollars."""
    spent_tokens: int | None = None
    """Tokens of these calls as budgets count them; None, in those of releases without budgets: as in `usages`."""
    messages: int | None = None
    """Messages of its conversation by then, those before the run included; None: nobody noted it."""


class CheckpointKind(StrEnum):
    """Occasion of a checkpoint."""

    TURN = "turn"
    """A turn of the model was stored."""
    TOOLS = "tools"
    """Results of tools were stored."""
    MANUAL = "manual"
    """The run's owner labelled a point that was stored."""
    COMPACTION = "compaction"
    """The beginning of the conversation was summarised for the model."""
    FORK = "fork"
    """The run goes on here from a point of another one."""


class Checkpoint(Record, kw_only=True):
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
    kind: CheckpointKind | None = None
    """None, as `at`: a release stored it that noted neither."""
    at: datetime | None = None
    description: str = ""
    """Note of its owner."""


def checkpoint_at(segment: Segment, history: History, progress: Progress, *, at: datetime) -> Checkpoint:
    """Return the checkpoint of a segment that stores messages."""
    roles = {message.role for message in history.messages}
    kind = {frozenset({"tool"}): CheckpointKind.TOOLS, frozenset({"summary"}): CheckpointKind.COMPACTION}
    return Checkpoint(
        n=segment.n,
        epoch=segment.epoch,
        position=history.last,
        progress=progress,
        kind=kind.get(frozenset(roles), CheckpointKind.TURN),
        at=at,
    )


class Run(Record, kw_only=True):
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
    previous_run_id: RunId | None = field(default=None, compare=False)
    """The run of its thread that was admitted before it; "": it is the first. None: not read from the store, or it was
    stored before that was noted."""
    schedule_id: str = ""
    """Schedule that began it; "": none did."""
    webhook: str = ""
    """Address that is told its end besides the account's webhooks; "": none is."""
    finished_at: datetime | None = None
    error_code: str = ""
    cancel_reason: str = ""
    """Reason for which it was cancelled; "": it was not, or none was given."""
    turns: int = 0
    """Calls of its model, also those whose answers were stopped or broke off; 0 while it is executed."""
    steps: int = 0
    """Answers of its model that came to their end, once it has ended; in runs that earlier releases ended, `turns`."""
    usages: tuple[Json, ...] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None
    """Cost of its model calls, counted in its owner's plan, in micro-dollars; None until it ended, or unknown."""
    stop_reason: str = ""
    """Reason why its model ended its last answer (`StopReason`); "": it gave none to an end, or has not ended."""
    delegated: tuple[Json, ...] = ()
    """Use by each agent that was called: parts of the run's (`uses` in subagents/delegation.py)."""
    pending_tool_call_ids: tuple[str, ...] = ()
    interrupt_ids: tuple[str, ...] = ()
    """Ids of the questions with which it ended, of earlier runs' too where it left those open."""
    input_query: str | None = None
    """Beginning of the message that it answers; None: that has no words, or a release stored it that kept none."""
    response: str | None = None
    """Beginning of its last words, once it has ended; None as for `input_query`."""
    asked_hash: str = ""
    """Digest of the request that began it: an equal request asks for the same answer, not for another run."""
    answers: int = -1
    """Position of the message that it answers; -1: none, or a run stored before there was this field."""
    follows: int = NOT_KNOWN
    """Position of the message that its own ones follow, behind which the thread goes on where it is rolled back; -1:
    none. NOT_KNOWN while it waits for its turn, and in runs that were stored before there was this field."""
    begins_at: int = -1
    """Number of messages of its thread when it began, and so the position of the first one that it adds."""
    last_message: int = -1
    """Position of the last message of its branch when it ended; -1: it added none, or has not ended."""
    paused_at: datetime | None = None
    """Moment since which it is paused; None: it is not."""
    paused_ms: int = 0
    """Milliseconds that it was paused before, or waited for its turn, in all; its time limit is not about them."""
    resumed_epoch: int = 0
    """Epoch of the segment that resumed it last; 0: none did."""
    reserved_micros: int = 0
    """Model spend that was reserved for it, in micro-dollars; its end corrects this to what it spent."""
    budgets: tuple[NamedBudget, ...] = ()
    """Limits of its calls."""
    steps_before: int = 0
    """Steps of the runs that it goes on for."""
    unattended: int = 0
    """Runs, it among them, that have begun one after another since nobody answered in time; 0: somebody began it."""
    engine_schema: int = ENGINE_SCHEMA

    @property
    def usage(self) -> Json | None:
        """Return the AG-UI TokenUsage of all its calls together; None when nothing is known."""
        return usage_of(self.usages)

    @property
    def spent(self) -> Spent:
        """Return what it has used of its budgets, once it has ended; what is unknown counts as it was reserved."""
        return Spent(
            tokens=tokens_in(self.usages),
            cost_micros=self.reserved_micros if self.cost_micros is None else self.cost_micros,
        )

    @property
    def spent_known(self) -> Spent | None:
        """Return the same of a run that has ended or is paused; None: a process counts it, or was lost with it."""
        is_paused = self.status is RunStatus.PAUSED and self.cost_micros is not None
        return self.spent if self.finished_at is not None or is_paused else None


class RunPause(Record, kw_only=True):
    """The state of a run that is paused."""

    at: datetime
    turns: int = 0
    """Calls of the model until then."""
    usages: Sequence[Json] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None
    """None: a release stored the run that kept too little of it."""
    correction: Adjustment | None = None
    """Correction of what is reserved to what was spent; None: all of it stays reserved."""
    delegated: tuple[Json, ...] = ()
    """As `Run.delegated`."""


class RunEnd(Record, kw_only=True):
    """The final state of a run."""

    status: RunStatus
    was: RunStatus = RunStatus.RUNNING  # in which the run must be
    at: datetime
    error_code: str = ""
    cancel_reason: str = ""
    stop_reason: str = ""
    turns: int = 0
    steps: int = 0
    usages: Sequence[Json] = ()
    """AG-UI TokenUsage of each model that answered."""
    cost_micros: int | None = None
    correction: Adjustment | None = None
    """Correction of the model spend that the run reserved; None: all of it stays counted."""
    of_days: tuple[Adjustment, ...] = ()  # of agents that were called, one for each: what no step has counted
    delegated: tuple[Json, ...] = ()
    """As `Run.delegated`."""
    left: tuple[str, ...] = ()
    """Subagents that were at work in it."""
    withdrawal: Segment | None = None
    """Segment before the last one, written with it: it shows the conversation without the answer that broke off."""
    pending_tool_call_ids: tuple[str, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    """Questions that a later run answers: those of this run are stored with its end, others are left open.

    The run of status `finished` that has some has not asked yet: it waits for its client's tools first.
    """
    passed_over: tuple[Answered, ...] = ()
    """Cancellations of open questions of earlier runs, whose calls have their results with this end."""
    still_open: tuple[str, ...] | None = None
    """Ids of the questions that a run which failed or was cancelled leaves open; None: those that were open."""
    last_message: int = -1
    response: str | None = None
    """Beginning of the run's last words; None: it said none."""

    @property
    def spent(self) -> Spent:
        """Return what the run has used, as far as it is known."""
        return Spent(tokens=tokens_in(self.usages), cost_micros=self.cost_micros or 0)

    @property
    def interrupt_ids(self) -> tuple[str, ...]:
        """Return the ids of the questions."""
        return tuple(interrupt.id for interrupt in self.interrupts)
