"""Reasons for which a subagent is left as it is, unfinished, or ended before it has an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from karma.models.budgets import BudgetExceeded
from karma.runs.interrupts import Interrupt


@dataclass
class Left:
    """Reason that a subagent is left unfinished."""

    interrupts: list[Interrupt] = field(default_factory=list)
    """Questions that have to be answered first."""
    is_stopped: bool = False
    """Another process goes on with the run."""
    exceeded: BudgetExceeded | None = None
    """A budget of the run does not cover the next call of the model."""

    def add(self, other: Left) -> None:
        """Take over what a subagent of this one is left for."""
        self.interrupts += other.interrupts
        self.is_stopped |= other.is_stopped
        self.exceeded = self.exceeded or other.exceeded


class SubagentLeft(Exception):
    """The subagent is left as it is."""

    def __init__(self, left: Left) -> None:
        super().__init__()
        self.left = left


class AgentStopped(Exception):
    """Somebody has stopped the agent, or one of those that led to it: the run goes on without it."""
