"""Frees the place of a run (places.py) that no process executes any more.

A process gives its place back itself. One that dies cannot, so who takes its run over has the place, and who ends or
pauses the run instead frees it, behind the segment by which it has found the process lost: who only reads the log, or
loses the write, knows nothing of a process that may live, and frees nothing. One that was only slow loses its own next
write then. What is given back already, or has another holder by then, stays as it is. The watchdog's last look at a
run that has ended or is paused frees its place, too: none of its processes needs it any more.

A stream that a process answered is not its run's: its lease is short, and ends by itself (agent_stream.open_streams).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from karma.core.ids import RunId, UserId

if TYPE_CHECKING:
    from karma.runs.domain import RunKey, Segment
    from karma.runs.ports import Executions


class Holdings(Protocol):
    """Places that processes hold for runs; a part of the store of runs."""

    def refused_at(self, user_id: UserId) -> datetime | None:
        """Return when a run of an account was last refused a place; None: not lately."""

    def free_place(self, key: RunKey, *, term: int, at: datetime) -> list[str]:
        """Free a run's place (karma.runs.places), if one of its processes up to a term has it; return whose turn it is.

        A term is the epoch under which a process claims the run.
        """


def free_place(store: Holdings, executions: Executions, tail: Segment, *, at: datetime) -> None:
    """Free the place of the processes that executed a run up to a segment of its log, and wake who waits for it.

    It is for who knows that none of them executes it any more: who has written the segment behind this one, or has read
    after it that the run is paused or has ended. Whoever goes on with the run has a later term then.

    Raises:
        Upstream: the database or the queue could not be reached.
    """
    for name in store.free_place(tail.key, term=last_term(tail), at=at):
        executions.wake(tail.key._replace(run_id=run_of(name)), name)


def run_of(name: str) -> RunId:
    """Return the run that waits for a place under a name, or has one."""
    return RunId(name.partition(".")[2])


def last_term(tail: Segment) -> int:
    """Return the last term of those who had not seen more of a run's log: they were to claim it behind this segment."""
    return tail.epoch + 1


def is_place_of(run_id: RunId, term: int, token: str) -> bool:
    """Tell whether a lease's token is that of a run's place, of a term up to this one."""
    from karma.core.leases import claimant_of  # of those who look at leases, which have it

    claimant = claimant_of(token)
    return claimant is not None and run_of(claimant.name) == run_id and claimant.term <= term
