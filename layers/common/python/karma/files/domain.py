"""What a device's file is: its states, its limits, how paths are written, how an upload is cut into parts.

File        uploading -> verifying -> ready -> deleting -> (gone)
            uploading | verifying -> rejected -> deleting
Directory   ready -> (gone)

Only `ready` ones are listed. `path` is the directory that holds an entry, absolute and normalised: `/` or `/a/b`.

The entries of a device that have a name (all but `rejected` and `deleting` ones) are a tree at every moment: one path
is one entry, and each stands in directories that exist. A directory with an unfinished upload in it is not empty.
Names are compared as their characters in Unicode's form NFC, and case counts: `A` and `a` are two, `é` is one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

from karma.core.errors import Conflict
from karma.core.ids import DeviceId, FileId, UserId

ROOT: Final = "/"
MAX_PATH_BYTES: Final = 1024
MAX_NAME_CHARS: Final = 255
MAX_DEPTH: Final = 32
"""Directories above an entry: those that are missing are made in one transaction."""
MAX_LABEL_CHARS: Final = 50
"""Limit of `type` and `category`."""
MAX_OBJECT_BYTES: Final = 8 * 1024
"""Limit of each of metadata and permissions, as JSON."""

MAX_FILE_BYTES: Final = 5 * 1024**3
"""What one call of the consumer reads in its time even at 20 MB/s."""
PART_BYTES: Final = 8 * 1024**2
"""All parts but the last; S3 wants at least 5 MiB, and at most 10,000 parts: 640 hold the largest file."""
MAX_PARTS_A_REQUEST: Final = 100
UPLOAD_TIME: Final = timedelta(hours=24)
"""How long an upload may take."""
URL_TIME: Final = timedelta(minutes=15)
"""How long a presigned URL works."""
VERIFY_TIME: Final = timedelta(hours=24)
"""A file that could not be verified for this long is given up."""
REJECTED_TIME: Final = timedelta(days=7)
"""How long a rejected file's row tells why."""

_REDIRECTING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the direction of what follows, so that `exe.txt` shows as something else."""
NAME_PATTERN: Final = r"^[^/\\\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+$"
PATH_PATTERN: Final = r"^[^\\\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$"
"""What `clean_name` and `clean_path` say to each character, for descriptions of bodies."""


class FileStatus(StrEnum):
    """Where a file is."""

    UPLOADING = "uploading"
    VERIFYING = "verifying"
    READY = "ready"
    REJECTED = "rejected"
    DELETING = "deleting"


_S = FileStatus

TRANSITIONS: Final[Mapping[FileStatus, frozenset[FileStatus]]] = {
    _S.UPLOADING: frozenset({_S.VERIFYING, _S.REJECTED, _S.DELETING}),
    _S.VERIFYING: frozenset({_S.READY, _S.REJECTED, _S.DELETING}),
    _S.READY: frozenset({_S.DELETING}),
    _S.REJECTED: frozenset({_S.DELETING}),
    _S.DELETING: frozenset(),
}


def sources_of(target: FileStatus) -> frozenset[FileStatus]:
    """States from which a file may go to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)


class Rejection(StrEnum):
    """Why a file was not taken."""

    EXPIRED = "upload_expired"
    SIZE = "size_mismatch"
    SHA256 = "sha256_mismatch"
    LOST = "object_lost"
    UNVERIFIED = "not_verified"


class DirectoryNotEmpty(Conflict):
    """A directory in which names are taken, also by files that are still being uploaded, cannot be deleted."""

    code = "DIRECTORY_NOT_EMPTY"


@dataclass(frozen=True)
class Digests:
    """What one read of the stored bytes tells."""

    size: int
    sha256: str
    md5: str
    mime_type: str


