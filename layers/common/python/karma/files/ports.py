"""Ports of files: the object store, devices, the queue. Implementations: integrations/s3.py, tests/fakes/files.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Protocol

from karma.core.ids import DeviceId, FileId, UserId
from karma.core.records import Record
from karma.files.previews import DocumentText, Thumbnail

if TYPE_CHECKING:
    from karma.identity.domain import User


class FileOwners(Protocol):
    """Accounts of files; implemented by identity.accounts.repository.users.UserRepository."""

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, strongly consistent; None: it is deleted."""
        ...


class UploadGone(Exception):
    """The store does not know the upload: it was completed or aborted."""


class ObjectGone(Exception):
    """The store has no such object."""


class StoredPart(Record):
    """A part that has arrived."""

    number: int
    size: int
    tag: str
    """Identifier that the store expects when the upload is completed; S3's ETag."""
    sha256: str | None
    """Base64; None: the upload has no checksums."""


class ObjectStore(Protocol):
    """Objects, by device and file. Removing may be repeated."""

    def address(self, device_id: DeviceId, file_id: FileId) -> str:
        """Return an object's URL, as entries keep it; of no use without credentials."""
        ...

    def begin_upload(self, device_id: DeviceId, file_id: FileId, *, checksums: bool) -> str:
        """Begin an upload in parts and return its id; with `checksums` each part must carry its SHA-256."""
        ...

    def abort_upload(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> None:
        """Abort an upload and remove its parts; do nothing if it does not exist."""
        ...

    def part_url(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, number: int, *, size: int, sha256: str | None
    ) -> str:
        """Sign a URL that takes one PUT of exactly `size` bytes with this SHA-256 (base64, as a header)."""
        ...

    def parts(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> Sequence[StoredPart]:
        """Return the parts that have arrived, by number.

        Raises:
            UploadGone: the upload was completed or aborted.
        """
        ...

    def complete_upload(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, parts: Sequence[StoredPart]
    ) -> None:
        """Make one object of the parts.

        Raises:
            UploadGone: the upload was aborted, or completed, perhaps by an earlier call.
        """
        ...

    def exists(self, device_id: DeviceId, file_id: FileId) -> bool:
        """Tell whether there is an object."""
        ...

    def read(self, device_id: DeviceId, file_id: FileId) -> Iterator[bytes]:
        """Stream an object's bytes.

        Raises:
            ObjectGone: there is no such object.
        """
        ...

    def download_url(self, device_id: DeviceId, file_id: FileId, *, filename: str, mime_type: str) -> str:
        """Sign a URL that downloads the object as an attachment."""
        ...

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        """Remove an object, its older versions and its unfinished uploads."""
        ...

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects and uploads of a device; return how many: fewer than `limit` if none is left."""
        ...


class Devices(Protocol):
    """Devices with their owners; implemented by devices.parent.DeviceLookup."""

    def require(self, user_id: UserId, device_id: str) -> DeviceId:
        """Return the id of an active device of this owner.

        Raises:
            NotFound: the device does not exist, is not active, or has another owner.
        """
        ...


class Queue(Protocol):
    """The queue of the verifier; implemented by integrations.sqs.SqsQueue."""

    def send(self, body: str) -> None:
        """Enqueue one body."""
        ...


class Rendering(Record, kw_only=True):
    """Preview of one file, with the bytes of the parts that are `ready`."""

    thumbnail: Thumbnail
    picture: bytes = b""
    """WebP."""
    text: DocumentText
    words: bytes = b""
    """UTF-8."""


class Renderer(Protocol):
    """Opens hostile files; implemented by integrations.preview_process.ChildRenderer."""

    def render(self, source: IO[bytes], *, is_document: bool) -> Rendering:
        """Make the thumbnail of a picture, or of a document's first page, and its text.

        Whatever the file is, it answers within bounds of time and memory; each part is `ready` or `refused`.
        """
        ...


class PreviewStore(Protocol):
    """Objects of previews, below those of their files, with which they are removed; implemented in integrations/s3."""

    def put_thumbnail(self, device_id: DeviceId, file_id: FileId, picture: bytes) -> None:
        """Store a thumbnail, which may be there already."""
        ...

    def put_text(self, device_id: DeviceId, file_id: FileId, words: bytes) -> None:
        """Store a document's text, which may be there already."""
        ...

    def thumbnail_url(self, device_id: DeviceId, file_id: FileId) -> str:
        """Sign a URL that shows the thumbnail."""
        ...

    def text_url(self, device_id: DeviceId, file_id: FileId, *, filename: str) -> str:
        """Sign a URL that downloads the text as an attachment."""
        ...

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        """Remove a file's previews, and nothing of the file."""
        ...
