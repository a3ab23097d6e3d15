"""Ports of the run engine. Each has a second implementation in tests/fakes/runs.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.billing.allowances import Adjustment, Reservation
from karma.configuration.current import RunChoice
from karma.conversations.domain import History, Message, Thread, ThreadKey, Turns
from karma.conversations.state import State
from karma.core.ids import AgentId, RunId, UserId
from karma.core.records import Record
from karma.runs.domain import Checkpoint, Run, RunEnd, RunKey, RunPause, Segment
from karma.runs.events import DeltaPrefix, Event
from karma.runs.holdings import Holdings
from karma.runs.interrupts import Answered, Interrupt
from karma.runs.wishes import AgentStop, Ways, Wish, Wishes

if TYPE_CHECKING:
    from karma.core.dynamo.transaction import Transaction
    from karma.core.requests import RepeatableRequest
    from karma.runs.points import Earlier, Noted, PointId, RunPoint


class Configured(Protocol):
    """The configuration of models, agents and tools by admins: karma.configuration.current."""

    def for_refusal(self) -> RunChoice:
        """Return the choices for a run that asks no model."""

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        """Return the models, limit and disabled tools for a new run of an agent. May block.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is not configured.
        """


class Watchdog(Protocol):
    """Notices runs whose process is dead."""

    def arm(self, key: RunKey, *, delay: timedelta, chain: int = 0) -> None:
        """Let the run be inspected after the delay. May block.

        `chain` is the run's `resumed_epoch`: each pause ends a chain of inspections, each resumption begins another.
        """


class Executions(Protocol):
    """The queue of runs that a process of its own goes on with: functions/agent_stream/execution.py."""

    def request(self, key: RunKey) -> None:
        """Let a process take the run over as soon as its lease is over; a repeat is harmless. May block."""

    def wake(self, key: RunKey, waited_as: str) -> None:
        """Let a process execute a run whose turn for a place has come, noted under that name. May block."""


class Sink(Protocol):
    """Receiver of the frames of a run; never blocks, never raises, drops all once the client has disconnected."""

    @property
    def is_lost(self) -> bool:
        """Tell whether the client is known to have disconnected; always False on platforms that do not report it."""
        ...

    def write(self, data: bytes) -> None:
        """Send frames."""
        ...


class Voice(Protocol):
    """Takes the events of a model's turn while it streams: the log of a run (karma.runs.log), or a part of it."""

    def has_open_text(self, message_id: str) -> bool:
        """Tell whether this message has begun and not ended."""
        ...

    def soft(self, event: Event) -> bytes:
        """Add the start of a text or a call, or a text's end, and return its frame, which the caller sends at once."""
        ...

    def delta(self, prefix: DeltaPrefix, text: str) -> bytes:
        """Add a delta, and return its frame, which the caller sends at once."""
        ...

    async def commit(self, events: Sequence[Event] = ()) -> None:
        """Commit what waits and these events, then send these."""
        ...


class RunPage(Record):
    """One page of a user's runs, newest first."""

    runs: list[Run]
    last: dict[str, str] | None
    """`start` of the page behind it; None: there is none."""
    position: Callable[[Run], dict[str, str]] = field(compare=False, repr=False)
    """Returns the `start` with which the list goes on behind one of the runs."""


class ActivePage(NamedTuple):
    """One page of the runs of an agent that have not ended, oldest first."""

    keys: list[RunKey]
    last: dict[str, str] | None


class Expiring(NamedTuple):
    """A question whose time is over, by run and number."""

    key: RunKey
    n: int
    put_offs: int
    """The number of times that it was put off."""


class ExpiringPage(NamedTuple):
    """Questions whose time is over."""

    questions: list[Expiring]
    last: dict[str, str] | None
    """Position of the last one; None: there are no others."""


class StoredRun(NamedTuple):
    """A run with all that is stored of it, but its thread."""

    run: Run
    setup: bytes | None
    """As `Runs.setup`."""
    log: list[Segment]


Also = Callable[["Transaction"], None]
"""Writes of another context, to be made in the transaction that stores a run, or not at all: it adds them to it."""


class StoredStep(NamedTuple):
    """The work of a subagent in one step, which karma.runs.subagents.steps reads."""

    run_id: RunId
    """The run in which the subagent began, and beside which all its steps are stored."""
    subagent: str
    at: int
    """Its number among the steps of the subagent, from 0."""
    data: bytes
    by: RunId
    """The run that did it."""
    n: int = 0
    """Number of the segment of that run's log in whose transaction it was written; 0: it is not written yet."""
    epoch: int = 0
    """Epoch of that segment."""
    attachments: tuple[str, ...] = ()
    """Ids of those that its messages name, as it is written: the thread of the run that writes it holds them."""


class AtWork(NamedTuple):
    """A subagent that works in a run."""

    subagent: str
    agent_id: AgentId


