"""A store of files in memory that keeps S3's rules; tests/integration/files/test_store.py holds it to the real one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from karma.core.ids import DeviceId, FileId, new_id
from karma.files.ports import ObjectGone, StoredPart, UploadGone
from karma.integrations.s3 import FileStorageUnavailable

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
        """What a client does with a part's URL."""
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
