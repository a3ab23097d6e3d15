"""Webhooks as the API shows them, and a request that dies at each of its AWS calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from karma.webhooks.domain import MAX_WEBHOOKS
from tests.integration.api.conftest import Api, forget_tries, reopen
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import Drain, HttpEvent, Stack

WEBHOOKS = "/api/v1/webhooks"
BODY = {"url": "https://app.example.com/hook"}


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", WEBHOOKS, {**BODY, **more})
    assert answer.status == 201, answer.text
    return answer.data


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register(verified=True)
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


def test_a_secret_is_shown_once_and_stored_sealed(
    ada: Api, stored: Callable[[str], list[Any]], written: Callable[[], str]
) -> None:
    made = create(ada, events=["run.finished"], description="Production")
    secret, webhook = made["secret"], made["webhook"]
    assert secret.startswith("whsec_")
    assert (webhook["events"], webhook["status"], webhook["version"]) == (["run.finished"], "enabled", 1)
    shown = ada.call("GET", f"{WEBHOOKS}/{webhook['id']}")
    assert (shown.data["webhook"], shown.headers["etag"]) == (webhook, '"1"')
    listed = ada.call("GET", WEBHOOKS)
    assert listed.data == {"webhooks": [webhook], "total": 1}
    rotated = ada.call("POST", f"{WEBHOOKS}/{webhook['id']}/rotate-secret")
    assert rotated.status == 200
    assert rotated.data["secret"] != secret
    assert rotated.data["webhook"]["former_secret_until"]
    told = written() + shown.text + listed.text + repr(stored("realtime")) + repr(stored("identity"))
    for each in (secret, rotated.data["secret"]):
        assert each.removeprefix("whsec_")[:20] not in told


def test_one_is_made_for_an_idempotency_key_and_its_secret_is_not_repeated(ada: Api, stack: Stack) -> None:
    first = ada.call("POST", WEBHOOKS, BODY, idempotency_key="once")
    again = ada.call("POST", WEBHOOKS, BODY, idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", WEBHOOKS, BODY, idempotency_key="once")
    made = first.data["webhook"]["id"]
    for answer in (again, after_a_crash):
        assert (answer.status, answer.code, answer.json["error"]["details"]) == (409, "ALREADY_CREATED", {"id": made})
    assert ada.call("GET", WEBHOOKS).data["total"] == 1


@pytest.mark.parametrize("named", ["default", "another"])
def test_a_rotation_is_made_once_for_an_idempotency_key(ada: Api, stack: Stack, named: str) -> None:
    path = f"{WEBHOOKS}/{'default' if named == 'default' else create(ada)['webhook']['id']}"
    first = ada.call("POST", f"{path}/rotate-secret", idempotency_key="once")
    assert (first.status, first.data["webhook"]["id"]) == (200, path.rpartition("/")[2])
    again = ada.call("POST", f"{path}/rotate-secret", idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", f"{path}/rotate-secret", idempotency_key="once")
    for answer in (again, after_a_crash):
        assert (answer.status, answer.code) == (409, "ALREADY_CREATED")
        assert answer.json["error"]["details"] == {"id": first.data["webhook"]["id"]}
    assert ada.call("GET", path).data["webhook"] == first.data["webhook"]


@pytest.mark.parametrize("action", ["test", "rotate-secret"])
def test_the_same_idempotency_key_for_another_webhook_is_another_request(ada: Api, action: str) -> None:
    paths = [f"{WEBHOOKS}/{create(ada)['webhook']['id']}/{action}" for _ in range(2)]
    told = [ada.call("POST", path, idempotency_key="nightly") for path in paths]
    assert [answer.status for answer in told] == [202 if action == "test" else 200] * 2, told


def test_a_test_event_is_made_once_for_an_idempotency_key(ada: Api, stack: Stack) -> None:
    path = f"{WEBHOOKS}/{create(ada)['webhook']['id']}"
    first = ada.call("POST", f"{path}/test", idempotency_key="once")
    again = ada.call("POST", f"{path}/test", idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", f"{path}/test", idempotency_key="once")
    assert {answer.status for answer in (first, again, after_a_crash)} == {202}
    assert {answer.data["delivery"]["id"] for answer in (first, again, after_a_crash)} == {first.data["delivery"]["id"]}
    assert len(ada.call("GET", f"{path}/deliveries").data["deliveries"]) == 1
    assert ada.call("DELETE", path).status == 204
    assert ada.call("POST", f"{path}/test", idempotency_key="once").status == 410


def test_the_default_webhook_is_made_by_its_first_secret(ada: Api) -> None:
    default = f"{WEBHOOKS}/default"
    assert ada.call("GET", default).status == 404
    shown = "https://app.example.com/done"
    run = {"message": "Hello", "webhook": f"{shown}?token=secret"}
    refused = ada.call("POST", "/api/v1/runs", run)
    assert (refused.status, refused.code) == (409, "SIGNING_SECRET_MISSING")
    made = ada.call("POST", f"{default}/rotate-secret").data
    assert made["secret"].startswith("whsec_")
    assert (made["webhook"]["id"], made["webhook"]["url"], made["webhook"]["events"]) == ("default", None, [])
    assert ada.call("GET", WEBHOOKS).data == {"webhooks": [], "total": 0}
    for method, path, body in (
        ("DELETE", default, None),
        ("POST", f"{default}/test", None),
        ("PATCH", default, {"url": "https://app.example.com/"}),
    ):
        answer = ada.call(method, path, body)
        assert (answer.status, answer.code) == (409, "WEBHOOK_IS_DEFAULT"), method
    wrong = ada.call("POST", "/api/v1/runs", {**run, "webhook": "https://10.0.0.1/"})
    assert (wrong.status, [each["field"] for each in wrong.json["error"]["details"]]) == (422, ["webhook"])
    begun = ada.call("POST", "/api/v1/runs", run).data["run"]
    assert begun["webhook"] == shown
    assert ada.call("GET", f"/api/v1/runs/{begun['id']}").data["run"]["webhook"] == shown
    schedule = {"name": "s", "cron": "0 9 * * *", "run": {**run, "webhook": "https://10.0.0.1/"}}
    wrong = ada.call("POST", "/api/v1/schedules", schedule)
    assert (wrong.status, [each["field"] for each in wrong.json["error"]["details"]]) == (422, ["run.webhook"])


def test_there_are_at_most_ten(ada: Api) -> None:
    for _ in range(MAX_WEBHOOKS):
        create(ada)
    answer = ada.call("POST", WEBHOOKS, BODY)
    assert (answer.status, answer.code) == (409, "TOO_MANY_WEBHOOKS")


def test_changes_are_by_version_and_disabling_is_seen(ada: Api, drain: Drain, stack: Stack) -> None:
    path = f"{WEBHOOKS}/{create(ada)['webhook']['id']}"
    changed = ada.call("PATCH", path, {"events": ["run.failed"], "description": "d", "version": 1})
    assert (changed.status, changed.data["webhook"]["version"]) == (200, 2)
    same = ada.call("PATCH", path, {"events": ["run.failed"]})
    assert same.data == changed.data
    stale = ada.call("PATCH", path, {"description": "e"}, if_match='"1"')
    assert (stale.status, stale.code) == (409, "STALE_VERSION")
    off = ada.call("PATCH", path, {"status": "disabled"}).data["webhook"]
    assert (off["status"], off["disabled_reason"]) == ("disabled", "request")
    for action in ("test", f"deliveries/{new_id()}/redeliver"):
        refused = ada.call("POST", f"{path}/{action}")
        assert (refused.status, refused.code) == (409, "WEBHOOK_DISABLED")
    on = ada.call("PATCH", path, {"status": "enabled"}).data["webhook"]
    assert (on["status"], on["disabled_reason"]) == ("enabled", None)
    assert ada.call("POST", f"{path}/rotate-secret", if_match='"1"').code == "STALE_VERSION"
    assert ada.call("DELETE", path, if_match='"1"').code == "STALE_VERSION"
    assert ada.call("DELETE", path).status == 204
    assert ada.call("GET", path).status == 404
    assert drain(stack.queues["webhooks"])
    audit = ada.call("GET", "/api/v1/audit").data["entries"]
    events = [entry["event"] for entry in audit if entry["event"].startswith("webhook.")]
    assert events == ["webhook.deleted", *3 * ["webhook.changed"], "webhook.created"]


def test_a_test_event_is_a_delivery_that_is_redelivered(ada: Api) -> None:
    path = f"{WEBHOOKS}/{create(ada, events=['run.failed'])['webhook']['id']}"
    made = ada.call("POST", f"{path}/test")
    assert made.status == 202
    delivery = made.data["delivery"]
    assert (delivery["event_type"], delivery["status"], delivery["attempts"]) == ("webhook.test", "pending", [])
    assert delivery["payload"]["type"] == "webhook.test"
    second = ada.call("POST", f"{path}/test").data["delivery"]
    page = ada.call("GET", f"{path}/deliveries", query="limit=1").data
    assert [each["id"] for each in page["deliveries"]] == [second["id"]]
    rest = ada.call("GET", f"{path}/deliveries", query=f"cursor={page['next_cursor']}").data
    assert ([each["id"] for each in rest["deliveries"]], rest["next_cursor"]) == ([delivery["id"]], None)
    again = ada.call("POST", f"{path}/deliveries/{delivery['id']}/redeliver")
    assert (again.status, again.data["delivery"]["id"]) == (202, delivery["id"])
    for unknown in (new_id(), "x", "a%23b"):
        assert ada.call("POST", f"{path}/deliveries/{unknown}/redeliver").status == 404
    elsewhere = ada.call(
        "GET", f"{WEBHOOKS}/{create(ada)['webhook']['id']}/deliveries", query=f"cursor={page['next_cursor']}"
    )
    assert elsewhere.status == 400


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://app.example.com/"}, "url"),
    ({"url": "https://user:secret@app.example.com/"}, "url"),
    ({"url": "https://app.example.com/#x"}, "url"),
    ({"url": "https://app.example.com:0/"}, "url"),
    ({"url": "https://10.0.0.1/x"}, "url"),
    ({"url": "https://[::ffff:169.254.169.254]/x"}, "url"),
    ({"url": "ftp://app.example.com/"}, "url"),
    ({"url": "https://" + "a" * 64 + ".example/"}, "url"),
    ({"url": "https://app.example.com/" + "x" * 2_048}, "url"),
    ({"events": []}, "events"),
    ({"events": ["run.finished", "run.finished"]}, "events"),
    ({"events": ["*", "run.exploded"]}, "events.1"),
    ({"events": ["x" * 65]}, "events.0"),
    ({"description": "a\x00b"}, "description"),
    ({"description": "x" * 256}, "description"),
    ({"secret": "whsec_mine"}, "secret"),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]]
) -> None:
    path = f"{WEBHOOKS}/{create(ada)['webhook']['id']}"
    before = stored("realtime")
    for wrong, field in WRONG:
        for method, place in (("POST", WEBHOOKS), ("PATCH", path)):
            answer = ada.call(method, place, {**(BODY if method == "POST" else {}), **wrong})
            named = [entry["field"] for entry in answer.json["error"]["details"]]
            assert (answer.status, named) == (422, [field]), (method, wrong)
    assert stored("realtime") == before


def test_what_is_missing_or_another_s_is_not_found(ada: Api, other: Api) -> None:
    theirs = create(other)["webhook"]
    for webhook_id in (new_id(), theirs["id"], "x", "a%23b"):
        path = f"{WEBHOOKS}/{webhook_id}"
        for method, place in (
            ("GET", path),
            ("DELETE", path),
            ("PATCH", path),
            ("GET", f"{path}/deliveries"),
            ("POST", f"{path}/test"),
            ("POST", f"{path}/rotate-secret"),
            ("POST", f"{path}/deliveries/{new_id()}/redeliver"),
        ):
            answer = ada.call(method, place, {} if method == "PATCH" else None)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, place)
    assert other.call("GET", f"{WEBHOOKS}/{theirs['id']}").data["webhook"] == theirs


class TestARequestThatDies:
    def test_while_it_makes_one_makes_one(self, die: Callable[..., CrashReport]) -> None:
        # A repeat of what was carried out cannot show the secret again.
        report = die("POST", lambda: WEBHOOKS, table="realtime", accept={201, 409}, body=BODY)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_deletes_one_leaves_what_a_worker_clears(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        def path() -> str:
            return f"{WEBHOOKS}/{create(ada)['webhook']['id']}"

        report = die("DELETE", path, table="realtime", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_redelivers_has_it_delivered(self, ada: Api, stack: Stack, http_event: HttpEvent) -> None:
        """Asked twice it is due twice, with one mark: versions and moments differ, and nothing else."""

        def seed() -> dict[str, Any]:
            forget_tries(stack)
            webhook = f"{WEBHOOKS}/{create(ada)['webhook']['id']}"
            made = ada.call("POST", f"{webhook}/test").data["delivery"]["id"]
            return http_event("POST", f"{webhook}/deliveries/{made}/redeliver", headers=ada.headers)

        report = CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["realtime"]],
            seed=seed,
            normalise=lambda item: {"pk": item["type"], "sk": "", "status": item.get("status", "")},
            accept=lambda answer: answer["statusCode"] == 202,
        ).run()
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
