"""Reckons what the subagents of a run have used that no process executes; karma.runs.reckoning has the run's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from karma.billing.allowances import Adjustment, DaySpend, Metric, day_of, period_of
from karma.core.ids import AgentId
from karma.models.budgets import Spent
from karma.models.domain import Usages
from karma.models.prices import stopped_call
from karma.runs.domain import Progress, Run, RunEnd, RunKey, RunStatus
from karma.runs.plan import LostTurn, shown_to_model
from karma.runs.ports import Runs
from karma.runs.reckoning import request_of, with_answer
from karma.runs.setup import RunSetup
from karma.runs.spending import tokens_of
from karma.runs.subagents.steps import Used, progress_after, read_steps
from karma.runs.subagents.uses import Uses

_COST: Final = "cost_micros"


class StoredSubagents:
    """The subagents of a run, as they are stored."""

    def __init__(self, store: Runs, run: Run, setup: RunSetup) -> None:
        runs = [RunKey(run.key.user_id, each) for each in (*setup.carried, run.key.run_id)]
        self._run = run
        self._steps = [step for each in runs for step in store.delegated(each)]
        self._found = read_steps(self._steps, own=run.key.run_id)
        self._uses = Uses(self._found, own=run.key.run_id)
        self._before = self._costs

    @property
    def at_work(self) -> tuple[str, ...]:
        """Return those that have not ended."""
        return tuple(name for name, transcript in self._found.transcripts.items() if transcript.ended is None)

    def counted(self, done: Progress, lost: LostTurn, *, after: int, at: datetime) -> Progress:
        """Add what they have used in steps behind a segment, and their answers that broke off since."""
        done = progress_after(done, self._steps, own=self._run.key.run_id, after=after)
        for name in self.at_work:
            transcript = self._found.transcripts[name]
            own = transcript.definition
            messages = shown_to_model([message for _, message in transcript.messages], transcript.compacted)
            request = request_of(
                own.target, (own.system,), messages, max_tokens=own.max_tokens, fallbacks=own.fallbacks
            )
            if asked := lost.asked_of(name, after=transcript.last_n):
                self._uses.add(own.agent_id, Used(turns=asked))
            for heard in lost.answers_of(name, after=transcript.last_n):
                target, usage, micros = stopped_call(request, heard, at)
                spent = Spent(tokens=tokens_of(usage), cost_micros=micros)
                self._uses.add(own.agent_id, Used(Usages().plus(target, usage), spent))
                done = with_answer(done, target, usage, micros)
        return done

    def told(self, how: RunEnd) -> RunEnd:
        """Return an end that tells of them, and counts in their agents' days what no step has counted."""
        run = self._run
        as_paused = run.status is RunStatus.PAUSED and bool(run.delegated)
        delegated = run.delegated if as_paused else self._uses.wire()
        costs = {str(each["agent_id"]): int(str(each[_COST])) for each in delegated}
        of_days = [
            self._counter(AgentId(agent), more - self._before.get(agent, 0))
            for agent, more in costs.items()
            if more != self._before.get(agent, 0)
        ]
        return replace(how, delegated=delegated, left=self.at_work, of_days=tuple(of_days))

    @property
    def _costs(self) -> Mapping[str, int]:
        return Counter({str(each["agent_id"]): int(str(each[_COST])) for each in self._uses.wire()})

    def _counter(self, agent_id: AgentId, difference: int) -> Adjustment:
        at = self._run.created_at
        return Adjustment(
            user_id=self._run.key.user_id,
            metric=Metric.MODEL_SPEND,
            period=period_of(Metric.MODEL_SPEND, at),
            difference=difference,
            days=(DaySpend(day=day_of(at), agent_id=agent_id),),
            of_days_alone=True,
        )
