"""Attachments of conversations in memory, and what they may be loaded from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from urllib.parse import quote

from karma.conversations.attachments import Library
from karma.conversations.ports import Fetched, NotFetched
from karma.core.errors import NotFound, PayloadTooLarge
from karma.core.ids import UserId


@dataclass
class MemoryAttachments:
    """Attachments in a dictionary."""

    kept: dict[tuple[UserId, str], bytes] = field(default_factory=dict)

    def keep(self, user_id: UserId, data: bytes) -> str:
        attachment_id = hashlib.sha256(data).hexdigest()
        self.kept[user_id, attachment_id] = data
        return attachment_id

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        return self.kept.get((user_id, attachment_id))

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        return f"https://files.example.com/attachments/{user_id}/{attachment_id}?type={quote(media_type, safe='')}"

    def remove(self, user_id: UserId, attachment_id: str) -> None:
        self.kept.pop((user_id, attachment_id), None)

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        found = [key for key in self.kept if key[0] == user_id][:limit]
        for key in found:
            del self.kept[key]
        return len(found)


@dataclass
class MemoryDeviceFiles:
    """Files of devices by owner, device and id."""

    files: dict[tuple[UserId, str, str], bytes] = field(default_factory=dict)

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        data = self.files.get((user_id, device_id, file_id))
        if data is None:
            raise NotFound(f"File {file_id} not found")
        if len(data) > max_bytes:
            raise PayloadTooLarge(f"File {file_id} has more than {max_bytes} bytes")
        return data


@dataclass
class ScriptedFetch:
    """Fetches scripted answers of URLs, and records who asked."""

    pages: dict[str, Fetched] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        self.asked.append(url)
        if url not in self.pages:
            raise NotFetched("could not be fetched")
        return self.pages[url]


def library() -> Library:
    """Return an empty library."""
    return Library(MemoryAttachments(), MemoryDeviceFiles(), ScriptedFetch())
