"""Waiting for a file: what the model is told, what clients are shown, and what ends the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.history import READING, stopped, stopped_words
from karma.core.ids import DeviceId, FileId, RunId, UserId, new_id
from karma.files.awaiting import AwaitedFiles
from karma.files.domain import PART_BYTES
from karma.files.entries import Entries
from karma.files.service import FileService
from karma.files.uploads import NewFile, UploadService
from karma.files.verification import UploadVerifier
from karma.runs.calls import outcome_of
from karma.tools.device_tools import DeviceTools
from karma.tools.file_tools import FileTools
from karma.tools.state_tools import update_state_tool
from karma.tools.toolbox import Toolbox, ToolOutcome
from tests.fakes.files import MemoryDevices, MemoryFiles, MemoryStore
from tests.fakes.identity import MovableClock
from tests.fakes.mail import MemoryQueue
from tests.fakes.runs import caller
from tests.support.plans import allowance

SIZE = PART_BYTES + 5


class World:
    """A device and its files; each look at a file is followed by the next of `then`."""

    def __init__(self) -> None:
        self.owner, self.device = caller().user_id, DeviceId(new_id())
        devices, clock = MemoryDevices({self.device: self.owner}), MovableClock()
        self.files, self.store = MemoryFiles(devices), MemoryStore()
        self.uploads = UploadService(self.files, self.store, devices, MemoryQueue(), clock)
        self.service = FileService(self.files, self.store, devices, clock)
        self.verifier = UploadVerifier(self.files, self.store, clock)
        self.awaited = AwaitedFiles(Entries(self.files, devices, clock), self.store, devices)
        self.then: list[Callable[[], object]] = []
        self.shown: list[dict[str, Any]] = []
        self.id = FileId("")
        self.toolbox = Toolbox(FileTools(lambda: self, pause_s=0.001).tools(), caller(), shorten=str)
        self.toolbox.show_by(lambda call_id, kind, content: self.shown.append({"as": kind, **content}))

    def look(self, user_id: UserId, device_ref: str, file_ref: str) -> Any:
        try:
            return self.awaited.look(user_id, device_ref, file_ref)
        finally:
            if self.then:
                self.then.pop(0)()

    def begin(self, *, sha256: str | None = None) -> None:
        new = NewFile(name="today.txt", path="/logs", size=SIZE, sha256=sha256)
        self.id = self.uploads.create(self.owner, self.device, new, allowance=allowance(self.owner)).id
        self.uploads.parts(self.owner, self.device, self.id, [1, 2], {})

    def put(self, number: int) -> None:
        entry = self.files.find(self.device, self.id)
        assert entry is not None
        self.store.put_part(str(entry.upload_id), number, b"x" * entry.part_bytes(number))

    def complete(self) -> None:
        self.uploads.complete(self.owner, self.device, self.id)

    def verify(self) -> None:
        self.verifier.verify(self.device, self.id)

    def delete(self) -> None:
        self.service.delete(self.owner, self.device, self.id)

    def call(self, *, wait_s: int = 5, file: str = "/logs/today.txt", device: str = "") -> ToolOutcome:
        return asyncio.run(self.calling(wait_s=wait_s, file=file, device=device))

    async def calling(self, *, wait_s: int = 5, file: str = "/logs/today.txt", device: str = "") -> ToolOutcome:
        arguments = {"device_id": device or self.device, "file": file, "wait_s": wait_s}
        asked = ToolCall("c1", "waitForFile", orjson.dumps(arguments).decode())
        return await self.toolbox.call(asked, run_id=RunId("r1"))


@pytest.fixture
def world() -> World:
    return World()


def test_a_file_is_followed_from_before_its_upload_until_it_is_ready(world: World) -> None:
    world.then = [world.begin, lambda: world.put(1), lambda: world.put(2), world.complete, world.verify]

    outcome = world.call()

    told = orjson.loads(outcome.content)
    assert not outcome.failed
    of = {"device_id": world.device, "path": "/logs/today.txt", "file_id": world.id, "size": SIZE}
    assert told.items() >= {**of, "status": "ready", "uploaded_bytes": SIZE, "mime_type": "text/plain"}.items()
    common = {"as": "karma.file", "deviceId": world.device, "path": "/logs/today.txt"}
    file = {**common, "fileId": world.id, "totalBytes": SIZE}
    assert world.shown == [
        {**common, "status": "expected"},
        {**file, "status": "uploading", "uploadedBytes": 0},
        {**file, "status": "uploading", "uploadedBytes": PART_BYTES},
        {**file, "status": "uploading", "uploadedBytes": SIZE},
        {**file, "status": "verifying", "uploadedBytes": SIZE},
        {**file, "status": "ready", "uploadedBytes": SIZE},
    ]


def test_bytes_that_are_not_the_declared_ones_fail_the_call(world: World) -> None:
    world.begin(sha256="0" * 64)
    world.put(1)
    world.put(2)
    world.then = [world.complete, world.verify]

    outcome = world.call(file=world.id)

    told = orjson.loads(outcome.content)
    assert (outcome.failed, told["status"]) == (True, "rejected")
    assert told["error"] == "The file /logs/today.txt was rejected: sha256_mismatch"


def test_a_file_that_is_deleted_meanwhile_is_not_waited_for_under_its_name(world: World) -> None:
    world.begin()

    def replace() -> None:
        world.delete()
        former = world.id
        world.begin()
        assert world.id != former

    world.then = [replace]

    outcome = world.call()

    assert outcome.failed
    assert "not found" in orjson.loads(outcome.content)["error"]


def test_a_wait_ends_in_time_and_the_model_is_told_later_what_became_of_the_file(world: World) -> None:
    late = world.call(wait_s=1)
    assert orjson.loads(late.content) == {
        "error": "There is no file /logs/today.txt within 1 s; its upload has not begun",
        "device_id": world.device,
        "path": "/logs/today.txt",
        "status": "expected",
    }

    def by_now() -> Any:
        call = ToolCall("c1", "waitForFile", "{}")
        said = Message(id="a", role="assistant", tool_calls=(call,))
        result = Message(id="t", role="tool", tool_call_id="c1", content=late.content, failed=True)
        return orjson.loads(str(asyncio.run(world.toolbox.refreshed([said, result]))[1].content)).get("by_now")

    assert by_now() is None
    world.begin()
    world.put(2)
    told = by_now()
    assert (told["status"], told["uploaded_bytes"], told["file_id"]) == ("uploading", 5, world.id)


def test_a_wait_is_cancelled_at_once() -> None:
    world = World()

    async def go() -> None:
        world.toolbox = Toolbox(FileTools(lambda: world.awaited, pause_s=30).tools(), caller(), shorten=str)
        calling = asyncio.ensure_future(world.calling(wait_s=100))
        await asyncio.sleep(0.05)
        calling.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(calling, return_exceptions=True)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("today.txt", "must be the id of a file, or its whole path"),
        ("/", "is a directory"),
        ("/logs", "is a directory"),
        ("/a/../b", "must not contain .."),
        ("/a\x00", "control characters"),
        ("01890a5d-ac96-774b-bcce-b302099a8057", "not found"),
    ],
)
def test_what_is_no_file_is_refused(world: World, file: str, error: str) -> None:
    world.begin()
    outcome = world.call(file=file)
    assert outcome.failed
    assert error in outcome.content


def test_another_account_s_device_is_none(world: World) -> None:
    world.owner = UserId(new_id())
    outcome = world.call(device=new_id())
    assert outcome.failed
    assert "not found" in outcome.content


def test_a_tool_that_only_reads_says_so_when_its_run_ends_and_no_other_does() -> None:
    devices = DeviceTools(lambda: pytest.fail("not called")).tools()
    files = FileTools(lambda: pytest.fail("not called")).tools()
    others = [update_state_tool(), replace(devices[0], name="github__search"), replace(devices[0], name="scout")]
    reading = {tool.name for tool in [*devices, *files] if tool.permission.endswith(":read")}
    assert reading == READING
    for tool in [*devices, *files, *others]:
        call = ToolCall("c1", tool.name, "{}")
        for told in (str(stopped(call).content), outcome_of(None, {}, stopped_words(call, ())).content):
            assert ("may have taken effect" in told) == (tool.name not in reading), tool.name
