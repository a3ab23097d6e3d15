"""Answers of the routes of figures: each shape, and beside it the function that renders it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypedDict

from karma.core.clock import iso
from karma.metrics.domain import BUCKETS_S, Figures, Granularity, Totals
from karma.metrics.service import AgentReport


class MetricPeriod(TypedDict):
    """Whole periods that a report covers."""

    start: str
    end: str
    """The first moment behind it."""


class RunFigures(TypedDict):
    """Figures of runs that ended."""

    total_runs: int
    success_rate: float | None
    """Part of the runs that completed, 0 to 1; those that were cancelled, or ended with a question, did not. Null
    without runs, as all that is per run."""
    avg_duration: float | None
    """Seconds from start to end without pauses, of completed runs."""
    total_tokens: int
    avg_tokens_per_run: float | None
    input_tokens: int
    """Tokens that models have read, of `total_tokens`."""
    cached_share: float | None
    """Part of them that providers had cached, 0 to 1; null: nothing was read since it is counted."""
    failed_runs: int
    cancelled_runs: int
    interrupted_runs: int
    """Runs that ended with a question; the answer begins another run."""
    median_duration: float | None
    """Seconds, estimated from a histogram, as is the next one."""
    p95_duration: float | None
    cost_micros: int
    """Cost of the model calls in micro-dollars."""
    runs_of_unknown_cost: int
    """Runs that `cost_micros` lacks, since their process was lost."""


class MetricPoint(TypedDict):
    """Figures of the runs that ended in one period."""

    timestamp: str
    runs: int
    tokens: int
    failed_runs: int
    avg_duration: float | None
    cost_micros: int


class AgentMetricsData(TypedDict):
    """`GET /metrics/agents/{id}`."""

    agent_id: str
    scope: Literal["account", "all"]
    """The owner of the runs: the caller; an administrator's answer is of all accounts."""
    granularity: Granularity
    period: MetricPeriod
    metrics: RunFigures
    timeseries: list[MetricPoint]
    """Every period, those without runs, too."""


class SystemMetricsData(TypedDict):
    """`GET /metrics/system`."""

    total_agents: int
    total_runs: int
    """Runs that have ended since they are counted."""
    active_runs: int
    """Runs that have begun and not ended, paused ones included."""
    total_tokens_today: int
    avg_response_time: float | None
    """Mean duration in seconds of the runs that completed today (UTC); null: there are none."""
    total_tokens: int
    total_cost_micros: int
    cost_micros_today: int


def agent_metrics_view(report: AgentReport) -> AgentMetricsData:
    """Shape a report."""
    return {
        "agent_id": report.agent_id,
        "scope": "all" if report.of_all_accounts else "account",
        "granularity": report.span.granularity,
        "period": {"start": iso(report.span.start), "end": iso(report.span.end)},
        "metrics": _figures(report.whole),
        "timeseries": [_point(at, figures) for at, figures in report.periods.items()],
    }


def system_metrics_view(totals: Totals, today: Figures, *, agents: int) -> SystemMetricsData:
    """Shape what is known of all runs."""
    return {
        "total_agents": agents,
        "total_runs": totals.ended.runs,
        "active_runs": totals.active,
        "total_tokens_today": today.tokens,
        "avg_response_time": today.average_s,
        "total_tokens": totals.ended.tokens,
        "total_cost_micros": totals.ended.cost_micros,
        "cost_micros_today": today.cost_micros,
    }


def _figures(whole: Figures) -> RunFigures:
    return {
        "total_runs": whole.runs,
        "success_rate": None if whole.success_rate is None else round(whole.success_rate, 4),
        "avg_duration": whole.average_s,
        "total_tokens": whole.tokens,
        "avg_tokens_per_run": whole.tokens_a_run,
        "input_tokens": whole.input_tokens,
        "cached_share": whole.cached_share,
        "failed_runs": whole.failed,
        "cancelled_runs": whole.cancelled,
        "interrupted_runs": whole.interrupted,
        "median_duration": whole.quantile_s(0.5),
        "p95_duration": whole.quantile_s(0.95),
        "cost_micros": whole.cost_micros,
        "runs_of_unknown_cost": whole.unpriced,
    }


def _point(at: datetime, figures: Figures) -> MetricPoint:
    return {
        "timestamp": iso(at),
        "runs": figures.runs,
        "tokens": figures.tokens,
        "failed_runs": figures.failed,
        "avg_duration": figures.average_s,
        "cost_micros": figures.cost_micros,
    }


def exposition(totals: Totals) -> str:
    """Write what is known of all runs in the text format of Prometheus, version 0.0.4."""
    ended = totals.ended
    lines = [
        *_metric("karma_runs_active", "gauge", "Runs that have begun and not ended, paused ones included."),
        f"karma_runs_active {totals.active}",
        *_metric("karma_runs_total", "counter", "Runs that have ended."),
        f'karma_runs_total{{outcome="completed"}} {ended.completed}',
        f'karma_runs_total{{outcome="failed"}} {ended.failed}',
        f'karma_runs_total{{outcome="cancelled"}} {ended.cancelled}',
        f'karma_runs_total{{outcome="interrupted"}} {ended.interrupted}',
        *_metric("karma_run_tokens_total", "counter", "Tokens of the runs that have ended."),
        f"karma_run_tokens_total {ended.tokens}",
        *_metric("karma_run_input_tokens_total", "counter", "Tokens that models have read in them."),
        f"karma_run_input_tokens_total {ended.input_tokens}",
        *_metric("karma_run_cached_tokens_total", "counter", "Tokens of the input that providers had cached."),
        f"karma_run_cached_tokens_total {ended.cached_tokens}",
        *_metric("karma_run_cost_dollars_total", "counter", "Known cost of their model calls."),
        f"karma_run_cost_dollars_total {ended.cost_micros / 1_000_000:.6f}",
        *_metric("karma_runs_of_unknown_cost_total", "counter", "Runs whose process was lost with their cost."),
        f"karma_runs_of_unknown_cost_total {ended.unpriced}",
        *_metric("karma_run_duration_seconds", "histogram", "Durations of completed runs without their pauses."),
    ]
    below = 0
    for found, most in zip(ended.buckets, (*BUCKETS_S, "+Inf"), strict=True):
        below += found
        lines.append(f'karma_run_duration_seconds_bucket{{le="{most}"}} {below}')
    lines.append(f"karma_run_duration_seconds_sum {ended.duration_ms / 1000}")
    lines.append(f"karma_run_duration_seconds_count {below}")
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"
