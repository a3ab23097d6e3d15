"""Answers to what devices ask of their files: each shape, and beside it the function that renders it (docs/mqtt.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from karma.files.answers import PartView, UploadView, part_view, upload_view
from karma.files.domain import DeviceFile, FileStatus, Rejection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from karma.core.errors import AppError
    from karma.files.uploads import PartsLeft


class OwnFileView(TypedDict):
    """A file or directory as its device sees it: members of the API's, without those that only people need."""

    id: str
    name: str
    path: str
    type: str
    category: str
    size: int
    mime_type: str | None
    is_directory: bool
    checksum_sha256: str | None
    status: FileStatus
    rejection: Rejection | None
    created_at: str
    modified_at: str


def own_file_view(file: DeviceFile) -> OwnFileView:
    """Return a file in the shape of an answer."""
    return {
        "id": file.id,
        "name": file.name,
        "path": file.path,
        "type": file.type,
        "category": file.category,
        "size": file.size,
        "mime_type": file.mime_type,
        "is_directory": file.is_directory,
        "checksum_sha256": file.sha256,
        "status": file.status,
        "rejection": file.rejection,
        "created_at": file.created_at,
        "modified_at": file.modified_at,
    }


class UploadAnswer(TypedDict):
    """An upload: links of the first parts that are missing, and the number of all that are."""

    file: OwnFileView
    upload: UploadView
    parts: list[PartView]
    missing: int
    expires_at: str | None
    """The moment at which the links end; null: there are none."""


def upload_answer(file: DeviceFile, left: PartsLeft, *, expires_at: str) -> UploadAnswer:
    """Return the answer to `upload` and `parts`."""
    return {
        "file": own_file_view(file),
        "upload": upload_view(file),
        "parts": [part_view(each) for each in left.urls],
        "missing": left.missing,
        "expires_at": expires_at if left.urls else None,
    }


class DownloadAnswer(TypedDict):
    """A file, and the link to its bytes."""

    file: OwnFileView
    url: str
    expires_at: str


class OwnFilesAnswer(TypedDict):
    """A page of files."""

    files: list[OwnFileView]
    next_cursor: str | None


class OwnFileAnswer(TypedDict):
    """One file."""

    file: OwnFileView


class RefusalView(TypedDict):
    """Reason for which an ask is refused; `code` and `details` are those of the API."""

    code: str
    message: str
    details: Any
    retryable: bool
    """True: the same ask may succeed later."""
    retry_after_s: NotRequired[int]


def done(ask_id: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to an ask that was carried out."""
    return {"id": ask_id, "status": "ok", **answer}


def refused(ask_id: str, error: AppError) -> dict[str, Any]:
    """Return the answer to an ask that was refused."""
    after = error.headers.get("Retry-After")
    told: RefusalView = {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "retryable": error.retryable or after is not None,
    }
    if after is not None:
        told["retry_after_s"] = int(after)
    return {"id": ask_id, "status": "refused", "error": told}
