"""Declarations of trees that are moved and deleted, for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import pytest

from karma.core.clock import epoch_ms
from karma.core.errors import NotFound
from karma.core.ids import new_id
from karma.core.requests import RepeatableRequest
from karma.devices.lookup import DeviceLookup
from karma.files.domain import MAX_PATH_BYTES, DeviceFile, child_of
from karma.files.marks import TreeChangeId, TreeChangeKind, TreeMarks
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import TreeRepository
from karma.files.trees.domain import RETENTION, TreeChange, TreeChangeFailure, TreeChangeKey
from karma.files.trees.service import TreeService
from tests.contexts.files import FileRows, MemoryFileRows, StoredFileRows
from tests.fakes.devices import FakeClock
from tests.fakes.file_trees import MemoryTreeChanges, MemoryTrees
from tests.fakes.mail import MemoryQueue
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import LATER, NOW


class TreeRows(FileRows):
    """A device with directories that are moved and deleted."""

    @property
    @abstractmethod
    def changes(self) -> TreeChangeRepository:
        """Return the repository of tree changes."""

    @property
    @abstractmethod
    def trees(self) -> TreeRepository:
        """Return what their worker reads and writes."""

    def new_change(self, directory: DeviceFile, target: str = "", **changes: Any) -> TreeChange:
        made = TreeChange(
            key=TreeChangeKey(directory.device_id, TreeChangeId(new_id())),
            user_id=directory.user_id,
            kind=TreeChangeKind.MOVE if target else TreeChangeKind.DELETE,
            directory_id=directory.id,
            source=child_of(directory.path, directory.name),
            target=target,
            is_begun=not target,
            created_ms=epoch_ms(NOW),
        )
        return replace(made, **changes)

    def ask(self, change: TreeChange, *, request: RepeatableRequest | None = None) -> TreeChange:
        """Add a tree change as its owner does, by the marks that are there; return it as it is stored."""
        directory = self.files.find(change.key.device_id, change.directory_id)
        assert directory is not None
        self.changes.add(change, directory, self.marks_of(change), due=NOW, request=request)
        return self.now(change)

    def now(self, change: TreeChange) -> TreeChange:
        """Return a tree change as it is stored."""
        found = self.changes.get(change.key)
        assert found is not None
        return found

    @cached_property
    def moving(self) -> TreeChange:
        """Ask for a move of the directory `/b` to `/c`."""
        return self.ask(self.new_change(self.folder, "/c"))

    @cached_property
    def deleting(self) -> TreeChange:
        """Ask for the deletion of the directory `/b`, which is empty."""
        return self.ask(self.new_change(self.folder))

    def finish(self, change: TreeChange) -> None:
        """End a tree change as its worker does."""
        self.changes.finish(change, self.marks_of(change), at=NOW)

    def begun_move(self, change: TreeChange, directory: DeviceFile) -> TreeChange:
        """Begin a move as its worker does."""
        return self.changes.begin_move(replace(change, total=3), directory, self.marks_of(change), at=NOW)

    def marks_of(self, change: TreeChange) -> TreeMarks:
        """Return the marks of a tree change's device."""
        return self.files.marks(change.key.device_id)


class MemoryTreeRows(MemoryFileRows, TreeRows):
    """Trees in memory."""

    @cached_property
    def changes(self) -> TreeChangeRepository:
        return MemoryTreeChanges(self._files)

    @cached_property
    def trees(self) -> TreeRepository:
        return MemoryTrees(self._files)


class StoredTreeRows(StoredFileRows, TreeRows):
    """Trees on an engine."""

    @cached_property
    def changes(self) -> TreeChangeRepository:
        return TreeChangeRepository()

    @cached_property
    def trees(self) -> TreeRepository:
        return TreeRepository()


FAKES: Fakes = {MemoryTreeChanges: (TreeChangeRepository,), MemoryTrees: (TreeRepository,)}


def _asked_to_move(r: StoredTreeRows) -> Call:
    """Ask for a move into a directory that is missing, beside a move that is on its way."""
    other = r.new_directory("d")
    r.add(other)
    change, marks = r.new_change(r.folder, "/e/b"), TreeMarks(1, (r.ask(r.new_change(other, "/f")).mark,))
    above = [r.new_directory("e")]
    return lambda: r.changes.add(change, r.folder, marks, directories=above, due=NOW, request=asked())


