"""Files in DynamoDB: listed entries, unlisted files, and the items that keep names unique."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from pynamodb.expressions.condition import Condition

from karma.billing.allowances import Reservation
from karma.billing.transactional import reserve_usage
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import batch_get, count, delete, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import MAX_ITEMS, Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import DeviceId, FileId
from karma.core.requests import RepeatableRequest
from karma.devices.transactional import require_device
from karma.files.domain import REJECTED_TIME, DeviceFile, Digests, FileStatus, Rejection, child_of, sources_of
from karma.files.marks import TreeMarks
from karma.files.previews import expected_of
from karma.files.repository.ending import end_file, free_name, give_back, remove_items
from karma.files.repository.items import (
    LISTED_PREFIX,
    NAME_KEY_CHARS,
    SWEEP_PARTITION,
    CountItem,
    FileItem,
    FileNameItem,
    FileRequestItem,
    FilesItem,
    count_key,
    directory_pk,
    directory_sk,
    files_pk,
    listed_key,
    name_key,
    names_prefix,
    upload_key,
)
from karma.files.repository.mapping import due_key, file_of, listed_item, marks_of, unlisted_item
from karma.files.repository.names import NameChanges, require_name


class FileSlice(NamedTuple):
    """Entries in list order; `more`: others follow the last one."""

    files: list[DeviceFile]
    more: bool


class FilePosition(NamedTuple):
    """Position of an entry in a list."""

    id: FileId
    name: str
    """First `NAME_KEY_CHARS` characters of its name, by which a directory is ordered."""
    is_directory: bool

    @classmethod
    def of(cls, entry: DeviceFile) -> FilePosition:
        """Return an entry's position."""
        return cls(entry.id, entry.name[:NAME_KEY_CHARS], entry.is_directory)

    @classmethod
    def order_of(cls, entry: DeviceFile) -> str:
        """Return what orders an entry in its directory."""
        at = cls.of(entry)
        return directory_sk(at.name, at.id, is_directory=at.is_directory)


