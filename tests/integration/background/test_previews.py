"""The consumer of the previews queue with a real store: crashes at every call, repeated and foreign messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.ids import DeviceId
from karma.files.domain import DeviceFile, Digests, FileStatus
from karma.files.media import mime_type_of
from karma.files.previews import PreviewStatus, Refusal
from karma.files.repository.files import FileRepository
from karma.integrations.s3 import S3Files
from tests.integration.background.test_files import FILE_BODIES, USER, keys, message, store_file
from tests.integration.background.test_hostile import BODIES
from tests.support.crash import CrashTest
from tests.support.files import put_device
from tests.support.odd_files import document, picture, saved, words
from tests.support.stack import Context, Drain, SqsEvent, Stack

Handle = Callable[[Any], list[str]]
IGNORED = ("version", "created_at", "updated_at")


@pytest.fixture(autouse=True)
def previews_function(stack: Stack) -> None:
    import previews.handler  # noqa: F401  before use(): it clears what the module keeps

    stack.use("previews")


@pytest.fixture
def handle(lambda_context: Context) -> Handle:
    def call(event: Any) -> list[str]:
        from previews.handler import lambda_handler

        failures: Any = lambda_handler(event, lambda_context)["batchItemFailures"]
        return [each["itemIdentifier"] for each in failures]

    return call


def list_file(stack: Stack, device_id: DeviceId, data: bytes) -> DeviceFile:
    """List a file as the verifier does, with its object."""
    file = store_file(stack, device_id, data=data, size=len(data))
    found = Digests(len(data), "s", "m", mime_type_of(data[:4096], None))
    FileRepository().publish(file, found, now=datetime.now(UTC))
    return file


def made(stack: Stack, file: DeviceFile) -> DeviceFile:
    found = FileRepository().find(file.device_id, file.id)
    assert found is not None
    return found


def below(stack: Stack, file: DeviceFile) -> list[str]:
    return sorted(key.rpartition("/")[2] for key in keys(stack) if f"{file.id}/previews/" in key)


@pytest.mark.req("R-K-15")
class TestAFile:
    def test_gets_its_preview_once_from_repeated_messages(
        self, stack: Stack, handle: Handle, sqs_event: SqsEvent
    ) -> None:
        file = list_file(stack, put_device(stack, USER), document(words(b"Wiring plan")))
        assert handle(sqs_event([message(file)] * 3)) == []
        now = made(stack, file)
        assert now.previews.thumbnail.status is now.previews.text.status is PreviewStatus.READY
        assert now.previews.excerpt == "Wiring plan"
        assert below(stack, file) == ["text", "thumbnail"]

    def test_that_cannot_be_opened_is_ready_and_says_why(
        self, stack: Stack, handle: Handle, sqs_event: SqsEvent
    ) -> None:
        file = list_file(stack, put_device(stack, USER), saved(picture((400, 400)), "PNG")[:300])
        assert handle(sqs_event([message(file)])) == []
        now = made(stack, file)
        assert (now.status, now.previews.thumbnail.reason) == (FileStatus.READY, Refusal.DAMAGED)
        assert below(stack, file) == []

    def test_that_was_deleted_keeps_no_preview(self, stack: Stack, handle: Handle, sqs_event: SqsEvent) -> None:
        file = list_file(stack, put_device(stack, USER), saved(picture(), "PNG"))
        now = datetime.now(UTC)
        FileRepository().begin_delete(made(stack, file), now=now, due=now + timedelta(minutes=2))
        stack.aws("s3").put_object(
            Bucket=stack.bucket, Key=f"devices/{file.device_id}/{file.id}/previews/thumbnail", Body=b"left behind"
        )
        assert handle(sqs_event([message(file)])) == []
        assert below(stack, file) == []
        assert len(keys(stack)) == 1

    def test_whose_object_is_lost_says_so(self, stack: Stack, handle: Handle, sqs_event: SqsEvent) -> None:
        file = list_file(stack, put_device(stack, USER), saved(picture(), "PNG"))
        S3Files(stack.bucket).remove(file.device_id, file.id)
        assert handle(sqs_event([message(file)])) == []
        assert made(stack, file).previews.thumbnail.reason is Refusal.LOST

    def test_is_as_if_nothing_died_whichever_call_a_worker_dies_at(self, stack: Stack, sqs_event: SqsEvent) -> None:
        device_ids: list[DeviceId] = []

        def seed() -> Any:
            device_ids[:] = [put_device(stack, USER)]
            return sqs_event([message(list_file(stack, device_ids[0], document(words(b"Wiring plan"))))])

        def plain(item: dict[str, Any]) -> dict[str, Any] | None:
            if item.get("type") != "device_file":
                return None
            hidden = {"pk", "gsi1pk", "device_id", "storage_url", "modified_at", "completed_ms", "expires_at"}
            return {name: value for name, value in item.items() if name not in hidden}

        report = CrashTest(
            entry="previews.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["devices"]],
            seed=seed,
            normalise=plain,
            ignore=IGNORED,
            other_state=lambda: sorted({key.rpartition("/")[2] for key in keys(stack) if device_ids[0] in key}),
            accept=lambda answer: answer["batchItemFailures"] == [],
        ).run()
        assert {"s3.GetObject", "s3.PutObject", "dynamodb.UpdateItem"} <= set(report.calls)


@pytest.mark.parametrize("body", [*BODIES.values(), *FILE_BODIES.values()], ids=[*BODIES.keys(), *FILE_BODIES.keys()])
def test_foreign_messages_are_reported_alone(handle: Handle, sqs_event: SqsEvent, body: object) -> None:
    event = sqs_event([body])
    assert handle(event) == [event["Records"][0]["messageId"]]


def test_the_router_asks_for_the_preview_of_a_listed_file(stack: Stack, drain: Drain, lambda_context: Context) -> None:
    import background.router  # noqa: F401  before use(): it clears what the module keeps

    file = list_file(stack, put_device(stack, USER), saved(picture(), "PNG"))
    key = {"pk": {"S": f"FILES#{file.device_id}"}, "sk": {"S": f"FILE#{file.id}"}}
    item = stack.aws("dynamodb").get_item(TableName=stack.tables["devices"], Key=key)["Item"]
    change = {"Keys": key, "NewImage": item, "SequenceNumber": "100"}
    stack.use("router")
    from background.router import lambda_handler

    for _ in "12":
        lambda_handler({"Records": [{"eventName": "INSERT", "dynamodb": change}]}, lambda_context)

    assert [json.loads(each["Body"]) for each in drain(stack.queues["previews"], 2)] == [message(file)] * 2
