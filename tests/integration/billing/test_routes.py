"""Billing's routes through the whole API."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.arrival import Arrival
from karma.billing.domain import project
from karma.billing.ports import Row
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core.ids import UserId
from tests.integration.billing.conftest import Billing
from tests.unit.billing.test_domain import stripe_subscription

PASSWORD = "Correct-horse-battery-9"


class Api:
    def __init__(self, billing: Billing) -> None:
        self._billing = billing

    def __call__(
        self, method: str, path: str, *, token: str = "", body: object = None, query: str = ""
    ) -> tuple[int, Any]:
        self._billing.stack.use("api")
        from api.handler import lambda_handler

        headers = {"authorization": f"Bearer {token}"} if token else {}
        event = self._billing.http_event(method, f"/api/v1{path}", body=body, headers=headers, query=query)
        answer = lambda_handler(event, self._billing.context)
        return answer["statusCode"], json.loads(answer["body"] or "null")


@pytest.fixture
def api(billing: Billing) -> Api:
    return Api(billing)


@pytest.fixture
def login(api: Api, billing: Billing) -> Callable[[str, str], tuple[str, UserId]]:
    def make(email: str, role: str = "user") -> tuple[str, UserId]:
        status, made = api("POST", "/auth/register", body={"email": email, "password": PASSWORD, "name": "Test"})
        assert status == 201, made
        user_id = made["data"]["user"]["id"]
        if role != "user":
            table = billing.stack.tables["identity"]
            rows = billing.stack.aws("dynamodb").scan(TableName=table)["Items"]
            (row,) = [item for item in rows if (item["pk"]["S"], item["sk"]["S"]) == (f"USER#{user_id}", "PROFILE")]
            billing.stack.aws("dynamodb").update_item(
                TableName=table,
                Key={"pk": row["pk"], "sk": row["sk"]},
                UpdateExpression="SET #role = :role",
                ExpressionAttributeNames={"#role": "role"},
                ExpressionAttributeValues={":role": {"S": role}},
            )
        status, logged_in = api("POST", "/auth/login", body={"email": email, "password": PASSWORD})
        assert status == 200, logged_in
        return logged_in["data"]["access_token"], UserId(user_id)

    return make


@pytest.mark.req("R-C-29")
def test_plans_are_public(api: Api) -> None:
    status, body = api("GET", "/plans")
    assert status == 200
    assert [plan["name"] for plan in body["data"]["plans"]] == ["free", "pro", "team", "enterprise"]
    assert body["data"]["plans"][1]["prices"][0]["amount_minor"] > 0


@pytest.mark.req("R-K-19", "R-K-20")
def test_a_user_sees_the_free_plan_and_then_what_was_bought(api: Api, billing: Billing, login: Any) -> None:
    assert api("GET", "/subscriptions/current")[0] == 401
    token, user = login("buyer@example.com")
    status, body = api("GET", "/subscriptions/current", token=token)
    assert status == 200
    assert (body["data"]["subscription"]["plan"], body["data"]["subscription"]["status"]) == ("free", "active")

    now = datetime.now(UTC)
    billing.stack.use("inbox")
    table = billing.stack.tables["billing"]
    arrive(table, "evt_1")
    bought = project(
        stripe_subscription(current_period_start=now, current_period_end=now + timedelta(days=30)), user_id=user
    )
    assert SubscriptionRepository(table).save_and_close(
        bought, seen=Row(), claim=True, event_id="evt_1", at=now, note=""
    )
    shown = api("GET", "/subscriptions/current", token=token)[1]["data"]["subscription"]
    assert (shown["plan"], shown["status"], shown["entitled_plan"]) == ("team", "active", "team")
    assert shown["current_period_end"].endswith("Z")
    assert shown["limits"]["devices"] == 500


def arrive(table: str, event_id: str) -> None:
    now = datetime.now(UTC)
    ArrivalStore(table).store(
        Arrival(event_id, "invoice.paid", '{"type": "a", "data": {}}'), received_at=now, due_at=now
    )


def test_only_an_admin_sees_and_replays_the_inbox(api: Api, billing: Billing, login: Any, drain: Any) -> None:
    user_token, _ = login("user@example.com")
    admin_token, _ = login("admin@example.com", "admin")
    billing.stack.use("inbox")
    table = billing.stack.tables["billing"]
    for number in range(3):
        arrive(table, f"evt_{number}")
    InboxRepository(table).mark_handled("evt_2", at=datetime.now(UTC), note="unlinked: who", unlinked=True)

    assert api("GET", "/billing/inbox", token=user_token)[0] == 403
    assert api("POST", "/billing/inbox/evt_0/replay", token=user_token)[0] == 403
    status, body = api("GET", "/billing/inbox", token=admin_token, query="limit=1")
    assert status == 200
    assert [event["id"] for event in body["data"]["events"]] == ["evt_0"]
    cursor = body["data"]["next_cursor"]
    second = api("GET", "/billing/inbox", token=admin_token, query=f"limit=1&cursor={cursor}")[1]["data"]
    assert [event["id"] for event in second["events"]] == ["evt_1"]
    assert api("GET", "/billing/inbox", token=admin_token, query="cursor=forged")[0] == 400
    unlinked = api("GET", "/billing/inbox", token=admin_token, query="status=unlinked")[1]["data"]["events"]
    assert [(event["id"], event["note"]) for event in unlinked] == [("evt_2", "unlinked: who")]

    status, body = api("POST", "/billing/inbox/evt_2/replay", token=admin_token)
    assert (status, body["data"]) == (202, {"event_id": "evt_2", "queued": True})
    assert api("POST", "/billing/inbox/evt_9/replay", token=admin_token)[0] == 404
    assert [message["Body"] for message in drain(billing.stack.queues["inbox"], 1)] == ["evt_2"]
    assert InboxRepository(table).page(unlinked=True, limit=9, start=None).events == []


def test_the_command_line_replays_with_the_environments_table(billing: Billing, drain: Any) -> None:
    billing.stack.use("sweeps")
    from karma.billing.service import replay_event

    arrive(billing.stack.tables["billing"], "evt_1")
    replay_event("evt_1")
    assert [message["Body"] for message in drain(billing.stack.queues["inbox"], 1)] == ["evt_1"]
