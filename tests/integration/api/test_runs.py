"""Runs as the API shows them."""

from datetime import timedelta
from typing import Any

import pytest

from karma.agents.domain import AgentSpec
from karma.billing.allowances import DaySpend, Metric, Reservation, day_of, period_of
from karma.billing.transactional import reserve_usage
from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import AgentId, UserId
from karma.models.budgets import Budget, BudgetName, NamedBudget
from tests.contexts.runs import begin, record
from tests.integration.api.conftest import Api
from tests.integration.api.test_agents import add_person
from tests.support.rows import NOW
from tests.support.stack import Stack


@pytest.fixture
def owner(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


def test_runs_are_listed_newest_first_by_cursor(owner: tuple[Api, UserId]) -> None:
    api, user_id = owner
    for i in range(5):
        record(user_id, f"r{i}", at=NOW + timedelta(seconds=i))

    first = api.call("GET", "/api/v1/runs", query="limit=3").data
    second = api.call("GET", "/api/v1/runs", query=f"limit=3&cursor={first['next_cursor']}").data

    assert [run["id"] for run in (*first["runs"], *second["runs"])] == ["r4", "r3", "r2", "r1", "r0"]
    assert (first["total"], second["total"], second["next_cursor"]) == (5, 5, None)


class TestRunsOfAnAgent:
    @pytest.fixture
    def mine(self, owner: tuple[Api, UserId]) -> Api:
        api, user_id = owner
        for i in range(6):
            record(user_id, f"r{i}", at=NOW + timedelta(seconds=i), agent="karma" if i % 2 else None)
        return api

    def test_are_listed_by_cursor(self, mine: Api) -> None:
        first = mine.call("GET", "/api/v1/runs", query="agent_id=karma&limit=2").data
        following = f"limit=2&cursor={first['next_cursor']}"
        second = mine.call("GET", "/api/v1/runs", query=f"agent_id=karma&{following}").data

        assert [run["id"] for run in (*first["runs"], *second["runs"])] == ["r5", "r3", "r1"]
        assert {(run["agent_id"], run["agent_version"]) for run in first["runs"]} == {("karma", 3)}
        assert (first["total"], second["total"], first["total_capped"]) == (3, 3, False)
        assert mine.call("GET", "/api/v1/runs", query=following).code == "INVALID_CURSOR"

    @pytest.mark.req("R-A-15")
    def test_are_listed_by_number(self, mine: Api) -> None:
        found = mine.call("GET", "/api/runs", query="agent_id=karma&limit=2&offset=1").json

        assert _ids(found["items"]) == ["r3", "r1"]
        assert {item["agent_id"] for item in found["items"]} == {"karma"}
        assert (found["total"], found["has_more"]) == (3, False)

    @pytest.mark.req("R-A-15")
    def test_and_of_a_status_are_listed_by_cursor_and_by_number(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        for i in range(8):
            make = record if i % 2 else begin
            make(user_id, f"r{i}", at=NOW + timedelta(seconds=i), agent="karma" if i < 6 else None)

        for query, expected in (
            ("status=running", ["r6", "r4", "r2", "r0"]),
            ("status=finished", ["r7", "r5", "r3", "r1"]),
            ("status=running&agent_id=karma", ["r4", "r2", "r0"]),
            ("status=failed", []),
        ):
            found: list[str] = []
            more: str | None = ""
            while more is not None:
                page = api.call("GET", "/api/v1/runs", query=f"{query}&limit=2{more}").data
                found += _ids(page["runs"])
                more = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
            assert found == expected
            shown = query.replace("finished", "completed")
            by_number = api.call("GET", "/api/runs", query=f"{shown}&limit=2&offset=1").json
            assert (_ids(by_number["items"]), by_number["total"]) == (expected[1:3], len(expected))
        of_running = api.call("GET", "/api/v1/runs", query="status=running&limit=2").data["next_cursor"]
        assert api.call("GET", "/api/v1/runs", query=f"limit=2&cursor={of_running}").code == "INVALID_CURSOR"
        for path in ("/api/v1/runs", "/api/runs"):
            assert api.call("GET", path, query="status=over").status == 422

    def test_are_found_by_the_agent_s_name_also_when_it_is_gone(self, owner: tuple[Api, UserId]) -> None:
        from api.services import agents

        api, user_id = owner
        agent = agents.catalogue().create(
            AgentSpec(name="Scout & Co", model="claude-haiku-5-5", system_prompt="Be brief.")
        )
        record(user_id, "r1", agent=agent.id)

        by_name = api.call("GET", "/api/runs", query="agent_id=scout+%26+co").json["items"]
        agents.catalogue().delete(agent.id)
        by_id = api.call("GET", "/api/runs", query=f"agent_id={agent.id}").json["items"]

        assert (_ids(by_name), _ids(by_id)) == (["r1"], ["r1"])
        assert api.call("GET", "/api/runs", query="agent_id=scout+%26+co").json["total"] == 0

    @pytest.mark.parametrize("ref", ["nobody", "01890000-0000-7000-8000-0000000000ff", "a%23b"])
    def test_of_nobody_are_none(self, mine: Api, ref: str) -> None:
        found = mine.call("GET", "/api/v1/runs", query=f"agent_id={ref}").data
        assert (found["runs"], found["total"], found["next_cursor"]) == ([], 0, None)

    @pytest.mark.parametrize("ref", ["", "x" * 101])
    def test_by_what_is_no_name_are_refused(self, mine: Api, ref: str) -> None:
        answer = mine.call("GET", "/api/v1/runs", query=f"agent_id={ref}")
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")


class TestAgioSList:
    @pytest.mark.req("R-A-02", "R-A-03")
    def test_pages_by_limit_and_offset(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        for i in range(23):
            record(user_id, f"r{i:02d}", at=NOW + timedelta(seconds=i))

        def page(query: str = "") -> tuple[Any, ...]:
            found = api.call("GET", "/api/runs", query=query).json
            assert set(found) == {"total", "items", "limit", "offset", "has_more"}
            return (*(found[name] for name in ("total", "limit", "offset", "has_more")), _ids(found["items"]))

        newest_first = [f"r{i:02d}" for i in range(22, -1, -1)]
        assert page() == (23, 20, 0, True, newest_first[:20])
        assert page("offset=20") == (23, 20, 20, False, newest_first[20:])
        assert page("limit=3&offset=19") == (23, 3, 19, True, newest_first[19:22])
        assert page("limit=3&offset=20") == (23, 3, 20, False, newest_first[20:])  # ends exactly at the total
        assert page("limit=1&offset=500") == (23, 1, 500, False, [])

    @pytest.mark.req("R-A-01", "R-A-04")
    def test_shows_what_is_known_of_a_run(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        record(user_id, "r1")
        assert api.call("GET", "/api/runs").json["items"] == [
            {
                "id": "r1",
                "agent_id": None,
                "user_id": user_id,
                "status": "completed",
                "input_query": None,
                "response_content": None,
                "metrics": {"total_tokens": 5, "duration": 2.0},
                "created_at": "2026-11-21T12:00:00.000Z",
            }
        ]

    @pytest.mark.req("R-A-39")
    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "limit=x", f"offset={'9' * 5000}"])
    def test_refuses_numbers_out_of_range(self, owner: tuple[Api, UserId], query: str) -> None:
        answer = owner[0].call("GET", "/api/runs", query=query)
        assert answer.status == 422
        assert answer.json["error"]["type"] == "ValidationError"
        assert answer.json["error"]["message"] == "Request validation failed"
        assert answer.json["error"]["details"]

    @pytest.mark.parametrize("query", ["offset=981", "offset=1000&limit=1", f"offset={10**30}"])
    def test_ends_at_a_thousand_rows(self, owner: tuple[Api, UserId], query: str) -> None:
        answer = owner[0].call("GET", "/api/runs", query=query)
        assert answer.status == 400
        assert answer.json["error"]["path"] == "/api/runs"
        assert owner[0].call("GET", "/api/runs", query="offset=980").status == 200

    def test_is_the_caller_s_own(self, api: Api, owner: tuple[Api, UserId]) -> None:
        record(owner[1], "r1")
        other = api.register()
        eve = api.as_(authorization=f"Bearer {api.log_in(other['email'])['access_token']}")
        assert eve.call("GET", "/api/runs").json["items"] == []
        assert api.call("GET", "/api/runs").json == {
            "error": {"type": "Unauthenticated", "message": "Authentication required", "path": "/api/runs"}
        }


def _ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def test_one_run_shows_what_its_agent_has_spent_on_its_day(owner: tuple[Api, UserId]) -> None:
    api, user_id = owner
    limits = [
        NamedBudget(name=name, budget=Budget(max_cost_micros=900), is_counted=False)
        for name in (BudgetName.AGENT_DAY, BudgetName.ACCOUNT_DAY)
    ]
    for number, spent in ((1, 300), (2, 40)):
        run = begin(user_id, f"r{number}", agent="karma", budgets=tuple(limits))
        of_day = (DaySpend(day=day_of(run.created_at), agent_id=AgentId("karma")),)
        month = period_of(Metric.MODEL_SPEND, run.created_at)
        tx = Transaction()
        taken = Reservation(
            user_id=user_id,
            metric=Metric.MODEL_SPEND,
            amount=spent,
            period=month,
            allowed=None,
            plan="",
            days=of_day,
        )
        reserve_usage(tx, [taken])
        tx.commit()
    for name in ("r1", "r2"):
        shown = api.call("GET", f"/api/v1/runs/{name}").data["run"]["budgets"]
        assert [(each["budget"], each["spent_tokens"], each["spent_cost_micros"]) for each in shown] == [
            ("agent_per_day", None, 340),
            ("account_per_day", None, None),
        ]
    listed = api.call("GET", "/api/v1/runs").data["runs"]
    assert {each["spent_cost_micros"] for run in listed for each in run["budgets"]} == {None}


def test_one_run_is_shown_with_its_log(owner: tuple[Api, UserId]) -> None:
    api, user_id = owner
    record(user_id, "r1")

    assert api.call("GET", "/api/v1/runs/r1", query="messages=true").data["messages"] is None
    assert api.call("GET", "/api/v1/runs/r1").data["run"] == {
        "id": "r1",
        "thread_id": "thread-of-r1",
        "parent_run_id": None,
        "status": "finished",
        "agent_id": None,
        "agent_version": None,
        "model": "m",
        "input_query": None,
        "response_content": None,
        "delegated": [],
        "budgets": [],
        "schedule_id": None,
        "webhook": None,
        "error_code": None,
        "cancel_reason": None,
        "stop_reason": "end",
        "paused_at": None,
        "turns": 1,
        "usage": {"provider": "anthropic", "model": "m", "inputTokens": 3, "totalTokens": 5},
        "usage_by_model": [{"provider": "anthropic", "model": "m", "inputTokens": 3, "totalTokens": 5}],
        "cost_micros": 40,
        "pending_tool_call_ids": [],
        "created_at": "2026-11-21T12:00:00.000Z",
        "finished_at": "2026-11-21T12:00:02.000Z",
        "duration_ms": 2000,
    }
    assert api.call("GET", "/api/v1/runs/r1/events").data == {
        "segments": [
            {
                "n": 1,
                "events": [{"type": "RUN_STARTED", "threadId": "thread-of-r1", "runId": "r1"}, {"type": "CUSTOM"}],
            },
            {"n": 2, "events": [{"type": "RUN_FINISHED"}]},
        ],
        "next_after": 2,
        "finished": True,
    }
    assert api.call("GET", "/api/v1/runs/r1/events", query="after=1").data["segments"][0]["n"] == 2


@pytest.mark.req("R-A-36")
def test_another_user_s_run_and_cursor_are_not_there(api: Api, owner: tuple[Api, UserId]) -> None:
    mine, user_id = owner
    for i in range(2):
        record(user_id, f"r{i}")
    cursor = mine.call("GET", "/api/v1/runs", query="limit=1").data["next_cursor"]
    other = api.register()
    eve = api.as_(authorization=f"Bearer {api.log_in(other['email'])['access_token']}")

    for path in ("/api/v1/runs/r1", "/api/v1/runs/r1/events", f"/api/v1/runs/{'x' * 3000}"):
        answer = eve.call("GET", path)
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
        assert answer.json["error"]["message"] == f"Run '{path.split('/')[4][:128]}' not found"
    assert eve.call("GET", "/api/v1/runs").data["runs"] == []
    assert eve.call("GET", "/api/v1/runs", query=f"cursor={cursor}").code == "INVALID_CURSOR"


def test_capabilities_are_those_of_the_caller(owner: tuple[Api, UserId]) -> None:
    api, _ = owner

    told = api.call("GET", "/api/v1/agent/capabilities").data

    named = {"searchDatabase", "controlDevice", "readTelemetry", "waitForFile"}
    assert {tool["name"] for tool in told["tools"]["items"]} == named
    assert told["transport"]["streaming"] is True


@pytest.mark.parametrize("path", ["/runs", "/runs/x", "/runs/x/events", "/agent/capabilities"])
def test_a_request_without_a_token_is_refused(api: Api, path: str) -> None:
    assert api.call("GET", f"/api/v1{path}").status == 401


@pytest.mark.req("R-A-15")
def test_an_administrator_lists_another_s_runs_without_their_words(api: Api, stack: Stack) -> None:
    user = api.register()
    owner = api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])
    record(UserId(user["id"]), "r1", agent="karma")
    admin = add_person(api, stack, "admin")
    query = f"user_id={user['id']}"
    found = admin.call("GET", "/api/runs", query=query).json
    assert [(each["id"], each["user_id"], each["input_query"]) for each in found["items"]] == [("r1", user["id"], None)]
    assert owner.call("GET", "/api/runs", query=query).json["total"] == 1
    assert owner.call("GET", "/api/runs", query="user_id=01890000-0000-7000-8000-000000000001").status == 403
    assert admin.call("GET", "/api/runs").json["total"] == 0


