"""Declarations of devices' files for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import httpx
import pytest

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import iso
from karma.core.dynamo.access import upsert
from karma.core.errors import NotFound
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.core.requests import RETENTION, RepeatableRequest
from karma.devices.lookup import DeviceLookup
from karma.files.domain import REJECTED_TIME, DeviceFile, Digests, FileShare, FileStatus, Rejection, ShareId
from karma.files.entries import Entries
from karma.files.ports import ObjectStore
from karma.files.previews import DocumentText, PreviewStatus, Refusal, refused
from karma.files.repository.files import FileRepository
from karma.files.repository.items import CountItem, count_key
from karma.files.repository.previews import PreviewRepository
from karma.files.repository.shares import ShareRepository
from karma.files.service import FileService
from karma.files.shares import ShareService
from karma.identity.accounts.repository.users import UserRepository
from tests.contexts.devices import DeviceRows
from tests.fakes.devices import FakeClock
from tests.fakes.file_parts import MemoryPreviews, MemoryShares
from tests.fakes.files import MemoryDevices, MemoryFiles, MemoryStore
from tests.fakes.usage import MemoryUsage
from tests.integration.permissions.world import Bodies, Objects, World, bearer
from tests.support import contexts
from tests.support.contexts import Call, Checks, Fakes, Scenarios, made
from tests.support.plans import allowance, reserved
from tests.support.requests import asked
from tests.support.rows import LATER, NOW


class FileRows(ABC):
    """A device with files."""

    @property
    @abstractmethod
    def files(self) -> FileRepository:
        """Return the repository under test."""

    @property
    @abstractmethod
    def previews(self) -> PreviewRepository:
        """Return the repository of their previews."""

    @property
    @abstractmethod
    def shares(self) -> ShareRepository:
        """Return the repository of their links."""

    @property
    @abstractmethod
    def usage(self) -> MemoryUsage | UsageRepository:
        """Return the usage of owners' plans."""

    @property
    @abstractmethod
    def owner_id(self) -> UserId:
        """Return the device's owner."""

    @property
    @abstractmethod
    def device_id(self) -> DeviceId:
        """Return the id of an active device."""

    @abstractmethod
    def lose_device(self) -> None:
        """Begin to delete the device."""

    def new_file(self, **changes: Any) -> DeviceFile:
        made = DeviceFile(
            id=FileId(new_id()),
            device_id=self.device_id,
            user_id=self.owner_id,
            name="notes.txt",
            path="/a",
            type="text",
            category="document",
            size=5,
            status=FileStatus.UPLOADING,
            created_at=iso(NOW),
            modified_at=iso(NOW),
        )
        return replace(made, **changes)

    def new_directory(self, name: str = "a", path: str = "/") -> DeviceFile:
        return self.new_file(name=name, path=path, status=FileStatus.READY, is_directory=True, size=0)

    def add(self, entry: DeviceFile, *directories: DeviceFile, request: RepeatableRequest | None = None) -> None:
        """Add an entry as its owner does, whose plan has no limits; a file's bytes are reserved."""
        room = None if entry.is_directory else reserved(self.owner_id, Metric.STORAGE, entry.size)
        due = None if entry.is_directory else NOW
        self.files.add(entry, reservation=room, directories=directories, due=due, request=request)

    @abstractmethod
    def fill(self, names: int) -> None:
        """Have the device counted with so many names."""

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that files take of the owner's plan."""
        return next(each.used for each in self.usage.read(allowance(self.owner_id)) if each.metric is Metric.STORAGE)

    @cached_property
    def uploading(self) -> DeviceFile:
        file = self.new_file()
        self.add(file, self.new_directory())
        return file

    @cached_property
    def verifying(self) -> DeviceFile:
        return self.files.completed(self.uploading, now=NOW, due=NOW)

    @cached_property
    def ready(self) -> DeviceFile:
        self.files.publish(self.verifying, Digests(5, "s", "m", "text/plain"), now=NOW)
        return self._found(self.verifying)

    @cached_property
    def pictured(self) -> DeviceFile:
        """List a document, whose preview is pending."""
        self.files.publish(self.verifying, Digests(5, "s", "m", "application/pdf"), now=NOW)
        return self._found(self.verifying)

    @cached_property
    def shared(self) -> FileShare:
        """Make a link to the ready file, which opens twice."""
        share = FileShare(
            id=ShareId(new_id()),
            file_id=self.ready.id,
            device_id=self.device_id,
            user_id=self.owner_id,
            secret_hash="h" * 64,
            expires_at=LATER,
            created_at=iso(NOW),
            max_downloads=2,
        )
        self.shares.add(share)
        return share

    @cached_property
    def rejected(self) -> DeviceFile:
        self.files.reject(self.verifying, Rejection.SIZE, now=NOW, due=NOW)
        return self._found(self.verifying)

    @cached_property
    def vanishing(self) -> DeviceFile:
        self.files.begin_delete(self.ready, now=NOW, due=NOW)
        return self._found(self.ready)

    @cached_property
    def folder(self) -> DeviceFile:
        folder = self.new_directory("b")
        self.add(folder)
        return folder

    @cached_property
    def subfolder(self) -> DeviceFile:
        subfolder = self.new_directory(path=f"/{self.folder.name}")
        self.add(subfolder)
        return subfolder

    def _found(self, file: DeviceFile) -> DeviceFile:
        found = self.files.find(file.device_id, file.id)
        assert found is not None
        return found


