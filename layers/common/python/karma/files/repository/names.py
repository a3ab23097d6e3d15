"""Names in directories, kept a tree while many requests write to the same device.

Each entry that has a name, in any state, has an item under the hash of its directory and of its name (FileNameItem), so
that no two entries share a path. The item of a directory counts the names in it. A transaction that takes or frees a
name changes that count, on the condition that the directory exists; a directory is removed only while its count is 0.
So no name is ever in a directory that does not exist, and since a directory's own name counts in the one above it, all
directories above exist too. The root has no item: it always exists.

All names of a device are counted in one item as well (CountItem). An entry may take no bytes of its owner's plan, and
has a row of up to 17 KB all the same; so a device has at most `MAX_NAMES` of them (docs/adr/0034-plan-limits.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pynamodb.expressions.condition import Condition

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import DeviceId
from karma.files.domain import MAX_NAMES, ROOT, DeviceFile, DirectoryNotEmpty, child_of, split_path, too_many_names
from karma.files.repository.items import CountItem, FileNameItem, count_key, name_key
from karma.files.repository.mapping import listed_item, name_item


@dataclass
class NameChanges:
    """Collects the names that one transaction takes and frees, and writes their items and the counts, each once."""

    tx: Transaction
    device_id: DeviceId
    _taken: list[tuple[DeviceFile, AppError | None]] = field(default_factory=list)
    _freed: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def take(self, entry: DeviceFile, *, on_fail: AppError | None = None) -> None:
        """Take an entry's name; the transaction fails if another entry has it, or if the directory does not exist."""
        self._taken.append((entry, on_fail))
        self._counts[entry.path] += 1

    def make(self, directories: Iterable[DeviceFile]) -> None:
        """Add directories, each with its unique name and its row."""
        for directory in directories:
            self.take(directory)
            self.tx.put(listed_item(directory))

    def free(self, entry: DeviceFile, *, on_fail: AppError | None = None) -> None:
        """Free an entry's name; the transaction fails unless the entry has it."""
        unique = FileNameItem(*name_key(self.device_id, entry.path, entry.name))
        self.tx.delete(unique, FileNameItem.file_id == entry.id, on_fail=on_fail)
        self._freed += 1
        self._counts[entry.path] -= 1

    def free_empty(self, directory: DeviceFile) -> None:
        """Free a directory's name; the transaction fails with DirectoryNotEmpty while names are taken in it."""
        unique = FileNameItem(*name_key(self.device_id, directory.path, directory.name))
        empty = (FileNameItem.file_id == directory.id) & (FileNameItem.names_inside == 0)
        self.tx.delete(unique, empty, on_fail=DirectoryNotEmpty(f"Directory {directory.name} is not empty"))
        self._freed += 1
        self._counts[directory.path] -= 1

    def write(self) -> None:
        """Add the items of taken names and the changed counts to the transaction."""
        for entry, on_fail in self._taken:
            inside = self._counts.pop(child_of(entry.path, entry.name), 0) if entry.is_directory else 0
            self.tx.put(name_item(entry, names_inside=inside), on_fail=on_fail)
        self._count_all()
        for path, change in self._counts.items():
            # Freed and taken in one directory: the name that is freed has kept the directory until now.
            if change and path != ROOT:
                unique = FileNameItem(*name_key(self.device_id, *split_path(path)))
                self.tx.update(unique, [FileNameItem.names_inside.add(change)], FileNameItem.is_directory == True)  # noqa: E712

    def _count_all(self) -> None:
        added = len(self._taken) - self._freed
        if not added:
            return
        item, change = CountItem(*count_key(self.device_id)), [CountItem.names.add(added)]
        if added < 0:
            self.tx.upsert(item, change)
            return
        room: Condition = CountItem.pk.does_not_exist() | (CountItem.names <= MAX_NAMES - added)
        self.tx.upsert(item, change, room, on_fail=too_many_names())


def require_name(tx: Transaction, entry: DeviceFile) -> None:
    """Add the condition that the entry has its name, in a directory that exists."""
    tx.check(FileNameItem, name_key(entry.device_id, entry.path, entry.name), FileNameItem.file_id == entry.id)
    if entry.path != ROOT:
        above = name_key(entry.device_id, *split_path(entry.path))
        tx.check(FileNameItem, above, FileNameItem.is_directory == True)  # noqa: E712
