"""Wishes: what another process asks of a run's writer, which reads them beside its log and alone carries them out.

A run whose place another one is to take makes way: that is noted in its thread before it is asked to end. The end of
the one and the start of the other are two transactions (docs/adr/0049), so whoever is refused by the second would have
ended a run for nothing. What the start will take is therefore a condition of the note, and what the plan can refuse is
judged before (recording.py), against the thread as it is to be found then (foreseeing.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.billing.allowances import Reservation
from karma.core.ids import AgentId, RunId
from karma.core.records import Record

if TYPE_CHECKING:
    from karma.conversations.domain import Message, ThreadKey
    from karma.runs.domain import RunKey

MOVED_ON_REASON = "The conversation went on without it"
"""`cancel_reason` of a run whose client asked something else."""


class WishesChanged(Exception):
    """The run is not to be paused any more: the wish was taken back, or another one cancels the run."""


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


class AgentStop(NamedTuple):
    """Wish that an agent works no more in a run whose agent has called it; never taken back."""

    agent_id: AgentId


Wishes = Mapping[Wish | AgentStop, str]
"""The wishes for a run, each with the reason that was given for it; "": none was."""


def cancel_reason(wishes: Wishes) -> str | None:
    """Return the reason for which wishes cancel a run, "" where none was given; None: they do not.

    The request of somebody goes before what a client's next message implies.
    """
    if Wish.CANCEL in wishes:
        return wishes[Wish.CANCEL]
    return MOVED_ON_REASON if Wish.MOVED_ON in wishes else None


def stopped_agents(wishes: Wishes) -> frozenset[AgentId]:
    """Return the agents that are to work no more in a run."""
    return frozenset(wish.agent_id for wish in wishes if isinstance(wish, AgentStop))


class Needs(Record, kw_only=True):
    """Needs of a run's start beside its thread: what its owner's account has to have."""

    run: RunKey
    messages: tuple[Message, ...] = ()
    attachments: Mapping[str, int] = field(default_factory=dict)
    """As of `Runs.start`."""
    reservations: Sequence[Reservation] = ()


class Ways(Protocol):
    """Notes of runs that make way; a part of the store of runs."""

    def make_way(self, thread: ThreadKey, run_id: RunId, *, at: datetime, needs: Needs | None = None) -> bool:
        """Note that a request begins in the place of a thread's active run; False: another one is active, or none.

        It is not noted where the start would be refused now for what it `needs`; nothing of that is taken.

        Raises:
            RunExists: the id of the run that is to begin was used before; raised before QuotaExceeded.
            QuotaExceeded: the owner's plan has less left than is to be reserved.
            ThreadChanged: an attachment is recorded already, or is being removed.
            AccountGone: the user is deleted.
        """
