"""What files need of the world outside; integrations/s3.py and tests/fakes/files.py keep the objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from karma.core.ids import DeviceId, FileId, UserId


class UploadGone(Exception):
    """The store knows no such upload: it was completed or aborted."""


class ObjectGone(Exception):
    """The store has no such object."""


@dataclass(frozen=True)
class StoredPart:
    """A part that has arrived."""

    number: int
    size: int
    tag: str
    """What the store wants to hear when the upload is completed."""
    sha256: str | None
    """Base64, where parts carry checksums."""


class ObjectStore(Protocol):
    """Bytes of files, by device and file; where they lie is the store's own matter. Removing may be repeated."""

    def address(self, device_id: DeviceId, file_id: FileId) -> str:
        """Return the URL that rows keep; of no use without credentials."""
        ...

    def begin_upload(self, device_id: DeviceId, file_id: FileId, *, checksums: bool) -> str:
        """Begin an upload in parts and return its id; with `checksums` each part must carry its SHA-256."""
        ...

    def abort_upload(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> None:
        """Forget an upload and its parts; one that is gone is passed over."""
        ...

    def part_url(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, number: int, *, size: int, sha256: str | None
    ) -> str:
        """Sign a URL that takes one PUT of exactly `size` bytes with this SHA-256 (base64, as a header)."""
        ...

    def parts(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> Sequence[StoredPart]:
        """Return what has arrived, by number.

        Raises:
            UploadGone: see there.
        """
        ...

    def complete_upload(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, parts: Sequence[StoredPart]
    ) -> None:
        """Make one object of the parts.

        Raises:
            UploadGone: see there; perhaps an earlier call has succeeded.
        """
        ...

    def exists(self, device_id: DeviceId, file_id: FileId) -> bool:
        """Tell whether there is an object."""
        ...

    def read(self, device_id: DeviceId, file_id: FileId) -> Iterator[bytes]:
        """Stream an object's bytes.

        Raises:
            ObjectGone: see there.
        """
        ...

    def download_url(self, device_id: DeviceId, file_id: FileId, *, filename: str, mime_type: str) -> str:
        """Sign a URL that downloads the object as an attachment."""
        ...

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        """Remove an object, its older versions, and uploads to its place."""
        ...

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects and uploads of a device; fewer than that were removed when nothing is left."""
        ...


class Devices(Protocol):
    """Whose the device is; devices.parent.DeviceParent is the real one."""

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        """Return the id of an active device of this owner.

        Raises:
            NotFound: there is none.
        """
        ...


class Queue(Protocol):
    """Wakes the consumer; integrations.sqs.SqsQueue is the real one."""

    def send(self, body: str) -> None:
        """Enqueue one body."""
        ...