@dataclass(frozen=True, kw_only=True)
class DeviceFile:
    """A file or directory of a device, in any state."""

    id: FileId
    device_id: DeviceId
    user_id: UserId
    name: str
    path: str
    type: str
    category: str
    size: int
    """Bytes; 0 for a directory."""
    status: FileStatus
    created_at: str
    modified_at: str
    is_directory: bool = False
    mime_type: str | None = None
    storage_url: str | None = None
    """Names bucket and key; of no use without credentials."""
    md5: str | None = None
    sha256: str | None = None
    """Computed from what is stored."""
    declared_sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    permissions: Mapping[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None
    accessed_at: str | None = None
    revision: int = 1
    """Goes up with each change by the owner; the `version` of the API."""
    upload_id: str | None = None
    """Given by the store at the first request for parts; never shown."""
    part_checksums: bool = False
    """Whether each part carries its SHA-256; decided by the first request for parts."""
    upload_expires_ms: int = 0
    completed_ms: int = 0
    forgotten_s: int = 0
    """Epoch seconds from which on it is kept no longer, though the database may not have deleted it yet; 0: never."""
    request_token: str | None = None

    @property
    def takes_room(self) -> bool:
        """Tell whether its bytes are reserved in its owner's plan: from the upload's beginning until it is marked."""
        return not self.is_directory and self.status not in (FileStatus.REJECTED, FileStatus.DELETING)

    @property
    def part_count(self) -> int:
        """Parts of its upload; an empty file has one, which is empty."""
        return max(1, -(-self.size // PART_BYTES))

    def part_bytes(self, number: int) -> int:
        """Size of one part, counted from 1."""
        return PART_BYTES if number < self.part_count else self.size - PART_BYTES * (self.part_count - 1)

    def rejection_of(self, found: Digests) -> Rejection | None:
        """Compare what was stored with what was declared."""
        if found.size != self.size:
            return Rejection.SIZE
        if self.declared_sha256 is not None and found.sha256 != self.declared_sha256:
            return Rejection.SHA256
        return None


def clean_name(text: str) -> str:
    """Normalise the name of an entry.

    Raises:
        ValueError: says what is wrong.
    """
    name = _clean(text)
    if not name.strip():
        raise ValueError("must not be empty")
    if "/" in name or name in (".", ".."):
        raise ValueError("must be one name, without /")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"at most {MAX_NAME_CHARS} characters")
    return name


def clean_path(text: str) -> str:
    """Normalise the path of a directory: absolute, without empty or `.` segments and without a slash at its end.

    Raises:
        ValueError: says what is wrong.
    """
    segments = [segment for segment in _clean(text).split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise ValueError("must not contain ..")
    path = ROOT + "/".join(clean_name(segment) for segment in segments)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"at most {MAX_PATH_BYTES} bytes in UTF-8")
    if len(segments) > MAX_DEPTH:
        raise ValueError(f"at most {MAX_DEPTH} directories deep")
    return path


def _clean(text: str) -> str:
    found = unicodedata.normalize("NFC", text)
    if "\\" in found:
        raise ValueError("must not contain a backslash")
    if any(unicodedata.category(char) in ("Cc", "Cs") or char in _REDIRECTING for char in found):
        raise ValueError("must not contain control characters")
    return found


def parent_of(path: str) -> str | None:
    """Path of the directory above; None above the root."""
    return None if path == ROOT else str(PurePosixPath(path).parent)


def child_of(path: str, name: str) -> str:
    """Path of a directory by its own entry."""
    return f"{path.rstrip('/')}/{name}"


def split_path(path: str) -> tuple[str, str]:
    """Take a directory's path apart into (path of its parent, its name); the root has no name."""
    pure = PurePosixPath(path)
    return str(pure.parent), pure.name


def directories_above(path: str) -> list[tuple[str, str]]:
    """Entries, as (path, name), of the directories on the way to `path` and of itself, from the root on."""
    pure = PurePosixPath(path)
    return [split_path(str(each)) for each in [*reversed(pure.parents), pure] if each.name]


def extension_of(name: str) -> str | None:
    """What follows the last dot, in lower case; None without one, or when it is longer than 50 characters."""
    extension = PurePosixPath(name).suffix.removeprefix(".").lower()
    return extension if 0 < len(extension) <= MAX_LABEL_CHARS else None
