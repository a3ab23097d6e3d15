"""Frees what a process held for a run that it does not execute any more: the stream of its client, and its place.

A process gives both back itself (agent_stream.open_streams, places.py). One that dies cannot, so who takes its run
over, ends or pauses it does so, behind the segment by which it has found the process lost: who only reads the log, or
loses the write, knows nothing of a process that may live, and frees nothing. One that was only slow loses its own next
write then. What is given back already, or has another holder by then, stays as it is.

The watchdog's last look at a run that has ended or is paused frees its place, which none of its processes needs any
more. It leaves streams alone: one whose run has ended, waits, or is another's may still answer its client, and the log
tells a dead one from none of these. Such a stream counts until its time is over.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from karma.core.ids import RunId, UserId

if TYPE_CHECKING:
    from karma.runs.domain import RunKey, RunStatus, Segment
    from karma.runs.ports import Executions


class Holdings(Protocol):
    """Streams and places that processes hold for runs; a part of the store of runs."""

    def refused_at(self, user_id: UserId) -> datetime | None:
        """Return when a run of an account was last refused a place; None: not lately."""

    def close_stream(self, user_id: UserId, writer: str, *, at: datetime) -> None:
        """Count a stream as open no more, whose process is the writer; nothing where it is not counted."""

    def free_place(self, key: RunKey, *, term: int, at: datetime) -> list[str]:
        """Free a run's place (karma.runs.places), if one of its processes up to a term has it; return whose turn it is.

        A term is the epoch under which a process claims the run.
        """


def let_go(store: Holdings, executions: Executions, tail: Segment, *, was: RunStatus, at: datetime) -> None:
    """Free what the lost process held that wrote a segment of a run, behind which the caller has written the next one.

    Args:
        store: the store of runs.
        executions: the queue by which those are woken whose turn it is.
        tail: the last segment before that of the caller.
        was: the run's status before that: a process that has paused its run is not lost, and may still answer.
        at: the caller's time.

    Raises:
        Upstream: the database or the queue could not be reached.
    """
    if was == "running":
        close_stream(store, tail, at=at)
    free_place(store, executions, tail, at=at)


def close_stream(store: Holdings, tail: Segment, *, at: datetime) -> None:
    """Close the stream of a run's lost process, if that streamed: only the first that executes a run does."""
    if tail.epoch == 1:
        store.close_stream(tail.key.user_id, tail.writer, at=at)


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