def _finished_move(r: StoredTreeRows) -> Call:
    """End the move of an empty directory within another one, so that its old place counts one name less."""
    change = r.begun_move(r.ask(r.new_change(r.subfolder, "/b/c")), r.subfolder)
    return lambda: r.finish(change)


SCENARIOS = Scenarios[StoredTreeRows](
    StoredTreeRows,
    {
        "TreeChangeRepository.add": _asked_to_move,
        "TreeChangeRepository.made_by": made(lambda r: r.device, lambda r, d: r.changes.made_by(d.id, asked())),
        "TreeChangeRepository.get": made(lambda r: r.moving, lambda r, c: r.changes.get(c.key)),
        "TreeChangeRepository.page": made(
            lambda r: r.moving, lambda r, c: r.changes.page(c.key.device_id, limit=5, now=NOW)
        ),
        "TreeChangeRepository.take": made(lambda r: r.moving, lambda r, c: r.changes.take(c, until=LATER)),
        "TreeChangeRepository.save": made(
            lambda r: r.moving, lambda r, c: r.changes.save(c, held_until=None, due=LATER)
        ),
        "TreeChangeRepository.begin_move": made(lambda r: r.moving, lambda r, c: r.begun_move(c, r.folder)),
        "TreeChangeRepository.finish": _finished_move,
        "TreeChangeRepository.give_up": made(
            lambda r: r.moving,
            lambda r, c: r.changes.give_up(c, r.marks_of(c), at=NOW, failure=TreeChangeFailure("PATH_TOO_DEEP", "too")),
        ),
        "TreeChangeRepository.due": made(lambda r: r.moving, lambda r, _: r.changes.due(before=LATER, limit=5)),
        "TreeChangeRepository.put_off": made(
            lambda r: r.moving, lambda r, c: r.changes.put_off(c.key, before=LATER, until=LATER)
        ),
        "TreeRepository.names": made(lambda r: r.ready, lambda r, f: r.trees.names(f.device_id, f.path)),
        "TreeRepository.entries": made(lambda r: r.ready, lambda r, f: r.trees.entries(f.device_id, [f.id])),
        "TreeRepository.delete_files": made(
            lambda r: r.ready, lambda r, f: r.trees.delete_files([f], now=NOW, due=NOW)
        ),
        "TreeRepository.move_files": made(
            lambda r: (r.ready, r.folder), lambda r, found: r.trees.move_files([found[0]], "/b")
        ),
        "TreeRepository.enter": made(
            lambda r: (r.subfolder, r.ready), lambda r, found: r.trees.enter(found[0], found[1].path)
        ),
        "TreeRepository.leave": made(
            lambda r: r.subfolder, lambda r, f: r.trees.leave(f.device_id, f.id, f"{f.path}/{f.name}")
        ),
    },
)


def _directory(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/directories", {"path": f"/d-{new_id()}"})
    return str(made["directory"]["id"])


def _moved(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Ask for the move of a new directory."""
    directory = _directory(world, owner, ids)
    path = f"/api/v1/devices/{ids['device_id']}/files/{directory}/move"
    return str(world.create(owner, path, {"name": f"m-{new_id()}"})["tree_change"]["id"])


PAGES: Pages = {"devices/{device_id}/tree-changes": (100, 4 * MAX_PATH_BYTES + 1_000)}
"""Two paths, each character of which may be escaped."""

OBJECTS: Objects = {"tree_change_id": _moved}

BODIES: Bodies = {
    "POST /api/v1/devices/{device_id}/files/{file_id}/move": lambda *_: {"name": f"moved-{new_id()}"},
}


def _change_over(rows: StoredTreeRows) -> None:
    rows.finish(rows.deleting)
    clock = FakeClock(NOW + RETENTION - timedelta(seconds=1))
    service = TreeService(rows.files, rows.changes, DeviceLookup(rows.devices), MemoryQueue(), clock)
    key = rows.deleting.key
    assert service.get(rows.ada.id, key.device_id, key.change_id).ended_ms
    assert service.list(rows.ada.id, key.device_id, limit=5)[0]
    clock.moment = NOW + RETENTION
    with pytest.raises(NotFound):
        service.get(rows.ada.id, key.device_id, key.change_id)
    assert service.list(rows.ada.id, key.device_id, limit=5) == ([], None)


EXPIRES = Checks[StoredTreeRows](StoredTreeRows, {"device_tree_change": _change_over})
