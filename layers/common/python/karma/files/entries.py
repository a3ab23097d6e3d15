"""Reading an owner's entry, and writing one below directories that may be missing."""

from __future__ import annotations

from collections.abc import Callable

from karma.core.clock import Clock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, Conflict, NotFound
from karma.core.ids import DeviceId, FileId, UserId, is_id, new_id
from karma.files.domain import DeviceFile, FileStatus, child_of, directories_above
from karma.files.marks import TreeMarks, TreeMarksChanged
from karma.files.ports import Devices
from karma.files.repository.files import FileRepository

TRIES = 4
"""Attempts of a write, when others change the same directories at the same time."""


class Entries:
    """Entries of an owner's devices."""

    def __init__(self, files: FileRepository, devices: Devices, clock: Clock) -> None:
        self._files = files
        self._devices = devices
        self._clock = clock

    def find(self, user_id: UserId, device_id: str, file_id: str) -> DeviceFile:
        """Return an entry in any state, as marks of trees have its owner see it.

        Raises:
            NotFound: the file does not exist or has another owner, or it is in a tree that is being deleted.
        """
        return self.look(user_id, device_id, file_id)[0]

    def look(self, user_id: UserId, device_id: str, file_id: str) -> tuple[DeviceFile, TreeMarks]:
        """Return an entry in any state, as `find` does, and the marks by which it is seen so.

        Raises:
            NotFound: as of `find`.
        """
        owned = self._devices.require(user_id, device_id)
        marks = self._files.marks(owned)
        stored = self._files.find(owned, FileId(file_id)) if is_id(file_id) else None
        file = marks.shown(stored) if stored is not None else None
        if file is None or 0 < file.forgotten_s <= self._clock.now().timestamp():
            raise NotFound(f"File {file_id} not found")
        return file, marks

    def made(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        """Return the entry that a request has made; None: it is there no more."""
        stored = self._files.find(device_id, file_id)
        return self._files.marks(device_id).shown(stored) if stored is not None else None

    def holder(self, device_id: DeviceId, path: str, name: str) -> FileId | None:
        """Return the id of the entry that has a name in a directory, for its owner; None: there is none."""
        marks = self._files.marks(device_id)
        try:
            marks.other_place(child_of(path, name))
            other = marks.other_place(path)
        except NotFound:
            return None
        # The old place first: a worker may take it from there to the other meanwhile.
        for place in (other, path):
            if place is not None and (holder := self._files.holder(device_id, place, name)) is not None:
                return holder
        return None

    def get(self, user_id: UserId, device_id: str, file_id: str) -> DeviceFile:
        """Return an entry in any state but `deleting`.

        Raises:
            NotFound: the file does not exist, is being deleted, or has another owner.
        """
        file = self.find(user_id, device_id, file_id)
        if file.status is FileStatus.DELETING:
            raise NotFound(f"File {file_id} not found")
        return file

    def write(self, entry: DeviceFile, write: Callable[[list[DeviceFile], TreeMarks], None]) -> None:
        """Write an entry by `write`, which is given the directories above it that are missing, and the marks.

        Raises:
            AlreadyExists: the name is taken by the entry `details.id`; or NOT_A_DIRECTORY, a directory above it is a
                file.
            TreeBusy: the name is in a tree that is being moved or deleted.
            Conflict: others made or removed directories above it at each of `TRIES` attempts.
        """
        above = directories_above(entry.path)
        for left in reversed(range(TRIES)):
            marks = self._files.marks(entry.device_id)
            marks.require_still(child_of(entry.path, entry.name))
            missing = self._files.missing(entry.device_id, above)
            made = [directory(entry.device_id, entry.user_id, *each, now=entry.modified_at) for each in missing]
            try:
                write(made, marks)
                return
            except AlreadyExists as exc:
                raise self._taken(entry) from exc
            except (ConditionFailed, TreeMarksChanged) as exc:
                if not left:
                    raise Conflict(f"The directories above {entry.name} are being changed; try again") from exc

    def _taken(self, entry: DeviceFile) -> AlreadyExists:
        holder = self._files.holder(entry.device_id, entry.path, entry.name)
        return AlreadyExists(f"{entry.name} exists in {entry.path}", details={"id": holder} if holder else None)


def directory(device_id: DeviceId, user_id: UserId, path: str, name: str, *, now: str) -> DeviceFile:
    """Return a new directory's entry."""
    return DeviceFile(
        id=FileId(new_id()),
        device_id=device_id,
        user_id=user_id,
        name=name,
        path=path,
        type="directory",
        category="directory",
        size=0,
        status=FileStatus.READY,
        is_directory=True,
        created_at=now,
        modified_at=now,
    )
