"""Files in memory: objects by S3's rules, which tests/integration/files/test_store.py compares, rows and names by
DynamoDB's, which test_files.py and test_file_trees.py in tests/contract/stores compare."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.billing.allowances import Metric, Reservation, given_back
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, NotFound, StaleVersion
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.core.requests import RepeatableRequest
from karma.files.domain import (
    MAX_NAMES,
    REJECTED_TIME,
    ROOT,
    DeviceFile,
    Digests,
    DirectoryNotEmpty,
    FileStatus,
    Rejection,
    child_of,
    sources_of,
    split_path,
    too_many_names,
)
from karma.files.marks import TreeMarks
from karma.files.ports import ObjectGone, StoredPart, UploadGone
from karma.files.previews import expected_of
from karma.files.repository.files import FilePosition, FileRepository, FileSlice
from karma.files.repository.items import directory_sk
from karma.files.repository.names import marks_changed
from karma.integrations.s3 import FileStorageUnavailable
from tests.fakes.requests import MemoryRequests
from tests.fakes.usage import MemoryUsage

_Place = tuple[DeviceId, FileId]


@dataclass
class MemoryStore:
    """Objects and uploads; `down` makes every call fail."""

    objects: dict[_Place, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[_Place, bool, dict[int, bytes]]] = field(default_factory=dict)
    down: bool = False

    def address(self, device_id: DeviceId, file_id: FileId) -> str:
        return f"memory://{device_id}/{file_id}"

    def begin_upload(self, device_id: DeviceId, file_id: FileId, *, checksums: bool) -> str:
        self._answer()
        upload_id = new_id()
        self.uploads[upload_id] = ((device_id, file_id), checksums, {})
        return upload_id

    def abort_upload(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> None:
        self._answer()
        self.uploads.pop(upload_id, None)

    def part_url(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, number: int, *, size: int, sha256: str | None
    ) -> str:
        return f"memory://{upload_id}/{number}?size={size}&sha256={sha256}"

    def put_part(self, upload_id: str, number: int, data: bytes) -> None:
        """Store a part, as a client's PUT to its URL does."""
        self.uploads[upload_id][2][number] = data

    def parts(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> Sequence[StoredPart]:
        _, checksums, parts = self._upload(upload_id)
        return [
            StoredPart(number, len(data), hashlib.md5(data).hexdigest(), _sha256(data) if checksums else None)
            for number, data in sorted(parts.items())
        ]

    def complete_upload(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, parts: Sequence[StoredPart]
    ) -> None:
        place, _, stored = self._upload(upload_id)
        self.objects[place] = b"".join(stored[part.number] for part in parts)
        del self.uploads[upload_id]

    def exists(self, device_id: DeviceId, file_id: FileId) -> bool:
        self._answer()
        return (device_id, file_id) in self.objects

    def read(self, device_id: DeviceId, file_id: FileId) -> Iterator[bytes]:
        self._answer()
        if (device_id, file_id) not in self.objects:
            raise ObjectGone
        yield self.objects[device_id, file_id]

    def download_url(self, device_id: DeviceId, file_id: FileId, *, filename: str, mime_type: str) -> str:
        return f"memory://{device_id}/{file_id}?filename={filename}&mime_type={mime_type}"

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        self._answer()
        self.objects.pop((device_id, file_id), None)
        for upload_id in [each for each, (place, *_) in self.uploads.items() if place == (device_id, file_id)]:
            del self.uploads[upload_id]

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        self._answer()
        uploads = [each for each, (place, *_) in self.uploads.items() if place[0] == device_id][:limit]
        for upload_id in uploads:
            del self.uploads[upload_id]
        objects = [place for place in self.objects if place[0] == device_id][: limit - len(uploads)]
        for place in objects:
            del self.objects[place]
        return len(uploads) + len(objects)

    def _upload(self, upload_id: str) -> tuple[_Place, bool, dict[int, bytes]]:
        self._answer()
        if upload_id not in self.uploads:
            raise UploadGone
        return self.uploads[upload_id]

    def _answer(self) -> None:
        if self.down:
            raise FileStorageUnavailable("The file storage did not answer; try again")


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@dataclass
class MemoryDevices:
    """Active devices, by their owners."""

    owners: dict[DeviceId, UserId] = field(default_factory=dict)

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        owned = DeviceId(device_id)
        if self.owners.get(owned) != user_id:
            raise NotFound(f"Device {device_id} not found")
        return owned

    resolve = require


class MemoryFiles(FileRepository):
    """Entries and their names; each method keeps the conditions of the overridden one."""

    def __init__(self, devices: MemoryDevices, usage: MemoryUsage | None = None) -> None:
        self._owners = devices
        self.usage = usage or MemoryUsage()
        self.entries: dict[FileId, DeviceFile] = {}
        self.names: dict[tuple[DeviceId, str, str], FileId] = {}
        self.dues: dict[FileId, datetime] = {}
        self.requests = MemoryRequests()
        self.counts: dict[DeviceId, int] = {}
        self.marked: dict[DeviceId, TreeMarks] = {}

    # Reading

    def made_by(self, device_id: DeviceId, request: RepeatableRequest) -> FileId | None:
        made = self.requests.noted(device_id, request)
        return FileId(made) if made else None

    def find(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        return self._entry(device_id, file_id)

    def unlisted(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        found = self._entry(device_id, file_id)
        return found if found is not None and found.status is not FileStatus.READY else None

    def marks(self, device_id: DeviceId) -> TreeMarks:
        return self.marked.get(device_id, TreeMarks())

    def holder(self, device_id: DeviceId, path: str, name: str) -> FileId | None:
        return self.names.get((device_id, path, name))

    def inside(self, device_id: DeviceId, path: str) -> FileId | None:
        return next(
            (file_id for (device, above, _), file_id in self.names.items() if (device, above) == (device_id, path)),
            None,
        )

    def missing(self, device_id: DeviceId, directories: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        holders = [(place, self.names.get((device_id, *place))) for place in directories]
        for (_, name), holder in holders:
            if holder is not None and not self.entries[holder].is_directory:
                raise AlreadyExists(f"{name} is a file, not a directory", code="NOT_A_DIRECTORY")
        return [place for place, holder in holders if holder is None]

    def newest(self, device_id: DeviceId, *, limit: int, after: FileId | None = None) -> FileSlice:
        found = sorted(self._listed(device_id, None), key=lambda entry: entry.id, reverse=True)
        return _page([entry for entry in found if after is None or entry.id < after], limit)

    def in_directory(
        self, device_id: DeviceId, path: str, *, limit: int, after: FilePosition | None = None
    ) -> FileSlice:
        found = sorted(self._listed(device_id, path), key=_order)
        if after is not None:
            order = directory_sk(after.name, after.id, is_directory=after.is_directory)
            found = [entry for entry in found if _order(entry) > order]
        return _page(found, limit)

    def count(self, device_id: DeviceId, path: str | None, *, most: int) -> int:
        return min(most, len(self._listed(device_id, path)))

    def due(self, *, before: datetime, limit: int) -> list[DeviceFile]:
        times = sorted((due, file_id) for file_id, due in self.dues.items() if due < before)
        return [self.entries[file_id] for _, file_id in times[:limit]]

    # Making

    def add(
        self,
        entry: DeviceFile,
        *,
        reservation: Reservation | None,
        directories: Iterable[DeviceFile],
        due: datetime | None,
        request: RepeatableRequest | None = None,
        seen: int | None = None,
    ) -> None:
        made = list(directories)
        self.require_device(entry)
        self._require_free(entry)
        self._require_places(entry, made)
        self.requests.require_new(entry.device_id, request)
        self.require_seen(entry.device_id, seen)
        self._require_room(entry, 1 + len(made))
        if reservation is not None:
            self.usage.reserve([reservation])
        self.requests.note(entry.device_id, request, entry.id)
        self._take(entry, *made)
        for each in (entry, *made):
            self.entries[each.id] = each
        if due is not None:
            self.dues[entry.id] = due

    def begin_upload(self, file: DeviceFile, upload_id: str, *, checksums: bool) -> None:
        found = self._in(file, FileStatus.UPLOADING)
        if found.upload_id != file.upload_id:
            raise ConditionFailed
        self.entries[file.id] = replace(found, upload_id=upload_id, part_checksums=checksums)

    def completed(self, file: DeviceFile, *, now: datetime, due: datetime) -> DeviceFile:
        found = replace(self._in(file, FileStatus.UPLOADING), status=FileStatus.VERIFYING, completed_ms=epoch_ms(now))
        self.entries[file.id], self.dues[file.id] = found, due
        return found

    def publish(self, file: DeviceFile, found: Digests, *, now: datetime) -> None:
        self.require_device(file)
        stored = self._in(file, *sources_of(FileStatus.READY))
        if self._names_of(file) != file.id or not self.stands(file.device_id, file.path):
            raise ConditionFailed
        self.entries[file.id] = replace(
            stored,
            status=FileStatus.READY,
            size=found.size,
            sha256=found.sha256,
            md5=found.md5,
            mime_type=found.mime_type,
            previews=expected_of(found.mime_type),
        )
        del self.dues[file.id]

    # Changing

    def change(
        self, file: DeviceFile, changed: DeviceFile, *, directories: Iterable[DeviceFile], seen: int | None = None
    ) -> None:
        made = list(directories)
        self.require_device(file)
        moved = (file.path, file.name) != (changed.path, changed.name)
        stale = StaleVersion(f"File {file.id} was changed by somebody else; read it again")
        if moved and self._names_of(file) != file.id:
            raise stale
        if moved:
            self._require_free(changed)
            self._require_places(changed, made)
        stored = self.entries.get(file.id)
        if stored is None or stored.status is not FileStatus.READY or stored.revision != file.revision:
            raise stale
        if moved:
            self.require_seen(file.device_id, seen)
        self._require_room(file, len(made))
        if moved:
            self._free(file)
            self._take(changed, *made)
        for each in (changed, *made):
            self.entries[each.id] = each

    def accessed(self, file: DeviceFile, *, now: datetime) -> None:
        self.entries[file.id] = replace(self._in(file, FileStatus.READY), accessed_at=iso(now))

    def postpone(self, file: DeviceFile, *, due: datetime) -> None:
        self._in(file, file.status)
        self.dues[file.id] = due

    # Removing

    def reject(self, file: DeviceFile, reason: Rejection, *, now: datetime, due: datetime) -> None:
        found = self._in(file, file.status)
        self._free(file)
        self._give_back(found)
        self.entries[file.id] = replace(found, status=FileStatus.REJECTED, rejection=reason)
        self.dues[file.id] = due

    def cleaned(self, file: DeviceFile, *, now: datetime) -> None:
        found = self._in(file, FileStatus.REJECTED)
        self.entries[file.id] = replace(found, forgotten_s=int((now + REJECTED_TIME).timestamp()))
        self.dues.pop(file.id, None)

    def begin_delete(self, file: DeviceFile, *, now: datetime, due: datetime) -> None:
        found = self._in(file, file.status)
        if file.status is FileStatus.READY and found.revision != file.revision:
            raise ConditionFailed
        if file.status is not FileStatus.REJECTED:
            self._free(file)
        self._give_back(found)
        self.entries[file.id] = replace(found, status=FileStatus.DELETING, forgotten_s=0)
        self.dues[file.id] = due

    def forget(self, file: DeviceFile) -> None:
        self._in(file, FileStatus.DELETING)
        del self.entries[file.id]
        self.dues.pop(file.id, None)

    def remove_directory(self, directory: DeviceFile, *, seen: int | None = None) -> None:
        if self._in(directory, FileStatus.READY).revision != directory.revision:
            raise ConditionFailed
        self.require_empty(directory.device_id, directory.id, child_of(directory.path, directory.name))
        self.require_seen(directory.device_id, seen)
        self._free(directory)
        del self.entries[directory.id]

    def remove_rows(self, device_id: DeviceId, *, limit: int) -> int:
        rows = [file_id for file_id, entry in self.entries.items() if entry.device_id == device_id][:limit]
        names = [key for key in self.names if key[0] == device_id][: limit - len(rows)]
        is_counted = len(rows) + len(names) < limit and self.counts.pop(device_id, None) is not None
        for file_id in rows:
            self._give_back(self.entries.pop(file_id))
            self.dues.pop(file_id, None)
        for key in names:
            del self.names[key]
        return len(rows) + len(names) + is_counted

    def _give_back(self, file: DeviceFile) -> None:
        if file.takes_room:
            self.usage.adjust([given_back(file.user_id, Metric.STORAGE, file.size)])

    def _entry(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        found = self.entries.get(file_id)
        return found if found is not None and found.device_id == device_id else None

    def _listed(self, device_id: DeviceId, path: str | None) -> list[DeviceFile]:
        return [
            entry
            for entry in self.entries.values()
            if entry.device_id == device_id and entry.status is FileStatus.READY and path in (None, entry.path)
        ]

    def _in(self, file: DeviceFile, *statuses: FileStatus) -> DeviceFile:
        found = self._entry(file.device_id, file.id)
        if found is None or found.status not in statuses:
            raise ConditionFailed
        return found

    # Of names and marks, for the fakes of trees: none of these is a call of its own

    def require_device(self, entry: DeviceFile) -> None:
        self._owners.require(entry.user_id, entry.device_id)

    def require_seen(self, device_id: DeviceId, seen: int | None) -> None:
        if seen not in (None, self.marked.get(device_id, TreeMarks()).version):
            raise marks_changed()

    def require_empty(self, device_id: DeviceId, directory_id: FileId, path: str) -> None:
        if any((device, above) == (device_id, path) for device, above, _ in self.names):
            raise DirectoryNotEmpty(f"Directory {path} is not empty")
        if self.names.get((device_id, *split_path(path))) != directory_id:
            raise ConditionFailed

    def take_place(self, entry: DeviceFile, made: Sequence[DeviceFile]) -> None:
        """Take a name without a row of its own, and make the directories above it."""
        self._require_free(entry)
        self._require_places(entry, made)
        self._require_room(entry, 1 + len(made))
        self._take(entry, *made)
        self.entries |= {each.id: each for each in made}

    def free_place(self, device_id: DeviceId, path: str) -> None:
        del self.names[device_id, *split_path(path)]
        self.counts[device_id] -= 1

    def stands(self, device_id: DeviceId, path: str) -> bool:
        holder = self.names.get((device_id, *split_path(path)))
        return path == ROOT or (holder is not None and self.entries[holder].is_directory)

    def _names_of(self, entry: DeviceFile) -> FileId | None:
        return self.names.get((entry.device_id, entry.path, entry.name))

    def _require_free(self, entry: DeviceFile) -> None:
        if self._names_of(entry) is not None:
            raise AlreadyExists(f"{entry.name} exists in {entry.path}")

    def _require_places(self, entry: DeviceFile, made: Sequence[DeviceFile]) -> None:
        new = {child_of(each.path, each.name) for each in made}
        if any(self._names_of(each) is not None for each in made):
            raise ConditionFailed
        if not all(each.path in new or self.stands(each.device_id, each.path) for each in (entry, *made)):
            raise ConditionFailed

    def _require_room(self, entry: DeviceFile, names: int) -> None:
        if names and self.counts.get(entry.device_id, 0) > MAX_NAMES - names:
            raise too_many_names()

    def _take(self, *entries: DeviceFile) -> None:
        device_id = entries[0].device_id
        self.counts[device_id] = self.counts.get(device_id, 0) + len(entries)
        self.names |= {(entry.device_id, entry.path, entry.name): entry.id for entry in entries}

    def _free(self, entry: DeviceFile) -> None:
        if self._names_of(entry) != entry.id:
            raise ConditionFailed
        del self.names[entry.device_id, entry.path, entry.name]
        self.counts[entry.device_id] = self.counts.get(entry.device_id, 0) - 1


def _order(entry: DeviceFile) -> str:
    return directory_sk(entry.name, entry.id, is_directory=entry.is_directory)


def _page(found: list[DeviceFile], limit: int) -> FileSlice:
    return FileSlice(found[:limit], len(found) > limit)
