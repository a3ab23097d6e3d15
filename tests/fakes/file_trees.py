"""Tree changes and their trees in memory, over the entries and names of MemoryFiles, by the conditions of DynamoDB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from karma.core.clock import epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import StaleVersion
from karma.core.ids import DeviceId, FileId
from karma.core.requests import RepeatableRequest
from karma.files.domain import DeviceFile, DirectoryNotEmpty, split_path
from karma.files.marks import TreeChangeId, TreeChangeKind, TreeMark, TreeMarks
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import FILES_A_WRITE, TreeName, TreeNames, TreeRepository
from karma.files.trees.domain import (
    TreeChange,
    TreeChangeFailure,
    TreeChangeKey,
    TreeChangeLost,
    TreeChangeState,
)
from tests.fakes.files import MemoryFiles


class MemoryTrees(TreeRepository):
    """The worker's reads and writes; each method keeps the conditions of the overridden one."""

    def __init__(self, files: MemoryFiles) -> None:
        self._files = files

    def names(
        self, device_id: DeviceId, path: str, *, limit: int = FILES_A_WRITE, start: dict[str, str] | None = None
    ) -> TreeNames:
        found = sorted((name, holder) for (*at, name), holder in self._files.names.items() if at == [device_id, path])
        left = [each for each in found if start is None or each[0] > start["sk"]]
        names = [TreeName(holder, self._files.entries[holder].is_directory) for _, holder in left[:limit]]
        return TreeNames(names, {"sk": left[limit - 1][0]} if len(left) > limit else None)

    def entries(self, device_id: DeviceId, ids: Iterable[FileId]) -> Mapping[FileId, DeviceFile]:
        found = {each: self._files.entries.get(each) for each in ids}
        return {each: entry for each, entry in found.items() if entry is not None and entry.device_id == device_id}

    def delete_files(self, files: Sequence[DeviceFile], *, now: datetime, due: datetime) -> None:
        for file in files:
            self._require(file)
        for file in files:
            MemoryFiles.begin_delete(self._files, file, now=now, due=due)  # as one call, also where others take turns

    def move_files(self, files: Sequence[DeviceFile], target: str) -> None:
        for file in files:
            self._require(file)
        self._require_place(files[0], target)
        for file in files:
            del self._files.names[file.device_id, file.path, file.name]
            self._move(file, target)

    def enter(self, directory: DeviceFile, target: str) -> None:
        self._require(directory)
        self._require_place(directory, target)
        self._move(directory, target)

    def leave(self, device_id: DeviceId, directory_id: FileId, path: str) -> None:
        self._files.require_empty(device_id, directory_id, path)
        del self._files.names[device_id, *split_path(path)]

    def _require(self, entry: DeviceFile) -> None:
        stored = self._files.entries.get(entry.id)
        if stored is None or (stored.status, stored.revision) != (entry.status, entry.revision):
            raise ConditionFailed
        if self._files.names.get((entry.device_id, entry.path, entry.name)) != entry.id:
            raise ConditionFailed

    def _require_place(self, entry: DeviceFile, target: str) -> None:
        if (entry.device_id, target, entry.name) in self._files.names:
            raise ConditionFailed
        if not self._files.stands(entry.device_id, target):
            raise ConditionFailed

    def _move(self, entry: DeviceFile, target: str) -> None:
        stored = self._files.entries[entry.id]
        self._files.entries[entry.id] = replace(stored, path=target, revision=entry.revision + 1)
        self._files.names[entry.device_id, target, entry.name] = entry.id


