"""Contract of a store of files, on S3 and the one in memory; and errors when the store does not answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from karma.core.clock import SystemClock
from karma.core.ids import DeviceId, FileId, new_id
from karma.devices.lookup import DeviceLookup
from karma.files.domain import FileStatus
from karma.files.ports import ObjectGone, ObjectStore, UploadGone
from karma.files.repository.files import FileRepository
from karma.files.service import FileService
from karma.files.sweeps import FileSweep
from karma.integrations.s3 import S3Files
from tests.fakes.billing import MemoryQueue
from tests.fakes.devices import FakeClock
from tests.fakes.files import MemoryStore
from tests.integration.background.test_files import USER, store_file
from tests.support.devices import World
from tests.support.files import put_device
from tests.support.stack import Stack

DEVICE = DeviceId(new_id())
Put = Callable[[FileId, str, int, bytes], None]


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest, stack: Stack) -> ObjectStore:
    stack.use("files")
    return S3Files(stack.bucket) if request.param == "s3" else MemoryStore()


@pytest.fixture
def put(store: ObjectStore) -> Put:
    def send(file_id: FileId, upload_id: str, number: int, data: bytes) -> None:
        if isinstance(store, MemoryStore):
            store.put_part(upload_id, number, data)
            return
        url = store.part_url(DEVICE, file_id, upload_id, number, size=len(data), sha256=None)
        assert httpx.put(url, content=data, trust_env=False).status_code == 200

    return send


class TestAStore:
    def test_makes_an_object_of_parts_once(self, store: ObjectStore, put: Put) -> None:
        file_id = FileId(new_id())
        upload_id = store.begin_upload(DEVICE, file_id, checksums=False)
        put(file_id, upload_id, 1, b"hello")
        parts = store.parts(DEVICE, file_id, upload_id)
        assert [(part.number, part.size, part.sha256) for part in parts] == [(1, 5, None)]
        assert not store.exists(DEVICE, file_id)

        store.complete_upload(DEVICE, file_id, upload_id, parts)

        assert store.exists(DEVICE, file_id)
        assert b"".join(store.read(DEVICE, file_id)) == b"hello"
        with pytest.raises(UploadGone):
            store.parts(DEVICE, file_id, upload_id)
        store.abort_upload(DEVICE, file_id, upload_id)
        assert store.exists(DEVICE, file_id)

    def test_forgets_an_upload(self, store: ObjectStore) -> None:
        file_id = FileId(new_id())
        upload_id = store.begin_upload(DEVICE, file_id, checksums=True)
        store.abort_upload(DEVICE, file_id, upload_id)
        store.abort_upload(DEVICE, file_id, upload_id)
        with pytest.raises(UploadGone):
            store.parts(DEVICE, file_id, upload_id)

    def test_removes_objects_and_uploads_of_one_file_or_of_a_device(self, store: ObjectStore, put: Put) -> None:
        first, second = FileId(new_id()), FileId(new_id())
        for file_id in (first, second):
            upload_id = store.begin_upload(DEVICE, file_id, checksums=False)
            put(file_id, upload_id, 1, b"x")
            store.complete_upload(DEVICE, file_id, upload_id, store.parts(DEVICE, file_id, upload_id))
            store.begin_upload(DEVICE, file_id, checksums=False)

        store.remove(DEVICE, first)
        store.remove(DEVICE, first)

        assert not store.exists(DEVICE, first)
        with pytest.raises(ObjectGone):
            list(store.read(DEVICE, first))
        assert store.exists(DEVICE, second)
        assert [store.remove_all(DEVICE, limit=1) for _ in range(3)] == [1, 1, 0]
        assert not store.exists(DEVICE, second)


def test_a_deletion_while_the_store_is_down_is_finished_by_the_sweep(stack: Stack) -> None:
    stack.use("files")
    devices = DeviceLookup(World(stack).repository)
    files = FileRepository()
    file = store_file(stack, put_device(stack, USER), data=None)
    store = MemoryStore(objects={(file.device_id, file.id): b"hello"}, down=True)

    FileService(files, store, devices, SystemClock()).delete(USER, file.device_id, file.id)

    left = files.find(file.device_id, file.id)
    assert left is not None
    assert left.status is FileStatus.DELETING
    store.down = False
    later = FakeClock(SystemClock().now() + timedelta(minutes=3))
    assert FileSweep(files, store, MemoryQueue(), later).run() == 1
    assert files.find(file.device_id, file.id) is None
    assert store.objects == {}
