"""Files of devices: states, limits, the form of paths, and the parts of an upload.

File        uploading -> verifying -> ready -> deleting -> (gone)
            uploading | verifying -> rejected -> deleting
Directory   ready -> (gone)

Only `ready` entries are listed. `path` is the directory that holds an entry, absolute and normalised: `/` or `/a/b`.

The entries of a device that have a name (all but `rejected` and `deleting` ones) are a tree at every moment: one path
is one entry, and each stands in directories that exist. A directory with an unfinished upload in it is not empty.
Names are compared as their characters in Unicode's form NFC, and case counts: `A` and `a` are two, `é` is one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final, NewType

from karma.core.errors import Conflict
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.lines import NEVER, WORDS, is_line
from karma.core.records import Record
from karma.files.previews import NOTHING, Previews

ShareId = NewType("ShareId", str)

ROOT: Final = "/"
MAX_PATH_BYTES: Final = 1024
MAX_NAME_CHARS: Final = 255
MAX_DEPTH: Final = 32
"""Largest number of directories above an entry: those that are missing are made in one transaction."""
MAX_NAMES: Final = 100_000
"""Largest number of files and directories of a device, unfinished uploads included: rows of 1.7 GB at the most."""
MAX_LABEL_CHARS: Final = 50
"""Longest `type` and `category`, in characters."""
MAX_OBJECT_BYTES: Final = 8 * 1024
"""Largest metadata and largest permissions of an entry, each in bytes of JSON."""

MAX_FILE_BYTES: Final = 5 * 1024**3
"""Largest file in bytes: one call of the verifier can read it in its time even at 20 MB/s."""
PART_BYTES: Final = 8 * 1024**2
"""Size of all parts but the last; S3 wants at least 5 MiB, and at most 10,000 parts: 640 hold the largest file."""
MAX_PARTS_A_REQUEST: Final = 100
UPLOAD_TIME: Final = timedelta(hours=24)
"""Time after which an unfinished upload expires."""
URL_TIME: Final = timedelta(minutes=15)
"""Lifetime of a presigned URL."""
VERIFY_TIME: Final = timedelta(hours=24)
"""Time after which a file that could not be verified is rejected."""
REJECTED_TIME: Final = timedelta(days=7)
"""Time for which a rejected file's entry is kept, so that its owner can read the reason."""

_REDIRECTING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of text, so that `exe.txt` shows as something else."""
NAME_PATTERN: Final = rf"^[^/\\{NEVER}]+$"
PATH_PATTERN: Final = rf"^[^\\{NEVER}]*$"
"""Pattern of the characters that `new_name` and `new_path` accept, for descriptions of bodies."""

LABEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
LABEL_WORDS: Final = "must be letters, digits and _.- and begin with a letter or digit"
"""Form of a `type` and a `category`."""


class FileStatus(StrEnum):
    """State of a file."""

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
    """Return the states from which a file may go to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)


class Rejection(StrEnum):
    """Reason for which a file was rejected."""

    EXPIRED = "upload_expired"
    SIZE = "size_mismatch"
    SHA256 = "sha256_mismatch"
    LOST = "object_lost"
    UNVERIFIED = "not_verified"


class DirectoryNotEmpty(Conflict):
    """The directory holds names, perhaps of files that are still being uploaded, and so cannot be deleted."""

    code = "DIRECTORY_NOT_EMPTY"


def too_many_names() -> Conflict:
    """Return the refusal of an entry that would be one more than a device may have; `details` names the limit."""
    return Conflict(
        f"A device has at most {MAX_NAMES} files and directories; delete one first",
        code="TOO_MANY_OBJECTS",
        details={"kind": "file", "limit": MAX_NAMES},
    )


class Digests(Record):
    """Size in bytes, digests and MIME type of a stored object, computed in one read."""

    size: int
    sha256: str
    md5: str
    mime_type: str


