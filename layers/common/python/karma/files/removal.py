"""Removing rejected and deleted files: objects first, rows last, so that a sweep that repeats it finds both.

A file that is to be removed is first marked `rejected` or `deleting`, with an entry in the sweep's index. Whoever
marked it goes on at once; after a crash the sweep does.
"""

from __future__ import annotations

from datetime import datetime

from karma.core.ids import DeviceId
from karma.files.domain import DeviceFile, FileStatus
from karma.files.ports import ObjectStore
from karma.files.repository.files import FileRepository


def finish_removal(files: FileRepository, store: ObjectStore, file: DeviceFile, *, now: datetime) -> None:
    """Remove the object of a `rejected` or `deleting` file, then the row of a `deleting` one.

    Raises:
        ConditionFailed: the file's state has changed.
        Upstream: the store or the database did not answer.
    """
    store.remove(file.device_id, file.id)
    if file.status is FileStatus.DELETING:
        files.forget(file)
    else:
        files.cleaned(file, now=now)


class FilesOfDevices:
    """Removes the files of a deleted device."""

    def __init__(self, files: FileRepository, store: ObjectStore) -> None:
        self._files = files
        self._store = store

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects and rows, objects first; return how many: fewer than `limit` if none is left."""
        removed = self._store.remove_all(device_id, limit=limit)
        if removed < limit:
            removed += self._files.remove_rows(device_id, limit=limit - removed)
        return removed
