"""What the run engine needs from outside. Each has a second implementation in tests/fakes/runs.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from karma.billing.allowances import Reservation
from karma.configuration.current import RunChoice
from karma.conversations.domain import History, Message, Thread, ThreadKey
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import Run, RunEnd, RunKey, Segment, Wish


class Configured(Protocol):
    """What admins say about models, agents and tools: karma.configuration.current."""

    def for_run(self, *, agent: str, model: str) -> RunChoice:
        """Tell what a new run of an agent uses. May block.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is configured no more.
        """


class Spending(Protocol):
    """Where running runs reserve more of their owners' model spend: billing's UsageRepository."""

    def extend(self, reservation: Reservation) -> None:
        """Take more. Blocks.

        Raises:
            QuotaExceeded: less is left; nothing was taken.
        """


class Watchdog(Protocol):
    """Somebody who looks after a run when its process cannot."""

    def arm(self, key: RunKey, *, delay: timedelta) -> None:
        """Have the run looked at after the delay. May block."""


class Sink(Protocol):
    """Where the frames of a run go; never blocks, never raises, drops everything once the client has left."""

    @property
    def is_lost(self) -> bool:
        """Whether the client is known to have left; never on platforms that do not tell."""
        ...

    def write(self, data: bytes) -> None:
        """Send frames."""
        ...


class RunPage(NamedTuple):
    """One page of a user's runs, newest first."""

    runs: list[Run]
    last: dict[str, str] | None


class RunStore(Protocol):
    """Runs, logs and threads at rest. All calls block."""

    def thread(self, key: ThreadKey) -> Thread:
        """Read a thread with its messages, consistently; an absent one is empty."""

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        after: int | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
    ) -> None:
        """Write a run, its first segment and its new messages, and make it the thread's active run: all or nothing.

        The messages follow the one at position `after`, else the thread's latest. What the run reserves of its
        owner's plan is taken with it, and the attachments that are new in its account are noted, sizes by id.

        Raises:
            RunExists: the id was used before, whatever is left of the plan.
            QuotaExceeded: the plan has no room for it.
            ThreadChanged: `thread` is not the stored one any more, or one of the attachments is noted already.
            AccountGone: the user is deleted.
        """

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        """Tell which of these attachments no run of the account has noted, consistently."""

    def append(self, segment: Segment, *, history: History | None = None) -> None:
        """Write the next segment, with messages in the same transaction; a repeat by the same writer succeeds.

        Raises:
            OwnershipLost: another writer has this number.
        """

    def finish(self, segment: Segment, how: RunEnd, *, thread: ThreadKey, history: History | None = None) -> None:
        """Write the last segment, end the run, correct what it reserved and free the thread: all or nothing.

        Repeats as in `append`; the correction counts once.

        Raises:
            OwnershipLost: another writer has this number, or has ended the run.
        """

    def wish(self, key: RunKey, wish: Wish, *, at: datetime) -> None:
        """Ask a run's owner to end it. A repeat changes nothing, nor does a wish about a run that has ended."""

    def wishes(self, key: RunKey) -> frozenset[Wish]:
        """Read what is asked of a run's owner; what was written a moment ago may be missing."""

    def tail(self, key: RunKey) -> Segment | None:
        """Read the last segment, consistently."""

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        """Read segments in order, those above `after`, consistently; at most 1 MB a call."""

    def run(self, key: RunKey) -> Run | None:
        """Read a run, consistently."""

    def runs(
        self, user_id: UserId, *, limit: int, start: dict[str, str] | None, agent_id: AgentId | None = None
    ) -> RunPage:
        """List a user's runs, newest first; with an agent only its."""

    def count(self, user_id: UserId) -> int:
        """Count a user's runs."""

    def count_of_agent(self, user_id: UserId, agent_id: AgentId, *, most: int) -> int:
        """Count a user's runs of an agent, no further than `most`."""

    def owners(self, run_id: RunId) -> list[UserId]:
        """Find whose runs have this id, for operators."""
