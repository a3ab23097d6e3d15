"""The function that carries out asks for files: with its own rights, and whichever of its calls it dies at."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from karma.core import aws
from karma.core.clock import SystemClock, epoch_ms
from karma.core.ids import new_id
from tests.support.asks import Answer, Asking, code_of, sha256
from tests.support.clients import hooked
from tests.support.crash import CrashTest
from tests.support.devices import World, sqs_record
from tests.support.files import unbalanced_bytes
from tests.support.stack import Context, Stack

DATA = b"x" * 1_000


@pytest.fixture
def asking(world: World) -> Asking:
    return Asking(world)


@pytest.mark.parametrize("operation", ["upload", "replace", "complete"])
def test_a_death_anywhere_is_as_if_there_was_none(stack: Stack, operation: str) -> None:
    asking: list[Asking] = []

    def seed() -> Any:
        stack.use("api")
        asking[:] = [Asking(World(stack))]
        body = {"op": "upload", "name": "a", "path": "/logs", "size": 1, "sha256": sha256(b"a")}
        if operation == "replace":
            asking[0].begin(b"older", ask_id="u-0", name="a")
        if operation == "complete":
            begun = asking[0].begin(b"a")
            asking[0].send(begun, b"a")
            body = {"op": "complete", "file_id": begun["file"]["id"]}
        stack.use("device_ingest.files")
        message = asking[0].message({"id": "u-1", **body})
        record = sqs_record("m1", message.topic, message.payload, message.certificate_id, _now_ms())
        return {"Records": [record]}

    stack.use("device_ingest.files")
    report = CrashTest(
        entry="device_ingest.files:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables[name] for name in ("devices", "billing")],
        seed=seed,
        normalise=_of_files,
        ignore=("version", "created_at", "updated_at", "modified_at", "gsi1sk", "upload_expires_ms", "completed_ms"),
        other_state=lambda: unbalanced_bytes(stack),
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    wanted = {
        "upload": {"dynamodb.TransactWriteItems", "s3.CreateMultipartUpload"},
        "replace": {"dynamodb.TransactWriteItems", "s3.CreateMultipartUpload", "s3.AbortMultipartUpload"},
        "complete": {"s3.ListParts", "s3.CompleteMultipartUpload", "sqs.SendMessage"},
    }
    assert {"iot-data-plane.Publish", *wanted[operation]} <= set(report.calls)


def _of_files(item: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what is not of files, and what each run draws anew."""
    if not str(item.get("type", "")).startswith("device_file"):
        return None
    if item["type"] == "device_file_request":
        return {"sk": "REQUEST", "request_hash": item["request_hash"]}
    drawn = {"pk", "gsi1pk", "device_id", "file_id", "user_id", "storage_url", "upload_id"}
    return {name: value for name, value in {**item, "sk": item["sk"][:6]}.items() if name not in drawn}


def _now_ms() -> int:
    return epoch_ms(SystemClock().now())


