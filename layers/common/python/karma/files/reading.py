"""Reading whole files into memory, for callers that need the bytes and not a URL."""

from __future__ import annotations

from karma.core.errors import InvalidTransition, NotFound, PayloadTooLarge
from karma.core.ids import UserId
from karma.files.domain import FileStatus
from karma.files.entries import Entries
from karma.files.ports import ObjectGone, ObjectStore


class FileReader:
    """Reads files for their owner."""

    def __init__(self, entries: Entries, store: ObjectStore) -> None:
        self._entries = entries
        self._store = store

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes.

        Raises:
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not ready, or is a directory.
            PayloadTooLarge: the file is larger than `max_bytes`.
        """
        file = self._entries.get(user_id, device_id, file_id)
        if file.is_directory or file.status is not FileStatus.READY:
            raise InvalidTransition(f"File {file_id} is {'a directory' if file.is_directory else file.status}")
        if file.size > max_bytes:
            raise PayloadTooLarge(f"File {file_id} has more than {max_bytes} bytes")
        try:
            return b"".join(self._store.read(file.device_id, file.id))
        except ObjectGone:
            raise NotFound(f"File {file_id} not found") from None
