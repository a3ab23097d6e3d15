"""Reports: periods, their sums, and the text of Prometheus."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import ValidationFailed
from karma.core.ids import UserId
from karma.metrics.answers import agent_metrics_view, exposition, system_metrics_view
from karma.metrics.domain import (
    AHEAD,
    BUCKETS_S,
    KEPT,
    NOTHING,
    Figures,
    Granularity,
    Span,
    Totals,
    by_period,
    figures_of,
)
from karma.metrics.folding import Folding
from karma.metrics.service import MetricService
from karma.runs.domain import RunStatus
from tests.contexts.metrics import AGENT, counted_run, ended
from tests.fakes.metrics import MemoryMetrics
from tests.fakes.runs import SetClock

NOW = datetime(2026, 11, 25, 12, 34, tzinfo=UTC)
"""A Wednesday."""
ADA, BOB = UserId("ada"), UserId("bob")


class TestSpans:
    @given(st.sampled_from(Granularity), st.timedeltas(timedelta(), timedelta(days=390)), st.data())
    def test_have_whole_periods_around_what_was_asked_for(
        self, granularity: Granularity, ago: timedelta, data: st.DataObject
    ) -> None:
        end = NOW - ago
        asked = data.draw(st.timedeltas(timedelta(seconds=1), min(granularity.most, end - (NOW - KEPT))))
        span = Span.of(end - asked, end, granularity, now=NOW)
        assert span.start <= end - asked < end <= span.end
        periods = list(span.periods())
        assert periods[0] == span.start
        assert periods[-1] + granularity.length == span.end
        assert all(granularity.floor(each) == each for each in periods)
        assert span.end - span.start <= granularity.most + 2 * granularity.length

    def test_without_times_end_with_the_current_period(self) -> None:
        day = Span.of(None, None, Granularity.DAY, now=NOW)
        assert (day.start, day.end) == (datetime(2026, 11, 18, tzinfo=UTC), datetime(2026, 11, 26, tzinfo=UTC))
        week = Span.of(None, None, Granularity.WEEK, now=NOW)
        assert (week.start.weekday(), week.end.weekday()) == (0, 0)

    @pytest.mark.parametrize(
        ("start", "end", "granularity", "field", "told"),
        [
            (NOW, NOW, Granularity.DAY, "start_time", "must be before end_time"),
            (NOW - timedelta(days=8), NOW, Granularity.HOUR, "start_time", "at most 7 days"),
            (NOW - timedelta(days=32), NOW, Granularity.DAY, "start_time", "at most 31 days"),
            (NOW - timedelta(days=92), NOW, Granularity.WEEK, "start_time", "at most 91 days"),
            (NOW - KEPT - timedelta(seconds=1), None, Granularity.DAY, "start_time", "in the last 400 days"),
            (None, NOW - KEPT, Granularity.DAY, "end_time", "in the last 400 days"),
            (None, NOW + AHEAD + timedelta(seconds=1), Granularity.DAY, "end_time", "at most 31 days ahead"),
            (datetime.min.replace(tzinfo=UTC), None, Granularity.WEEK, "start_time", "in the last 400 days"),
            (None, datetime.max.replace(tzinfo=UTC), Granularity.WEEK, "end_time", "at most 31 days ahead"),
            (None, datetime.min.replace(tzinfo=UTC), Granularity.WEEK, "end_time", "in the last 400 days"),
        ],
    )
    def test_out_of_bounds_are_refused_with_the_bound(
        self, start: datetime | None, end: datetime | None, granularity: Granularity, field: str, told: str
    ) -> None:
        with pytest.raises(ValidationFailed) as failed:
            Span.of(start, end, granularity, now=NOW)
        [entry] = failed.value.details or []
        assert isinstance(entry, dict)
        assert entry["field"] == field
        assert told in entry["message"]


class TestFigures:
    @given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=30), st.floats(0.01, 1))
    def test_a_quantile_is_in_the_bucket_of_the_true_one(self, took_ms: list[int], part: float) -> None:
        figures = sum((figures_of(counted_run(ADA, lasted_ms=each)) for each in took_ms), NOTHING)
        ranked = sorted(took_ms)
        true_s = next(each for n, each in enumerate(ranked, 1) if n >= part * len(ranked) - 1e-9) / 1000
        estimated = figures.quantile_s(part)
        assert estimated is not None
        bounds = (0.0, *BUCKETS_S)
        lower = max((each for each in bounds if each < true_s), default=0.0)
        upper = next((each for each in BUCKETS_S if true_s <= each), BUCKETS_S[-1])
        assert lower <= estimated <= upper + 0.001

    def test_count_each_end_once_and_durations_of_completed_runs(self) -> None:
        whole = sum(
            (figures_of(counted_run(ADA, status)) for status in RunStatus if status not in {"running", "paused"}),
            NOTHING,
        )
        assert (whole.completed, whole.interrupted, whole.failed, whole.cancelled, whole.runs) == (1, 1, 1, 1, 4)
        assert (whole.success_rate, whole.average_s, whole.tokens_a_run) == (0.25, 2.0, 5.0)
        assert figures_of(counted_run(ADA, cost_micros=None)).unpriced == 1

    def test_of_no_runs_have_no_means(self) -> None:
        means = (NOTHING.success_rate, NOTHING.average_s, NOTHING.tokens_a_run, NOTHING.quantile_s(0.5))
        assert means == (None, None, None, None)


@pytest.mark.req("R-A-28", "R-C-05")
def test_a_report_sums_hours_by_period_and_shows_empty_ones() -> None:
    store, clock = MemoryMetrics(), SetClock(NOW)
    runs = [
        counted_run(ADA, began_at=NOW - timedelta(days=ago), run_id=f"r{ago}{n}") for ago in (0, 2) for n in range(2)
    ]
    others = [counted_run(BOB, RunStatus.FAILED, began_at=NOW, cost_micros=None)]
    Folding(store, clock).fold([ended(run) for run in (*runs, *others)])
    service = MetricService(store, clock)
    span = service.span(NOW - timedelta(days=2), NOW, Granularity.DAY)
    mine = agent_metrics_view(service.of_agent(AGENT, span, user_id=ADA))
    assert mine["period"] == {"start": "2026-11-23T00:00:00.000Z", "end": "2026-11-26T00:00:00.000Z"}
    assert [(each["timestamp"][:10], each["runs"], each["tokens"]) for each in mine["timeseries"]] == [
        ("2026-11-23", 2, 10),
        ("2026-11-24", 0, 0),
        ("2026-11-25", 2, 10),
    ]
    assert mine["metrics"]["total_runs"] == 4
    assert mine["metrics"]["success_rate"] == 1
    assert mine["metrics"]["cost_micros"] == 160
    whole = agent_metrics_view(service.of_agent(AGENT, span, user_id=None))
    assert (whole["scope"], whole["metrics"]["total_runs"], whole["metrics"]["success_rate"]) == ("all", 5, 0.8)
    assert whole["metrics"]["runs_of_unknown_cost"] == 1
    system = system_metrics_view(service.totals(), service.today(), agents=3)
    assert (system["total_runs"], system["total_tokens_today"], system["avg_response_time"]) == (5, 15, 2.0)


@given(st.sampled_from(Granularity), st.lists(st.integers(0, 24 * 7 - 1), max_size=30))
def test_no_hour_is_lost_by_periods(granularity: Granularity, ago: list[int]) -> None:
    span = Span.of(NOW - timedelta(days=7), NOW, granularity, now=NOW)
    hours = [(NOW.replace(minute=0) - timedelta(hours=each), Figures(completed=1)) for each in ago]
    assert sum((each for each in by_period(span, hours).values()), NOTHING).runs == len(ago)


@pytest.mark.req("R-M-46")
def test_prometheus_reads_counters_a_gauge_and_a_histogram() -> None:
    whole = sum((figures_of(counted_run(ADA, lasted_ms=each)) for each in (400, 3_000, 2_000_000)), NOTHING)
    whole += figures_of(counted_run(ADA, RunStatus.INTERRUPTED, cost_micros=0))
    text = exposition(Totals(active=2, ended=whole))
    lines = text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples["karma_runs_active"] == "2"
    assert samples['karma_runs_total{outcome="completed"}'] == "3"
    assert samples['karma_runs_total{outcome="interrupted"}'] == "1"
    assert samples["karma_run_cost_dollars_total"] == "0.000120"
    counts = [int(count) for name, count in samples.items() if "_bucket" in name]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 3)
    assert samples["karma_run_duration_seconds_count"] == samples['karma_run_duration_seconds_bucket{le="+Inf"}']
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in samples} <= typed | {
        f"karma_run_duration_seconds_{each}" for each in ("bucket", "sum", "count")
    }
    assert text.endswith("\n")
