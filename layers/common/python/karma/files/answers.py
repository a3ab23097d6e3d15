"""Answers of the file routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.files.domain import PART_BYTES, DeviceFile, FileShare, FileStatus, Rejection, extension_of, parent_of
from karma.files.previews import PreviewStatus, Refusal

if TYPE_CHECKING:
    from karma.files.uploads import PartUrl


class ThumbnailView(TypedDict):
    """A file's small picture: WebP of at most 512 pixels a side; `reason` says why it was `refused`."""

    status: PreviewStatus
    reason: Refusal | None
    width: int | None
    height: int | None


class TextView(TypedDict):
    """A document's text, which `GET …/text` gives; `is_truncated` when only its beginning was kept."""

    status: PreviewStatus
    reason: Refusal | None
    pages: int | None
    characters: int | None
    is_truncated: bool


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
    thumbnail: ThumbnailView
    thumbnail_url: str | None
    text: TextView
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


def file_view(file: DeviceFile, *, thumbnail_url: str | None = None) -> FileView:
    """Return a file or directory in the shape of the API, with the URL of its thumbnail where it has one."""
    listed = file.status is FileStatus.READY
    thumbnail, text = file.previews.thumbnail, file.previews.text
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
        "thumbnail": {
            "status": thumbnail.status,
            "reason": thumbnail.reason,
            "width": thumbnail.width,
            "height": thumbnail.height,
        },
        "thumbnail_url": thumbnail_url,
        "text": {
            "status": text.status,
            "reason": text.reason,
            "pages": text.pages,
            "characters": text.characters,
            "is_truncated": text.is_truncated,
        },
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


class ShareView(TypedDict):
    """A link to a file: when it ends, and how often it was opened; `max_downloads` null: as often as anybody likes."""

    id: str
    file_id: str
    expires_at: str
    downloads: int
    max_downloads: int | None
    created_at: str


def share_view(share: FileShare) -> ShareView:
    """Return a link in the shape of the API, without what opens it."""
    return {
        "id": share.id,
        "file_id": share.file_id,
        "expires_at": iso(share.expires_at),
        "downloads": share.downloads,
        "max_downloads": share.max_downloads,
        "created_at": share.created_at,
    }


class MadeShareData(TypedDict):
    """A link that was just made; `token` and `url`, which has it, are shown this once."""

    share: ShareView
    token: str
    url: str


class ShareListData(TypedDict):
    """Links of a file that have not ended."""

    shares: list[ShareView]
    total: int
