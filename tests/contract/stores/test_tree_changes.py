"""Tree changes, their marks, and what their worker writes: one suite for the rows in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.clock import epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, NotFound, StaleVersion
from karma.core.ids import DeviceId, new_id
from karma.core.requests import IdempotencyKeyReused
from karma.files.domain import DeviceFile, DirectoryNotEmpty, FileStatus
from karma.files.marks import TreeChangeId, TreeMarks, TreeMarksChanged
from karma.files.trees.domain import (
    RETENTION,
    TreeChange,
    TreeChangeFailure,
    TreeChangeKey,
    TreeChangeLost,
    TreeChangeState,
)
from tests.contexts.file_trees import MemoryTreeRows, StoredTreeRows, TreeRows
from tests.support.requests import asked
from tests.support.rows import LATER, NOW
from tests.support.stores import Store


@pytest.fixture
def rows(store: Store) -> TreeRows:
    return MemoryTreeRows() if store.in_memory else StoredTreeRows()


def found(rows: TreeRows, file: DeviceFile) -> DeviceFile:
    stored = rows.files.find(file.device_id, file.id)
    assert stored is not None
    return stored


class TestATreeChange:
    def test_is_stored_with_its_mark_and_the_name_of_its_target(self, rows: TreeRows) -> None:
        change = rows.new_change(rows.folder, "/e/c")
        above = rows.new_directory("e")
        rows.changes.add(change, rows.folder, TreeMarks(), directories=[above], due=NOW, request=asked())
        assert rows.now(change) == replace(change, version=rows.now(change).version)
        assert rows.marks_of(change) == TreeMarks(1, (change.mark,))
        assert rows.files.holder(rows.device_id, "/e", "c") == rows.folder.id
        assert rows.files.holder(rows.device_id, "/", "b") == rows.folder.id
        assert rows.changes.made_by(rows.device_id, asked()) == change.key.change_id
        with pytest.raises(IdempotencyKeyReused):
            rows.changes.made_by(rows.device_id, replace(asked(), request_hash="other"))

    def test_is_refused_for_a_taken_name_a_changed_directory_other_marks_and_a_deleted_device(
        self, rows: TreeRows
    ) -> None:
        change, stale = rows.new_change(rows.folder, "/a"), replace(rows.folder, revision=9)
        assert rows.ready.path == "/a"
        with pytest.raises(AlreadyExists):
            rows.changes.add(change, rows.folder, TreeMarks(), due=NOW)
        free = rows.new_change(rows.folder, "/c")
        with pytest.raises(StaleVersion):
            rows.changes.add(free, stale, TreeMarks(), due=NOW)
        with pytest.raises(TreeMarksChanged):
            rows.changes.add(free, rows.folder, TreeMarks(3), due=NOW)
        rows.lose_device()
        with pytest.raises(NotFound):
            rows.changes.add(free, rows.folder, TreeMarks(), due=NOW)
        assert rows.changes.get(free.key) is None
        assert rows.marks_of(free) == TreeMarks()

    def test_is_listed_newest_first_until_it_is_forgotten(self, rows: TreeRows) -> None:
        made = []
        for number in range(3):
            directory = rows.new_directory(f"d{number}")
            rows.add(directory)
            made.append(rows.ask(rows.new_change(directory)))
        made.sort(key=lambda change: change.key.change_id, reverse=True)
        page, after = rows.changes.page(rows.device_id, limit=2, now=NOW)
        assert page == made[:2]
        assert after is not None
        assert rows.changes.page(rows.device_id, limit=2, now=NOW, after=after) == (made[2:], None)
        rows.finish(made[0])
        assert rows.changes.page(rows.device_id, limit=5, now=NOW + RETENTION) == (made[1:], None)
        assert rows.changes.page(DeviceId(new_id()), limit=5, now=NOW) == ([], None)

    def test_is_held_and_saved_under_the_version_that_was_read(self, rows: TreeRows) -> None:
        held = rows.changes.take(rows.moving, until=LATER)
        assert (held.state, held.attempts, held.held_until_ms) == (TreeChangeState.RUNNING, 1, epoch_ms(LATER))
        with pytest.raises(TreeChangeLost):
            rows.changes.take(rows.moving, until=LATER)
        far = replace(held, total=7, done=5, attempts=0)
        saved = rows.changes.save(far, held_until=None, due=LATER)
        assert saved == replace(far, held_until_ms=0, version=saved.version) == rows.now(held)
        with pytest.raises(TreeChangeLost):
            rows.changes.save(held, held_until=None, due=LATER)
        gone = replace(held, key=TreeChangeKey(rows.device_id, TreeChangeId(new_id())))
        with pytest.raises(TreeChangeLost):
            rows.changes.take(gone, until=LATER)

    def test_is_due_until_it_is_over(self, rows: TreeRows) -> None:
        change = rows.moving
        assert rows.changes.due(before=LATER, limit=5) == [change.key]
        assert rows.changes.due(before=NOW, limit=5) == []
        rows.changes.put_off(change.key, before=LATER, until=LATER)
        assert rows.changes.due(before=LATER, limit=5) == []
        rows.changes.put_off(change.key, before=LATER, until=NOW)
        rows.changes.put_off(TreeChangeKey(rows.device_id, TreeChangeId(new_id())), before=LATER, until=NOW)
        assert rows.changes.due(before=LATER, limit=5) == []
        rows.changes.give_up(rows.now(change), rows.marks_of(change), at=NOW)
        rows.changes.put_off(change.key, before=LATER, until=NOW)
        assert rows.changes.due(before=LATER.replace(year=2099), limit=5) == []


class TestAMove:
    def test_begins_by_giving_the_directory_its_new_path(self, rows: TreeRows) -> None:
        change, directory = rows.moving, rows.folder
        with pytest.raises(TreeChangeLost):
            rows.begun_move(change, replace(directory, revision=4))
        with pytest.raises(TreeMarksChanged):
            rows.changes.begin_move(change, directory, TreeMarks(7), at=NOW)
        begun = rows.begun_move(change, directory)
        assert (begun.is_begun, begun.total, begun.version) == (True, 3, rows.now(change).version)
        assert rows.marks_of(change) == TreeMarks(2, (begun.mark,))
        moved = found(rows, directory)
        assert (moved.path, moved.name, moved.revision) == ("/", "c", 2)
        with pytest.raises(TreeChangeLost):
            rows.begun_move(change, moved)
        with pytest.raises(TreeChangeLost):
            rows.changes.give_up(begun, rows.marks_of(change), at=NOW)

    def test_ends_with_its_old_name(self, rows: TreeRows) -> None:
        assert rows.subfolder.path == "/b"
        begun = rows.begun_move(rows.moving, rows.folder)
        with pytest.raises(TreeChangeLost):
            rows.finish(begun)
        rows.trees.enter(rows.subfolder, "/c")
        rows.trees.leave(rows.device_id, rows.subfolder.id, "/b/a")
        with pytest.raises(TreeMarksChanged):
            rows.changes.finish(begun, TreeMarks(9), at=NOW)
        rows.finish(replace(begun, done=3))
        over = rows.now(begun)
        assert (over.state, over.done, over.ended_ms) == (TreeChangeState.SUCCEEDED, 3, epoch_ms(NOW))
        assert rows.marks_of(begun) == TreeMarks(3)
        assert rows.files.holder(rows.device_id, "/", "b") is None
        assert found(rows, rows.subfolder).path == "/c"
        with pytest.raises(TreeChangeLost):
            rows.finish(begun)

    @pytest.mark.parametrize("failure", [None, TreeChangeFailure("PATH_TOO_DEEP", "too deep")])
    def test_that_is_given_up_frees_the_name_of_its_target(
        self, rows: TreeRows, failure: TreeChangeFailure | None
    ) -> None:
        change = rows.moving
        with pytest.raises(TreeMarksChanged):
            rows.changes.give_up(change, TreeMarks(9), at=NOW, failure=failure)
        rows.changes.give_up(change, rows.marks_of(change), at=NOW, failure=failure)
        over = rows.now(change)
        state = TreeChangeState.FAILED if failure else TreeChangeState.CANCELLED
        assert (over.state, over.failure) == (state, failure)
        assert rows.files.holder(rows.device_id, "/", "c") is None
        assert rows.marks_of(change) == TreeMarks(2)
        with pytest.raises(TreeChangeLost):
            rows.changes.give_up(over, rows.marks_of(change), at=NOW, failure=failure)

    def test_that_another_worker_has_taken_does_not_fail_by_the_first(self, rows: TreeRows) -> None:
        change = rows.moving
        held = rows.changes.take(change, until=LATER)
        with pytest.raises(TreeChangeLost):
            rows.changes.give_up(change, rows.marks_of(change), at=NOW, failure=TreeChangeFailure("X", "x"))
        assert rows.now(change) == held


class TestADeletion:
    def test_ends_with_its_directory(self, rows: TreeRows) -> None:
        change = rows.deleting
        rows.finish(change)
        assert rows.files.find(rows.device_id, rows.folder.id) is None
        assert rows.files.holder(rows.device_id, "/", "b") is None
        assert rows.marks_of(change) == TreeMarks(2)
        assert rows.now(change).state is TreeChangeState.SUCCEEDED


class TestMarks:
    def test_hold_off_names_whose_requests_have_read_others(self, rows: TreeRows) -> None:
        file = rows.ready
        assert rows.moving.is_open
        with pytest.raises(TreeMarksChanged):
            rows.files.add(rows.new_directory("x"), reservation=None, directories=(), due=None, seen=0)
        with pytest.raises(TreeMarksChanged):
            rows.files.change(file, replace(file, name="n", revision=2), directories=(), seen=0)
        other = rows.new_directory("y")
        rows.files.add(other, reservation=None, directories=(), due=None, seen=1)
        with pytest.raises(TreeMarksChanged):
            rows.files.remove_directory(other, seen=0)
        rows.files.change(file, replace(file, category="log", revision=2), directories=(), seen=0)
        rows.files.remove_directory(other, seen=1)

    def test_do_not_use_up_a_device_of_before_there_was_a_count(self, rows: TreeRows) -> None:
        change: TreeChange = rows.deleting
        rows.finish(change)
        rows.add(rows.new_directory("z"))


class TestTheWorker:
    def test_finds_names_of_all_states_and_their_entries(self, rows: TreeRows) -> None:
        files = [rows.uploading, rows.new_file(name="b")]
        rows.add(files[1])
        first = rows.trees.names(rows.device_id, "/a", limit=1)
        assert first.last is not None
        second = rows.trees.names(rows.device_id, "/a", limit=9, start=first.last)
        assert second.last is None
        names = [*first.names, *second.names]
        assert {name.file_id for name in names} == {file.id for file in files}
        assert not any(name.is_directory for name in names)
        assert rows.trees.entries(rows.device_id, [name.file_id for name in names]) == {f.id: f for f in files}
        assert rows.trees.entries(rows.device_id, []) == {}
        assert rows.trees.names(rows.device_id, "/nowhere").names == []
        [above] = rows.trees.names(rows.device_id, "/").names
        assert above.is_directory

    def test_deletes_files_of_all_states_and_gives_their_bytes_back_once(self, rows: TreeRows) -> None:
        other = rows.new_file(name="b", size=7)
        rows.add(rows.new_file(name="kept", path="/", size=1))
        files = [rows.ready, other]
        rows.add(other)
        assert rows.stored_bytes == 13
        with pytest.raises(ConditionFailed):
            rows.trees.delete_files([other, replace(rows.ready, revision=3)], now=NOW, due=NOW)
        rows.trees.delete_files(files, now=NOW, due=NOW)
        assert rows.stored_bytes == 1
        assert {found(rows, file).status for file in files} == {FileStatus.DELETING}
        assert rows.trees.names(rows.device_id, "/a").names == []
        with pytest.raises(ConditionFailed):
            rows.trees.delete_files(files, now=NOW, due=NOW)
        assert rows.stored_bytes == 1

    def test_moves_files_of_all_states_each_once(self, rows: TreeRows) -> None:
        other = rows.new_file(name="b")
        files = [rows.ready, other]
        rows.add(other)
        with pytest.raises(ConditionFailed):
            rows.trees.move_files(files, "/b")  # there is none yet
        assert rows.folder.name == "b"
        rows.trees.move_files(files, "/b")
        assert [(found(rows, each).path, found(rows, each).revision) for each in files] == [("/b", 2), ("/b", 2)]
        assert found(rows, other) == replace(other, path="/b", revision=2)
        assert rows.trees.names(rows.device_id, "/a").names == []
        assert [each.id for each in rows.files.in_directory(rows.device_id, "/b", limit=5).files] == [rows.ready.id]
        with pytest.raises(ConditionFailed):
            rows.trees.move_files(files, "/b")

    def test_leaves_a_directory_that_is_empty_by_then(self, rows: TreeRows) -> None:
        assert rows.folder.name == "b"
        directory = found(rows, rows.folder)
        inner = rows.subfolder
        rows.add(rows.new_directory("e"))
        with pytest.raises(ConditionFailed):
            rows.trees.enter(directory, "/nowhere")
        rows.trees.enter(directory, "/e")
        assert (found(rows, directory).path, found(rows, directory).revision) == ("/e", 2)
        with pytest.raises(ConditionFailed):
            rows.trees.enter(directory, "/e")
        with pytest.raises(DirectoryNotEmpty):
            rows.trees.leave(rows.device_id, directory.id, "/b")
        rows.trees.enter(inner, "/e/b")
        rows.trees.leave(rows.device_id, inner.id, "/b/a")
        rows.trees.leave(rows.device_id, directory.id, "/b")
        assert rows.files.holder(rows.device_id, "/", "b") is None
        assert rows.files.holder(rows.device_id, "/e", "b") == directory.id
