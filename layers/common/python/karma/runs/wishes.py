"""Wishes: what another process asks of a run's writer, which reads them beside its log and alone carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from karma.core.ids import AgentId

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
