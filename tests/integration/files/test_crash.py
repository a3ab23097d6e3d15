"""Requests on files that die at any of their AWS calls: sent again, they end in the state of one that did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import Api, reopen_if_open
from tests.support.crash import CrashReport, CrashTest
from tests.support.files import Files, put_device, unbalanced_bytes
from tests.support.stack import HttpEvent, Stack

IGNORED = ("version", "created_at", "updated_at", "modified_at", "gsi1sk", "completed_ms", "upload_expires_ms")


def of_files(item: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what is not of files, and what each run draws anew."""
    if not str(item.get("type", "")).startswith("device_file"):
        return None
    if item["type"] == "device_file_request":
        return {"sk": "REQUEST", "request_hash": item["request_hash"]}
    drawn = {"pk", "gsi1pk", "device_id", "file_id", "user_id", "storage_url", "upload_id"}
    return {name: value for name, value in {**item, "sk": item["sk"][:6]}.items() if name not in drawn}


@pytest.fixture
def crash(
    stack: Stack, person: Callable[[], tuple[Api, str]], consume: Callable[[], list[str]], http_event: HttpEvent
) -> Callable[..., CrashReport]:
    """Let a request die everywhere; `prepare` makes its file and returns method, rest of the path, and body."""
    api, user_id = person()
    current: list[Files] = []

    def seed_with(prepare: Callable[[Files], tuple[str, str, object]]) -> Callable[[], Any]:
        def seed() -> Any:
            sqs = stack.aws("sqs")
            while got := sqs.receive_message(QueueUrl=stack.queues["files"], MaxNumberOfMessages=10).get("Messages"):
                for each in got:
                    sqs.delete_message(QueueUrl=stack.queues["files"], ReceiptHandle=each["ReceiptHandle"])
            current[:] = [Files(stack, api, put_device(stack, user_id), consume)]
            method, path, body = prepare(current[0])
            url = f"/api/v1/devices/{current[0].device_id}/files{path}"
            return http_event(method, url, body=body, headers={**api.headers, "idempotency-key": current[0].device_id})

        return seed

    def run(prepare: Callable[[Files], tuple[str, str, object]], *, accept: set[int]) -> CrashReport:
        def objects_and_messages() -> tuple[int, bool, int]:
            found = stack.aws("sqs").get_queue_attributes(
                QueueUrl=stack.queues["files"], AttributeNames=["ApproximateNumberOfMessages"]
            )["Attributes"]
            # As a set: an upload that was begun and not recorded stands beside the one that was, until both go.
            kept = {key for key in current[0].objects() if current[0].device_id in key}
            return len(kept), int(found["ApproximateNumberOfMessages"]) > 0, unbalanced_bytes(stack)

        def redeliver(event: Any) -> Any:
            reopen_if_open(stack)
            return event

        return CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["devices"], stack.tables["billing"]],
            seed=seed_with(prepare),
            redeliver=redeliver,
            normalise=of_files,
            ignore=IGNORED,
            other_state=objects_and_messages,
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run


def test_completing(crash: Callable[..., CrashReport]) -> None:
    def prepare(files: Files) -> tuple[str, str, object]:
        file_id = files.begin(b"hello")
        files.send(file_id, b"hello")
        return "POST", f"/{file_id}/complete", None

    report = crash(prepare, accept={202})
    assert {"s3.ListParts", "s3.CompleteMultipartUpload", "sqs.SendMessage"} <= set(report.calls)


@pytest.mark.fault("F-19a")
def test_beginning(crash: Callable[..., CrashReport]) -> None:
    def prepare(_: Files) -> tuple[str, str, object]:
        return "POST", "", {"name": "notes.txt", "path": "/docs", "size": 5}

    assert "dynamodb.TransactWriteItems" in crash(prepare, accept={201}).calls


@pytest.mark.fault("F-19a")
def test_deleting_a_file_that_is_listed(crash: Callable[..., CrashReport]) -> None:
    def prepare(files: Files) -> tuple[str, str, object]:
        return "DELETE", f"/{files.ready(path='/docs')}", None

    report = crash(prepare, accept={204, 404})
    assert {"s3.DeleteObjects", "dynamodb.TransactWriteItems", "dynamodb.DeleteItem"} <= set(report.calls)


@pytest.mark.fault("F-28a")
def test_asking_for_parts_of_an_upload_that_is_lost(crash: Callable[..., CrashReport]) -> None:
    def prepare(files: Files) -> tuple[str, str, object]:
        file_id = files.begin(b"hello")
        files.send(file_id, b"hello")
        s3 = files.stack.aws("s3")
        for each in s3.list_multipart_uploads(Bucket=files.stack.bucket)["Uploads"]:
            if each["Key"].endswith(file_id):
                s3.abort_multipart_upload(Bucket=files.stack.bucket, Key=each["Key"], UploadId=each["UploadId"])
        return "POST", f"/{file_id}/parts", {"part_numbers": [1]}

    report = crash(prepare, accept={200})
    assert {"s3.ListParts", "s3.CreateMultipartUpload"} <= set(report.calls)