class DeviceFile(Record, kw_only=True):
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
    """URL that names bucket and key; of no use without credentials. None: a directory."""
    md5: str | None = None
    sha256: str | None = None
    """Hexadecimal, computed from the stored bytes; None: not verified yet, or a directory."""
    declared_sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    permissions: Mapping[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None
    accessed_at: str | None = None
    revision: int = 1
    """Goes up by one with each change by the owner; the `version` of the API."""
    upload_id: str | None = None
    """Id that the store gave the upload at the first request for parts; never shown. None: no parts were asked for."""
    part_checksums: bool = False
    """True: each part carries its SHA-256. The first request for parts decides."""
    is_by_device: bool = False
    """True: its device has begun the upload, not its owner."""
    upload_expires_ms: int = 0
    completed_ms: int = 0
    previews: Previews = NOTHING
    """Its thumbnail and its text, by which nothing of the file itself is decided."""
    forgotten_s: int = 0
    """Epoch seconds after which the entry counts as deleted, though DynamoDB may still have it; 0: never."""

    @property
    def takes_room(self) -> bool:
        """Tell whether its bytes are reserved in its owner's plan: until it is rejected or deleted."""
        return not self.is_directory and self.status not in (FileStatus.REJECTED, FileStatus.DELETING)

    @property
    def part_count(self) -> int:
        """Return the number of parts of its upload."""
        return parts_of(self.size)

    def part_bytes(self, number: int) -> int:
        """Return the size in bytes of one part, counted from 1."""
        return PART_BYTES if number < self.part_count else self.size - PART_BYTES * (self.part_count - 1)

    def rejection_of(self, found: Digests) -> Rejection | None:
        """Return why the stored bytes are not the declared ones; None when they are."""
        if found.size != self.size:
            return Rejection.SIZE
        if self.declared_sha256 is not None and found.sha256 != self.declared_sha256:
            return Rejection.SHA256
        return None


class FileShare(Record, kw_only=True):
    """A link to a file, without its secret."""

    id: ShareId
    file_id: FileId
    device_id: DeviceId
    user_id: UserId
    secret_hash: str
    expires_at: datetime
    created_at: str
    downloads: int = 0
    """Times that it was opened; a download that was begun twice by one opening counts once."""
    max_downloads: int | None = None


def parts_of(size: int) -> int:
    """Return the number of parts in which so many bytes are sent; an empty file has one, which is empty."""
    return max(1, -(-size // PART_BYTES))


def clean_name(text: str) -> str:
    """Normalise the name of an entry.

    Raises:
        ValueError: the name is empty, too long, or has a character that no name may have; the message says which.
    """
    name = _clean(text)
    if not name.strip():
        raise ValueError("must not be empty")
    if "/" in name:
        raise ValueError("must be one name, without /")
    if name in (".", ".."):
        raise ValueError("must not be . or .., which name directories in paths")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"at most {MAX_NAME_CHARS} characters")
    return name


def new_name(text: str) -> str:
    """Normalise the name of an entry that is made or renamed: it also has the form of all names (karma.core.lines).

    Entries of before that rule are found and listed by the names that they have.

    Raises:
        ValueError: as in `clean_name`, or the name separates lines or shows nothing.
    """
    name = clean_name(text)
    if not is_line(name):
        raise ValueError(WORDS)
    return name


def new_path(text: str) -> str:
    """Normalise the path of a directory that is made when it is missing, each segment by `new_name`.

    Raises:
        ValueError: as in `clean_path`, or a segment separates lines or shows nothing.
    """
    path = clean_path(text)
    if path != ROOT and not all(map(is_line, path.removeprefix(ROOT).split(ROOT))):
        raise ValueError(WORDS)
    return path


def clean_path(text: str) -> str:
    """Normalise the path of a directory: absolute, without empty or `.` segments and without a slash at its end.

    Raises:
        ValueError: the path is too long or too deep, or a segment is no valid name; the message says which.
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
    """Return the path of the directory above; None for the root."""
    return None if path == ROOT else str(PurePosixPath(path).parent)


def child_of(path: str, name: str) -> str:
    """Return the path of the directory that has this name in the directory `path`."""
    return f"{path.rstrip('/')}/{name}"


def split_path(path: str) -> tuple[str, str]:
    """Split a directory's path into (path of the directory above, its name); the root has no name."""
    pure = PurePosixPath(path)
    return str(pure.parent), pure.name


def directories_above(path: str) -> list[tuple[str, str]]:
    """Return `path` and the directories above it as (path, name), from the root on."""
    pure = PurePosixPath(path)
    return [split_path(str(each)) for each in [*reversed(pure.parents), pure] if each.name]


def extension_of(name: str) -> str | None:
    """Return the part of a name after the last dot, in lower case; None if there is none, or above 50 characters."""
    extension = PurePosixPath(name).suffix.removeprefix(".").lower()
    return extension if 0 < len(extension) <= MAX_LABEL_CHARS else None