class MemoryTreeChanges(TreeChangeRepository):
    """Tree changes and their marks; each method keeps the conditions of the overridden one."""

    def __init__(self, files: MemoryFiles) -> None:
        self._files = files
        self.changes: dict[TreeChangeKey, TreeChange] = {}
        self.dues: dict[TreeChangeKey, datetime] = {}

    def add(
        self,
        change: TreeChange,
        directory: DeviceFile,
        marks: TreeMarks,
        *,
        directories: Iterable[DeviceFile] = (),
        due: datetime,
        request: RepeatableRequest | None = None,
    ) -> None:
        made, device_id = list(directories), change.key.device_id
        self._files.require_device(directory)
        stored = self._files.entries.get(directory.id)
        if stored is None or stored.revision != directory.revision:
            raise StaleVersion(f"Directory {directory.id} was changed by somebody else; read it again")
        self._files.require_seen(device_id, marks.version)
        if change.target:
            path, name = split_path(change.target)
            self._files.take_place(replace(directory, path=path, name=name), made)
        self._files.requests.require_new(device_id, request)
        self._files.requests.note(device_id, request, change.key.change_id)
        self._mark(device_id, marks, [*marks.marks, change.mark])
        self.changes[change.key], self.dues[change.key] = change, due

    def made_by(self, device_id: DeviceId, request: RepeatableRequest) -> TreeChangeId | None:
        made = self._files.requests.noted(device_id, request)
        return TreeChangeId(made) if made else None

    def get(self, key: TreeChangeKey) -> TreeChange | None:
        return self.changes.get(key)

    def page(
        self, device_id: DeviceId, *, limit: int, now: datetime, after: str = ""
    ) -> tuple[list[TreeChange], str | None]:
        kept = [each for each in self.changes.values() if each.key.device_id == device_id]
        found = sorted((each for each in kept if not each.is_forgotten(now)), key=_id_of, reverse=True)
        left = [each for each in found if not after or _id_of(each) < after]
        return left[:limit], _id_of(left[limit - 1]) if len(left) > limit else None

    def take(self, change: TreeChange, *, until: datetime) -> TreeChange:
        held = replace(change, state=TreeChangeState.RUNNING, attempts=change.attempts + 1)
        return self._save(held, held_until=until, due=until)

    def save(self, change: TreeChange, *, held_until: datetime | None, due: datetime) -> TreeChange:
        return self._save(change, held_until=held_until, due=due)

    def _save(self, change: TreeChange, *, held_until: datetime | None, due: datetime) -> TreeChange:
        self._require_as_read(change)
        held_ms = epoch_ms(held_until) if held_until else 0
        self.changes[change.key] = replace(change, held_until_ms=held_ms, version=change.version + 1)
        self.dues[change.key] = due
        return self.changes[change.key]

    def begin_move(self, change: TreeChange, directory: DeviceFile, marks: TreeMarks, *, at: datetime) -> TreeChange:
        self._require_as_read(change)
        stored = self._files.entries.get(directory.id)
        if stored is None or stored.revision != directory.revision:
            raise TreeChangeLost
        self._files.require_seen(change.key.device_id, marks.version)
        begun = replace(change, is_begun=True, done=0, version=change.version + 1)
        self._mark(change.key.device_id, marks, [*marks.without(change.key.change_id), begun.mark])
        path, name = split_path(change.target)
        self._files.entries[directory.id] = replace(stored, path=path, name=name, revision=directory.revision + 1)
        self.changes[change.key] = begun
        return begun

    def finish(self, change: TreeChange, marks: TreeMarks, *, at: datetime) -> None:
        self._require_as_read(change)
        device_id = change.key.device_id
        self._files.require_seen(device_id, marks.version)
        self._require_empty(change, change.source)
        self._files.free_place(device_id, change.source)
        if change.kind is TreeChangeKind.DELETE:
            del self._files.entries[change.directory_id]
        self._over(change, marks, TreeChangeState.SUCCEEDED, at=at)

    def give_up(
        self, change: TreeChange, marks: TreeMarks, *, at: datetime, failure: TreeChangeFailure | None = None
    ) -> None:
        stored = self.changes.get(change.key)
        if stored is None or stored.is_begun or not stored.is_open:
            raise TreeChangeLost
        if failure is not None:
            self._require_as_read(change)
        self._files.require_seen(change.key.device_id, marks.version)
        self._require_empty(change, change.target)
        self._files.free_place(change.key.device_id, change.target)
        state = TreeChangeState.FAILED if failure else TreeChangeState.CANCELLED
        self._over(replace(stored, failure=failure), marks, state, at=at)

    def due(self, *, before: datetime, limit: int) -> list[TreeChangeKey]:
        return [key for _, key in sorted((due, key) for key, due in self.dues.items() if due < before)][:limit]

    def put_off(self, key: TreeChangeKey, *, before: datetime, until: datetime) -> None:
        if key in self.dues and self.dues[key] < before:
            self.dues[key] = until

    def _require_as_read(self, change: TreeChange) -> None:
        stored = self.changes.get(change.key)
        if stored is None or stored.version != change.version:
            raise TreeChangeLost

    def _require_empty(self, change: TreeChange, path: str) -> None:
        try:
            self._files.require_empty(change.key.device_id, change.directory_id, path)
        except (ConditionFailed, DirectoryNotEmpty):
            raise TreeChangeLost from None

    def _over(self, change: TreeChange, marks: TreeMarks, state: TreeChangeState, *, at: datetime) -> None:
        self._mark(change.key.device_id, marks, marks.without(change.key.change_id))
        self.changes[change.key] = replace(change, state=state, ended_ms=epoch_ms(at), version=change.version + 1)
        del self.dues[change.key]

    def _mark(self, device_id: DeviceId, marks: TreeMarks, now: Sequence[TreeMark]) -> None:
        self._files.marked[device_id] = TreeMarks(marks.version + 1, tuple(now))


def _id_of(change: TreeChange) -> str:
    return change.key.change_id
