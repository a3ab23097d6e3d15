"""The stored work of a run's subagent."""

from __future__ import annotations

from karma.billing.allowances import Adjustment, DaySpend, Metric
from karma.runs.domain import Run
from karma.runs.ports import DelegatedWork, StoredStep


def delegated_by(run: Run) -> DelegatedWork:
    """Return a step of a subagent of a run, and what it adds to the day of its agent."""
    day = DaySpend(day="2026-11-21", agent_id="scout")
    spent = Adjustment(
        user_id=run.key.user_id,
        metric=Metric.MODEL_SPEND,
        period="2026-11",
        difference=1,
        days=(day,),
        of_days_alone=True,
    )
    return DelegatedWork([StoredStep(run.key.run_id, "sub_1", 0, b"did", run.key.run_id)], spent)
