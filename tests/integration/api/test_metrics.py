"""Figures of runs as they are asked for: one's own, an administrator's of all, and Prometheus' text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import iso
from karma.core.ids import UserId
from karma.metrics.folding import Folding
from karma.metrics.repository import MetricRepository
from karma.runs.domain import RunStatus
from tests.contexts.metrics import begun, counted_run, ended
from tests.fakes.runs import SetClock
from tests.integration.api.conftest import Api
from tests.integration.api.test_agents import add_person
from tests.support.stack import Stack

OF_AGENT = "/api/v1/metrics/agents/karma"


def caller(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


@pytest.fixture
def people(api: Api, stack: Stack) -> tuple[Api, Api]:
    """Return a user whose run has finished yesterday, beside another's that failed, and an administrator."""
    ada, ada_id = caller(api)
    _, bob_id = caller(api)
    began = datetime.now(UTC) - timedelta(days=1)
    mine = counted_run(ada_id, began_at=began)
    theirs = counted_run(bob_id, RunStatus.FAILED, began_at=began, cost_micros=None)
    running = counted_run(bob_id, RunStatus.RUNNING, began_at=began)
    changes = [begun(mine), ended(mine), begun(theirs), ended(theirs), begun(running)]
    Folding(MetricRepository(), SetClock(began)).fold(changes)
    return ada, add_person(api, stack, "admin")


@pytest.mark.req("R-A-28", "R-C-05")
def test_an_agent_s_are_the_caller_s_and_an_administrator_s_are_all(people: tuple[Api, Api]) -> None:
    ada, admin = people
    mine = ada.call("GET", "/api/metrics/agents/karma", query="granularity=hour&start_time=" + hours_ago(30)).json
    assert (mine["agent_id"], mine["scope"], mine["granularity"]) == ("karma", "account", "hour")
    assert mine["metrics"] == {
        "total_runs": 1,
        "success_rate": 1.0,
        "avg_duration": 2.0,
        "total_tokens": 5,
        "avg_tokens_per_run": 5.0,
        "input_tokens": 4,
        "cached_share": 0.75,
        "failed_runs": 0,
        "cancelled_runs": 0,
        "interrupted_runs": 0,
        "median_duration": 1.75,
        "p95_duration": 2.425,
        "cost_micros": 40,
        "runs_of_unknown_cost": 0,
    }
    assert [each["runs"] for each in mine["timeseries"] if each["runs"]] == [1]
    assert len(mine["timeseries"]) == 31
    whole = admin.call("GET", OF_AGENT).data
    assert (whole["scope"], whole["metrics"]["total_runs"], whole["metrics"]["success_rate"]) == ("all", 2, 0.5)
    assert whole["metrics"]["runs_of_unknown_cost"] == 1


@pytest.mark.req("R-A-29", "R-M-46")
def test_all_runs_are_an_administrator_s_to_see(people: tuple[Api, Api]) -> None:
    ada, admin = people
    system = admin.call("GET", "/api/metrics/system").json
    assert (system["total_runs"], system["active_runs"], system["total_agents"]) == (2, 1, 1)
    assert (system["total_tokens_today"], system["avg_response_time"], system["total_tokens"]) == (0, None, 10)
    answer = admin.call("GET", "/api/v1/metrics/prometheus")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'karma_runs_total{outcome="failed"} 1\n' in answer.text
    for path in ("/api/v1/metrics/system", "/api/v1/metrics/prometheus"):
        assert ada.call("GET", path).status == 403


def test_what_cannot_be_reported_is_refused_by_name(people: tuple[Api, Api]) -> None:
    ada, _ = people
    for query, field in (
        ("granularity=minute", "granularity"),
        ("start_time=yesterday", "start_time"),
        ("granularity=hour&start_time=" + hours_ago(169), "start_time"),
        ("end_time=9999-12-31T23:59:59Z", "end_time"),
        ("start_time=" + hours_ago(1) + "&end_time=" + hours_ago(2), "start_time"),
    ):
        answer = ada.call("GET", OF_AGENT, query=query)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert field in answer.json["error"]["details"][0]["field"]
    assert ada.call("GET", "/api/v1/metrics/agents/nobody").status == 404


def hours_ago(hours: int) -> str:
    return iso(datetime.now(UTC) - timedelta(hours=hours))
