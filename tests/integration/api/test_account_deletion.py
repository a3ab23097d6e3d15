"""DELETE /users/me and the consumer behind it, in process, until nothing is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.billing.transactional import reserve_usage
from karma.core.clock import SystemClock, iso
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId, new_id
from karma.identity.accounts.deletion import SETTLES_AFTER
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.ownership import OwnedKind
from karma.identity.transactional import add_owned
from karma.projects.lookup import all_shares
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.contexts.projects import stored_device
from tests.integration.api.conftest import PASSWORD, Api
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.plans import allowance
from tests.support.projects import invitations, join, share
from tests.support.stack import Context, Drain, HttpEvent, SqsEvent, Stack

PATH = "/api/v1/users/me"
CONFIRMED = {"current_password": PASSWORD}


@pytest.fixture
def person(api: Api) -> tuple[Api, UserId, dict[str, Any]]:
    user = api.register("ada@example.com", verified=True)
    tokens = api.log_in("ada@example.com")
    return api.as_(authorization=f"Bearer {tokens['access_token']}"), UserId(user["id"]), tokens


def settle(stack: Stack, user_id: UserId) -> None:
    """Let the time pass in which something may still write."""
    before = datetime.now(UTC) - SETTLES_AFTER - timedelta(minutes=1)
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["identity"],
        Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "TOMBSTONE"}},
        UpdateExpression="SET created_at = :before",
        ExpressionAttributeValues={":before": {"S": iso(before)}},
    )


@pytest.fixture
def advance(stack: Stack, sqs_event: SqsEvent, lambda_context: Context) -> Callable[[str], None]:
    def deliver(user_id: str) -> None:
        stack.use("deletion")
        from background.deletion import lambda_handler

        assert lambda_handler(sqs_event([user_id]), lambda_context) == {"batchItemFailures": []}

    return deliver


@pytest.mark.req("R-K-22")
def test_a_deleted_account_leaves_a_tombstone_and_nothing_else(
    stack: Stack,
    person: tuple[Api, UserId, dict[str, Any]],
    stored: Callable[[str], list[dict[str, Any]]],
    advance: Callable[[str], None],
) -> None:
    me, user_id, tokens = person
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    stack.aws("iot").create_policy(policyName="karma-device", policyDocument=document)
    body = {"name": "G", "model": "EOS-3A", "mac": "aa-bb-cc-00-11-22", "serial_number": "EOS-1"}
    device = me.call("POST", "/api/v1/devices", body, idempotency_key="once").data["device"]
    me.call("POST", f"/api/v1/devices/{device['id']}/commands", {"command": "move", "params": {}})
    begun = me.call("POST", f"/api/v1/devices/{device['id']}/files", {"name": "a.txt", "path": "/", "size": 5})
    place = {"Bucket": stack.bucket, "Key": f"devices/{device['id']}/{begun.data['file_id']}"}
    stack.aws("s3").put_object(**place, Body=b"hello")
    kept = f"attachments/{user_id}/{'0' * 64}"
    stack.aws("s3").put_object(Bucket=stack.bucket, Key=kept, Body=b"shown to an agent")
    stack.aws("s3").create_multipart_upload(**place)
    day = f"archives/365/{device['id']}/{'0' * 64}"
    stack.aws("s3").put_object(Bucket=stack.bucket, Key=day, Body=b"a day of telemetry")
    asked = {"devices": [device["id"]]}
    export = me.call("POST", "/api/v1/telemetry/exports", asked, idempotency_key="export").data["export"]
    table = {"Bucket": stack.bucket, "Key": f"exports/{user_id}/{export['id']}/{new_id()}"}
    stack.aws("s3").put_object(**table, Body=b"ts,value")
    stack.aws("s3").create_multipart_upload(**table)
    stack.aws("s3").put_object(Bucket=stack.bucket, Key=f"segments/{user_id}/{new_id()}", Body=b"an index")
    key = me.call("POST", "/api/v1/api-keys", {"name": "ci"}, idempotency_key="twice").data["key"]
    me.call("POST", "/api/v1/realtime/ticket")
    task = {"title": "Inventory", "subtasks": [{"title": "Count"}, {"title": "Report"}]}
    assert me.call("POST", "/api/v1/tasks", task, idempotency_key="task").status == 201
    avatar = me.call("POST", "/api/v1/avatars", {"name": "Fern", "role": "gardener"}, idempotency_key="avatar")
    assert me.call("DELETE", f"/api/v1/avatars/{avatar.data['avatar']['id']}").status == 204

    answer = me.call("DELETE", PATH, CONFIRMED)

    assert (answer.status, answer.data["deletion"]["user_id"]) == (202, user_id)
    assert me.call("GET", PATH).status == 404
    assert me.call("POST", "/api/v1/devices", {**body, "serial_number": "EOS-2"}).status == 404
    assert me.as_(x_api_key=key).call("GET", PATH).status == 404
    assert me.call("POST", "/api/v1/auth/login", {"email": "ada@example.com", "password": PASSWORD}).status == 401
    assert me.call("POST", "/api/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]}).status == 401
    advance(user_id)
    settle(stack, user_id)
    advance(user_id)
    left = {item["type"]["S"] for table in stack.tables for item in stored(table)}
    # A mail to nobody is deleted when it is due; where an address logged in from stands under hashes, and expires.
    # The directory of the device's rollups stands closed, so that no late worker writes any, and expires.
    assert left - {"mail", "known_network", "bucket"} == {"account_tombstone", "left_address", "telemetry_directory"}
    [directory] = stored("telemetry")
    assert directory["closed"] == {"BOOL": True}
    assert int(directory["expires_at"]["N"]) <= (datetime.now(UTC) + timedelta(days=3)).timestamp()
    assert stack.aws("iot").list_things()["things"] == []
    assert stack.aws("iot").list_certificates()["certificates"] == []
    assert "Versions" not in stack.aws("s3").list_object_versions(Bucket=stack.bucket)
    assert "Uploads" not in stack.aws("s3").list_multipart_uploads(Bucket=stack.bucket)
    stack.use("api")
    assert me.register("ada@example.com")["id"] != user_id


@pytest.mark.fault("F-44b")
def test_a_device_of_a_deleted_account_is_shown_by_no_project(
    person: tuple[Api, UserId, dict[str, Any]],
    stored: Callable[[str], list[dict[str, Any]]],
    advance: Callable[[str], None],
) -> None:
    me, user_id, _ = person
    host, guest = open_account(), open_account()
    projects, clock = ProjectRepository(), SystemClock()
    project_id = ProjectService(projects, clock).create(host, NewProject(name="Greenhouse")).project.id
    for member in (user_id, guest):
        join(invitations(projects, clock), project_id, member, by=host)
    device_id = stored_device(user_id)
    share(device_id, of=user_id, project_id=project_id)
    seen = all_shares()
    assert [each.device_id for each in seen.seen_by(guest, [project_id])] == [device_id]
    assert me.call("DELETE", PATH, CONFIRMED).status == 202
    advance(user_id)
    assert "project_device" not in {item["type"]["S"] for item in stored("work")}
    assert list(seen.seen_by(guest, [project_id])) == []


@pytest.mark.fault("F-19b")
def test_whoever_registers_the_address_again_goes_on_with_the_month_and_nobody_else_does(
    stack: Stack, person: tuple[Api, UserId, dict[str, Any]], advance: Callable[[str], None]
) -> None:
    def usage(account: UserId) -> dict[Metric, int]:
        return {each.metric: each.used for each in UsageRepository().read(allowance(account, at=now)) if each.used}

    me, user_id, _ = person
    now = datetime.now(UTC)
    taken = {Metric.RUNS: 200, Metric.MODEL_SPEND: 1_999_999}
    tx = Transaction()
    reserve_usage(tx, [allowance(user_id, at=now).reserve(*each) for each in {**taken, Metric.STORAGE: 5}.items()])
    tx.commit()
    for purged in (False, True):
        me = me.as_(authorization="Bearer " + me.log_in("ada@example.com")["access_token"])
        assert me.call("DELETE", PATH, CONFIRMED).status == 202
        if purged:
            advance(user_id)
            settle(stack, user_id)
            advance(user_id)
            stack.use("api")
        user_id = UserId(me.register("ada@example.com")["id"])
        assert usage(user_id) == taken
    assert usage(UserId(me.register("eve@example.com")["id"])) == {}


def test_a_deletion_that_stands_still_is_asked_for_again(
    stack: Stack, person: tuple[Api, UserId, dict[str, Any]], drain: Drain, lambda_context: Context
) -> None:
    me, user_id, _ = person
    assert me.call("DELETE", PATH, CONFIRMED).status == 202
    assert [each["Body"] for each in drain(stack.queues["deletions"])] == [user_id]
    stack.use("sweeps.queues")
    from background.sweeps.queues import lambda_handler

    assert lambda_handler({"sweep": "deletions"}, lambda_context) == {"changed": 0}
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    DeletionRepository().postpone(user_id, due_at=long_ago, waits_for=None)
    assert lambda_handler({"sweep": "deletions"}, lambda_context) == {"changed": 1}
    assert [each["Body"] for each in drain(stack.queues["deletions"])] == [user_id]


def test_a_deletion_is_confirmed_by_the_password(person: tuple[Api, UserId, dict[str, Any]]) -> None:
    me, _, _ = person
    missing, wrong = me.call("DELETE", PATH), me.call("DELETE", PATH, {"current_password": "wrong"})
    assert (missing.status, missing.code) == (422, "VALIDATION_ERROR")
    assert (wrong.status, wrong.code) == (403, "WRONG_PASSWORD")
    assert me.call("GET", PATH).status == 200


def test_an_api_key_deletes_no_account(person: tuple[Api, UserId, dict[str, Any]]) -> None:
    me, _, _ = person
    key = me.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["key"]
    answer = Api(me.event, me.context, {"x-api-key": key}).call("DELETE", PATH, CONFIRMED)
    assert (answer.status, answer.code) == (403, "FORBIDDEN")


@pytest.mark.req("R-K-23")
def test_an_account_that_owns_a_project_is_not_deleted(
    stack: Stack, person: tuple[Api, UserId, dict[str, Any]]
) -> None:
    me, user_id, _ = person
    tx = Transaction()
    add_owned(tx, user_id, OwnedKind.PROJECT)
    tx.commit()
    answer = me.call("DELETE", PATH, CONFIRMED)
    assert (answer.status, answer.code) == (409, "ACCOUNT_HOLDS")
    assert answer.json["error"]["details"] == {"project": 1}
    assert me.call("GET", PATH).status == 200


class TestACrash:
    def test_of_the_request_leaves_an_account_or_a_tombstone(
        self, stack: Stack, api: Api, http_event: HttpEvent
    ) -> None:
        def seed() -> dict[str, Any]:
            api.register("ada@example.com")
            token = api.log_in("ada@example.com")["access_token"]
            return http_event("DELETE", PATH, body=CONFIRMED, headers={"authorization": f"Bearer {token}"})

        def kind(item: dict[str, Any]) -> dict[str, Any] | None:
            kept = item.get("type") in {"user", "email_guard", "account_tombstone"}
            return {"type": item["type"], "sk": item["sk"]} if kept else None

        report = CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=kind,
            # A death after the transaction leaves no account to be deleted.
            accept=lambda answer: answer["statusCode"] in {202, 404},
        ).run()
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
        assert "after sqs.SendMessage" in " ".join(report.at)
