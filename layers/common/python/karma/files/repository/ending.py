"""Writes that end entries of a device, as parts of transactions: rows and names go, bytes are given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from karma.billing.allowances import Metric, given_back
from karma.billing.transactional import adjust_usage
from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.files.domain import DeviceFile, FileStatus
from karma.files.repository.items import SWEEP_PARTITION, FileItem, FilesItem, listed_key, upload_key
from karma.files.repository.mapping import due_key, file_of, unlisted_item
from karma.files.repository.names import NameChanges


def end_file(tx: Transaction, names: NameChanges, file: DeviceFile, *, now: datetime, due: datetime) -> None:
    """Put a tombstone in the place of a file that is as it was read, and free its name."""
    if file.status is FileStatus.READY:
        tombstone = unlisted_item(file, due=due)
        tombstone.status, tombstone.updated_at = FileStatus.DELETING, iso(now)
        # The revision fences a rename: its unique item would be another one.
        tx.delete(FileItem(*listed_key(file.device_id, file.id)), FileItem.revision == file.revision)
        names.free(file)
        tx.put(tombstone)
        return
    # A rejected file has lost its name, perhaps to another.
    if file.status is not FileStatus.REJECTED:
        names.free(file)
    tx.update(
        FileItem(*upload_key(file.device_id, file.id)),
        [
            FileItem.status.set(FileStatus.DELETING),
            FileItem.updated_at.set(iso(now)),
            FileItem.expires_at.remove(),
            FileItem.gsi1pk.set(SWEEP_PARTITION),
            FileItem.gsi1sk.set(due_key(due, file.id)),
        ],
        FileItem.status == file.status,
    )


def remove_items(items: Sequence[FilesItem]) -> None:
    """Remove items of a deleted device, and release their files' reservations, all or none.

    Raises:
        ConditionFailed: one of the files is not as it was read.
    """
    tx = Transaction()
    files = {item.key: file_of(item) for item in items if isinstance(item, FileItem)}
    for item in items:
        file = files.get(item.key)
        as_read = FileItem.status == file.status if file is not None and file.takes_room else None
        tx.delete(item, as_read)
    give_back(tx, files.values())
    tx.commit()


def give_back(tx: Transaction, files: Iterable[DeviceFile]) -> None:
    """Release, in a transaction that ends files, the reservations of their uploads."""
    taken: Counter[UserId] = Counter()
    for file in files:
        if file.takes_room:
            taken[file.user_id] += file.size
    adjust_usage(tx, [given_back(user_id, Metric.STORAGE, size) for user_id, size in taken.items()])


def free_name(tx: Transaction, file: DeviceFile) -> None:
    """Free, in a transaction that ends a file, its name."""
    names = NameChanges(tx, file.device_id)
    names.free(file)
    names.write()
