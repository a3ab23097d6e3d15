"""Files on the engines stay a tree whatever clients do at once, and each directory counts the names in it.

tests/unit/files/test_trees.py tries many more interleavings in memory, on the rows that pass test_files.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from karma.core.errors import Conflict, NotFound, RateLimited, ValidationFailed
from karma.core.ids import FileId
from karma.devices.lookup import DeviceLookup
from karma.files.domain import child_of
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.files.repository.items import name_key
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import TreeRepository
from tests.contract.stores.rows import Rows
from tests.support.file_trees import Operation, Workshop, bytes_of, check_tree, in_turns, random_operation
from tests.support.interleaving import play
from tests.support.stores import Database, methods

INTERLEAVINGS = 4
TOLD = Conflict | NotFound | RateLimited | ValidationFailed
"""Errors that clients who meet are told."""


@pytest.mark.fault("F-13a", "F-13b", "F-19a")
def test_many_at_once_leave_a_tree_that_can_be_emptied(database: Database, rows: Rows) -> None:
    for seed in range(INTERLEAVINGS):
        chance = random.Random(f"engine {seed}")
        owner, device = rows.ada.id, rows.device
        tried = Workshop(rows.files, rows.changes, rows.trees, DeviceLookup(rows.devices), owner, device.id)
        for _ in range(5):
            tried.carry_out(random_operation(chance))
        in_turns(tried.files, methods(FileRepository))
        in_turns(tried.changes, methods(TreeChangeRepository))
        in_turns(tried.trees, methods(TreeRepository))
        play(seed, {f"client {n}": client(tried, random.Random(f"{seed} {n}")) for n in range(3)})
        tried.finish_work()
        check(database, rows, tried)
        tried.empty()
        assert [item["sk"]["S"] for item in stored(database) if item["sk"]["S"].startswith(("NAME#", "FILE#"))] == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["move tree", "delete tree"])
def test_a_device_that_is_deleted_meanwhile_leaves_nothing(
    database: Database, rows: Rows, kind: str, seed: int
) -> None:
    tried = Workshop(rows.files, rows.changes, rows.trees, DeviceLookup(rows.devices), rows.ada.id, rows.device.id)
    for path in ("/a/a/a", "/a/a/A", "/a/A"):
        assert tried.carry_out(Operation("upload", path)) is None
    assert tried.carry_out(Operation(kind, "/a", "/A")) is None
    remover = FilesOfDevices(tried.files, tried.store)
    in_turns(tried.files, methods(FileRepository))
    in_turns(tried.changes, methods(TreeChangeRepository))
    in_turns(tried.trees, methods(TreeRepository))

    def work() -> None:
        for _ in range(8):
            tried.work()

    def remove() -> None:
        while remover.remove(rows.device.id, limit=4) == 4:
            pass

    play(seed, {"worker": work, "deletion": remove})
    remove()
    tried.work()
    assert list(stored(database)) == []
    assert rows.stored_bytes == 0


def client(tried: Workshop, chance: random.Random) -> Callable[[], None]:
    """Act as somebody who tries four things; an error must be one of those that clients are told about."""

    def act() -> None:
        for _ in range(4):
            refused = tried.carry_out(random_operation(chance))
            assert refused is None or isinstance(refused, TOLD), refused

    return act


def check(database: Database, rows: Rows, tried: Workshop) -> None:
    entries = tried.named()
    assert rows.stored_bytes == bytes_of(entries)
    names = {item["sk"]["S"]: item for item in stored(database) if item["sk"]["S"].startswith("NAME#")}
    by_key = {name_key(entry.device_id, entry.path, entry.name).sk: entry for entry in entries}
    assert names.keys() == by_key.keys()
    paths = {key: child_of(entry.path, entry.name) for key, entry in by_key.items()}
    inside = check_tree(entries, {paths[key]: FileId(item["file_id"]["S"]) for key, item in names.items()})
    counted = {paths[key]: int(item["names_inside"]["N"]) for key, item in names.items()}
    assert counted == {path: inside[path] for path in counted}
    [total] = [int(item["names"]["N"]) for item in stored(database) if item["sk"]["S"] == "COUNT"]
    assert total == len(entries)


def stored(database: Database) -> Iterator[dict[str, dict[str, str]]]:
    return (item for item in database.items("devices") if item["pk"]["S"].startswith("FILES#"))
