"""The worker of tree changes by its function: a death at each call, messages that come twice, late and as nonsense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric
from karma.core.clock import SystemClock, iso
from karma.core.dynamo.access import update
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.devices import DeviceRepository
from karma.files.domain import DeviceFile, Digests, FileStatus
from karma.files.entries import directory
from karma.files.repository.files import FileRepository
from karma.files.repository.items import TreeChangeItem, tree_change_key
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import FILES_A_WRITE, TreeRepository
from karma.files.sweeps import FileSweep
from karma.files.trees.domain import TreeChange, TreeChangeKey, TreeChangeState
from karma.files.trees.messages import read_tree_change
from karma.files.trees.service import TreeService
from karma.files.trees.work import TreeTools, TreeWorker
from karma.files.uploads import GRACE
from karma.integrations.s3 import S3Files
from karma.integrations.sqs import SqsQueue
from tests.fakes.devices import FakeClock
from tests.fakes.mail import MemoryQueue
from tests.integration.background.test_files import keys
from tests.support.crash import CrashTest
from tests.support.files import put_device, unbalanced_bytes
from tests.support.plans import reserved
from tests.support.stack import Context, SqsEvent, Stack

USER = UserId(new_id())
IGNORED = (
    "version",
    "created_at",
    "updated_at",
    "modified_at",
    "gsi1sk",
    "expires_at",
    "created_ms",
    "ended_ms",
    "completed_ms",
)


@pytest.fixture(autouse=True)
def files_function(stack: Stack) -> None:
    import background.files  # noqa: F401  before use(): it clears what the module keeps

    stack.use("files")


class Planted:
    """A device with `/a`: a ready file, one that is being uploaded, and a directory with one more."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.files, self.queue = stack, FileRepository(), MemoryQueue()
        self.changes, self.store = TreeChangeRepository(), S3Files(stack.bucket)
        self.device_id = put_device(stack, USER)
        self.lookup = DeviceLookup(DeviceRepository())
        self.now = datetime.now(UTC) - timedelta(minutes=5)
        self.top = self.directory("/", "a")
        self.inner = self.directory("/a", "inner")
        self.all = [self.ready("/a", "one"), self.begun("/a", "half")]
        self.all.append(self.ready("/a/inner", "deep"))

    def directory(self, path: str, name: str) -> DeviceFile:
        made = directory(self.device_id, USER, path, name, now=iso(self.now))
        self.files.add(made, reservation=None, directories=(), due=None)
        return made

    def begun(self, path: str, name: str) -> DeviceFile:
        file_id = FileId(new_id())
        file = DeviceFile(
            id=file_id, device_id=self.device_id, user_id=USER, name=name, path=path, type="text", category="other",
            size=5, status=FileStatus.UPLOADING, created_at=iso(self.now), modified_at=iso(self.now),
        )  # fmt: skip
        room = reserved(USER, Metric.STORAGE, file.size)
        self.files.add(file, reservation=room, directories=(), due=datetime.now(UTC) + timedelta(days=9))
        self.store.begin_upload(self.device_id, file_id, checksums=False)
        return file

    def ready(self, path: str, name: str) -> DeviceFile:
        file = self.begun(path, name)
        verifying = self.files.completed(file, now=self.now, due=self.now)
        self.files.publish(verifying, Digests(5, "s", "m", "text/plain"), now=self.now)
        key = f"devices/{self.device_id}/{file.id}"
        self.stack.aws("s3").put_object(Bucket=self.stack.bucket, Key=key, Body=b"hello")
        return file

    def service(self) -> TreeService:
        return TreeService(self.files, self.changes, self.lookup, self.queue, SystemClock())

    def ask(self, kind: str) -> TreeChange:
        if kind == "move":
            return self.service().move(USER, self.device_id, self.top.id, path="/", name="b")
        made = self.service().delete(USER, self.device_id, self.top.id)
        assert made is not None
        return made

    def state(self, key: TreeChangeKey) -> tuple[TreeChangeState, int, int | None]:
        change = self.changes.get(key)
        assert change is not None
        return change.state, change.done, change.total

    def release(self, key: TreeChangeKey) -> None:
        """Let the hold of a dead worker be over."""
        change = self.changes.get(key)
        if change is not None and change.is_open:
            update(TreeChangeItem(*tree_change_key(*key)), [TreeChangeItem.held_until_ms.set(0)])

    def sweep(self) -> None:
        """Let the sweep of files find tombstones that a dead worker has left."""
        clock = FakeClock(datetime.now(UTC) + GRACE + timedelta(minutes=1))
        FileSweep(self.files, self.store, MemoryQueue(), clock).run()


