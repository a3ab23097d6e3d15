"""Answers of the file routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.files.domain import PART_BYTES, DeviceFile, FileStatus, Rejection, extension_of, parent_of

if TYPE_CHECKING:
    from karma.files.uploads import PartUrl


class FileView(TypedDict):
    """A file or directory."""

    id: str
    device_id: str
    name: str
    path: str
    parent_path: str | None
    type: str
    category: str
    size: int
    mime_type: str | None
    extension: str | None
    is_directory: bool
    storage_url: str | None
    thumbnail_url: str | None
    checksum_md5: str | None
    checksum_sha256: str | None
    metadata: dict[str, Any]
    permissions: dict[str, Any]
    status: FileStatus
    rejection: Rejection | None
    created_at: str
    modified_at: str
    accessed_at: str | None
    version: int


def file_view(file: DeviceFile) -> FileView:
    """Return a file or directory in the shape of the API."""
    listed = file.status is FileStatus.READY
    return {
        "id": file.id,
        "device_id": file.device_id,
        "name": file.name,
        "path": file.path,
        "parent_path": parent_of(file.path),
        "type": file.type,
        "category": file.category,
        "size": file.size,
        "mime_type": file.mime_type,
        "extension": None if file.is_directory else extension_of(file.name),
        "is_directory": file.is_directory,
        "storage_url": file.storage_url if listed else None,
        "thumbnail_url": None,
        "checksum_md5": file.md5,
        "checksum_sha256": file.sha256,
        "metadata": dict(file.metadata),
        "permissions": dict(file.permissions),
        "status": file.status,
        "rejection": file.rejection,
        "created_at": file.created_at,
        "modified_at": file.modified_at,
        "accessed_at": file.accessed_at,
        "version": file.revision,
    }


class FileData(TypedDict):
    """One file."""

    file: FileView


class DirectoryData(TypedDict):
    """One directory."""

    directory: FileView


class UploadView(TypedDict):
    """Sizes of the parts in which a file is sent, in bytes; the last part may be smaller."""

    part_size: int
    part_count: int
    expires_at: str


def upload_view(file: DeviceFile) -> UploadView:
    """Return the sizes of an upload's parts, and the moment at which the upload expires."""
    return {
        "part_size": PART_BYTES,
        "part_count": file.part_count,
        "expires_at": iso(from_epoch_ms(file.upload_expires_ms)),
    }


class UploadIntentData(TypedDict):
    """A file whose bytes have not been sent yet."""

    file_id: str
    file: FileView
    upload: UploadView


class PartView(TypedDict):
    """A PUT of exactly `size` bytes with these headers."""

    part_number: int
    size: int
    url: str
    headers: dict[str, str]


def part_view(part: PartUrl) -> PartView:
    """Return the URL and headers of one part's PUT."""
    return {"part_number": part.number, "size": part.size, "url": part.url, "headers": dict(part.headers)}


class PartsData(TypedDict):
    """URLs of parts, and the moment at which they expire."""

    parts: list[PartView]
    expires_at: str


class DownloadData(TypedDict):
    """URL of a file's bytes, and the moment at which it expires."""

    url: str
    expires_at: str


class FileListData(TypedDict):
    """A page of files and directories."""

    files: list[FileView]
    total: int
    total_capped: bool
    limit: int
    next_cursor: str | None
