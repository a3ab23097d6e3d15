from __future__ import annotations

import pytest

from tests.integration.api.conftest import Api
from tests.support.stack import Stack


@pytest.mark.req("R-M-22")
def test_health_names_app_version_and_services(api: Api) -> None:
    answer = api.call("GET", "/api/v1/health")
    assert answer.status == 200
    assert set(answer.json) == {"status", "app", "version", "services"}
    assert answer.json["status"] == "healthy"
    assert answer.json["services"]["database"]["status"] == "healthy"
    assert answer.json["services"]["redis"]["replaced"] == "dynamodb"


@pytest.mark.req("R-A-30")
def test_agio_s_health_is_bare(api: Api) -> None:
    body = api.call("GET", "/api/health").json
    assert set(body) == {"status", "version", "timestamp", "components"}
    assert body["components"] == {"database": "healthy", "cache": "healthy", "llm": "not_checked"}
    assert body["timestamp"].endswith("Z")


@pytest.mark.req("R-M-23")
@pytest.mark.parametrize("name", ["database", "cache", "redis", "queue", "messaging", "storage", "llm"])
def test_each_component_answers(api: Api, name: str) -> None:
    answer = api.call("GET", f"/api/v1/health/{name}")
    assert answer.status == 200
    assert answer.json["component"] == name
    assert answer.json["status"] == ("not_checked" if name == "llm" else "healthy")


@pytest.mark.req("R-M-23")
def test_the_detailed_health_shows_all(api: Api) -> None:
    body = api.call("GET", "/api/v1/health/detailed").json
    assert set(body["components"]) == {"database", "cache", "redis", "queue", "messaging", "storage", "llm"}


def test_an_unknown_component_is_not_found(api: Api) -> None:
    answer = api.call("GET", "/api/v1/health/nonsense")
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


def test_a_table_that_is_gone_is_unhealthy_and_named_nowhere(api: Api, stack: Stack) -> None:
    stack.use("api", IDENTITY_TABLE="no-such-table")
    answer = api.call("GET", "/api/v1/health/database")
    assert (answer.status, answer.json["status"]) == (503, "unhealthy")
    assert "no-such-table" not in answer.text
    assert api.call("GET", "/api/health").status == 503


@pytest.mark.req("R-M-24")
def test_a_repeat_within_five_seconds_asks_nobody(api: Api, stack: Stack) -> None:
    first = api.call("GET", "/api/v1/health/database").json
    stack.aws("dynamodb").delete_table(TableName=stack.tables["identity"])
    again = api.call("GET", "/api/v1/health/database")
    assert again.json == first
    assert float(again.headers["x-process-time"]) < 0.01