class MemoryFileRows(FileRows):
    """Files in memory."""

    def __init__(self) -> None:
        self._device_id = DeviceId(new_id())
        self._owner_id = UserId(new_id())
        self.devices = MemoryDevices({self._device_id: self._owner_id})
        self._files = MemoryFiles(self.devices)

    @property
    def previews(self) -> PreviewRepository:
        return MemoryPreviews(self._files)

    @cached_property
    def shares(self) -> ShareRepository:
        return MemoryShares(self._files)

    @property
    def files(self) -> MemoryFiles:
        return self._files

    @property
    def usage(self) -> MemoryUsage:
        return self._files.usage

    @property
    def owner_id(self) -> UserId:
        return self._owner_id

    @property
    def device_id(self) -> DeviceId:
        return self._device_id

    def lose_device(self) -> None:
        self.devices.owners.clear()

    def fill(self, names: int) -> None:
        self._files.counts[self._device_id] = names


class StoredFileRows(DeviceRows, FileRows):
    @cached_property
    def shares(self) -> ShareRepository:
        return ShareRepository()

    @cached_property
    def previews(self) -> PreviewRepository:
        return PreviewRepository()

    @cached_property
    def files(self) -> FileRepository:
        return FileRepository()

    @cached_property
    def usage(self) -> UsageRepository:
        return UsageRepository()

    @property
    def owner_id(self) -> UserId:
        return self.ada.id

    def fill(self, names: int) -> None:
        upsert(CountItem(*count_key(self.device_id)), [CountItem.names.set(names)])

    @property
    def device_id(self) -> DeviceId:
        return self.device.id

    def lose_device(self) -> None:
        self.devices.begin_delete(self.device, now=NOW)


FAKES: Fakes = {
    MemoryFiles: (FileRepository,),
    MemoryPreviews: (PreviewRepository,),
    MemoryShares: (ShareRepository,),
}


def _renamed(r: StoredFileRows) -> Call:
    file = r.ready
    changed = replace(file, name="other.txt", path="/c", revision=file.revision + 1)
    folder = r.new_directory("c")
    return lambda: r.files.change(file, changed, directories=[folder], seen=0)


