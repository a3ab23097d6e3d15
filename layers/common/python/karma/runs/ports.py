"""Ports of the run engine. Each has a second implementation in tests/fakes/runs.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from karma.billing.allowances import Adjustment, Reservation
from karma.configuration.current import RunChoice
from karma.conversations.domain import History, Message, Thread, ThreadKey
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import Checkpoint, Run, RunEnd, RunKey, RunPause, Segment, Wish, Wishes


class Configured(Protocol):
    """The configuration of models, agents and tools by admins: karma.configuration.current."""

    def for_run(self, *, agent: str, model: str) -> RunChoice:
        """Return the model, limit and disabled tools for a new run of an agent. May block.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is not configured any more.
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


class Sink(Protocol):
    """Receiver of the frames of a run; never blocks, never raises, drops all once the client has disconnected."""

    @property
    def is_lost(self) -> bool:
        """Tell whether the client is known to have disconnected; always False on platforms that do not report it."""
        ...

    def write(self, data: bytes) -> None:
        """Send frames."""
        ...


class RunPage(NamedTuple):
    """One page of a user's runs, newest first."""

    runs: list[Run]
    last: dict[str, str] | None


class ActivePage(NamedTuple):
    """One page of the runs of an agent that have not ended, oldest first."""

    keys: list[RunKey]
    last: dict[str, str] | None


class Runs(Protocol):
    """A store of runs, logs and threads. All calls block."""

    def thread(self, key: ThreadKey) -> Thread:
        """Read a thread with its messages, consistently; an absent one is empty."""

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes = b"",
        after: int | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
    ) -> None:
        """Write a run, its first segment and its new messages, and make it the thread's active run: all or nothing.

        The messages follow the one at position `after`, else the thread's latest. The run's reservations are made with
        it, and `attachments` that are new in the account, sizes by id, are recorded. `setup` is what `dump_setup` made.

        Raises:
            RunExists: the id was used before; raised before QuotaExceeded.
            QuotaExceeded: the owner's plan has less left than is reserved.
            ThreadChanged: `thread` is not the stored one any more, or one of the attachments is recorded already.
            AccountGone: the user is deleted.
        """

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        """Return those of the attachments that no run of the account has recorded, consistently."""

    def append(self, segment: Segment, *, history: History | None = None, checkpoint: Checkpoint | None = None) -> None:
        """Write the next segment, with messages and checkpoint in one transaction; a repeat by its writer succeeds.

        Raises:
            OwnershipLost: another writer wrote the segment of this number.
        """

    def take(self, reservation: Reservation) -> None:
        """Take model spend for one direct call.

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

        Repeats as in `append`; the correction counts once.

        Raises:
            OwnershipLost: another writer wrote the segment of this number, or has ended the run.
        """

    def pause(self, segment: Segment, how: RunPause) -> None:
        """Write the next segment, pause the run and take its wish to be paused back: all or nothing.

        Repeats as in `append`.

        Raises:
            WishesChanged: there is no such wish any more, or one that cancels the run; nothing was written.
            OwnershipLost: another writer wrote the segment of this number, or has ended the run.
        """

    def resume(self, segment: Segment, run: Run, *, at: datetime) -> None:
        """Write the next segment, whose epoch is noted, and let a paused run run again: all or nothing.

        Raises:
            OwnershipLost: another writer wrote the segment of this number: it has resumed the run, or ended it.
        """

    def paused_before(self, moment: datetime, *, limit: int) -> list[RunKey]:
        """List runs that are paused and may be so only until a moment, the longest paused first; eventually."""

    def active(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        """List a user's runs of an agent that have not ended; eventually consistent."""

    def withdraw(self, key: RunKey, wish: Wish) -> bool:
        """Take a wish back; False: there is none."""

    def wish(self, key: RunKey, wish: Wish, *, at: datetime, reason: str = "") -> bool:
        """Ask something of a run's writer, on condition that it is running; a repeat keeps the first reason.

        Returns:
            Whether the wish stands: False for a run that is paused, has ended or does not exist.
        """

    def wishes(self, key: RunKey) -> Wishes:
        """Read the wishes for a run, consistently."""

    def tail(self, key: RunKey) -> Segment | None:
        """Read the last segment, consistently; None: the run has no log."""

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        """Read segments in order, those above `after`, consistently; at most 1 MB a call."""

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
