"""Names in directories, kept a tree while many requests write to the same device.

Each entry that has a name, in any state, has an item under the hash of its directory and of its name (FileNameItem), so
that no two entries share a path. The item of a directory counts the names in it. A transaction that takes or frees a
name changes that count, on the condition that the directory exists; a directory is removed only while its count is 0.
So no name is ever in a directory that does not exist, and since a directory's own name counts in the one above it, all
directories above exist too. The root has no item: it always exists.

All names of a device are counted in one item as well (CountItem). An entry may take no bytes of its owner's plan, and
has a row of up to 17 KB all the same; so a device has at most `MAX_NAMES` of them (docs/adr/0034-plan-limits.md).

That item also has the marks of trees that are being moved or deleted (karma/files/marks.py). A transaction that was
`seen` with some version of them fails with TreeMarksChanged when they are others by now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.dynamo.transaction import OnFail, RawItem, Transaction
from karma.core.errors import AppError
from karma.core.ids import DeviceId, FileId
from karma.files.domain import MAX_NAMES, ROOT, DeviceFile, DirectoryNotEmpty, child_of, split_path, too_many_names
from karma.files.marks import TreeMark, TreeMarksChanged
from karma.files.repository.items import CountItem, FileNameItem, count_key, name_key
from karma.files.repository.mapping import listed_item, name_item, stored_mark


@dataclass
class NameChanges:
    """Collects the names that one transaction takes and frees, and writes their items and the counts, each once.

    `seen` is the version of the marks that is required; None: the names are those of a worker, or are freed.
    """

    tx: Transaction
    device_id: DeviceId
    seen: int | None = None
    is_counted: bool = True
    """False: as many names are taken as are freed, or will be, by a worker that moves a tree."""
    _taken: list[tuple[DeviceFile, AppError | None]] = field(default_factory=list)
    _freed: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _marks: Sequence[TreeMark] | None = None

    def mark(self, marks: Sequence[TreeMark]) -> None:
        """Put marks in the place of those of the version that was `seen`."""
        self._marks = marks

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

    def free_empty(self, directory_id: FileId, path: str) -> None:
        """Free a directory's own path; the transaction fails with DirectoryNotEmpty while names are taken in it."""
        above, name = split_path(path)
        unique = FileNameItem(*name_key(self.device_id, above, name))
        empty = (FileNameItem.file_id == directory_id) & (FileNameItem.names_inside == 0)
        self.tx.delete(unique, empty, on_fail=DirectoryNotEmpty(f"Directory {name} is not empty"))
        self._freed += 1
        self._counts[above] -= 1

    def write(self) -> None:
        """Add the items of taken names and the changed counts to the transaction."""
        for entry, on_fail in self._taken:
            inside = self._counts.pop(child_of(entry.path, entry.name), 0) if entry.is_directory else 0
            self.tx.put(name_item(entry, names_inside=inside), on_fail=on_fail)
        if self.is_counted:
            self._count_all()
        for path, change in self._counts.items():
            # Freed and taken in one directory: the name that is freed has kept the directory until now.
            if change and path != ROOT:
                unique = FileNameItem(*name_key(self.device_id, *split_path(path)))
                self.tx.update(unique, [FileNameItem.names_inside.add(change)], FileNameItem.is_directory == True)  # noqa: E712

    def _count_all(self) -> None:
        added = len(self._taken) - self._freed
        item, key = CountItem(*count_key(self.device_id)), count_key(self.device_id)
        changes: list[Action] = [CountItem.names.add(added)] if added else []
        if self._marks is not None:
            stored = [stored_mark(mark) for mark in self._marks]
            if not added:
                changes.append(
                    CountItem.names.add(0)
                )  # the condition on room compares it, also in an item that the marks have made
            changes.append(CountItem.marks.set(stored) if stored else CountItem.marks.remove())
            changes.append(CountItem.marks_version.set((self.seen or 0) + 1))
        if not changes:
            if self.seen is not None:
                self.tx.check(CountItem, key, marks_are(self.seen), on_fail=marks_changed())
            return
        condition: Condition | None = None if self.seen is None else marks_are(self.seen)
        if added > 0:
            room: Condition = CountItem.pk.does_not_exist() | (CountItem.names <= MAX_NAMES - added)
            condition = room if condition is None else condition & room
        self.tx.upsert(item, changes, condition, on_fail=self._refusal())

    def _refusal(self) -> OnFail:
        seen = self.seen

        def refused(found: RawItem) -> AppError:
            version = int(found.get("marks_version", {}).get("N", 0))
            return too_many_names() if seen in (None, version) else marks_changed()

        return refused


def marks_are(version: int) -> Condition:
    """Return the condition on a device's count that its marks are of this version."""
    if version:
        is_version: Condition = CountItem.marks_version == version
        return is_version
    none: Condition = CountItem.marks_version.does_not_exist()
    return none


def marks_changed() -> TreeMarksChanged:
    """Return the refusal of a write whose request has read other marks."""
    return TreeMarksChanged("Directories of this device were moved or deleted just now; try again")


def require_name(tx: Transaction, entry: DeviceFile) -> None:
    """Add the condition that the entry has its name, in a directory that exists."""
    tx.check(FileNameItem, name_key(entry.device_id, entry.path, entry.name), FileNameItem.file_id == entry.id)
    if entry.path != ROOT:
        above = name_key(entry.device_id, *split_path(entry.path))
        tx.check(FileNameItem, above, FileNameItem.is_directory == True)  # noqa: E712