class FileRepository:
    """Reads and conditional writes of files in one `devices` table."""

    # Reading

    def find(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        """Read a file in any state, strongly consistent: one read when it is listed."""
        # An entry moves from one key to the other: who finds neither may have looked at the wrong moment.
        for key in (listed_key, upload_key, listed_key):
            item = get(FileItem, key(device_id, file_id), consistent=True)
            if item is not None:
                return file_of(item)
        return None

    def unlisted(self, device_id: DeviceId, file_id: FileId) -> DeviceFile | None:
        """Read a file that is not listed, strongly consistent: one read."""
        item = get(FileItem, upload_key(device_id, file_id), consistent=True)
        return file_of(item) if item is not None else None

    def marks(self, device_id: DeviceId) -> TreeMarks:
        """Read the marks of a device's trees, strongly consistent: one read."""
        item = get(CountItem, count_key(device_id), consistent=True)
        return marks_of(item) if item is not None else TreeMarks()

    def holder(self, device_id: DeviceId, path: str, name: str) -> FileId | None:
        """Return the id of the entry that has a name in a directory; None: the name is free."""
        item = get(FileNameItem, name_key(device_id, path, name), consistent=True)
        return FileId(item.file_id) if item is not None else None

    def inside(self, device_id: DeviceId, path: str) -> FileId | None:
        """Return the id of one entry of a directory, in any state: one strongly consistent query. None: it is empty."""
        pk = files_pk(device_id)
        page = query(FileNameItem, pk, FileNameItem.sk.startswith(names_prefix(path)), limit=1, consistent=True)
        return FileId(page.items[0].file_id) if page.items else None

    def missing(self, device_id: DeviceId, directories: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of the directories, given as (path, name), that have no entry yet: one batch read.

        Raises:
            AlreadyExists: one of the names belongs to a file.
        """
        if not directories:
            return []
        keys = {name_key(device_id, path, name): (path, name) for path, name in directories}
        found = batch_get(FileNameItem, list(keys), consistent=True)
        for key, item in found.items():
            if not item.is_directory:
                raise AlreadyExists(f"{keys[key][1]} is a file, not a directory", code="NOT_A_DIRECTORY")
        return [entry for key, entry in keys.items() if key not in found]

    def newest(self, device_id: DeviceId, *, limit: int, after: FileId | None = None) -> FileSlice:
        """Read a device's listed entries, newest first: one query."""
        pk = files_pk(device_id)
        start = dict(listed_key(device_id, after)._asdict()) if after is not None else None
        page = query(FileItem, pk, FileItem.sk.startswith(LISTED_PREFIX), limit=limit + 1, forward=False, start=start)
        return FileSlice([file_of(item) for item in page.items[:limit]], len(page.items) > limit)

    def in_directory(
        self, device_id: DeviceId, path: str, *, limit: int, after: FilePosition | None = None
    ) -> FileSlice:
        """Read a directory's entries, directories first, then by name: one index query."""
        pk = directory_pk(device_id, path)
        start = None
        if after is not None:
            sk = directory_sk(after.name, after.id, is_directory=after.is_directory)
            start = {**listed_key(device_id, after.id)._asdict(), "gsi1pk": pk, "gsi1sk": sk}
        page = query(FileItem, pk, limit=limit + 1, start=start, index=FileItem.gsi1)
        return FileSlice([file_of(item) for item in page.items[:limit]], len(page.items) > limit)

    def count(self, device_id: DeviceId, path: str | None, *, most: int) -> int:
        """Count the listed entries of a device, or of one directory, up to `most`: one query."""
        if path is None:
            return count(FileItem, files_pk(device_id), FileItem.sk.startswith(LISTED_PREFIX), most=most)
        return count(FileItem, directory_pk(device_id, path), most=most, index=FileItem.gsi1)

    def due(self, *, before: datetime, limit: int) -> list[DeviceFile]:
        """Read files that a sweep must look at by the moment `before`, oldest first."""
        return query_work(FileItem, SWEEP_PARTITION, FileItem.gsi1sk < iso(before), file_of, limit=limit).items

    # Making

    def made_by(self, device_id: DeviceId, request: RepeatableRequest) -> FileId | None:
        """Return the id of the file that a request created: one read; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """
        made = noted(FileRequestItem, request_key(files_pk(device_id), request), request)
        return FileId(made) if made else None

    def add(
        self,
        entry: DeviceFile,
        *,
        reservation: Reservation | None,
        directories: Iterable[DeviceFile],
        due: datetime | None,
        request: RepeatableRequest | None = None,
        seen: int | None = None,
    ) -> None:
        """Write a new entry, its unique name, the missing directories above it and its reservation: all or none.

        Args:
            entry: a file in state `uploading`, or a directory.
            reservation: of a file's bytes in its owner's plan; None for a directory.
            directories: the missing directories above it, as `missing` returned them.
            due: moment at which a sweep must look at the file; None for a directory.
            request: the request that asks for it, whose record is written, too.
            seen: version of the device's marks by which the name is in no tree that is moved or deleted.

        Raises:
            AlreadyExists: the name is taken, or `made_by` names a file of this request.
            QuotaExceeded: the owner's plan has no room for the file.
            NotFound: the device does not exist any more.
            ConditionFailed: another request made or removed one of the directories above it meanwhile.
            TreeMarksChanged: the marks are others by now.
        """
        tx = Transaction()
        require_device(tx, entry.user_id, entry.device_id)
        names = NameChanges(tx, entry.device_id, seen)
        names.take(entry, on_fail=AlreadyExists(f"{entry.name} exists in {entry.path}"))
        tx.put(listed_item(entry) if due is None else unlisted_item(entry, due=due))
        names.make(directories)
        names.write()
        if request is not None:
            note_request(tx, FileRequestItem(*request_key(files_pk(entry.device_id), request)), request, entry.id)
        if reservation is not None:
            # Last: who repeats a request hears that the name is taken, by their own file.
            reserve_usage(tx, [reservation])
        tx.commit()

    def begin_upload(self, file: DeviceFile, upload_id: str, *, checksums: bool) -> None:
        """Store the id of the store's upload, in the place of the one that `file` was read with.

        Raises:
            ConditionFailed: another request began an upload, or the file is no longer being uploaded.
        """
        update(
            FileItem(*upload_key(file.device_id, file.id)),
            [FileItem.upload_id.set(upload_id), FileItem.part_checksums.set(checksums)],
            (FileItem.status == FileStatus.UPLOADING)
            & (FileItem.upload_id.does_not_exist() if file.upload_id is None else FileItem.upload_id == file.upload_id),
        )

    def completed(self, file: DeviceFile, *, now: datetime, due: datetime) -> DeviceFile:
        """Move a file to `verifying`: all its bytes are stored.

        Raises:
            ConditionFailed: the file is no longer being uploaded.
        """
        item = update(
            FileItem(*upload_key(file.device_id, file.id)),
            [
                FileItem.status.set(FileStatus.VERIFYING),
                FileItem.completed_ms.set(epoch_ms(now)),
                FileItem.updated_at.set(iso(now)),
                FileItem.gsi1sk.set(due_key(due, file.id)),
            ],
            _may_become(FileStatus.VERIFYING),
        )
        return file_of(item)

    def publish(self, file: DeviceFile, found: Digests, *, now: datetime) -> None:
        """Make a verified file `ready` and list it, if it still has its name in a directory that exists.

        Raises:
            NotFound: the device does not exist any more.
            ConditionFailed: the file is not being verified any more.
        """
        item = listed_item(replace(file, previews=expected_of(found.mime_type)))
        item.status, item.size = FileStatus.READY, found.size
        item.sha256, item.md5, item.mime_type = found.sha256, found.md5, found.mime_type
        item.updated_at = iso(now)
        tx = Transaction()
        require_device(tx, file.user_id, file.device_id)
        require_name(tx, file)
        tx.delete(FileItem(*upload_key(file.device_id, file.id)), _may_become(FileStatus.READY))
        tx.put(item)
        tx.commit()

    # Changing

    def change(
        self, file: DeviceFile, changed: DeviceFile, *, directories: Iterable[DeviceFile], seen: int | None = None
    ) -> None:
        """Replace the fields of a listed entry that its owner may change; a new name or path must be free.

        Raises:
            AlreadyExists: the new name is taken.
            NotFound: the device does not exist any more.
            StaleVersion: another request changed or deleted it since `file` was read.
            ConditionFailed: another request made or removed one of the directories above it meanwhile.
            TreeMarksChanged: the device's marks are not of the version `seen`, and it has a new name or path.
        """
        stale = StaleVersion(f"File {file.id} was changed by somebody else; read it again")
        item = FileItem(*listed_key(file.device_id, file.id))
        tx = Transaction()
        require_device(tx, file.user_id, file.device_id)
        if (file.path, file.name) != (changed.path, changed.name):
            names = NameChanges(tx, file.device_id, seen)
            names.free(file, on_fail=stale)
            names.take(changed, on_fail=AlreadyExists(f"{changed.name} exists in {changed.path}"))
            names.make(directories)
            names.write()
        tx.update(
            item,
            [
                FileItem.name.set(changed.name),
                FileItem.path.set(changed.path),
                FileItem.kind.set(changed.type),
                FileItem.category.set(changed.category),
                FileItem.metadata.set(dict(changed.metadata)),
                FileItem.permissions.set(dict(changed.permissions)),
                FileItem.modified_at.set(changed.modified_at),
                FileItem.updated_at.set(changed.modified_at),
                FileItem.revision.set(changed.revision),
                FileItem.gsi1pk.set(directory_pk(changed.device_id, changed.path)),
                FileItem.gsi1sk.set(directory_sk(changed.name, changed.id, is_directory=changed.is_directory)),
            ],
            FileItem.revision == file.revision,
            on_fail=stale,
        )
        tx.commit()

    def accessed(self, file: DeviceFile, *, now: datetime) -> None:
        """Set the time of a listed file's last download.

        Raises:
            ConditionFailed: the file is not listed any more.
        """
        update(FileItem(*listed_key(file.device_id, file.id)), [FileItem.accessed_at.set(iso(now))])

    def postpone(self, file: DeviceFile, *, due: datetime) -> None:
        """Set the moment at which the sweep looks at a file again.

        Raises:
            ConditionFailed: the file's state has changed.
        """
        update(
            FileItem(*upload_key(file.device_id, file.id)),
            [FileItem.gsi1sk.set(due_key(due, file.id))],
            FileItem.status == file.status,
        )

    # Removing

    def reject(self, file: DeviceFile, reason: Rejection, *, now: datetime, due: datetime) -> None:
        """Reject a file, free its name and release its reservation, all or none; its object is removed after that.

        Raises:
            ConditionFailed: the file's state has changed.
        """
        tx = Transaction()
        free_name(tx, file)
        tx.update(
            FileItem(*upload_key(file.device_id, file.id)),
            [
                FileItem.status.set(FileStatus.REJECTED),
                FileItem.rejection.set(reason),
                FileItem.updated_at.set(iso(now)),
                FileItem.gsi1sk.set(due_key(due, file.id)),
            ],
            FileItem.status == file.status,
        )
        give_back(tx, [file])
        tx.commit()

    def cleaned(self, file: DeviceFile, *, now: datetime) -> None:
        """Note that a rejected file's object was removed; its row is kept for `REJECTED_TIME`.

        Raises:
            ConditionFailed: the file was deleted meanwhile.
        """
        update(
            FileItem(*upload_key(file.device_id, file.id)),
            [
                FileItem.expires_at.set(int((now + REJECTED_TIME).timestamp())),
                FileItem.gsi1pk.remove(),
                FileItem.gsi1sk.remove(),
            ],
            FileItem.status == FileStatus.REJECTED,
        )

    def begin_delete(self, file: DeviceFile, *, now: datetime, due: datetime) -> None:
        """Write the tombstone, free the name and release the reservation, all or none.

        From here on only the sweep sees the file. A rejected one has released its reservation before.

        Raises:
            ConditionFailed: the file's state has changed.
        """
        tx = Transaction()
        names = NameChanges(tx, file.device_id)
        end_file(tx, names, file, now=now, due=due)
        names.write()
        give_back(tx, [file])
        tx.commit()

    def forget(self, file: DeviceFile) -> None:
        """Remove the tombstone of a deleted file."""
        delete(FileItem(*upload_key(file.device_id, file.id)), FileItem.status == FileStatus.DELETING)

    def remove_directory(self, directory: DeviceFile, *, seen: int | None = None) -> None:
        """Remove a directory's entry and free its name.

        Raises:
            ConditionFailed: the directory was changed or removed.
            DirectoryNotEmpty: the directory holds a name, perhaps of an unfinished upload.
            TreeMarksChanged: the device's marks are not of the version `seen`.
        """
        tx = Transaction()
        tx.delete(FileItem(*listed_key(directory.device_id, directory.id)), FileItem.revision == directory.revision)
        names = NameChanges(tx, directory.device_id, seen)
        names.free_empty(directory.id, child_of(directory.path, directory.name))
        names.write()
        tx.commit()

    def remove_rows(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` items of a deleted device and return how many; fewer than `limit`: none is left.

        Each transaction removes as many as it can hold and releases their files' reservations, each exactly once,
        also after a crash or beside another call.
        """
        removed = 0
        while removed < limit:
            most = min(limit - removed, MAX_ITEMS - 1)
            items = query(FilesItem, files_pk(device_id), limit=most, consistent=True).items
            if not items:
                break
            try:
                remove_items(items)
            except ConditionFailed:
                # Somebody else has ended one of these files: what is there now tells which are left.
                continue
            removed += len(items)
        return removed


def _may_become(status: FileStatus) -> Condition:
    first, *others = sorted(sources_of(status))
    condition: Condition = FileItem.status == first
    for other in others:
        condition |= FileItem.status == other
    return condition
