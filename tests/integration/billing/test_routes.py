"""Billing's routes through the whole API."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer

from karma.billing.allowances import Allowances, DayExceeded, DaySpend, Metric, day_of
from karma.billing.arrival import Arrival
from karma.billing.domain import EventState, projection
from karma.billing.plans import PlanName
from karma.billing.ports import Row
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.inbox import RETENTION, InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.core.clock import SystemClock
from karma.core.ids import UserId, new_id
from tests.integration.billing.conftest import Billing
from tests.support.plans import allowance, limited, take
from tests.support.stack import Drain
from tests.unit.billing.test_domain import PRO, stripe_subscription

LogIn = Callable[..., tuple[str, UserId]]

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
def login(api: Api, billing: Billing) -> LogIn:
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
@pytest.mark.fault("F-15i")
def test_a_user_sees_the_free_plan_and_then_what_was_bought(api: Api, billing: Billing, login: LogIn) -> None:
    assert api("GET", "/subscriptions/current")[0] == 401
    token, user = login("buyer@example.com")
    status, body = api("GET", "/subscriptions/current", token=token)
    assert status == 200
    assert (body["data"]["subscription"]["plan"], body["data"]["subscription"]["status"]) == ("free", "active")
    assert body["data"]["others"] == []

    now = datetime.now(UTC)
    billing.stack.use("inbox")
    month = {"current_period_start": now, "current_period_end": now + timedelta(days=30)}
    sold = [stripe_subscription(id="sub_1", prices=(PRO,), **month), stripe_subscription(id="sub_2", **month)]
    over = stripe_subscription(id="sub_3", status="canceled", **month)
    assert SubscriptionRepository().save(user, projection([*sold, over], user_id=user), seen=Row(), at=now)
    data = api("GET", "/subscriptions/current", token=token)[1]["data"]
    shown, [other] = data["subscription"], data["others"]
    assert (other["plan"], other["status"], other["cancel_at"]) == ("pro", "active", None)
    assert {shown["stripe_subscription_id"], other["stripe_subscription_id"]} == {"sub_1", "sub_2"}
    assert (shown["plan"], shown["status"], shown["entitled_plan"]) == ("team", "active", "team")
    assert shown["current_period_end"].endswith("Z")
    assert shown["limits"]["devices"] == 500


@pytest.mark.fault("F-19a")
def test_a_user_sees_what_is_taken_of_the_plan(api: Api, billing: Billing, login: LogIn) -> None:
    assert api("GET", "/usage")[0] == 401
    token, user = login("usage@example.com")
    now = datetime.now(UTC)
    take(limited(user, amount=2))
    take(allowance(user, PlanName.FREE, at=now).reserve(Metric.MODEL_SPEND, 1_234))
    status, body = api("GET", "/usage", token=token)
    assert status == 200
    found = {each["metric"]: each for each in body["data"]["usage"]}
    assert list(found) == ["devices", "seats", "storage", "runs_per_month", "model_spend_per_month", "schedules"]
    assert found["devices"] == {"metric": "devices", "used": 2, "allowed": 3, "resets_at": None}
    assert (found["storage"]["used"], found["storage"]["allowed"]) == (0, 1_000_000_000)
    spend = found["model_spend_per_month"]
    assert (spend["used"], spend["allowed"]) == (1_234, 2_000_000)
    assert datetime.fromisoformat(spend["resets_at"]).day == 1


@pytest.mark.req("R-C-05")
def test_a_user_sees_the_model_spend_of_today_and_the_share_of_each_agent(api: Api, login: LogIn) -> None:
    assert api("GET", "/usage/today")[0] == 401
    token, user = login("today@example.com")
    now = datetime.now(UTC)
    month = allowance(user, PlanName.FREE, at=now).reserve(Metric.MODEL_SPEND, 1_000)
    for agent, amount in (("a", 10), ("b", 30)):
        day = DaySpend(day=day_of(now), agent_id=agent)
        take(replace(month, amount=amount, days=(day,)))
    take(replace(month, amount=2))
    own = (DaySpend(day=day_of(now), agent_id="a"),)
    take(replace(month, amount=2, days=own, of_days_alone=True))  # as a subagent, in a run of b
    status, body = api("GET", "/usage/today", token=token)
    assert status == 200
    shares = [
        {"agent_id": "b", "cost_micros": 30, "delegated_cost_micros": 0},
        {"agent_id": "a", "cost_micros": 12, "delegated_cost_micros": 2},
    ]
    assert body["data"]["today"] == {"day": day_of(now), "cost_micros": 42, "agents": shares}


@pytest.mark.req("R-C-05")
def test_a_user_limits_the_day_of_the_account(api: Api, billing: Billing, login: LogIn) -> None:
    assert api("GET", "/usage/budget")[0] == api("PUT", "/usage/budget", body={"max_cost_micros": 1})[0] == 401
    token, user = login("limited@example.com")
    now = datetime.now(UTC)
    take(allowance(user, at=now).reserve(Metric.MODEL_SPEND, 700))

    def put(micros: object, **more: Any) -> tuple[int, Any]:
        status, body = api("PUT", "/usage/budget", token=token, body={"max_cost_micros": micros, **more})
        return status, body["data"]["budget"] if status == 200 else body["error"]["code"]

    none = {"max_cost_micros": None, "version": 0}
    assert api("GET", "/usage/budget", token=token)[1]["data"]["budget"] == none
    for wrong in (0, 10**12 + 1, "5", 1.5):
        assert put(wrong)[0] == 422
    assert api("PUT", "/usage/budget", token=token, body={})[0] == 422, "null is said"
    for _ in range(2):
        assert put(1_000) == (200, {"max_cost_micros": 1_000, "version": 1})
    assert put(2_000, version=2) == (409, "STALE_VERSION")
    billing.stack.use("api")
    rows = SubscriptionRepository()
    service = SubscriptionService(subscriptions=rows, clock=SystemClock())
    mine = Allowances(terms_of=service.terms, clock=SystemClock()).of(user)
    assert (mine.plan.name, mine.day_cost_micros) == (PlanName.FREE, 1_000)
    take(mine.reserve(Metric.MODEL_SPEND, 300))
    with pytest.raises(DayExceeded) as refused:
        take(mine.reserve(Metric.MODEL_SPEND, 1))
    assert refused.value.taken == 1_000, "what the day had before, too"
    assert put(None, version=1) == (200, {"max_cost_micros": None, "version": 2})
    assert (rows.limits(user).day_cost_micros, service.terms(user).day_cost_micros) == (None, None)
    assert audit(billing, "billing.budget_changed") == [{"max_cost_micros": each} for each in ("1000", "")]


def arrive(table: str, event_id: str) -> None:
    now = datetime.now(UTC)
    ArrivalRepository().store(
        Arrival(event_id, "invoice.paid", '{"type": "a", "data": {}}'), received_at=now, due_at=now
    )


def test_only_an_admin_sees_and_works_the_inbox(api: Api, billing: Billing, login: LogIn, drain: Drain) -> None:
    admin_token, _ = login("admin@example.com", "admin")
    billing.stack.use("inbox")
    table = billing.stack.tables["billing"]
    for number in range(3):
        arrive(table, f"evt_{number}")
    inbox = InboxRepository()
    inbox.close_unlinked("evt_2", "cus_1", at=datetime.now(UTC), note="who")

    status, body = api("GET", "/billing/inbox", token=admin_token, query="limit=1")
    assert status == 200
    assert [event["id"] for event in body["data"]["events"]] == ["evt_0"]
    cursor = body["data"]["next_cursor"]
    second = api("GET", "/billing/inbox", token=admin_token, query=f"limit=1&cursor={cursor}")[1]["data"]
    assert [event["id"] for event in second["events"]] == ["evt_1"]
    assert api("GET", "/billing/inbox", token=admin_token, query="cursor=forged")[0] == 400
    unlinked = api("GET", "/billing/inbox", token=admin_token, query="status=unlinked")[1]["data"]["events"]
    assert [(event["id"], event["note"]) for event in unlinked] == [("evt_2", "who")]

    status, body = api("POST", "/billing/inbox/evt_2/replay", token=admin_token)
    assert (status, body["data"]) == (202, {"event_id": "evt_2", "queued": True})
    assert api("POST", "/billing/inbox/evt_9/replay", token=admin_token)[0] == 404
    assert [message["Body"] for message in drain(billing.stack.queues["inbox"], 1)] == ["evt_2"]
    assert inbox.waiting_of("cus_1", EventState.UNLINKED) == []


@pytest.mark.fault("F-18a")
def test_an_event_is_shown_with_its_ids_dismissed_and_forgotten(api: Api, billing: Billing, login: LogIn) -> None:
    token, _ = login("admin@example.com", "admin")
    billing.stack.use("inbox")
    now = datetime.now(UTC)
    shown = {"id": "in_1", "customer": "cus_1", "parent": {"subscription_details": {"subscription": "sub_1"}}}
    for event_id in ("evt_1", "evt_2", "evt_old"):
        body = {
            "id": event_id,
            "type": "invoice.paid",
            "livemode": True,
            "account": "acct_1",
            "data": {"object": shown},
        }
        ArrivalRepository().store(Arrival(event_id, "invoice.paid", json.dumps(body)), received_at=now, due_at=now)
    inbox = InboxRepository()
    inbox.record_failure("evt_1", error="PAYMENTS_UNAVAILABLE", at=now)
    inbox.close("evt_2", at=now, note="team active")
    inbox.close("evt_old", at=now - 2 * RETENTION, note="")

    status, answer = api("GET", "/billing/inbox/evt_1", token=token)
    assert status == 200
    event = answer["data"]["event"]
    assert {name: event[name] for name in ("object_id", "customer_id", "subscription_id", "account", "livemode")} == {
        "object_id": "in_1",
        "customer_id": "cus_1",
        "subscription_id": "sub_1",
        "account": "acct_1",
        "livemode": True,
    }
    assert (event["status"], event["attempts"], event["last_error"]) == ("unhandled", 1, "PAYMENTS_UNAVAILABLE")
    assert api("GET", "/billing/inbox/evt_9", token=token)[0] == 404
    assert api("GET", "/billing/inbox/evt_old", token=token)[0] == 404
    handled = api("GET", "/billing/inbox", token=token, query="status=handled")[1]["data"]["events"]
    assert [each["id"] for each in handled] == ["evt_2"]

    dismiss = "/billing/inbox/evt_1/dismiss"
    assert api("POST", dismiss, token=token, body={"reason": " "})[0] == 422
    for reason in ("a test", "another"):
        status, answer = api("POST", dismiss, token=token, body={"reason": reason})
        assert (status, answer["data"]["event"]["note"]) == (200, "a test")
    refused = api("POST", "/billing/inbox/evt_2/dismiss", token=token, body={"reason": "x"})
    assert (refused[0], refused[1]["error"]["code"]) == (409, "EVENT_CLOSED")
    assert audit(billing, "billing.event_dismissed") == [{"event_id": "evt_1", "reason": "a test"}]


def audit(billing: Billing, event: str) -> list[Any]:
    items = billing.stack.aws("dynamodb").scan(TableName=billing.stack.tables["identity"])["Items"]
    read = TypeDeserializer().deserialize
    found = [{name: read(value) for name, value in item.items()} for item in items]
    return [json.loads(item["details"]) for item in found if item["type"] == "audit_entry" and item["event"] == event]


@pytest.mark.fault("F-24h")
def test_a_customer_and_an_account_are_judged_together(api: Api, login: LogIn) -> None:
    token, _ = login("admin@example.com", "admin")
    _, refused = api("PUT", "/billing/customers/cus%231/link", token=token, body={"user_id": "nobody"})
    assert [each["field"] for each in refused["error"]["details"]] == ["customer_id", "user_id"]


@pytest.mark.fault("F-16a")
def test_an_admin_links_a_customer_and_moves_it(api: Api, billing: Billing, login: LogIn, drain: Drain) -> None:
    token, _ = login("admin@example.com", "admin")
    (_, ada), (_, bob) = login("ada@example.com"), login("bob@example.com")
    path = "/billing/customers/cus_1/link"
    assert api("GET", path, token=token)[0] == 404
    linked = {"customer_id": "cus_1", "user_id": ada, "livemode": None}
    for _ in range(2):
        assert api("PUT", path, token=token, body={"user_id": ada})[1]["data"] == {"link": linked}
    assert api("GET", path, token=token)[1]["data"] == {"link": linked}
    refused = api("PUT", path, token=token, body={"user_id": bob})
    assert (refused[0], refused[1]["error"]["code"]) == (409, "CUSTOMER_LINKED")
    assert api("PUT", path, token=token, body={"user_id": bob, "from_user_id": ada})[0] == 200
    assert api("PUT", path, token=token, body={"user_id": new_id(), "from_user_id": bob})[0] == 404
    assert api("PUT", "/billing/customers/cus%231/link", token=token, body={"user_id": ada})[0] == 422
    assert audit(billing, "billing.customer_unlinked") == [{"customer_id": "cus_1"}]
    sent = [message["Body"] for message in drain(billing.stack.queues["inbox"], 4)]
    assert sorted(sent) == sorted([f"refresh:{ada}", f"refresh:{ada}", f"refresh:{ada}", f"refresh:{bob}"])