@pytest.mark.req("R-A-16")
def test_one_run_is_shown_as_agio_does(api: Api) -> None:
    user = api.register()
    owner = api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])
    record(UserId(user["id"]), "r1", agent="karma")
    found = owner.call("GET", "/api/runs/r1", query="limit=1&offset=1").json
    assert (found["session_id"], found["steps"]) == ("thread-of-r1", [])
    assert found["metrics"] == {"total_tokens": 5, "duration": 2.0, "total_steps": 0}
    assert found["updated_at"] > found["created_at"]
    assert owner.call("GET", "/api/runs/none").status == 404


@pytest.mark.req("R-A-17")
def test_events_of_a_run_are_shown_by_number_as_agio_does(api: Api) -> None:
    user = api.register()
    owner = api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])
    record(UserId(user["id"]), "r1", agent="karma")
    found = owner.call("GET", "/api/runs/r1/events").json
    assert (found["run_id"], found["total"], found["total_capped"]) == ("r1", 2, False)
    begun, ended = found["events"]
    assert (begun["type"], begun["timestamp"], begun["data"]["run_id"]) == ("run_started", iso(NOW), "r1")
    assert begun["data"]["session_id"] == "thread-of-r1"
    assert (ended["type"], ended["timestamp"]) == ("run_completed", iso(NOW + timedelta(seconds=2)))
    assert ended["data"]["metrics"]["duration"] == 2.0
    assert owner.call("GET", "/api/runs/r1/events", query="offset=1&limit=1").json["events"] == [ended]
    assert owner.call("GET", "/api/runs/none/events").status == 404
    assert owner.call("GET", "/api/runs/r1/events", query="limit=1001").status == 422
