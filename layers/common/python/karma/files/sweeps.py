"""The scheduled sweep of files: uploads expire, verification is asked for again, removals are finished.

Called every minute; each call does a bounded amount of work and may be repeated.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.core.clock import Clock, from_epoch_ms
from karma.core.sweeping import sweep_each
from karma.files.domain import VERIFY_TIME, DeviceFile, FileStatus, Rejection
from karma.files.ports import ObjectStore, Queue
from karma.files.removal import finish_removal
from karma.files.repository.files import FileRepository
from karma.files.uploads import message
from karma.files.verification import reject

FILES_A_SWEEP: Final = 50
AGAIN: Final = timedelta(minutes=30)
"""Time between two looks at a file; longer than until a message is delivered again whose consumer died."""


class FileSweep:
    """Finishes what requests and consumers did not."""

    def __init__(self, files: FileRepository, store: ObjectStore, queue: Queue, clock: Clock) -> None:
        self._files = files
        self._store = store
        self._queue = queue
        self._clock = clock

    def run(self) -> int:
        """Look at files that are due; return how many were dealt with."""
        due = self._files.due(before=self._clock.now(), limit=FILES_A_SWEEP)
        return sweep_each("files", due, self._deal_with, name=lambda file: file.id, clock=self._clock)

    def _deal_with(self, file: DeviceFile) -> int:
        now = self._clock.now()
        if file.status is FileStatus.UPLOADING:
            reject(self._files, self._store, file, Rejection.EXPIRED, clock=self._clock)
        elif file.status is not FileStatus.VERIFYING:
            finish_removal(self._files, self._store, file, now=now)
        elif now >= from_epoch_ms(file.completed_ms) + VERIFY_TIME:
            reject(self._files, self._store, file, Rejection.UNVERIFIED, clock=self._clock)
        else:
            self._queue.send(message(file))
            self._files.postpone(file, due=now + AGAIN)
        return 1
