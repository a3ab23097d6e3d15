"""Examples of the OpenAPI document for figures: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELDS: Mapping[str, Any] = {
    "granularity": "day",
    "start_time": "2026-01-25T00:00:00.000Z",
    "end_time": "2026-01-31T12:00:00.000Z",
    "AgentMetricsData.agent_id": "karma",
    "AgentMetricsData.scope": "account",
    "MetricPeriod.start": "2026-01-25T00:00:00.000Z",
    "MetricPeriod.end": "2026-02-01T00:00:00.000Z",
    "total_runs": 1000,
    "success_rate": 0.95,
    "avg_duration": 2.5,
    "RunFigures.total_tokens": 150000,
    "SystemMetricsData.total_tokens": 1500000,
    "avg_tokens_per_run": 150.0,
    "RunFigures.input_tokens": 120000,
    "RunFigures.cached_share": 0.87,
    "failed_runs": 30,
    "cancelled_runs": 20,
    "interrupted_runs": 3,
    "median_duration": 1.9,
    "p95_duration": 7.4,
    "RunFigures.cost_micros": 1250000,
    "runs_of_unknown_cost": 1,
    "MetricPoint.timestamp": "2026-01-25T00:00:00.000Z",
    "MetricPoint.runs": 100,
    "MetricPoint.tokens": 15000,
    "MetricPoint.failed_runs": 3,
    "MetricPoint.cost_micros": 125000,
    "total_agents": 10,
    "active_runs": 5,
    "total_tokens_today": 500000,
    "avg_response_time": 2.3,
    "total_cost_micros": 12500000,
    "cost_micros_today": 4100000,
}
