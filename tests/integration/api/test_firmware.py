"""Releases and rollouts as the API shows them; bytes in S3; jobs of the engine; a death at each AWS call."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.ids import DeviceId, UserId, new_id
from karma.firmware.domain import ReleaseId, RolloutId, RolloutState, TargetState, offered
from karma.firmware.repository.releases import ReleaseRepository
from karma.firmware.repository.rollouts import RolloutRepository
from karma.identity.accounts.deletion import SETTLES_AFTER
from karma.identity.accounts.repository.deletions import DeletionRepository
from tests.contexts.firmware import published as published_of
from tests.contract.stores.test_firmware import a_release, a_rollout, parts
from tests.integration.api.conftest import Api, reopen
from tests.integration.identity.test_deletion import begin
from tests.support.crash import CrashReport
from tests.support.firmware import FIRMWARE, manifest_of, signed
from tests.support.stack import Context, SqsEvent, Stack

RELEASES, ROLLOUTS = "/api/v1/firmware/releases", "/api/v1/firmware/rollouts"

pytestmark = pytest.mark.needs("iot")


def body(**changed: Any) -> dict[str, Any]:
    return dict(signed(manifest_of(**changed))._asdict())


def draft(api: Api, **changed: Any) -> Any:
    answer = api.call("POST", RELEASES, body(**changed))
    assert answer.status == 201, answer.text
    return answer.data["release"]


def send(upload: Mapping[str, Any], data: bytes) -> int:
    request = urllib.request.Request(upload["url"], data=data, method="PUT", headers=dict(upload["headers"]))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def published(api: Api, **changed: Any) -> Any:
    made = draft(api, **changed)
    upload = api.call("POST", f"{RELEASES}/{made['id']}/upload").data["upload"]
    assert send(upload, FIRMWARE) == 200
    answer = api.call("POST", f"{RELEASES}/{made['id']}/publish")
    assert answer.status == 200, answer.text
    return answer.data["release"]


def add_device(api: Api, **changed: Any) -> Any:
    new = {"name": "d", "model": "EOS-3A", "mac": "AA:BB:CC:00:11:22", "serial_number": f"E-{new_id()}", **changed}
    answer = api.call("POST", "/api/v1/devices", new)
    assert answer.status == 201, answer.text
    return answer.data["device"]


@pytest.fixture
def iot(stack: Stack) -> Any:
    client = stack.aws("iot")
    client.create_policy(policyName="karma-device", policyDocument='{"Version": "2012-10-17", "Statement": []}')
    return client


def look(stack: Stack, rollout_id: str) -> None:
    """Let the sweep of a minute look after a rollout, by its own function, which is told what is due."""
    from background.sweeps.firmware import lambda_handler

    table, key = stack.tables["devices"], {"pk": {"S": f"ROLLOUT#{rollout_id}"}, "sk": {"S": "LOOK"}}
    stack.aws("dynamodb").update_item(
        TableName=table,
        Key=key,
        UpdateExpression="SET gsi1sk = :due",
        ExpressionAttributeValues={":due": {"S": f"2026-01-01T00:00:00.000Z#{rollout_id}"}},
    )
    stack.use("sweeps.firmware")
    assert lambda_handler({"sweep": "rollouts"}, Context())["changed"] >= 1
    stack.use("api")


def test_a_release_is_made_uploaded_and_published_for_good(ada: Api) -> None:
    made = draft(ada)
    assert (made["state"], made["firmware_version"], made["size"]) == ("draft", "2.0.0", len(FIRMWARE))
    path = f"{RELEASES}/{made['id']}"
    assert ada.call("POST", f"{path}/publish").code == "FIRMWARE_NOT_UPLOADED"
    assert send(ada.call("POST", f"{path}/upload").data["upload"], FIRMWARE) == 200
    answer = ada.call("POST", f"{path}/publish", if_match='"1"')
    assert (answer.status, answer.headers["etag"]) == (200, '"2"')
    assert answer.data["release"]["published_at"] is not None
    assert ada.call("POST", f"{path}/publish").data == answer.data
    assert ada.call("POST", f"{path}/upload").code == "INVALID_TRANSITION"
    assert ada.call("GET", RELEASES).data["releases"] == [answer.data["release"]]
    assert ada.call("POST", RELEASES, body(size=1)).code == "ALREADY_EXISTS", "its version is taken"


def test_bytes_that_are_not_the_manifest_s_are_refused(ada: Api, stack: Stack) -> None:
    made = draft(ada)
    user_id = ada.call("GET", "/api/v1/users/me").data["user"]["id"]
    s3, key = stack.aws("s3"), f"firmware/{user_id}/{made['id']}"
    for wrong, field in ((FIRMWARE[:-1], "size"), (FIRMWARE + b"x", "size"), (FIRMWARE[:-1] + b"x", "sha256")):
        # Not by the signed PUT: S3 refuses there already, and the engine need not.
        s3.put_object(Bucket=stack.bucket, Key=key, Body=wrong)
        answer = ada.call("POST", f"{RELEASES}/{made['id']}/publish")
        assert (answer.status, answer.code) == (409, "FIRMWARE_MISMATCH")
        assert answer.json["error"]["details"]["field"] == field
    assert ada.call("GET", f"{RELEASES}/{made['id']}").data["release"]["state"] == "draft"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"manifest": "{}"}, "manifest.format"),
    ({"manifest": "x" * 4_097}, "manifest"),
    ({"signature": "AAAA"}, "signature"),
    ({"public_key": "AAAA"}, "public_key"),
    ({"manifest": manifest_of() + " "}, "signature"),
]


@pytest.mark.parametrize(("changed", "field"), WRONG)
def test_a_wrong_release_is_refused_by_name(ada: Api, changed: dict[str, Any], field: str) -> None:
    answer = ada.call("POST", RELEASES, {**body(), **changed})
    assert answer.status == 422
    assert field in [each["field"] for each in answer.json["error"]["details"]]


def test_a_release_is_deleted_with_its_bytes(ada: Api, stack: Stack) -> None:
    made = published(ada)
    assert ada.call("DELETE", f"{RELEASES}/{made['id']}", if_match='"1"').code == "STALE_VERSION"
    assert ada.call("DELETE", f"{RELEASES}/{made['id']}").status == 204
    assert ada.call("GET", f"{RELEASES}/{made['id']}").status == 404
    assert stack.aws("s3").list_object_versions(Bucket=stack.bucket, Prefix="firmware/").get("Versions", []) == []
    published(ada)


@pytest.mark.req("R-K-12")
def test_a_rollout_goes_by_jobs_of_the_device_service(ada: Api, stack: Stack, iot: Any, sqs_event: SqsEvent) -> None:
    devices = [add_device(ada) for _ in range(3)]
    release = published(ada)
    new = {"release_id": release["id"], "device_ids": [each["id"] for each in devices], "waves": [34, 100]}
    answer = ada.call("POST", ROLLOUTS, new, idempotency_key="once")
    assert answer.status == 201, answer.text
    rollout = answer.data["rollout"]
    reopen(stack, expired=True)
    assert ada.call("POST", ROLLOUTS, new, idempotency_key="once").data == answer.data
    path = f"{ROLLOUTS}/{rollout['id']}"
    look(stack, rollout["id"])
    progress = ada.call("GET", path).data["progress"]
    assert (progress["queued"], progress["waiting"]) == (2, 1)

    data = stack.aws("iot-jobs-data")
    for number, serial in enumerate(queued_things(iot, rollout)):
        begun = data.start_next_pending_job_execution(thingName=serial)["execution"]
        document = json.loads(begun["jobDocument"])
        assert document["manifest"] == release["manifest"]
        status = ("SUCCEEDED", "FAILED")[number]
        details = {"code": "HASH", "message": "another"} if status == "FAILED" else {}
        data.update_job_execution(jobId=begun["jobId"], thingName=serial, status=status, statusDetails=details)
    look(stack, rollout["id"])
    look(stack, rollout["id"])
    progress = ada.call("GET", path).data["progress"]
    assert {name: number for name, number in progress.items() if number} == {"succeeded": 1, "failed": 1, "queued": 1}
    [failed] = ada.call("GET", f"{path}/devices", query="state=failed").data["devices"]
    assert (failed["note"], failed["wave"]) == ("HASH: another", 1)

    paused = ada.call("POST", f"{path}/pause")
    assert paused.data["rollout"]["state"] == "paused"
    assert queued_things(iot, rollout) == [], "taken back at once"
    look(stack, rollout["id"])
    assert ada.call("GET", path).data["progress"]["waiting"] == 1
    assert ada.call("POST", f"{path}/resume", {"version": 1}).code == "STALE_VERSION"
    assert ada.call("POST", f"{path}/resume").data["rollout"]["state"] == "running"
    look(stack, rollout["id"])
    [serial] = queued_things(iot, rollout)
    begun = data.start_next_pending_job_execution(thingName=serial)["execution"]
    data.update_job_execution(jobId=begun["jobId"], thingName=serial, status="SUCCEEDED")
    look(stack, rollout["id"])
    shown = ada.call("GET", path).data["rollout"]
    assert (shown["state"], shown["wave"]) == ("completed", 2)
    assert ada.call("POST", f"{path}/pause").code == "INVALID_TRANSITION"
    assert looked_after(stack) == [rollout["id"]]
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["devices"],
        Key={"pk": {"S": f"FIRMWARE#{user_of(ada)}"}, "sk": {"S": f"ROLLOUT#{rollout['id']}"}},
        UpdateExpression="SET changed_at = :at",
        ExpressionAttributeValues={":at": {"S": "2026-01-01T00:00:00.000Z"}},
    )
    look(stack, rollout["id"])
    assert looked_after(stack) == []
    user_id = user_of(ada)
    delete_account(stack, user_id, sqs_event)
    assert [each["jobId"] for each in iot.list_jobs()["jobs"]] == []
    assert stack.aws("s3").list_object_versions(Bucket=stack.bucket, Prefix="firmware/").get("Versions", []) == []
    items = stack.aws("dynamodb").scan(TableName=stack.tables["devices"], ConsistentRead=True)["Items"]
    assert [item["type"]["S"] for item in items if item["type"]["S"].startswith("firmware")] == []


def user_of(api: Api) -> UserId:
    return UserId(api.call("GET", "/api/v1/users/me").data["user"]["id"])


def looked_after(stack: Stack) -> list[str]:
    items = stack.aws("dynamodb").scan(TableName=stack.tables["devices"], ConsistentRead=True)["Items"]
    return [item["rollout_id"]["S"] for item in items if item["type"] == {"S": "firmware_look"}]


def delete_account(stack: Stack, user_id: UserId, event: SqsEvent) -> None:
    """Delete an account as its owner asked for it a while ago."""
    from background.deletion import lambda_handler

    begin(DeletionRepository(), user_id, at=datetime.now(UTC) - 2 * SETTLES_AFTER)
    stack.use("deletion")
    assert lambda_handler(event([user_id]), Context()) == {"batchItemFailures": []}
    stack.use("api")


def queued_things(iot: Any, rollout: Mapping[str, Any]) -> list[str]:
    """Return serial numbers of devices that may begin a job of a rollout."""
    jobs = [each["jobId"] for each in iot.list_jobs()["jobs"] if each["jobId"].startswith(rollout["id"])]
    pages = [iot.list_job_executions_for_job(jobId=each, status="QUEUED")["executionSummaries"] for each in jobs]
    return sorted(each["thingArn"].rpartition("/")[2] for page in pages for each in page)


@pytest.mark.fault("F-43g")
def test_a_device_that_changes_hands_is_offered_nothing_by_its_giver(
    ada: Api, api: Api, stack: Stack, iot: Any
) -> None:
    away, begun, kept = [add_device(ada) for _ in range(3)]
    new = {"release_id": published(ada)["id"], "all": True, "waves": [100]}
    rollout = ada.call("POST", ROLLOUTS, new).data["rollout"]
    look(stack, rollout["id"])
    data = stack.aws("iot-jobs-data")
    data.start_next_pending_job_execution(thingName=begun["serial_number"])
    receiver = api.register()
    bob = api.as_(authorization="Bearer " + api.log_in(receiver["email"])["access_token"])
    for device in (away, begun):
        path = f"/api/v1/devices/{device['id']}/transfer"
        assert ada.call("POST", path, {"user_id": receiver["id"]}).status == 201
        assert bob.call("POST", f"{path}/accept").status == 200
    look(stack, rollout["id"])
    for device in (away, begun):
        assert data.start_next_pending_job_execution(thingName=device["serial_number"]).get("execution") is None
    assert queued_things(iot, rollout) == [kept["serial_number"]]
    progress = ada.call("GET", f"{ROLLOUTS}/{rollout['id']}").data["progress"]
    assert {name: number for name, number in progress.items() if number} == {"removed": 2, "queued": 1}
    look(stack, rollout["id"])


def test_a_link_to_the_bytes_comes_with_the_document(ada: Api, stack: Stack, iot: Any) -> None:
    trust = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }
    iam = stack.aws("iam")
    iam.create_role(RoleName="firmware", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", **trust}))
    reads = {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*/firmware/*"}]}
    iam.put_role_policy(
        RoleName="firmware", PolicyName="read", PolicyDocument=json.dumps({"Version": "2012-10-17", **reads})
    )
    device = add_device(ada)
    new = {"release_id": published(ada)["id"], "device_ids": [device["id"]]}
    rollout = ada.call("POST", ROLLOUTS, new).data["rollout"]
    look(stack, rollout["id"])
    begun = stack.aws("iot-jobs-data").start_next_pending_job_execution(thingName=device["serial_number"])
    url = json.loads(begun["execution"]["jobDocument"])["url"]
    ranged = urllib.request.Request(url, headers={"Range": "bytes=8-"})
    with urllib.request.urlopen(ranged, timeout=10) as answer:
        assert (answer.status, answer.read()) == (206, FIRMWARE[8:])


def test_a_rollout_to_nobody_is_refused(ada: Api, iot: Any) -> None:
    release = published(ada)
    for target in ({"tag": "greenhouse"}, {"all": True}):
        answer = ada.call("POST", ROLLOUTS, {"release_id": release["id"], **target})
        assert (answer.status, answer.code) == (422, "ROLLOUT_TO_NOBODY")
    add_device(ada, model="EOS-3B")
    answer = ada.call("POST", ROLLOUTS, {"release_id": release["id"], "all": True})
    assert (answer.status, answer.code) == (422, "ROLLOUT_TO_NOBODY")
    wrong: dict[str, Any]
    for wrong in ({}, {"tag": "x", "all": True}, {"device_ids": []}, {"device_ids": [new_id()]}, {"tag": ""}):
        answer = ada.call("POST", ROLLOUTS, {"release_id": release["id"], **wrong})
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), wrong
    for wrong in ({"waves": [50]}, {"waves": [60, 40, 100]}, {"waves": []}, {"abort_percent": 0}, {"wave_hours": 0}):
        answer = ada.call("POST", ROLLOUTS, {"release_id": release["id"], "all": True, **wrong})
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), wrong


def test_another_s_are_not_there(ada: Api, api: Api, iot: Any) -> None:
    add_device(ada)
    release = published(ada)
    rollout = ada.call("POST", ROLLOUTS, {"release_id": release["id"], "all": True}).data["rollout"]
    other = api.as_(authorization="Bearer " + api.log_in(api.register()["email"])["access_token"])
    for path in (f"{RELEASES}/{release['id']}", f"{ROLLOUTS}/{rollout['id']}", f"{ROLLOUTS}/{rollout['id']}/devices"):
        assert other.call("GET", path).status == 404
    for verb in ("pause", "resume", "cancel", "retry"):
        assert other.call("POST", f"{ROLLOUTS}/{rollout['id']}/{verb}").status == 404
    assert other.call("POST", ROLLOUTS, {"release_id": release["id"], "all": True}).status == 404
    assert other.call("GET", RELEASES).data["releases"] == []


@pytest.mark.fault("F-43f")
def test_failed_devices_are_tried_once_more(ada: Api, stack: Stack, iot: Any) -> None:
    devices = {each["id"]: each["serial_number"] for each in (add_device(ada) for _ in range(2))}
    release = published(ada)
    new = {"release_id": release["id"], "device_ids": list(devices), "waves": [100], "abort_percent": 100}
    path = f"{ROLLOUTS}/{ada.call('POST', ROLLOUTS, {**new, 'abort_min_finished': 9}).data['rollout']['id']}"
    rollout_id = path.rpartition("/")[2]
    assert ada.call("POST", f"{path}/retry").status == 200, "all are still to be tried"
    look(stack, rollout_id)
    data = stack.aws("iot-jobs-data")

    def end(serial: str, status: str) -> None:
        begun = data.start_next_pending_job_execution(thingName=serial)["execution"]
        data.update_job_execution(jobId=begun["jobId"], thingName=serial, status=status)

    for serial in devices.values():
        end(serial, "FAILED")
    look(stack, rollout_id)
    shown = ada.call("GET", path)
    assert shown.data["rollout"]["state"] == "completed"
    first, second = devices
    assert ada.call("POST", f"{path}/retry", {"version": 1}).code == "STALE_VERSION"
    wrong: dict[str, Any]
    for wrong in ({"device_ids": [new_id()]}, {"device_ids": []}, {"device_ids": ["x"]}):
        answer = ada.call("POST", f"{path}/retry", wrong)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), wrong
        assert answer.json["error"]["details"][0]["field"].startswith("device_ids")
    answer = ada.call("POST", f"{path}/retry", {"device_ids": [first]}, if_match=shown.headers["etag"])
    assert (answer.status, answer.data["rollout"]["state"]) == (200, "running")
    assert ada.call("POST", f"{path}/retry", {"device_ids": [first]}).data == answer.data
    assert ada.call("DELETE", f"{RELEASES}/{release['id']}").code == "RELEASE_IN_USE"
    look(stack, rollout_id)
    end(devices[first], "SUCCEEDED")
    look(stack, rollout_id)
    progress = ada.call("GET", path).data["progress"]
    assert {name: number for name, number in progress.items() if number} == {"succeeded": 1, "failed": 1}
    assert ada.call("POST", f"{path}/retry", {"device_ids": [first]}).status == 422, "it has it"
    ada.call("POST", f"{path}/retry", {"device_ids": [second]})
    look(stack, rollout_id)
    end(devices[second], "SUCCEEDED")
    look(stack, rollout_id)
    assert ada.call("GET", path).data["rollout"]["state"] == "completed"
    assert ada.call("POST", f"{path}/retry").code == "ROLLOUT_TO_NOBODY"


def test_a_rollback_brings_back_who_has_begun(ada: Api, stack: Stack, iot: Any) -> None:
    device = add_device(ada)
    old, new = published(ada, version="1.0.0"), published(ada)
    rollout = ada.call("POST", ROLLOUTS, {"release_id": new["id"], "all": True}).data["rollout"]
    path = f"{ROLLOUTS}/{rollout['id']}/rollback"
    look(stack, rollout["id"])
    data = stack.aws("iot-jobs-data")
    begun = data.start_next_pending_job_execution(thingName=device["serial_number"])["execution"]
    data.update_job_execution(jobId=begun["jobId"], thingName=device["serial_number"], status="SUCCEEDED")
    look(stack, rollout["id"])
    answer = ada.call("POST", path, {"release_id": old["id"]})
    assert answer.status == 201, answer.text
    back = answer.data["rollout"]
    assert (back["rollback_of"], back["firmware_version"], back["devices"]) == (rollout["id"], "1.0.0", 1)
    look(stack, back["id"])
    assert queued_things(iot, back) == [device["serial_number"]]


def test_devices_of_a_rollout_are_listed_by_pages(ada: Api, iot: Any) -> None:
    devices = [add_device(ada) for _ in range(3)]
    new = {"release_id": published(ada)["id"], "device_ids": [each["id"] for each in devices]}
    path = f"{ROLLOUTS}/{ada.call('POST', ROLLOUTS, new).data['rollout']['id']}/devices"
    first = ada.call("GET", path, query="limit=2").data
    second = ada.call("GET", path, query=f"limit=2&cursor={first['next_cursor']}").data
    listed = [each["device_id"] for page in (first, second) for each in page["devices"]]
    assert sorted(listed) == sorted(each["id"] for each in devices)
    assert second["next_cursor"] is None


def test_a_retry_that_dies_is_made_by_its_repeat(ada: Api, die: Callable[..., CrashReport]) -> None:
    user_id = user_of(ada)

    def failed() -> str:
        releases, rollouts = ReleaseRepository(), RolloutRepository()
        draft_ = replace(a_release(user=user_id), id=ReleaseId(new_id()), release_version=new_id()[-12:])
        releases.create(draft_, request=None)
        releases.publish(published_of(draft_))
        rollout = replace(a_rollout(draft_), id=RolloutId(new_id()), created_at=datetime.now(UTC))
        [part] = parts(rollout, [DeviceId(new_id())])
        batches = [replace(part, targets=(replace(part.targets[0], state=TargetState.FAILED, round=1),))]
        rollouts.create(rollout, batches, fleet=rollouts.fleet(user_id), request=None)
        rollouts.replace(rollout, rollout.moved(RolloutState.COMPLETED, at=rollout.created_at))
        return f"{ROLLOUTS}/{rollout.id}/retry"

    report = die("POST", failed, table="devices", accept={200})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def test_a_cancellation_that_dies_is_finished_by_its_repeat(ada: Api, die: Callable[..., CrashReport]) -> None:
    user_id = ada.call("GET", "/api/v1/users/me").data["user"]["id"]

    def begun() -> str:
        releases, rollouts = ReleaseRepository(), RolloutRepository()
        draft_ = replace(a_release(user=user_id), id=ReleaseId(new_id()))
        releases.create(draft_, request=None)
        releases.publish(published_of(draft_))
        rollout = replace(a_rollout(draft_), id=RolloutId(new_id()))
        batches = [offered(each, 1) for each in parts(rollout)]
        rollouts.create(rollout, batches, fleet=rollouts.fleet(user_id), request=None)
        return f"{ROLLOUTS}/{rollout.id}/cancel"

    report = die("POST", begun, table="devices", accept={200})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
