"""Previews of files and links to them, in memory; tests/contract/stores/test_file_parts.py compares the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyCreated, NotFound
from karma.core.ids import DeviceId, FileId
from karma.core.requests import RepeatableRequest
from karma.files.domain import DeviceFile, FileShare, FileStatus, ShareId
from karma.files.previews import Previews
from karma.files.repository.previews import PreviewRepository
from karma.files.repository.shares import ShareRepository
from tests.fakes.files import MemoryFiles


class MemoryPreviews(PreviewRepository):
    """Previews of entries in memory."""

    def __init__(self, files: MemoryFiles) -> None:
        self._files = files

    def previewed(self, file: DeviceFile, previews: Previews, *, now: datetime) -> None:
        found = self._files.entries.get(file.id)
        if found is None or found.status is not FileStatus.READY or not found.previews.is_pending:
            raise ConditionFailed
        self._files.entries[file.id] = replace(found, previews=previews)


class MemoryShares(ShareRepository):
    """Links to entries in memory."""

    def __init__(self, files: MemoryFiles) -> None:
        self._files = files
        self.shares: dict[ShareId, FileShare] = {}
        self._requests: dict[str, ShareId] = {}

    def add(self, share: FileShare, *, request: RepeatableRequest | None = None) -> None:
        found = self._files.entries.get(share.file_id)
        if found is None or found.status is not FileStatus.READY:
            raise NotFound(f"File {share.file_id} not found")
        self._files.require_device(found)
        if request is not None and (made := self._requests.setdefault(request.key.token, share.id)) != share.id:
            repeated = AlreadyCreated("This request was carried out; its link was shown once")
            repeated.details = {"id": made}
            raise repeated
        self.shares[share.id] = share

    def of_file(self, device_id: DeviceId, file_id: FileId) -> Sequence[FileShare]:
        found = [share for share in self.shares.values() if (share.device_id, share.file_id) == (device_id, file_id)]
        return sorted(found, key=lambda share: share.id, reverse=True)

    def find(self, device_id: DeviceId, file_id: FileId, share_id: ShareId) -> FileShare | None:
        found = self.shares.get(share_id)
        return found if found is not None and (found.device_id, found.file_id) == (device_id, file_id) else None

    def opened(self, share: FileShare, *, now: datetime) -> None:
        found = self.shares.get(share.id)
        is_used_up = found is not None and found.max_downloads is not None and found.downloads >= found.max_downloads
        if found is None or is_used_up or int(found.expires_at.timestamp()) <= int(now.timestamp()):
            raise ConditionFailed
        self.shares[share.id] = replace(found, downloads=found.downloads + 1)

    def remove(self, device_id: DeviceId, file_id: FileId, share_id: ShareId) -> None:
        if self.find(device_id, file_id, share_id) is None:
            raise ConditionFailed
        del self.shares[share_id]


@dataclass
class MemoryPreviewStore:
    """Objects of previews, by file and name."""

    objects: dict[tuple[FileId, str], bytes] = field(default_factory=dict)

    def put_thumbnail(self, device_id: DeviceId, file_id: FileId, picture: bytes) -> None:
        self.objects[file_id, "thumbnail"] = picture

    def put_text(self, device_id: DeviceId, file_id: FileId, words: bytes) -> None:
        self.objects[file_id, "text"] = words

    def thumbnail_url(self, device_id: DeviceId, file_id: FileId) -> str:
        return f"memory://{device_id}/{file_id}/thumbnail"

    def text_url(self, device_id: DeviceId, file_id: FileId, *, filename: str) -> str:
        return f"memory://{device_id}/{file_id}/text?filename={filename}"

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        for name in ("thumbnail", "text"):
            self.objects.pop((file_id, name), None)