SCENARIOS = Scenarios[StoredFileRows](
    StoredFileRows,
    {
        "FileRepository.find": made(lambda r: r.ready, lambda r, f: r.files.find(f.device_id, f.id)),
        "FileRepository.unlisted": made(lambda r: r.uploading, lambda r, f: r.files.unlisted(f.device_id, f.id)),
        "FileRepository.holder": made(lambda r: r.ready, lambda r, f: r.files.holder(f.device_id, f.path, f.name)),
        "FileRepository.made_by": made(lambda r: r.device, lambda r, d: r.files.made_by(d.id, asked())),
        "FileRepository.inside": made(lambda r: r.ready, lambda r, f: r.files.inside(f.device_id, f.path)),
        "FileRepository.missing": made(lambda r: r.device, lambda r, d: r.files.missing(d.id, [("/", "a")])),
        "FileRepository.newest": made(lambda r: r.ready, lambda r, f: r.files.newest(f.device_id, limit=5)),
        "FileRepository.in_directory": made(
            lambda r: r.ready, lambda r, f: r.files.in_directory(f.device_id, "/a", limit=5)
        ),
        "FileRepository.count": made(lambda r: r.ready, lambda r, f: r.files.count(f.device_id, "/a", most=5)),
        "FileRepository.due": made(lambda r: r.uploading, lambda r, _: r.files.due(before=LATER, limit=5)),
        "FileRepository.add": made(
            lambda r: (r.new_file(path="/b/a"), r.folder, r.new_directory(path="/b")),
            lambda r, n: r.add(n[0], n[2], request=asked()),
        ),
        "FileRepository.begin_upload": made(
            lambda r: r.uploading, lambda r, f: r.files.begin_upload(f, "u1", checksums=False)
        ),
        "FileRepository.completed": made(lambda r: r.uploading, lambda r, f: r.files.completed(f, now=NOW, due=NOW)),
        "FileRepository.publish": made(
            lambda r: r.verifying, lambda r, f: r.files.publish(f, Digests(5, "s", "m", "text/plain"), now=NOW)
        ),
        "FileRepository.change": _renamed,
        "FileRepository.accessed": made(lambda r: r.ready, lambda r, f: r.files.accessed(f, now=NOW)),
        "FileRepository.postpone": made(lambda r: r.verifying, lambda r, f: r.files.postpone(f, due=LATER)),
        "FileRepository.reject": made(
            lambda r: r.verifying, lambda r, f: r.files.reject(f, Rejection.SIZE, now=NOW, due=NOW)
        ),
        "FileRepository.cleaned": made(lambda r: r.rejected, lambda r, f: r.files.cleaned(f, now=NOW)),
        "FileRepository.begin_delete": made(lambda r: r.ready, lambda r, f: r.files.begin_delete(f, now=NOW, due=NOW)),
        "FileRepository.forget": made(lambda r: r.vanishing, lambda r, f: r.files.forget(f)),
        "FileRepository.remove_directory": made(
            lambda r: r.subfolder, lambda r, f: r.files.remove_directory(f, seen=0)
        ),
        "FileRepository.marks": made(lambda r: r.device, lambda r, d: r.files.marks(d.id)),
        "ShareRepository.add": made(lambda r: r.ready, lambda r, _: r.shared),
        "ShareRepository.of_file": made(lambda r: r.shared, lambda r, s: r.shares.of_file(s.device_id, s.file_id)),
        "ShareRepository.find": made(lambda r: r.shared, lambda r, s: r.shares.find(s.device_id, s.file_id, s.id)),
        "ShareRepository.opened": made(lambda r: r.shared, lambda r, s: r.shares.opened(s, now=NOW)),
        "ShareRepository.remove": made(lambda r: r.shared, lambda r, s: r.shares.remove(s.device_id, s.file_id, s.id)),
        "PreviewRepository.previewed": made(
            lambda r: r.pictured,
            lambda r, f: r.previews.previewed(f, refused(f.previews, Refusal.DAMAGED), now=NOW),
        ),
        "FileRepository.remove_rows": made(lambda r: r.ready, lambda r, f: r.files.remove_rows(f.device_id, limit=50)),
    },
)


