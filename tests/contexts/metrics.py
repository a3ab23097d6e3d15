"""Declarations of figures for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property

from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.metrics.domain import Series, hour_of
from karma.metrics.folding import Folding, RunChange, count_of
from karma.metrics.ports import Count
from karma.metrics.repository import MetricRepository
from karma.runs.domain import ACTIVE, Run, RunKey, RunStatus
from tests.fakes.metrics import MemoryMetrics
from tests.fakes.runs import SetClock
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.rows import NOW, AccountRows

AGENT = AgentId("karma")


def usage(tokens: int) -> dict[str, object]:
    """Return a usage of so many tokens, all of which but one were read, and all of those but one from the cache."""
    read = {"inputTokens": tokens - 1, "cachedInputTokens": max(0, tokens - 2)}
    return {"provider": "anthropic", "model": "m", "totalTokens": tokens, **read}


def counted_run(
    user_id: UserId,
    status: RunStatus = RunStatus.FINISHED,
    *,
    run_id: str = "",
    agent: AgentId | None = AGENT,
    began_at: datetime = NOW,
    lasted_ms: int = 2_000,
    tokens: int = 5,
    cost_micros: int | None = 40,
) -> Run:
    """Return a run as its row has it."""
    has_ended = status not in ACTIVE
    return Run(
        key=RunKey(user_id, RunId(run_id or new_id())),
        thread_id=ThreadId("t1"),
        status=status,
        model="m",
        created_at=began_at,
        agent_id=agent,
        finished_at=began_at + timedelta(milliseconds=lasted_ms) if has_ended else None,
        usages=(usage(tokens),) if has_ended else (),
        cost_micros=cost_micros if has_ended else None,
    )


def begun(run: Run) -> RunChange:
    """Return the change by which a run began."""
    return RunChange(None, counted_run(run.key.user_id, RunStatus.RUNNING, run_id=run.key.run_id, agent=run.agent_id))


def ended(run: Run) -> RunChange:
    """Return the change by which a run ended."""
    return RunChange(begun(run).new, run)


class MetricRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricRepository()

    @cached_property
    def counted(self) -> Run:
        run = counted_run(self.ada.id)
        Folding(self.metrics, SetClock(NOW)).fold([begun(run), ended(run)])
        return run

    def count(self) -> Count:
        return count_of([counted_run(self.ada.id)], {}, at=NOW)


FAKES: Fakes = {MemoryMetrics: (MetricRepository,)}

HOUR_OF_NOW = hour_of(NOW)

SCENARIOS = Scenarios[MetricRows](
    MetricRows,
    {
        "MetricRepository.marks": made(lambda r: r.counted, lambda r, run: r.metrics.marks([run.key])),
        "MetricRepository.count": made(lambda r: r.count(), lambda r, count: r.metrics.count(count)),
        "MetricRepository.hours": made(
            lambda r: r.counted,
            lambda r, run: r.metrics.hours(
                Series(run.key.user_id, AGENT), HOUR_OF_NOW, HOUR_OF_NOW + timedelta(hours=1)
            ),
        ),
        "MetricRepository.totals": made(lambda r: r.counted, lambda r, _: r.metrics.totals()),
        "MetricRepository.purge_account": made(
            lambda r: (r.counted, r.purge()), lambda r, n: r.metrics.purge_account(n[1])
        ),
    },
)


def _runs_of(rows: MetricRows, run: Run) -> int:
    hours = rows.metrics.hours(Series(run.key.user_id, AGENT), HOUR_OF_NOW, HOUR_OF_NOW + timedelta(hours=1))
    return sum(figures.runs for _, figures in hours)


def _stays_marked(rows: MetricRows) -> None:
    run = rows.counted
    Folding(rows.metrics, SetClock(NOW + timedelta(days=90))).fold([ended(run)])
    assert _runs_of(rows, run) == 1


def _stays_summed(rows: MetricRows) -> None:
    assert _runs_of(rows, rows.counted) == 1


OUTLIVES = Checks[MetricRows](MetricRows, {"metric_mark": _stays_marked, "metric_hour": _stays_summed})

PAGES: Pages = {"metrics/agents/{agent_id}": (168, 1_000)}
"""Seven days by the hour."""
