"""Schedules as the API shows them; and a request on one that dies before or after each of its AWS calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.clock import iso, parse_iso
from karma.core.ids import new_id
from karma.schedules.domain import MAX_SCHEDULES
from tests.integration.api.conftest import Api, reopen
from tests.support.accounts import prove_address
from tests.support.crash import CrashReport
from tests.support.plans import subscribe

SCHEDULES = "/api/v1/schedules"
RUN: dict[str, Any] = {"message": "Which are online?"}
FIRST: dict[str, Any] = {"name": "First", "cron": "0 9 * * 1-5", "time_zone": "Europe/Berlin", "run": RUN}


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", SCHEDULES, {**FIRST, **more})
    assert answer.status == 201, answer.text
    return answer.data["schedule"]


def soon(**delta: float) -> str:
    return iso(datetime.now(UTC) + timedelta(**delta))


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register()
    prove_address(user["id"])
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


def test_it_is_shown_as_it_was_made(ada: Api) -> None:
    made = create(ada)
    assert {name: made[name] for name in FIRST} == FIRST
    assert made["status"] == "active"
    assert (made["overlap"], made["catch_up"], made["catch_up_window_s"]) == ("skip", "latest", 3600)
    assert (made["last_fire"], made["last_run_id"], made["failures_in_a_row"]) == (None, None, 0)
    assert made["fires"] == {"started": 0, "skipped": 0, "failed": 0, "missed": 0}
    next_fire = parse_iso(made["next_fire_at"])
    assert next_fire > datetime.now(UTC)
    assert next_fire.minute == 0
    shown = ada.call("GET", f"{SCHEDULES}/{made['id']}")
    assert (shown.data, shown.headers["etag"]) == ({"schedule": made}, '"1"')
    once = create(ada, cron=None, at=soon(hours=1), run={"messages": [{"role": "user", "content": "Hi"}]})
    assert (once["cron"], once["next_fire_at"]) == (None, once["at"])
    assert create(ada, enabled=False)["status"] == "paused"


def test_active_ones_are_counted_in_the_usage_of_the_plan(other: Api) -> None:
    create(other)
    create(other, enabled=False)
    usage = {each["metric"]: each for each in other.call("GET", "/api/v1/usage").data["usage"]}
    assert usage["schedules"] == {"metric": "schedules", "used": 1, "allowed": 5, "resets_at": None}


def test_one_is_made_for_an_idempotency_key(ada: Api, stack: Any) -> None:
    first = ada.call("POST", SCHEDULES, FIRST, idempotency_key="once")
    again = ada.call("POST", SCHEDULES, FIRST, idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", SCHEDULES, FIRST, idempotency_key="once")
    assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
    assert first.data == again.data == after_a_crash.data
    assert [each["id"] for each in ada.call("GET", SCHEDULES).data["schedules"]] == [first.data["schedule"]["id"]]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": " "}, "name", "VALIDATION_ERROR"),
    ({"name": "x" * 101}, "name", "VALIDATION_ERROR"),
    ({"cron": "0 9 * *"}, "cron", "INVALID_CRON"),
    ({"cron": "cron(0 9 * * ? *)"}, "cron", "INVALID_CRON"),
    ({"cron": "x" * 101}, "cron", "VALIDATION_ERROR"),
    ({"cron": "* * * * * *"}, "cron", "SCHEDULE_TOO_FREQUENT"),
    ({"cron": "0 0 30 2 *"}, "cron", "SCHEDULE_NEVER_FIRES"),
    ({"time_zone": "Mars/Phobos"}, "time_zone", "UNKNOWN_TIME_ZONE"),
    ({"end_at": "2020-01-01T00:00:00Z"}, "end_at", "SCHEDULE_NEVER_FIRES"),
    ({"end_at": "2020-01-01"}, "end_at", "VALIDATION_ERROR"),
    ({"end_at": "9000-01-01T00:00:00Z"}, "end_at", "VALIDATION_ERROR"),
    ({"overlap": "wait"}, "overlap", "VALIDATION_ERROR"),
    ({"overlap": "queue"}, "overlap", "VALIDATION_ERROR"),
    ({"overlap": "allow", "run": {**RUN, "thread_id": "t1"}}, "overlap", "VALIDATION_ERROR"),
    ({"catch_up": "some"}, "catch_up", "VALIDATION_ERROR"),
    ({"catch_up_window_s": 59}, "catch_up_window_s", "VALIDATION_ERROR"),
    ({"catch_up_window_s": 86_401}, "catch_up_window_s", "VALIDATION_ERROR"),
    ({"enabled": "yes"}, "enabled", "VALIDATION_ERROR"),
    ({"user_id": "me"}, "user_id", "VALIDATION_ERROR"),
    ({"run": {}}, "run.message", "VALIDATION_ERROR"),
    ({"run": {**RUN, "messages": [{"role": "user", "content": "a"}]}}, "run.messages", "VALIDATION_ERROR"),
    ({"run": {"messages": [{"role": "user"}]}}, "run.messages.0.content", "VALIDATION_ERROR"),
    (
        {"run": {"messages": [{"role": "user", "content": "a"}], "thread_id": "t1"}},
        "run.messages",
        "VALIDATION_ERROR",
    ),
    ({"run": {**RUN, "budget": {"max_tokens": 0}}}, "run.budget.max_tokens", "VALIDATION_ERROR"),
    ({"run": {**RUN, "wait_s": 3}}, "run.wait_s", "VALIDATION_ERROR"),
    ({"run": {**RUN, "state": {"x": "y" * 65_536}}}, "run", "SCHEDULE_TOO_LARGE"),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]]
) -> None:
    for wrong, field, code in [
        *WRONG,
        ({"run": None}, "run", "VALIDATION_ERROR"),
        ({"cron": None}, "cron", "VALIDATION_ERROR"),
        ({"at": soon(hours=1)}, "at", "VALIDATION_ERROR"),
        ({"cron": None, "at": "2020-01-01T00:00:00Z"}, "at", "SCHEDULE_NEVER_FIRES"),
        ({"cron": None, "at": "9000-01-01T00:00:00Z"}, "at", "VALIDATION_ERROR"),
        ({"cron": None, "at": "2027-01-01T00:00:00"}, "at", "VALIDATION_ERROR"),
    ]:
        answer = ada.call("POST", SCHEDULES, {**FIRST, **wrong})
        told = (answer.status, answer.code, [entry["field"] for entry in answer.json["error"]["details"]])
        assert told == (422, code, [field]), (wrong, answer.text)
    assert [item for item in stored("agents") if item["pk"].startswith("SCHEDULES#")] == []
    made = create(ada)
    for wrong, field, code in [*WRONG, ({"run": None}, "run", "VALIDATION_ERROR")]:
        answer = ada.call("PATCH", f"{SCHEDULES}/{made['id']}", wrong)
        told = (answer.status, answer.code, [entry["field"] for entry in answer.json["error"]["details"]])
        assert told == (422, code, [field]), (wrong, answer.text)
    assert ada.call("GET", f"{SCHEDULES}/{made['id']}").data["schedule"] == made


def test_an_agent_that_nobody_has_is_not_found_as_by_the_run_itself(ada: Api) -> None:
    body = {**FIRST, "run": {**RUN, "agent_id": "nobody"}}
    answer, run = ada.call("POST", SCHEDULES, body), ada.call("POST", "/api/v1/runs", {**RUN, "agent_id": "nobody"})
    assert (answer.status, answer.code) == (run.status, run.code) == (404, "NOT_FOUND")
    assert "run.agent_id" in answer.json["error"]["message"]


def test_a_plan_says_how_many_are_active_and_how_often_one_fires(ada: Api) -> None:
    often = ada.call("POST", SCHEDULES, {**FIRST, "cron": "*/5 * * * *"})
    assert (often.status, often.code) == (402, "QUOTA_EXCEEDED")
    limit = {"limit": "schedule_interval_s", "plan": "free", "allowed": 3600, "requested": 300, "resets_at": None}
    assert often.json["error"]["details"] == limit
    made = [create(ada) for _ in range(5)]
    sixth = ada.call("POST", SCHEDULES, FIRST)
    limit = {"limit": "schedules", "plan": "free", "allowed": 5, "requested": 1, "resets_at": None}
    assert (sixth.status, sixth.json["error"]["details"]) == (402, limit)
    paused = create(ada, enabled=False)
    assert ada.call("PATCH", f"{SCHEDULES}/{paused['id']}", {"enabled": True}).status == 402
    assert ada.call("PATCH", f"{SCHEDULES}/{made[0]['id']}", {"enabled": False}).status == 200
    assert ada.call("PATCH", f"{SCHEDULES}/{paused['id']}", {"enabled": True}).status == 200
    limits = ada.call("GET", "/api/v1/plans").data["plans"][0]["limits"]
    assert (limits["schedules"], limits["schedule_interval_s"]) == (5, 3600)


def test_an_account_has_so_many(ada: Api, stack: Any) -> None:
    subscribe(ada.call("GET", "/api/v1/users/me").data["user"]["id"])
    for _ in range(MAX_SCHEDULES):
        create(ada)
    refused = ada.call("POST", SCHEDULES, FIRST)
    assert (refused.status, refused.code) == (409, "TOO_MANY_SCHEDULES")
    first = ada.call("GET", SCHEDULES, query="limit=1").data["schedules"][0]
    assert ada.call("DELETE", f"{SCHEDULES}/{first['id']}").status == 204
    create(ada)


def test_a_change_shows_and_a_stale_one_is_refused(ada: Api) -> None:
    made = create(ada)
    path = f"{SCHEDULES}/{made['id']}"
    changed = ada.call("PATCH", path, {"name": "Second", "version": 1})
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    schedule = changed.data["schedule"]
    assert schedule == {**made, "name": "Second", "updated_at": schedule["updated_at"], "version": 2}
    for stale in (
        ada.call("PATCH", path, {"name": "x", "version": 1}),
        ada.call("PATCH", path, {"name": "x"}, if_match='"1"'),
        ada.call("DELETE", path, if_match='"1"'),
    ):
        assert (stale.status, stale.code) == (409, "STALE_VERSION")
    assert ada.call("GET", path).data == changed.data
    assert ada.call("DELETE", path, if_match='"2"').status == 204
    assert ada.call("GET", path).status == ada.call("DELETE", path).status == 404


def test_it_is_paused_and_resumed_and_moved(ada: Api) -> None:
    made = create(ada)
    path = f"{SCHEDULES}/{made['id']}"
    paused = ada.call("PATCH", path, {"enabled": False}).data["schedule"]
    assert (paused["status"], paused["next_fire_at"], paused["enabled"]) == ("paused", None, False)
    moved = ada.call("PATCH", path, {"cron": "30 6 * * *", "run": {"message": "Else"}}).data["schedule"]
    assert (moved["status"], moved["next_fire_at"], moved["run"]) == ("paused", None, {"message": "Else"})
    resumed = ada.call("PATCH", path, {"enabled": True}).data["schedule"]
    assert resumed["status"] == "active"
    assert parse_iso(resumed["next_fire_at"]).minute == 30
    once = ada.call("PATCH", path, {"at": soon(hours=1)}).data["schedule"]
    assert (once["cron"], once["at"]) == (None, once["next_fire_at"])
    bounded = ada.call("PATCH", path, {"end_at": soon(hours=2)}).data["schedule"]
    assert bounded["end_at"] is not None
    assert ada.call("PATCH", path, {"end_at": None}).data["schedule"]["end_at"] is None
    assert ada.call("PATCH", path, {"cron": "0 * * * *"}).data["schedule"]["at"] is None


def test_the_list_goes_on_with_its_cursor(ada: Api, other: Api) -> None:
    create(other)
    made = [create(ada, name=f"{n}")["id"] for n in range(5)][::-1]
    first = ada.call("GET", SCHEDULES, query="limit=3").data
    rest = ada.call("GET", SCHEDULES, query=f"limit=3&cursor={first['next_cursor']}").data
    assert [schedule["id"] for schedule in first["schedules"] + rest["schedules"]] == made
    assert (rest["limit"], rest["next_cursor"]) == (3, None)
    assert other.call("GET", SCHEDULES, query=f"cursor={first['next_cursor']}").code == "INVALID_CURSOR"


def test_what_is_missing_or_another_s_is_not_found(ada: Api, other: Api) -> None:
    theirs = create(other)
    for schedule_id in (new_id(), theirs["id"], "x", "a%23b"):
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            answer = ada.call(method, f"{SCHEDULES}/{schedule_id}", body)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, schedule_id)
    assert other.call("GET", f"{SCHEDULES}/{theirs['id']}").data["schedule"] == theirs


class TestARequestThatDies:
    def test_while_it_makes_one_makes_one(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: SCHEDULES, table="agents", accept={201}, body=FIRST)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_changes_one_changes_it_once(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        body = {"name": "Second", "run": {"message": "Else"}}
        report = die("PATCH", lambda: f"{SCHEDULES}/{create(ada)['id']}", table="agents", accept={200}, body=body)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_deletes_one_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{SCHEDULES}/{create(ada)['id']}", table="agents", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
