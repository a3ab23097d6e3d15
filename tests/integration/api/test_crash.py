from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.inbox import InboxRepository
from karma.core.ids import UserId, new_id
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import ENTRY, PASSWORD, Api, reopen_if_open
from tests.support.crash import CrashTest
from tests.support.devices import World
from tests.support.stack import HttpEvent, Stack

FIRST_AND_LAST = {201, 409}
"""A repeat is answered like the first request, or told that it was carried out."""


def steady(item: dict[str, Any]) -> dict[str, Any] | None:
    """Compare what is stored, not ids and salts that a repeat draws anew, nor records of requests, sessions, events."""
    kind = item.get("type")
    if kind in {None, "session", "refresh_token", "audit_entry", "mail"}:
        return None
    if kind == "notice":
        return {"pk": "NOTICE", "sk": item["kind"]}
    kept = {name: value for name, value in item.items() if name in {"type", "email", "name", "role", "scopes"}}
    if kind in {"user", "email_guard"}:
        return {**kept, "pk": item["pk"] if kind == "email_guard" else "USER", "sk": item["sk"]}
    return {**kept, "pk": "API KEY", "sk": kind + (item["sk"] if item["sk"] == "KEY" else "")}


def test_registering_again_after_a_crash_leaves_one_account(stack: Stack, http_event: HttpEvent) -> None:
    stack.use("api")
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=lambda: http_event("POST", "/api/v1/auth/register", body=body),
        normalise=steady,
        accept=lambda answer: answer["statusCode"] in FIRST_AND_LAST,
    ).run()
    assert len(report.calls) >= 1


def test_logging_in_again_after_a_crash_leaves_the_account(stack: Stack, api: Api, http_event: HttpEvent) -> None:
    body = {"email": "ada@example.com", "password": PASSWORD}

    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        return http_event("POST", "/api/v1/auth/login", body=body)

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        normalise=steady,
        accept=lambda answer: answer["statusCode"] == 200,
        count_alike=False,  # the limits of requests count the repeat as well
    ).run()
    assert len(report.calls) >= 3


def test_making_an_api_key_again_after_a_crash_makes_one(stack: Stack, api: Api, http_event: HttpEvent) -> None:
    def seed() -> dict[str, Any]:
        api.register("ada@example.com", verified=True)
        token = api.log_in("ada@example.com")["access_token"]
        headers = {"authorization": f"Bearer {token}", "idempotency-key": "once"}
        return http_event("POST", "/api/v1/api-keys", body={"name": "ci"}, headers=headers)

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        reopen_if_open(stack)
        return event

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        redeliver=redeliver,
        normalise=steady,
        accept=lambda answer: answer["statusCode"] in FIRST_AND_LAST,
    ).run()
    assert len(report.calls) >= 4


def test_refreshing_again_after_a_crash_goes_on_with_one_token(stack: Stack, api: Api, http_event: HttpEvent) -> None:
    answered: list[str] = []

    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        token = api.log_in("ada@example.com")["refresh_token"]
        return http_event("POST", "/api/v1/auth/refresh", body={"refresh_token": token})

    def links() -> Counter[bool]:
        return Counter("used_at" in item for item in _items(stack, "refresh_token"))

    def accept(answer: dict[str, Any]) -> bool:
        answered.append(json.loads(answer["body"])["data"]["refresh_token"])
        return bool(answer["statusCode"] == 200)

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        normalise=steady,
        other_state=links,
        accept=accept,
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert links() == {True: 1, False: 1}
    again = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": answered[-1]})
    assert again.status == 200


def test_logging_out_everywhere_again_after_a_crash_ends_all_sessions(
    stack: Stack, api: Api, http_event: HttpEvent
) -> None:
    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        tokens = [api.log_in("ada@example.com") for _ in range(2)]
        headers = {"authorization": f"Bearer {tokens[0]['access_token']}"}
        return http_event("POST", "/api/v1/auth/logout-all", headers=headers)

    def ended() -> tuple[list[bool], Counter[str]]:
        users = ["sessions_from" in item for item in _items(stack, "user")]
        return users, Counter(item["event"]["S"] for item in _items(stack, "audit_entry"))

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        normalise=steady,
        other_state=ended,
        # Once it was carried out, the token that asked for it is over as well.
        accept=lambda answer: answer["statusCode"] in {204, 401},
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert ended()[0] == [True]


def _items(stack: Stack, kind: str) -> list[dict[str, Any]]:
    items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
    return [item for item in items if item.get("type") == {"S": kind}]


def test_logging_out_again_after_a_crash_ends_the_session(stack: Stack, api: Api, http_event: HttpEvent) -> None:
    def seed() -> dict[str, Any]:
        api.register("ada@example.com")
        tokens = api.log_in("ada@example.com")
        headers = {"authorization": f"Bearer {tokens['access_token']}"}
        body = {"refresh_token": tokens["refresh_token"]}
        return http_event("POST", "/api/v1/auth/logout", body=body, headers=headers)

    def kinds() -> Counter[str]:
        table = stack.tables["identity"]
        items = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
        return Counter(item["type"]["S"] for item in items if "type" in item)

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["identity"]],
        seed=seed,
        normalise=steady,
        other_state=kinds,
        accept=lambda answer: answer["statusCode"] == 204,
    ).run()
    assert len(report.calls) >= 2