def alike(item: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what is not of files, and what each run draws anew."""
    if not str(item.get("type", "")).startswith("device_"):
        return None
    drawn = {
        "pk", "gsi1pk", "device_id", "file_id", "storage_url", "change_id", "directory_id", "held_until_ms", "attempts",
        "done", "marks_version", "upload_id", "user_id", "thing_name", "claim_code", "serial_number", "certificate_id",
    }  # fmt: skip
    sk = str(item["sk"])
    known = sk if sk.startswith("NAME#") else f"{sk[:5]}{item.get('name', '')}"
    return {name: value for name, value in {**item, "sk": known}.items() if name not in drawn}


@pytest.mark.parametrize("kind", ["move", "delete"])
def test_a_death_at_any_call_is_made_good_by_a_repeat(stack: Stack, sqs_event: SqsEvent, kind: str) -> None:
    current: list[tuple[Planted, TreeChangeKey]] = []

    def seed() -> Any:
        planted = Planted(stack)
        change = planted.ask(kind)
        current[:] = [(planted, change.key)]
        return sqs_event(planted.queue.bodies)

    def redeliver(event: Any) -> Any:
        planted, key = current[0]
        planted.release(key)
        planted.sweep()
        return event

    def left() -> tuple[int, int, object]:
        planted, key = current[0]
        mine = [each for each in keys(stack) if planted.device_id in each]
        return len(mine), unbalanced_bytes(stack), planted.state(key)[0]

    report = CrashTest(
        entry="background.files:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["billing"]],
        seed=seed,
        redeliver=redeliver,
        normalise=alike,
        ignore=IGNORED,
        other_state=left,
        accept=lambda answer: answer["batchItemFailures"] == [],
        count_alike=False,
    ).run()
    assert "dynamodb.TransactWriteItems" in report.calls
    assert report.points >= 6


def test_many_files_go_by_as_many_messages_as_it_takes(
    stack: Stack, lambda_context: Context, sqs_event: SqsEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is given twice, by the function's own rights; the numbers grow, and each file goes once."""
    from background import files as function

    planted = Planted(stack)
    for number in range(FILES_A_WRITE):
        planted.begun("/a", f"more-{number}")
    queue, clock = SqsQueue(stack.queues["files"]), FakeClock(SystemClock().now())
    tools = TreeTools(
        files=planted.files,
        changes=planted.changes,
        trees=TreeRepository(),
        store=planted.store,
        queue=queue,
        clock=clock,
    )
    built = function.Services(verifier=function.services().verifier, trees=lambda: TreeWorker(tools, work_s=0))
    monkeypatch.setattr(function, "services", lambda: built)
    moved = planted.ask("move")
    seen = deliver_all(planted, moved, stack, lambda_context, sqs_event)
    total = len(planted.all) + FILES_A_WRITE + 1
    assert seen == sorted(seen)
    assert len(set(seen)) >= 2
    assert planted.state(moved.key) == (TreeChangeState.SUCCEEDED, total, total)
    deleted = planted.ask("delete")
    deliver_all(planted, deleted, stack, lambda_context, sqs_event)
    assert planted.state(deleted.key) == (TreeChangeState.SUCCEEDED, total, total)
    assert unbalanced_bytes(stack) == 0
    assert [each for each in keys(stack) if planted.device_id in each] == []


def deliver_all(planted: Planted, change: TreeChange, stack: Stack, context: Context, sqs_event: SqsEvent) -> list[int]:
    """Give each message twice until none is left; return how much was done after each."""
    from background.files import lambda_handler

    done, sqs = [], stack.aws("sqs")
    waiting = planted.queue.bodies[-1:]
    while waiting:
        assert read_tree_change(waiting[0]) == change.key
        assert lambda_handler(sqs_event([waiting[0]] * 2), context)["batchItemFailures"] == []
        done.append(planted.state(change.key)[1])
        waiting = []
        while got := sqs.receive_message(QueueUrl=stack.queues["files"], MaxNumberOfMessages=10).get("Messages"):
            waiting += [each["Body"] for each in got]
            for each in got:
                sqs.delete_message(QueueUrl=stack.queues["files"], ReceiptHandle=each["ReceiptHandle"])
    return done


def test_messages_that_are_late_or_name_nothing_do_nothing(
    stack: Stack, lambda_context: Context, sqs_event: SqsEvent
) -> None:
    from background.files import lambda_handler

    planted = Planted(stack)
    change = planted.ask("delete")
    body = planted.queue.bodies[0]
    for _ in range(2):
        assert lambda_handler(sqs_event([body]), lambda_context)["batchItemFailures"] == []
    assert planted.state(change.key) == (TreeChangeState.SUCCEEDED, 4, 4)
    gone = body.replace(planted.device_id, DeviceId(new_id()))
    assert lambda_handler(sqs_event([gone]), lambda_context)["batchItemFailures"] == []
    wrong = ['{"tree_change": 5}', '{"tree_change": {"device_id": "x", "change_id": "y"}}']
    assert len(lambda_handler(sqs_event(wrong), lambda_context)["batchItemFailures"]) == 2
