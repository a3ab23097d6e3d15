"""The consumer of the files queue, and the sweep behind it: crashes, late and repeated messages, foreign ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric
from karma.core.clock import epoch_ms, iso
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.devices.repository.devices import DeviceRepository
from karma.files.domain import DeviceFile, FileStatus
from karma.files.repository.files import FileRepository
from karma.integrations.s3 import S3Files
from tests.integration.background.test_hostile import BODIES
from tests.support.crash import CrashTest
from tests.support.files import put_device, unbalanced_bytes
from tests.support.plans import reserved
from tests.support.stack import Context, Drain, SqsEvent, Stack

Handle = Callable[[Any], list[str]]

USER = UserId(new_id())
FILE = FileId(new_id())
IGNORED = ("version", "created_at", "updated_at", "gsi1sk", "expires_at")


@pytest.fixture(autouse=True)
def files_function(stack: Stack) -> None:
    import background.files  # noqa: F401  before use(): it clears what the module keeps

    stack.use("files")


def repository(stack: Stack) -> FileRepository:
    return FileRepository()


def keys(stack: Stack) -> list[str]:
    found = stack.aws("s3").list_object_versions(Bucket=stack.bucket)
    return [each["Key"] for each in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]]


def store_file(
    stack: Stack,
    device_id: DeviceId,
    *,
    status: FileStatus = FileStatus.VERIFYING,
    data: bytes | None = b"hello",
    size: int = 5,
    completed: datetime | None = None,
) -> DeviceFile:
    """Write a file as the API leaves it, with its object; its time has come for the sweep."""
    for key in keys(stack):
        stack.aws("s3").delete_object(Bucket=stack.bucket, Key=key)
    past = datetime.now(UTC) - timedelta(minutes=5)
    file = DeviceFile(
        id=FILE,
        device_id=device_id,
        user_id=USER,
        name="notes.txt",
        path="/",
        type="document",
        category="other",
        size=size,
        status=status,
        storage_url=S3Files(stack.bucket).address(device_id, FILE),
        completed_ms=epoch_ms(completed or past),
        created_at=iso(past),
        modified_at=iso(past),
    )
    room = reserved(USER, Metric.STORAGE, size) if file.takes_room else None
    repository(stack).add(file, reservation=room, directories=(), due=past)
    if data is not None:
        stack.aws("s3").put_object(Bucket=stack.bucket, Key=f"devices/{device_id}/{FILE}", Body=data)
    return file


def begin_upload(stack: Stack, file: DeviceFile) -> None:
    stack.aws("s3").create_multipart_upload(Bucket=stack.bucket, Key=f"devices/{file.device_id}/{file.id}")


def uploads(stack: Stack) -> int:
    return len(stack.aws("s3").list_multipart_uploads(Bucket=stack.bucket).get("Uploads", []))


def message(file: DeviceFile) -> dict[str, str]:
    return {"device_id": file.device_id, "file_id": file.id}


@pytest.fixture
def handle(lambda_context: Context) -> Handle:
    def call(event: Any) -> list[str]:
        from background.files import lambda_handler

        failures: Any = lambda_handler(event, lambda_context)["batchItemFailures"]
        return [each["itemIdentifier"] for each in failures]

    return call


def state_of(stack: Stack, file: DeviceFile) -> tuple[str, str | None] | None:
    found = repository(stack).find(file.device_id, file.id)
    return (found.status, found.rejection) if found is not None else None


class TestVerifying:
    @pytest.mark.parametrize(
        ("given", "end"),
        [
            ({}, ("ready", None)),
            ({"size": 4}, ("rejected", "size_mismatch")),
            ({"data": None}, ("rejected", "object_lost")),
        ],
        ids=["right", "wrong size", "lost"],
    )
    def test_ends_the_same_when_it_comes_twice(
        self,
        stack: Stack,
        handle: Handle,
        sqs_event: SqsEvent,
        given: dict[str, Any],
        end: tuple[str, str | None],
    ) -> None:
        file = store_file(stack, put_device(stack, USER), **given)

        assert handle(sqs_event([message(file)] * 3)) == []

        assert state_of(stack, file) == end
        assert len(keys(stack)) == (1 if end[0] == "ready" else 0)

    @pytest.mark.parametrize("size", [5, 4], ids=["right", "wrong"])
    def test_a_crash_at_any_call_is_repaired_by_the_redelivery(
        self, stack: Stack, sqs_event: SqsEvent, size: int
    ) -> None:
        device_ids: list[DeviceId] = []

        def seed() -> Any:
            device_ids[:] = [put_device(stack, USER)]
            return sqs_event([message(store_file(stack, device_ids[0], size=size))])

        def plain(item: dict[str, Any]) -> dict[str, Any] | None:
            if not str(item.get("type", "")).startswith("device_file"):
                return None
            hidden = {"pk", "gsi1pk", "device_id", "storage_url", "modified_at", "completed_ms", "expires_at"}
            return {name: value for name, value in item.items() if name not in hidden}

        report = CrashTest(
            entry="background.files:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["devices"], stack.tables["billing"]],
            seed=seed,
            normalise=plain,
            ignore=IGNORED,
            other_state=lambda: (
                len([key for key in keys(stack) if device_ids[0] in key]),
                unbalanced_bytes(stack),
            ),
            accept=lambda answer: answer["batchItemFailures"] == [],
        ).run()
        assert {"s3.GetObject", "dynamodb.TransactWriteItems"} <= set(report.calls)

    def test_an_upload_to_the_place_of_a_wrong_file_is_ended(
        self, stack: Stack, handle: Handle, sqs_event: SqsEvent
    ) -> None:
        file = store_file(stack, put_device(stack, USER), size=4)
        begin_upload(stack, file)

        assert handle(sqs_event([message(file)])) == []

        assert state_of(stack, file) == ("rejected", "size_mismatch")
        assert (keys(stack), uploads(stack)) == ([], 0)

    def test_a_device_that_is_being_deleted_gets_no_file(
        self, stack: Stack, handle: Handle, sqs_event: SqsEvent
    ) -> None:
        device_id = put_device(stack, USER)
        file = store_file(stack, device_id)
        devices = DeviceRepository()
        row = devices.row(USER, device_id)
        assert row is not None
        devices.begin_delete(row, now=datetime.now(UTC))

        assert handle(sqs_event([message(file)])) == []

        assert state_of(stack, file) == ("verifying", None)


# Besides those that no queue is sent.
FILE_BODIES: dict[str, object] = {
    "device a number": {"device_id": 1, "file_id": FILE},
    "file null": {"device_id": FILE, "file_id": None},
    "file a list": {"device_id": FILE, "file_id": [FILE]},
    "no file": {"device_id": FILE},
    "no device": {"file_id": FILE},
    "separator": {"device_id": f"{FILE}#x", "file_id": FILE},
    "path": {"device_id": "../..", "file_id": FILE},
    "capitals": {"device_id": FILE.upper(), "file_id": FILE},
}


class TestForeignMessages:
    @pytest.mark.parametrize(
        "body", [*BODIES.values(), *FILE_BODIES.values()], ids=[*BODIES.keys(), *FILE_BODIES.keys()]
    )
    def test_are_reported_alone(self, stack: Stack, handle: Handle, sqs_event: SqsEvent, body: object) -> None:
        event = sqs_event([body, {"device_id": new_id(), "file_id": new_id()}])
        assert handle(event) == [event["Records"][0]["messageId"]]
        assert stack.aws("dynamodb").scan(TableName=stack.tables["devices"])["Items"] == []


class TestTheSweep:
    @pytest.fixture
    def sweep(self, stack: Stack, lambda_context: Context) -> Callable[[], int]:
        def run() -> int:
            stack.use("sweeps.files")
            from background.sweeps.files import lambda_handler

            return lambda_handler({"sweep": "files"}, lambda_context)["changed"]

        return run

    def test_ends_an_upload_whose_time_is_over(self, stack: Stack, sweep: Callable[[], int]) -> None:
        file = store_file(stack, put_device(stack, USER), status=FileStatus.UPLOADING)
        begin_upload(stack, file)
        assert sweep() == 1
        assert state_of(stack, file) == ("rejected", "upload_expired")
        assert (keys(stack), uploads(stack)) == ([], 0)
        assert unbalanced_bytes(stack) == 0
        assert sweep() == 0

    def test_asks_again_for_a_file_that_waits(self, stack: Stack, sweep: Callable[[], int], drain: Drain) -> None:
        file = store_file(stack, put_device(stack, USER))
        assert sweep() == 1
        assert [json.loads(each["Body"]) for each in drain(stack.queues["files"])] == [message(file)]
        assert sweep() == 0

    def test_gives_up_after_a_day(self, stack: Stack, sweep: Callable[[], int]) -> None:
        long_ago = datetime.now(UTC) - timedelta(hours=25)
        file = store_file(stack, put_device(stack, USER), completed=long_ago)
        assert sweep() == 1
        assert state_of(stack, file) == ("rejected", "not_verified")
        assert keys(stack) == []

    def test_finishes_a_deletion(self, stack: Stack, sweep: Callable[[], int]) -> None:
        file = store_file(stack, put_device(stack, USER))
        past = datetime.now(UTC) - timedelta(minutes=5)
        repository(stack).begin_delete(file, now=past, due=past)
        assert sweep() == 1
        assert state_of(stack, file) is None
        assert keys(stack) == []