class TestHandler:
    @pytest.fixture
    def handle(self, stack: Stack, lambda_context: Context) -> Callable[..., list[str]]:
        def call(*records: dict[str, Any]) -> list[str]:
            from device_ingest.files import lambda_handler

            failures = lambda_handler({"Records": list(records)}, lambda_context)["batchItemFailures"]
            return [each["itemIdentifier"] for each in failures]

        return call

    @pytest.fixture
    def tell(self, asking: Asking, stack: Stack, handle: Callable[..., list[str]]) -> Callable[..., None]:
        """Give asks to the function; what it answers only the broker has."""
        stack.use("device_ingest.files")

        def call(*asks: object) -> None:
            messages = [asking.message(each if isinstance(each, bytes) else {"id": new_id(), **each}) for each in asks]  # type: ignore[dict-item]
            records = [
                sqs_record(str(n), each.topic, each.payload, each.certificate_id, _now_ms())
                for n, each in enumerate(messages)
            ]
            assert handle(*records) == []

        return call

    def test_what_no_rule_has_written_is_for_operators(self, stack: Stack, handle: Callable[..., list[str]]) -> None:
        stack.use("device_ingest.files")
        bad: list[object] = ["x", [], {}, {"topic": "t", "payload_b64": "%", "received_ms": 1}]
        records = [{"messageId": str(n), "body": json.dumps(body)} for n, body in enumerate(bad)]
        assert handle({"messageId": "no", "body": "{"}, *records) == ["no", "0", "1", "2", "3"]

    def test_each_kind_of_ask_is_carried_out_with_the_functions_own_rights(
        self, asking: Asking, tell: Callable[..., None]
    ) -> None:
        file_id = asking.ready(DATA)
        begun = asking.begin(DATA, name="b")
        asking.send(begun, DATA)
        tell(
            {"op": "upload", "name": "c", "path": "/new", "size": 1, "sha256": sha256(b"c")},
            {"op": "parts", "file_id": begun["file"]["id"]},
            {"op": "complete", "file_id": begun["file"]["id"]},
            {"op": "show", "file_id": file_id},
            {"op": "download", "path": "/logs", "name": "run.log"},
            {"op": "list"},
            {"op": "list", "path": "/logs"},
            b"{",
        )
        assert asking.ask("show", file_id=begun["file"]["id"])["file"]["status"] == "verifying"
        assert asking.ask("download", file_id=file_id)["status"] == "ok"

    def test_an_upload_that_the_store_has_lost_begins_anew(
        self, asking: Asking, stack: Stack, tell: Callable[..., None]
    ) -> None:
        begun = asking.begin(DATA)
        file_id = begun["file"]["id"]
        asking.send(begun, DATA)
        s3 = stack.aws("s3")
        [lost] = [each for each in s3.list_multipart_uploads(Bucket=stack.bucket)["Uploads"] if file_id in each["Key"]]
        s3.abort_multipart_upload(Bucket=stack.bucket, Key=lost["Key"], UploadId=lost["UploadId"])
        assert code_of(asking.ask("complete", file_id=file_id)) == "UPLOAD_INCOMPLETE"
        tell({"op": "parts", "file_id": file_id})
        left = asking.ask("parts", file_id=file_id)
        assert left["missing"] == 1
        asking.send(left, DATA)
        assert asking.ask("complete", file_id=file_id)["file"]["status"] == "verifying"

    def test_two_processes_that_begin_an_upload_at_once_go_on_with_one(
        self, asking: Asking, stack: Stack, tell: Callable[..., None]
    ) -> None:
        others: list[Answer] = []

        def another(**_: object) -> None:
            if not others:
                others.append({})
                others[0] = asking.begin(DATA, ask_id="u-1")

        aws.client("s3").meta.events.register("before-call.s3.CreateMultipartUpload", another)
        ask = {"op": "upload", "name": "run.log", "path": "/logs", "size": len(DATA), "sha256": sha256(DATA)}
        tell({**ask, "id": "u-1"})
        [other] = others
        asking.send(other, DATA)
        assert asking.ask("complete", file_id=other["file"]["id"])["status"] == "ok"
        [key] = [
            each
            for each in stack.aws("s3").list_objects_v2(Bucket=stack.bucket)["Contents"]
            if asking.id in each["Key"]
        ]
        assert key["Size"] == len(DATA)

    def test_the_broker_is_asked_for_its_host_once(
        self, asking: Asking, stack: Stack, handle: Callable[..., list[str]]
    ) -> None:
        stack.use("device_ingest.files", IOT_DATA_ENDPOINT="")
        message = asking.message({"id": "1", "op": "list"})
        record = sqs_record("m", message.topic, message.payload, message.certificate_id, _now_ms())
        # The engine's host is none that answers here: the ask comes again.
        assert handle(record) == ["m"]


def test_requests_of_each_ask(asking: Asking) -> None:
    """The numbers of docs/adr/0076, with the plan's own."""
    seen: list[str] = []

    def requests(operation: str, **members: Any) -> list[str]:
        seen.clear()
        answer = asking.ask(operation, **members)
        assert answer["status"] == "ok", answer
        return list(seen)

    who = ["GetItem", "UpdateItem", "GetItem"]
    with hooked("dynamodb", "before-call.dynamodb", lambda event_name, **_: seen.append(event_name.rpartition(".")[2])):
        new = {"name": "run.log", "path": "/logs", "size": len(DATA), "sha256": sha256(DATA)}
        made = requests("upload", ask_id="u-1", **new)
        assert made == [*who, "GetItem", "GetItem", "BatchGetItem", "TransactWriteItems", "UpdateItem"]
        begun = asking.begin(DATA, ask_id="u-1")
        asking.send(begun, DATA)
        file_id = begun["file"]["id"]
        assert requests("parts", file_id=file_id) == [*who, *["GetItem"] * 4]
        assert requests("complete", file_id=file_id) == [*who, *["GetItem"] * 4, "UpdateItem"]
        assert asking.verify(file_id) == "ready"
        assert requests("show", file_id=file_id) == [*who, *["GetItem"] * 3]
        assert requests("download", file_id=file_id) == [*who, *["GetItem"] * 3, "UpdateItem"]
        assert requests("download", path="/logs", name="run.log") == [*who, *["GetItem"] * 6, "UpdateItem"]
        assert requests("list") == [*who, "GetItem", "GetItem", "Query"]
