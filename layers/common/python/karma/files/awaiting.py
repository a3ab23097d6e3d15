"""The progress of a file on its way to a device's directory, for whoever waits for it."""

from __future__ import annotations

from typing import Final, Literal, Protocol

from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, FileId, UserId, is_id
from karma.core.records import Record
from karma.files.domain import DeviceFile, FileStatus, child_of, clean_path, split_path
from karma.files.entries import Entries
from karma.files.ports import ObjectStore, UploadGone

EXPECTED: Final = "expected"
"""State of a path at which there is no file yet."""


class DeviceFinder(Protocol):
    """Devices of an owner, by id or serial number."""

    def resolve(self, user_id: UserId, ref: str) -> DeviceId:
        """Return the id of an active device of this owner.

        Raises:
            NotFound: the device does not exist, is not active, or has another owner.
        """
        ...


class AwaitedFile(Record, kw_only=True):
    """A file that somebody waits for, as it is now."""

    device_id: DeviceId
    path: str
    """The whole path, with its name."""
    status: FileStatus | Literal["expected"]
    file: DeviceFile | None = None
    """None: there is none at that path."""
    arrived: int = 0
    """Bytes that have arrived, of `file.size`."""

    @property
    def has_settled(self) -> bool:
        """Tell whether it will not change by itself any more."""
        return self.status in (FileStatus.READY, FileStatus.REJECTED)


class AwaitedFiles:
    """Looks at files that are being uploaded."""

    def __init__(self, entries: Entries, store: ObjectStore, devices: DeviceFinder) -> None:
        self._entries = entries
        self._store = store
        self._devices = devices

    def look(self, user_id: UserId, device_ref: str, file_ref: str) -> AwaitedFile:
        """Return a file in its current state; with the bytes that have arrived, which the store is asked for.

        Args:
            user_id: owner.
            device_ref: device id or serial number.
            file_ref: file id, or the whole path of a file, at which there may be none yet.

        Raises:
            NotFound: the owner has no such device, or it has no file of this id, or none any more.
            ValidationFailed: it is neither an id nor a path, or there is a directory.
        """
        device_id = self._devices.resolve(user_id, device_ref)
        path, file_id = "", FileId(file_ref)
        if not is_id(file_ref):
            path = _path_of(file_ref)
            holder = self._entries.holder(device_id, *split_path(path))
            if holder is None:
                return AwaitedFile(device_id=device_id, path=path, status=EXPECTED)
            file_id = holder
        file = self._entries.get(user_id, device_id, file_id)
        if file.is_directory:
            raise ValidationFailed.of("file", "is a directory")
        found = child_of(file.path, file.name)
        return AwaitedFile(device_id=device_id, path=found, status=file.status, file=file, arrived=self._arrived(file))

    def _arrived(self, file: DeviceFile) -> int:
        if file.status is not FileStatus.UPLOADING:
            return file.size
        if file.upload_id is None:
            return 0
        try:
            parts = self._store.parts(file.device_id, file.id, file.upload_id)
        except UploadGone:  # it is being completed, or has to begin anew
            return file.size if self._store.exists(file.device_id, file.id) else 0
        return min(file.size, sum(part.size for part in parts))


def _path_of(text: str) -> str:
    if not text.startswith("/"):
        raise ValidationFailed.of("file", "must be the id of a file, or its whole path, as in /logs/today.txt")
    try:
        path = clean_path(text)
    except ValueError as exc:
        raise ValidationFailed.of("file", str(exc)) from None
    if path == "/":
        raise ValidationFailed.of("file", "is a directory")
    return path
