"""Examples of the OpenAPI document for files: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import LATER

_FILE = "01994b93-51c4-7a08-b3d2-7e1f90ac6d54"
_SHARE = "01994b93-61d2-7b19-8c4e-2f80a1bd7e65"
_CHANGE = "01994b93-7a10-7c3d-9e5f-4b91c2ad8f03"
_LINK = "AZlLk1HEegiz0n4fkKxtVAGZS5NRxHoIs9J-H5CsbVQBmUuTYdJ7GYxOL4ChvX5lq3xk1wWJ2mQm0cQy9sQmN1o8Zz0e1o7B"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SHA256_BASE64 = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="
_STORE = "https://files.example.com/devices/boot.log?X-Amz-Signature=5d1f"

FIELDS: Mapping[str, Any] = {
    "file_id": _FILE,
    "modified_at": LATER,
    "accessed_at": None,
    "path": "/logs",
    "parent_path": "/",
    "category": "log",
    "sha256": _SHA256,
    "permissions": {"support": "read"},
    "part_numbers": [1],
    "checksums": {"1": _SHA256_BASE64},
    "mime_type": "text/plain",
    "extension": "log",
    "is_directory": False,
    "storage_url": None,
    "thumbnail_url": None,
    "ThumbnailView.status": "none",
    "ThumbnailView.reason": None,
    "TextView.status": "none",
    "TextView.reason": None,
    "share_id": _SHARE,
    "ShareView.id": _SHARE,
    "ShareView.expires_at": LATER,
    "ShareRequest.expires_at": LATER,
    "downloads": 0,
    "max_downloads": 5,
    "MadeShareData.token": _LINK,
    "MadeShareData.url": f"https://api.example.com/api/v1/shares/{_LINK}",
    "width": None,
    "height": None,
    "pages": None,
    "characters": None,
    "is_truncated": False,
    "checksum_md5": "098f6bcd4621d373cade4e832627b4f6",
    "checksum_sha256": _SHA256,
    "rejection": None,
    "part_size": 8388608,
    "part_count": 1,
    "part_number": 1,
    "headers": {"x-amz-checksum-sha256": _SHA256_BASE64},
    "url": _STORE,
    "FileView.id": _FILE,
    **dict.fromkeys(("FileView.name", "CreateFileRequest.name", "ChangeFileRequest.name"), "boot.log"),
    "FileView.status": "ready",
    "CreateDirectoryRequest.name": "2026",
    "recursive": True,
    "tree_change_id": _CHANGE,
    "TreeChangeView.id": _CHANGE,
    "directory_id": _FILE,
    "TreeChangeView.kind": "move",
    "TreeChangeView.state": "running",
    "has_begun": True,
    "source_path": "/logs",
    "target_path": "/archive/logs",
    "TreeChangeView.total": 12000,
    "TreeChangeView.done": 4500,
    "TreeChangeView.error": None,
    "TreeChangeView.ended_at": None,
    "TreeChangeView.expires_at": None,
    "MoveDirectoryRequest.path": "/archive",
    "MoveDirectoryRequest.name": "logs",
}