def _directory(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/directories", {"path": f"/d-{new_id()}"})
    return str(made["directory"]["id"])


def _upload(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/files", {"name": f"f-{new_id()}", "size": 0})
    return str(made["file"]["id"])


def _sent(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Begin an upload, and send its one part, which is empty."""
    file_id = _upload(world, owner, ids)
    path = f"/api/v1/devices/{ids['device_id']}/files/{file_id}/parts"
    answer = world.api("POST", path, {"part_numbers": [1]}, headers=bearer(world.person(owner).token))
    [part] = answer.data["parts"]
    assert httpx.put(part["url"], content=b"", headers=part["headers"], trust_env=False).status_code == 200
    return file_id


def _document(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a document whose text was read."""
    file_id = _listed(world, owner, ids, mime_type="application/pdf")
    file = FileRepository().find(DeviceId(ids["device_id"]), FileId(file_id))
    assert file is not None
    text = DocumentText(status=PreviewStatus.READY, pages=1, characters=1)
    made = replace(refused(file.previews, Refusal.DAMAGED), text=text)
    PreviewRepository().previewed(file, made, now=datetime.now(UTC))
    return file_id


def _listed(world: World, owner: str, ids: Mapping[str, str], *, mime_type: str = "text/plain") -> str:
    """Make a file that the verifier has found right."""
    file_id, files, now = _upload(world, owner, ids), FileRepository(), datetime.now(UTC)
    device_id = DeviceId(ids["device_id"])
    uploading = files.find(device_id, FileId(file_id))
    assert uploading is not None
    files.completed(uploading, now=now, due=now)
    verifying = files.find(device_id, FileId(file_id))
    assert verifying is not None
    files.publish(verifying, Digests(0, "0" * 64, "0" * 32, mime_type), now=now)
    return file_id


def _shared(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a link to the file."""
    path = f"/api/v1/devices/{ids['device_id']}/files/{ids['file_id']}/share"
    return str(world.create(owner, path, {})["share"]["id"])


def _token(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a link to a new file of a new device, and return what opens it."""
    device_id = contexts.objects()["device_id"](world, owner, {})
    file_id = _listed(world, owner, {"device_id": device_id})
    return str(world.create(owner, f"/api/v1/devices/{device_id}/files/{file_id}/share", {})["token"])


OBJECTS: Objects = {
    "file_id": _directory,
    "file_id of GET /api/v1/devices/{device_id}/files/{file_id}/download": _listed,
    "file_id of GET /api/v1/devices/{device_id}/files/{file_id}/text": _document,
    "file_id of POST /api/v1/devices/{device_id}/files/{file_id}/share": _listed,
    "file_id of GET /api/v1/devices/{device_id}/files/{file_id}/share": _listed,
    "file_id of DELETE /api/v1/devices/{device_id}/files/{file_id}/share/{share_id}": _listed,
    "share_id": _shared,
    "token": _token,
    "file_id of POST /api/v1/devices/{device_id}/files/{file_id}/parts": _upload,
    "file_id of POST /api/v1/devices/{device_id}/files/{file_id}/complete": _sent,
}

BODIES: Bodies = {
    "POST /api/v1/devices/{device_id}/files": lambda *_: {"name": f"{new_id()}.txt", "size": 1},
    "POST /api/v1/devices/{device_id}/files/{file_id}/parts": lambda *_: {"part_numbers": [1]},
    "POST /api/v1/devices/{device_id}/files/{file_id}/share": lambda *_: {"max_downloads": 5},
    "PATCH /api/v1/devices/{device_id}/files/{file_id}": lambda *_: {"category": "log"},
    "POST /api/v1/devices/{device_id}/directories": lambda *_: {"path": "/logs"},
}


def _made_file_over(rows: StoredFileRows) -> None:
    rows.add(rows.new_file(), rows.new_directory(), request=asked())
    assert rows.files.made_by(rows.device.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.files.made_by(rows.device.id, asked(at=NOW + RETENTION))
    rows.add(rows.new_file(name="other.txt"), request=asked(at=NOW + RETENTION))


def _file_over(rows: StoredFileRows) -> None:
    rows.files.cleaned(rows.rejected, now=NOW)
    parent = DeviceLookup(rows.devices)

    def service(now: datetime) -> FileService:
        store: ObjectStore = MemoryStore()
        return FileService(rows.files, store, parent, FakeClock(now))

    file = rows.rejected
    assert service(NOW + REJECTED_TIME - timedelta(seconds=1)).get(rows.ada.id, file.device_id, file.id).rejection
    with pytest.raises(NotFound):
        service(NOW + REJECTED_TIME).get(rows.ada.id, file.device_id, file.id)


def _share_over(rows: StoredFileRows) -> None:
    clock = FakeClock(NOW)
    entries = Entries(rows.files, DeviceLookup(rows.devices), clock)
    service = ShareService(rows.shares, entries, UserRepository(), MemoryStore(), clock)
    ends = NOW + timedelta(days=1)
    token = service.create(rows.ada.id, rows.device.id, rows.ready.id, expires_at=ends, max_downloads=None).token
    clock.moment = ends - timedelta(seconds=1)
    assert service.open(token)
    clock.moment = ends
    with pytest.raises(NotFound):
        service.open(token)


EXPIRES = Checks[StoredFileRows](
    StoredFileRows,
    {
        "device_file_request": _made_file_over,
        "device_file": _file_over,
        "device_file_share": _share_over,
    },
)
