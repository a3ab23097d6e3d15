"""Chains of runs that go on for each other: who answers a question makes no budget, no steps and no waiting anew.

    a run asks, ends       what it has used stays with it: tokens, cost, steps
    the run that answers   begins with that and with all that those before had used, of the request's budget and of its
                           agent's; with the steps that are left, one at the least, since a result is told to the model
    nobody answers         as the run that answers, up to `MAX_UNATTENDED` of them one after another

A request that says something new and resolves nothing begins anew. The sum grows along a chain, so the run of it that
has the largest is the last one: that asked, that listed the question again, or that failed with the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from karma.conversations.domain import Thread
from karma.core.ids import RunId
from karma.core.records import Record
from karma.models.budgets import UNLIMITED, Budget, Spent
from karma.runs.askers import Askers
from karma.runs.budgets import Continued, asked_budget, used_before
from karma.runs.domain import Run, RunKey
from karma.runs.interrupts import AnswerStatus
from karma.runs.ports import Runs
from karma.runs.requests import RunInput

MAX_UNATTENDED: Final = 3
"""Runs that begin one after another since nobody answers in time (`OnExpiry.REFUSE`); then the conversation rests."""


class Chain(Record, kw_only=True):
    """Use of the runs that a run goes on for."""

    asked: Budget = UNLIMITED
    """The budget of their requests."""
    spent: Spent = Spent()
    steps: int = 0
    """Answers of the model that came to their end; one that broke off and was asked for again is no step."""

    def of(self, asked: RunInput, *, has_news: bool) -> Chain:
        """Return it for a request; an empty one where that begins anew."""
        resolves = any(entry.status is AnswerStatus.RESOLVED for entry in asked.resume)
        return self if resolves or (asked.resume and not has_news) else NO_CHAIN

    @property
    def continued(self) -> Continued | None:
        """Return it as what a run starts with; None: nobody has used anything."""
        return None if self == NO_CHAIN else Continued(asked=self.asked, spent=self.spent)

    def steps_left(self, most: int) -> int:
        """Return how many steps a run may make, of `most` of its agent."""
        return max(1, most - self.steps)


NO_CHAIN: Final = Chain()


def chain_of(store: Runs, thread: Thread, askers: Askers, lost: Sequence[RunId]) -> Chain:
    """Read what a request goes on for that answers questions of `askers`; `lost` went on with the same answers before.

    A Get for each of these, and for the thread's last run where that is none of them. May block.
    """
    runs = {run.key.run_id: run for run in askers.values()}
    if not runs:
        return NO_CHAIN
    last = [thread.last_run_id] if thread.last_run_id else []
    for run_id in {*lost, *last} - runs.keys():
        run = store.run(RunKey(thread.key.user_id, run_id))
        if run is not None and (run_id in lost or not askers.keys().isdisjoint(run.interrupt_ids)):
            runs[run_id] = run
    return max(map(_up_to, runs.values()), key=lambda each: (each.steps, each.spent.cost_micros, each.spent.tokens))


def _up_to(run: Run) -> Chain:
    """Return what a run that has ended had used, with those before it."""
    return Chain(asked=asked_budget(run), spent=used_before(run) + run.spent, steps=run.steps_before + run.steps)