class DelegatedWork(NamedTuple):
    """The work of a subagent, to be stored with a segment."""

    steps: Sequence[StoredStep]
    spent: Adjustment | None = None
    """Use that its calls add to the day of its agent; None: nothing."""
    begun: AtWork | None = None
    """It begins to work in the segment's run; None: it is at work already."""
    ended: str = ""
    """Its id, where it has ended."""
    thread: ThreadKey | None = None
    """The thread that holds the attachments of the steps; None: these name none."""


class Runs(Holdings, Ways, Protocol):
    """A store of runs, logs and threads. All calls block."""

    def thread(self, key: ThreadKey) -> Thread:
        """Read a thread with its messages, consistently; an absent one is empty."""

    def turns(self, key: ThreadKey) -> Turns:
        """Read whose turn it is in a thread, consistently; one that is absent or deleted has nobody's."""

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes = b"",
        after: int | None = None,
        checkpoint: Checkpoint | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        state: State | None = None,
        delegated: Sequence[StoredStep] = (),
        also: Also | None = None,
    ) -> None:
        """Write a run, its first segment and its new messages, and make it the thread's active run: all or nothing.

        A run that is queued is put at the end of its thread's queue instead, with its messages in its setup.

        The messages follow the one at position `after`, else the thread's latest. The run's reservations are made with
        it, and `attachments` that are new in the account, sizes by id, are recorded. `setup` is what `dump_setup` made.
        `answers` are noted with their questions, and of the thread's open ones only `left` stay open.
        With a `checkpoint` the run goes on from a point of another one, and so does its thread, also without messages;
        `delegated` is its copy of what subagents have done who are at work there.
        The thread's state is `state` from then on; None: it stays as it is.
        What `also` writes is written with the run, and a condition of it that does not hold refuses both.

        Raises:
            RunExists: the id was used before; raised before QuotaExceeded.
            AppError: that of a condition of `also`.
            QuotaExceeded: the owner's plan has less left than is reserved.
            ThreadChanged: `thread` is not the stored one any more, one of the attachments is recorded already, or a
                question was answered after it was read.
            AccountGone: the user is deleted.
        """

    def take_turn(
        self,
        run: Run,
        thread: Thread,
        messages: tuple[Message, ...],
        *,
        state: State | None = None,
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        at: datetime,
    ) -> None:
        """Let a queued run run: add its messages behind the thread's latest, and make it the active run, or nothing.

        The runs before it leave the queue with it; they must have ended. `run` is the run as it is then. The
        thread's state is `state` from then on; None: it stays as it is. `answers` and `left` are as in `start`.

        Raises:
            ThreadChanged: `thread` is not the stored one any more, or has an active run; or a question was answered
                after it was read.
            OwnershipLost: the run is not queued any more.
        """

    def restore(
        self, thread: Thread, *, position: int, state: State | None = None, at: datetime, by: Noted | None = None
    ) -> None:
        """Let a thread go on behind the message at a position, until messages are added, and with a state if any.

        Raises:
            ThreadChanged: `thread` is not the stored one any more, has an active run, or was deleted.
            AlreadyExists: the request `by` has restored a thread within the last 25 hours; `restored_by` tells.
        """

    def restored_by(self, by: Noted) -> Earlier | None:
        """Return what a request did when it went back to a point, also once that is deleted; None: it has not.

        Raises:
            IdempotencyKeyReused: the key's request asked for something else.
        """

    def noting(self, by: Noted, done: Earlier) -> Also:
        """Return what notes with the start of a run that a request has begun it; refused as in `restore`."""

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        """Return those of the attachments that no run of the account has recorded, consistently."""

    def append(
        self,
        segment: Segment,
        *,
        history: History | None = None,
        checkpoint: Checkpoint | None = None,
        delegated: DelegatedWork | None = None,
    ) -> None:
        """Write the next segment, with messages, checkpoint and what a subagent has done in one transaction.

        A repeat by its writer succeeds.

        Raises:
            OwnershipLost: another writer wrote the segment of this number.
        """

    def delegated(self, key: RunKey) -> list[StoredStep]:
        """Read all that the subagents have done that began in a run, by subagent and number, consistently."""

    def whole(self, key: RunKey) -> StoredRun | None:
        """Read a run with its setup and its log, consistently; None: there is no such run."""

    def take(self, reservation: Reservation, *, token: str | None = None) -> None:
        """Take model spend for one call: a direct one, or a subagent's of its agent's day.

        With a `token` a repeat within ten minutes takes nothing more, and tells that it was taken.

        Raises:
            QuotaExceeded: the plan has less left; nothing was taken.
            AccountGone: the account is deleted.
        """

    def settle(self, correction: Adjustment) -> None:
        """Correct what a direct call has taken to what it has cost; of a deleted account nothing is written."""

    def extend(self, key: RunKey, reservation: Reservation) -> None:
        """Reserve more model spend for a run that is running, and note it at the run: both or neither.

        Raises:
            QuotaExceeded: the plan has less left; nothing was reserved.
            OwnershipLost: the run has ended.
        """

    def setup(self, key: RunKey) -> bytes | None:
        """Read what a run was started with; None: it was stored before runs could be taken over."""

    def last_checkpoint(self, key: RunKey) -> Checkpoint | None:
        """Read a run's newest checkpoint, consistently; None: it has reached none."""

    def finish(self, segment: Segment, how: RunEnd, *, thread: ThreadKey, history: History | None = None) -> None:
        """Write the last segment, end the run, correct its reservation and free the thread: all or nothing.

        The thread's open questions are then those of `how`, and those that it passes over are cancelled. Repeats as in
        `append`; the correction counts once.

        Raises:
            OwnershipLost: another writer wrote the segment of this number, or has ended the run.
        """

    def pause(self, segment: Segment, how: RunPause) -> None:
        """Write the next segment, pause the run and take its wish to be paused back: all or nothing.

        What is reserved for it is corrected likewise.

        Repeats as in `append`.

        Raises:
            WishesChanged: there is no such wish any more, or one that cancels the run; nothing was written.
            OwnershipLost: another writer wrote the segment of this number, or has ended the run.
        """

    def resume(self, segment: Segment, run: Run, *, at: datetime) -> None:
        """Write the next segment, whose epoch is noted, and let a paused run run again: all or nothing.

        It has the budgets of `run` from then on.

        Raises:
            OwnershipLost: another writer wrote the segment of this number: it has resumed the run, or ended it.
        """

    def paused_before(self, moment: datetime, *, limit: int) -> list[RunKey]:
        """List runs that are paused and may be so only until a moment, the longest paused first; eventually."""

    def interrupts(self, user_id: UserId, ids: Collection[str]) -> dict[str, Interrupt]:
        """Read questions of a user's runs by id, consistently; those that do not exist are left out."""

    def expiring(self, before: datetime, *, limit: int, start: dict[str, str] | None = None) -> ExpiringPage:
        """List questions that may wait only until a moment, longest expired first, behind `start`; eventually."""

    def put_off(self, key: RunKey, n: int, *, until: datetime) -> None:
        """List a question among those that expire as if it might wait until a moment; nothing if it does not wait.

        It is counted how often.
        """

    def lapse(self, interrupt: Interrupt, *, at: datetime) -> bool:
        """Cancel a question that expired, of which `by` is NOBODY from then on; False: it was answered, or is gone."""

    def active(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        """List a user's runs of an agent that have not ended; eventually consistent."""

    def with_work_of(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        """List a user's runs in which an agent works that another one has called, one of each such call; eventually."""

    def withdraw(self, key: RunKey, wish: Wish) -> bool:
        """Take a wish back; False: there is none."""

    def wish(self, key: RunKey, wish: Wish | AgentStop, *, at: datetime, reason: str = "") -> bool:
        """Ask something of a run's writer, on condition that it is running; a repeat keeps the first reason.

        An agent is also to be stopped in a run that is paused.

        Returns:
            Whether the wish stands: False for a run that is paused, has ended or does not exist.
        """

    def wishes(self, key: RunKey) -> Wishes:
        """Read the wishes for a run, consistently."""

    def tail(self, key: RunKey) -> Segment | None:
        """Read the last segment, consistently; None: the run has no log."""

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        """Read segments in order, those above `after`, consistently; at most 1 MB a call as it is stored."""

    def run(self, key: RunKey) -> Run | None:
        """Read a run, consistently; None: it does not exist."""

    def runs(
        self, user_id: UserId, *, limit: int, start: dict[str, str] | None, agent_id: AgentId | None = None
    ) -> RunPage:
        """List a user's runs, newest first; with an agent only those of it."""

    def count(self, user_id: UserId) -> int:
        """Count a user's runs."""

    def count_of_agent(self, user_id: UserId, agent_id: AgentId, *, most: int) -> int:
        """Count a user's runs of an agent, up to `most`."""

    def owners(self, run_id: RunId) -> list[UserId]:
        """Find the users that have a run of this id, for operators."""


class Checkpoints(Protocol):
    """A store of the points of runs, for their owners. All calls block."""

    def points(self, key: RunKey, *, limit: int, after: tuple[int, str] | None = None) -> list[RunPoint]:
        """List points of a run from behind a place (`PointId.place`) on, in order, consistently."""

    def point(self, key: RunKey, point: PointId) -> RunPoint | None:
        """Read one point of a run, consistently; None: there is none."""

    def labelled_by(self, key: RunKey, request: RepeatableRequest) -> PointId | None:
        """Return the label that an earlier request of the same key gave; None: it gave none.

        Raises:
            IdempotencyKeyReused: that request asked for another label.
        """

    def label(self, key: RunKey, point: RunPoint, *, at: datetime, request: RepeatableRequest | None) -> None:
        """Keep a label of a run, with the record of the request: both or neither.

        Raises:
            AlreadyExists: the point has this label, or the request has given one.
            NotFound: the run does not exist, or is being deleted with its thread.
            Conflict: TOO_MANY_OBJECTS: the run has all the labels that it may have.
            AccountGone: the account is deleted.
        """
