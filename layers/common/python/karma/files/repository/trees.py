"""Reads and writes by which the worker of a tree change goes through the tree: some entries in each transaction.

Each write requires the entries as they were read, and their names. So a worker that comes late, or beside another,
changes nothing twice, and the entries with names are a tree behind each transaction. A directory that is moved has its
name in both places while there are names in the old one; its row stands in the new one from the first moment on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from karma.core.dynamo.access import batch_get, query
from karma.core.dynamo.transaction import MAX_ITEMS, Transaction
from karma.core.ids import DeviceId, FileId
from karma.files.domain import DeviceFile, FileStatus
from karma.files.repository.ending import end_file, give_back
from karma.files.repository.items import (
    FileItem,
    FileNameItem,
    directory_pk,
    directory_sk,
    files_pk,
    listed_key,
    names_prefix,
    upload_key,
)
from karma.files.repository.mapping import file_of
from karma.files.repository.names import NameChanges

FILES_A_WRITE: Final = (MAX_ITEMS - 4) // 3
"""Files that one transaction moves or deletes: three items each, besides counts and the owner's usage."""


class TreeName(NamedTuple):
    """A name in a directory: whose it is."""

    file_id: FileId
    is_directory: bool


class TreeNames(NamedTuple):
    """Some names of a directory; `last` is where the next ones begin, None: these are the last."""

    names: list[TreeName]
    last: dict[str, str] | None


class TreeRepository:
    """Reads and conditional writes of trees that are moved or deleted, in the `devices` table."""

    def names(
        self, device_id: DeviceId, path: str, *, limit: int = FILES_A_WRITE, start: dict[str, str] | None = None
    ) -> TreeNames:
        """Read names of a directory, of entries in any state: one strongly consistent query."""
        pk, begins = files_pk(device_id), FileNameItem.sk.startswith(names_prefix(path))
        page = query(FileNameItem, pk, begins, limit=limit, start=start, consistent=True)
        return TreeNames([TreeName(FileId(item.file_id), item.is_directory) for item in page.items], page.last)

    def entries(self, device_id: DeviceId, ids: Iterable[FileId]) -> Mapping[FileId, DeviceFile]:
        """Read entries in any state: one strongly consistent batch read for up to 50."""
        keys = [key(device_id, each) for each in ids for key in (listed_key, upload_key)]
        found = batch_get(FileItem, keys, consistent=True) if keys else {}
        return {FileId(item.file_id): file_of(item) for item in found.values()}

    def delete_files(self, files: Sequence[DeviceFile], *, now: datetime, due: datetime) -> None:
        """Put tombstones in the places of up to `FILES_A_WRITE` files of a device, all or none.

        Their names are freed and their bytes given back, as `FileRepository.begin_delete` does for one.

        Raises:
            ConditionFailed: one of them is not as it was read.
        """
        tx = Transaction()
        names = NameChanges(tx, files[0].device_id)
        for file in files:
            end_file(tx, names, file, now=now, due=due)
        names.write()
        give_back(tx, files)
        tx.commit()

    def move_files(self, files: Sequence[DeviceFile], target: str) -> None:
        """Move up to `FILES_A_WRITE` files of one directory to another one, which exists, all or none.

        Raises:
            ConditionFailed: one of them is not as it was read, or the directory does not exist.
        """
        tx = Transaction()
        names = NameChanges(tx, files[0].device_id, is_counted=False)
        for file in files:
            names.free(file)
            _move(tx, names, file, target)
        names.write()
        tx.commit()

    def enter(self, directory: DeviceFile, target: str) -> None:
        """Move a directory itself to another one; it keeps its old name, too, as long as there are names in it.

        Raises:
            ConditionFailed: it is not as it was read, or the other directory does not exist.
        """
        tx = Transaction()
        names = NameChanges(tx, directory.device_id, is_counted=False)
        _move(tx, names, directory, target)
        names.write()
        tx.commit()

    def leave(self, device_id: DeviceId, directory_id: FileId, path: str) -> None:
        """Free the old path of a directory that was moved.

        Raises:
            DirectoryNotEmpty: there are names in it.
            ConditionFailed: the directory does not have that path.
        """
        tx = Transaction()
        names = NameChanges(tx, device_id, is_counted=False)
        names.free_empty(directory_id, path)
        names.write()
        tx.commit()


def _move(tx: Transaction, names: NameChanges, entry: DeviceFile, target: str) -> None:
    """Take an entry's name in another directory, and give its row the new path as a new version of it."""
    moved = replace(entry, path=target, revision=entry.revision + 1)
    names.take(moved)
    is_listed = entry.status is FileStatus.READY
    actions = [FileItem.path.set(target), FileItem.revision.set(moved.revision)]
    if is_listed:
        actions.append(FileItem.gsi1pk.set(directory_pk(moved.device_id, target)))
        actions.append(FileItem.gsi1sk.set(directory_sk(moved.name, moved.id, is_directory=moved.is_directory)))
    tx.update(
        FileItem(*(listed_key if is_listed else upload_key)(entry.device_id, entry.id)),
        actions,
        (FileItem.revision == entry.revision) & (FileItem.status == entry.status),
    )
