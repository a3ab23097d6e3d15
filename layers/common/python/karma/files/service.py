"""Use cases of listed files and directories: list, show, download, change, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from karma.core.clock import Clock, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, Conflict, InvalidTransition, NotFound, StaleVersion, Upstream
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.files.domain import DeviceFile, DirectoryNotEmpty, FileStatus, child_of, directories_above
from karma.files.entries import TRIES, Entries, directory
from karma.files.marks import TreeMarks, TreeMarksChanged
from karma.files.media import BINARY
from karma.files.ports import Devices, ObjectStore
from karma.files.removal import finish_removal
from karma.files.repository.files import FilePosition, FileRepository, FileSlice
from karma.files.uploads import GRACE

MAX_COUNTED = 1_000
"""Largest number of entries that are counted for a total, or read for a filter by type and category."""


class FileQuery(Record, kw_only=True):
    """Filters and page of a list. `after` is the `next_position` of the page before."""

    limit: int = 20
    path: str | None = None
    """Path of the directory whose entries are listed; None: all entries of the device, newest first."""
    type: str | None = None
    category: str | None = None
    after: Mapping[str, object] | None = None
    is_counted: bool = True
    """False: nobody wants the total, which is then that of the page."""

    def matches(self, file: DeviceFile) -> bool:
        """Tell whether an entry passes the filters by type and category."""
        return self.type in (None, file.type) and self.category in (None, file.category)


class FilePage(Record, kw_only=True):
    """A page of listed entries."""

    files: Sequence[DeviceFile]
    total: int
    total_capped: bool
    next_position: Mapping[str, object] | None


class FileService:
    """Use cases of an owner with listed files and directories."""

    def __init__(self, files: FileRepository, store: ObjectStore, devices: Devices, clock: Clock) -> None:
        self._files = files
        self._store = store
        self._devices = devices
        self._clock = clock
        self._entries = Entries(files, devices, clock)

    # Reading

    def get(self, user_id: UserId, device_id: str, file_id: str) -> DeviceFile:
        """Return an entry in any state but `deleting`.

        Raises:
            NotFound: the file does not exist, is being deleted, or has another owner.
        """
        return self._entries.get(user_id, device_id, file_id)

    def list(self, user_id: UserId, device_id: str, query: FileQuery) -> FilePage:
        """Return a page of listed entries: all of a device, newest first, or of one directory, by name.

        The total is counted for the first page, up to 1,000, and carried in the cursor. With a filter by type or
        category, up to 1,000 entries are read for a page.

        Raises:
            NotFound: the device does not exist or has another owner, or it has no such directory.
            Conflict: NOT_A_DIRECTORY, the path is that of a file.
        """
        owned = self._devices.require(user_id, device_id)
        marks = self._files.marks(owned)
        # Of a tree that is being deleted nothing is shown, though some is read.
        filtered = query.type is not None or query.category is not None or bool(marks.marks)
        after = _place(query.after) if query.after is not None else None
        wanted = MAX_COUNTED if filtered else query.limit
        if query.path is None:
            rows = self._files.newest(owned, limit=wanted, after=after.id if after is not None else None)
        else:
            rows = self._in_directory(owned, query.path, marks, limit=wanted, after=after)
            if not rows.files and after is None:
                self._require_directory(owned, query.path, marks)
        seen = (marks.shown(file) for file in rows.files)
        matches = [file for file in seen if file is not None and query.matches(file)]
        shown = matches[: query.limit]
        if query.after is not None:
            total, capped = int(str(query.after["total"])), bool(query.after["capped"])
        elif filtered or not rows.more or not query.is_counted:
            total, capped = len(matches), rows.more
        else:
            counted = self._files.count(owned, query.path, most=MAX_COUNTED + 1)
            total, capped = min(counted, MAX_COUNTED), counted > MAX_COUNTED
        last = shown[-1] if len(matches) > len(shown) else rows.files[-1] if rows.more else None
        return FilePage(
            files=shown,
            total=total,
            total_capped=capped,
            next_position=_position(last, total=total, capped=capped) if last is not None else None,
        )

    def _in_directory(
        self, device_id: DeviceId, path: str, marks: TreeMarks, *, limit: int, after: FilePosition | None
    ) -> FileSlice:
        """Read entries of a directory, of one that is being moved from its old place, too."""
        other = marks.other_place(path)
        if other is None:
            return self._files.in_directory(device_id, path, limit=limit, after=after)
        # The old place first: a worker may take an entry from there to the new one meanwhile.
        read = [self._files.in_directory(device_id, place, limit=limit, after=after) for place in (other, path)]
        found = {file.id: file for rows in read for file in rows.files}
        files = sorted(found.values(), key=FilePosition.order_of)
        return FileSlice(files[:limit], any(rows.more for rows in read) or len(files) > limit)

    def _require_directory(self, device_id: DeviceId, path: str, marks: TreeMarks) -> None:
        for place in (marks.other_place(path), path):
            try:
                # Read consistently, unlike the rows: a directory that was made a moment ago is there.
                if place is not None and not self._files.missing(device_id, directories_above(place)[-1:]):
                    return
            except AlreadyExists as exc:
                raise Conflict(f"{path} is a file, not a directory", code=exc.code) from None
        raise NotFound(f"Directory {path} not found")

    def download_url(self, user_id: UserId, device_id: str, file_id: str) -> str:
        """Sign a URL that downloads the file as an attachment for 15 minutes.

        Raises:
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not ready, or is a directory.
        """
        return self.download_of(self._entries.get(user_id, device_id, file_id))

    def download_of(self, file: DeviceFile) -> str:
        """Sign a URL of a file that was read, as `download_url` does."""
        if file.is_directory or file.status is not FileStatus.READY:
            state = "a directory" if file.is_directory else file.status
            raise InvalidTransition(f"File {file.id} is {state}; only a ready file can be downloaded")
        try:
            self._files.accessed(file, now=self._clock.now())
        except ConditionFailed:
            raise NotFound(f"File {file.id} not found") from None
        return self._store.download_url(file.device_id, file.id, filename=file.name, mime_type=file.mime_type or BINARY)

    def at(self, user_id: UserId, device_id: str, *, path: str, name: str) -> DeviceFile:
        """Return the entry that has a name in a directory, in any state but `deleting`.

        Raises:
            NotFound: there is none, or the device has another owner.
        """
        owned = self._devices.require(user_id, device_id)
        holder = self._entries.holder(owned, path, name)
        if holder is None:
            raise NotFound(f"File {child_of(path, name)} not found")
        return self._entries.get(user_id, owned, holder)

    # Changing

    def make_directory(
        self,
        user_id: UserId,
        device_id: str,
        *,
        path: str,
        name: str,
        idempotency_key: IdempotencyKey | None = None,
    ) -> DeviceFile:
        """Make a directory, and those above it that are missing; a repeat with the key returns what that has made.

        Raises:
            NotFound: the device does not exist or has another owner.
            AlreadyExists: the name is taken.
            IdempotencyKeyReused: the key belongs to a request for another directory.
            Gone: the directory that the key's first request made was deleted.
        """
        owned, now = self._devices.require(user_id, device_id), self._clock.now()
        new = directory(owned, user_id, path, name, now=iso(now))
        request = repeatable(idempotency_key, path, name, at=now)
        try:
            self._entries.write(
                new,
                lambda above, marks: self._files.add(
                    new, reservation=None, directories=above, due=None, request=request, seen=marks.version
                ),
            )
        except AlreadyExists:
            made = self._files.made_by(owned, request) if request else None
            if made is None:
                raise
            found = self._entries.made(owned, made)
            if found is None:
                raise no_longer(made) from None
            return found
        return new

    def change(
        self, user_id: UserId, device_id: str, file_id: str, changes: Mapping[str, Any], *, version: int | None
    ) -> DeviceFile:
        """Change name, path, type, category, metadata or permissions of a listed entry.

        Raises:
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not ready, or a directory is to be renamed or moved.
            AlreadyExists: the new name is taken.
            TreeBusy: it is, or would be, in a tree that is being moved or deleted.
            StaleVersion: `version` is not the stored one.
        """
        file, marks = self._entries.look(user_id, device_id, file_id)
        if file.status is FileStatus.DELETING:
            raise NotFound(f"File {file_id} not found")
        if file.status is not FileStatus.READY:
            raise InvalidTransition(f"File {file_id} is {file.status}; only a ready one can be changed")
        _require_still(file, marks)
        if version is not None and version != file.revision:
            raise StaleVersion(f"File {file_id} was changed by somebody else; read it again")
        changed = replace(file, **changes, revision=file.revision + 1, modified_at=iso(self._clock.now()))
        moved = (file.path, file.name) != (changed.path, changed.name)
        if moved and file.is_directory:
            raise InvalidTransition("A directory is renamed or moved by a request of its own: its entries name it")
        if not changes:
            return file
        if moved:
            self._entries.write(changed, lambda above, seen: self._move(file, changed, above, seen))
        else:
            self._files.change(file, changed, directories=())
        return changed

    def _move(self, file: DeviceFile, changed: DeviceFile, above: Sequence[DeviceFile], marks: TreeMarks) -> None:
        _require_still(file, marks)
        self._files.change(file, changed, directories=above, seen=marks.version)

    def delete(self, user_id: UserId, device_id: str, file_id: str, *, version: int | None = None) -> None:
        """Delete a file in any state, or an empty directory.

        A tombstone is written, the object is removed, then the tombstone. After a crash, a repeat or a sweep
        finishes it.

        Raises:
            NotFound: the file does not exist or has another owner.
            DirectoryNotEmpty: the directory holds an entry, named in `details`, which may be an unfinished upload.
            TreeBusy: it is in a tree that is being moved or deleted, or has one in it.
            StaleVersion: `version` is not the stored one.
            Conflict: others changed the file at each of `TRIES` attempts.
        """
        for _ in range(TRIES):
            file, marks = self._entries.look(user_id, device_id, file_id)
            # A deletion that has begun is gone on with, whichever version it was meant for.
            if version not in (None, file.revision) and file.status is not FileStatus.DELETING:
                raise StaleVersion(f"File {file_id} was changed by somebody else; read it again")
            _require_still(file, marks)
            try:
                if file.is_directory:
                    self._remove_directory(file, marks)
                    return
                if file.status is not FileStatus.DELETING:
                    now = self._clock.now()
                    self._files.begin_delete(file, now=now, due=now + GRACE)
                    count("FileDeleted")
            except (ConditionFailed, TreeMarksChanged):
                # Its state, or what happens around it, has changed since it was read.
                continue
            self._finish(replace(file, status=FileStatus.DELETING))
            return
        raise Conflict(f"File {file_id} is being changed; try again")

    def _remove_directory(self, directory: DeviceFile, marks: TreeMarks) -> None:
        try:
            self._files.remove_directory(directory, seen=marks.version)
        except DirectoryNotEmpty as exc:
            inside = self._inside(directory)
            if inside is None:
                # What was in it has gone since.
                raise ConditionFailed from exc
            message = f"Directory {directory.name} is not empty: {inside.name} in it is {inside.status}"
            details = {"id": inside.id, "name": inside.name, "status": inside.status}
            raise DirectoryNotEmpty(message, details=details) from exc

    def _inside(self, directory: DeviceFile) -> DeviceFile | None:
        holder = self._files.inside(directory.device_id, child_of(directory.path, directory.name))
        return self._files.find(directory.device_id, holder) if holder is not None else None

    def _finish(self, file: DeviceFile) -> None:
        try:
            finish_removal(self._files, self._store, file, now=self._clock.now())
        except (Upstream, ConditionFailed) as exc:
            logger.warning("file.left_for_sweep", file_id=file.id, cause=type(exc).__name__)


def _require_still(file: DeviceFile, marks: TreeMarks) -> None:
    if file.status not in (FileStatus.REJECTED, FileStatus.DELETING):  # these have no name
        marks.require_still(child_of(file.path, file.name), with_what_is_in_it=file.is_directory)


def _position(last: DeviceFile, *, total: int, capped: bool) -> dict[str, object]:
    return {**FilePosition.of(last)._asdict(), "total": total, "capped": capped}


def _place(position: Mapping[str, object]) -> FilePosition:
    return FilePosition(FileId(str(position["id"])), str(position["name"]), bool(position["is_directory"]))
