"""A device's files stay a tree: operations one after the other match a model, and many at once leave a valid tree."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.core.errors import Conflict, NotFound, RateLimited, ValidationFailed
from karma.core.ids import DeviceId, UserId, new_id
from karma.files.domain import ROOT, DirectoryNotEmpty, child_of
from karma.files.marks import TreeMarks
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import TreeRepository
from tests.fakes.file_trees import MemoryTreeChanges, MemoryTrees
from tests.fakes.files import MemoryDevices, MemoryFiles
from tests.support.file_trees import (
    KINDS,
    NAMES,
    Operation,
    Tree,
    Workshop,
    bytes_of,
    check_tree,
    in_turns,
    random_operation,
)
from tests.support.interleaving import play
from tests.support.stores import methods

INTERLEAVINGS = 150
TOLD = Conflict | NotFound | RateLimited | ValidationFailed
"""Errors that clients who meet are told."""

PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
HALF = [Operation("make", path) for path in ("/a/a", "/a/A", "/a/\u00e9")]
"""Operations that make a directory at which work is half done after one attempt, or two."""
OPERATIONS = st.builds(Operation, st.sampled_from(KINDS), PATHS, PATHS, st.booleans())


def workshop() -> tuple[Workshop, MemoryFiles]:
    owner, device = UserId(new_id()), DeviceId(new_id())
    devices = MemoryDevices({device: owner})
    files = MemoryFiles(devices)
    return Workshop(files, MemoryTreeChanges(files), MemoryTrees(files), devices, owner, device), files


def check(files: MemoryFiles) -> None:
    assert sum(files.usage.taken.values()) == bytes_of(files.entries.values())
    [marks] = files.marked.values() or [TreeMarks()]
    shown = [entry for entry in map(marks.shown, files.entries.values()) if entry is not None]
    if marks.marks:
        check_tree(shown)
        return
    assert sum(files.counts.values()) == len(files.names)
    check_tree(shown, {child_of(path, name): holder for (_, path, name), holder in files.names.items()})


@pytest.mark.fault("F-13a", "F-13b", "F-13d", "F-19a")
@example(
    [
        *HALF,
        Operation("move tree", "/a", "/A/a"),
        Operation("work", "/A/a"),
        *[Operation("delete", f"/A/a/{name}") for name in NAMES],
    ]
)
@example([*HALF, Operation("delete tree", "/a"), Operation("work", "/a/A"), Operation("make", "/a")])
@given(st.lists(OPERATIONS, max_size=25))
def test_operations_one_after_the_other_leave_the_tree_that_the_model_foretells(operations: list[Operation]) -> None:
    tried, files = workshop()
    tried.remembers = False
    tree = Tree()
    for operation in operations:
        refused = tried.carry_out(operation)
        assert (refused.code if refused else None) == tree.foretell(operation), operation
        tree.learn(tried.all_changes())
        check(files)
        named = tried.named()
        assert {
            child_of(entry.path, entry.name): "directory" if entry.is_directory else str(entry.status)
            for entry in named
        } == tree.states
        for path in (ROOT, *(work.target for work in tree.open_works if work.target)):
            assert tried.listing(path) == tree.listing(path), path
        if isinstance(refused, DirectoryNotEmpty):
            inside = {entry.id for entry in named if entry.path == operation.path}
            assert isinstance(refused.details, dict)
            assert refused.details["id"] in inside
    for path in {ROOT, *(each for operation in operations for each in (operation.path, operation.target))}:
        assert tried.listing(path) == tree.listing(path), path
    tried.finish_work()
    tree.learn(tried.all_changes())
    check(files)
    for path in {ROOT, *(each for operation in operations for each in (operation.path, operation.target))}:
        assert tried.listing(path) == tree.listing(path), path


@pytest.mark.fault("F-13a", "F-13b", "F-19a")
@pytest.mark.parametrize("part", range(3))
def test_operations_at_the_same_time_leave_a_tree_that_can_be_emptied(part: int) -> None:
    for seed in range(part * INTERLEAVINGS, (part + 1) * INTERLEAVINGS):
        tried, files = workshop()
        chance = random.Random(seed)
        for _ in range(6):
            tried.carry_out(random_operation(chance))
        in_turns(files, methods(FileRepository))
        in_turns(tried.changes, methods(TreeChangeRepository))
        in_turns(tried.trees, methods(TreeRepository))
        play(seed, {f"client {n}": client(tried, files, random.Random(f"{seed} {n}")) for n in range(3)})
        check(files)
        tried.finish_work()
        check(files)
        tried.empty()
        assert files.names == {}, f"seed {seed}"


def client(tried: Workshop, files: MemoryFiles, chance: random.Random) -> Callable[[], None]:
    """Act as somebody who tries five things; an error must be one of those that clients are told about."""

    def act() -> None:
        for _ in range(5):
            refused = tried.carry_out(random_operation(chance))
            assert refused is None or isinstance(refused, TOLD), refused
            check(files)

    return act