def test_a_ticket_asked_for_again_after_a_crash_opens_one_connection(
    stack: Stack, ada: Api, http_event: HttpEvent
) -> None:
    """A ticket whose answer was lost stays behind, unknown to anybody, for its minute."""
    event = http_event("POST", "/api/v1/realtime/ticket", headers=ada.headers)
    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["realtime"]],
        seed=lambda: event,
        normalise=lambda item: {"type": item["type"], "user_id": item["user_id"]},
        accept=lambda answer: answer["statusCode"] == 201,
        count_alike=False,
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


class TestADevice:
    @pytest.fixture
    def owner(self, api: Api, stack: Stack) -> tuple[Api, UserId]:
        user = api.register()
        document = json.dumps({"Version": "2012-10-17", "Statement": []})
        stack.aws("iot").create_policy(policyName="karma-device", policyDocument=document)
        token = api.log_in(user["email"])["access_token"]
        return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])

    def test_is_told_once_by_a_request_that_is_repeated_with_its_key(
        self, stack: Stack, owner: tuple[Api, UserId], http_event: HttpEvent
    ) -> None:
        api, user_id = owner

        def seed() -> dict[str, Any]:
            world = World(stack, user=user_id, clock=FakeClock(datetime.now(UTC)))
            made = world.create(serial_number="EOS-crash")
            world.connect(made)
            return http_event(
                "POST",
                f"/api/v1/devices/{made.current.device.id}/commands",
                body={"command": "move", "params": {"x": 1}},
                headers={**api.headers, "idempotency-key": "once"},
            )

        def redeliver(event: dict[str, Any]) -> dict[str, Any]:
            reopen_if_open(stack)
            return event

        def commands() -> list[tuple[str, str]]:
            items = stack.aws("dynamodb").scan(TableName=stack.tables["devices"], ConsistentRead=True)["Items"]
            return [(item["command"]["S"], item["status"]["S"]) for item in items if item["type"]["S"] == "command"]

        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["devices"]],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=commands,
            accept=lambda answer: answer["statusCode"] == 201,
        ).run()
        assert commands() == [("move", "sent")]
        assert "after iot-data.Publish" in " ".join(report.at) or "after iot-data-plane.Publish" in " ".join(report.at)

    def test_is_gone_when_its_deletion_is_repeated(
        self, stack: Stack, owner: tuple[Api, UserId], http_event: HttpEvent
    ) -> None:
        api, _ = owner
        iot = stack.aws("iot")

        def seed() -> dict[str, Any]:
            body = {"name": "G", "model": "EOS-3A", "mac": "aa-bb-cc-00-11-22", "serial_number": f"EOS-{new_id()}"}
            device = api.call("POST", "/api/v1/devices", body).data["device"]
            return http_event("DELETE", f"/api/v1/devices/{device['id']}", headers=api.headers)

        def left() -> tuple[Any, ...]:
            # A certificate that was taken from its thing and not yet deleted is off; the sweep finds it.
            on = [each for each in iot.list_certificates()["certificates"] if each["status"] == "ACTIVE"]
            items = stack.aws("dynamodb").scan(TableName=stack.tables["devices"], ConsistentRead=True)["Items"]
            return on, iot.list_things()["things"], Counter(item["type"]["S"] for item in items)

        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["devices"]],
            seed=seed,
            normalise=lambda _item: None,
            other_state=left,
            # A death after the last write leaves no device: the repeat is told so.
            accept=lambda answer: answer["statusCode"] in {204, 404},
        ).run()
        on, things, _ = left()
        assert (on, things) == ([], [])
        assert {"iot.DeleteThing", "iot.DeleteCertificate", "dynamodb.TransactWriteItems"} <= set(report.calls)


class TestAnAdmin:
    def test_replays_an_event_again_after_a_crash(self, stack: Stack, api: Api, http_event: HttpEvent) -> None:
        user = api.register("root@example.com")
        stack.aws("dynamodb").update_item(
            TableName=stack.tables["identity"],
            Key={"pk": {"S": f"USER#{user['id']}"}, "sk": {"S": "PROFILE"}},
            UpdateExpression="SET #role = :admin",
            ExpressionAttributeNames={"#role": "role"},
            ExpressionAttributeValues={":admin": {"S": "admin"}},
        )
        headers = {"authorization": f"Bearer {api.log_in('root@example.com')['access_token']}"}
        table, sqs, queue = stack.tables["billing"], stack.aws("sqs"), stack.queues["inbox"]

        def queued() -> set[str]:
            bodies: set[str] = set()
            while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
                for message in messages:
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                    bodies.add(message["Body"])
            return bodies

        def seed() -> dict[str, Any]:
            queued()
            now = datetime.now(UTC)
            arrival = Arrival("evt_1", "invoice.paid", '{"type": "invoice.paid", "data": {}}')
            ArrivalRepository().store(arrival, received_at=now, due_at=now)
            InboxRepository().close("evt_1", at=now, note="")
            return http_event("POST", "/api/v1/billing/inbox/evt_1/replay", headers=headers)

        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[table],
            seed=seed,
            ignore=("version", "created_at", "updated_at", "gsi1sk"),
            other_state=queued,
            accept=lambda answer: answer["statusCode"] in {200, 202},
        ).run()
        assert "sqs.SendMessage" in report.calls
