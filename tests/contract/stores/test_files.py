"""Files and directories of devices: one suite for the rows in memory and for DynamoDB."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from karma.billing.allowances import Metric
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, Conflict, NotFound, QuotaExceeded, StaleVersion, StorageThrottled
from karma.core.ids import FileId, new_id
from karma.core.requests import IdempotencyKeyReused
from karma.files.domain import MAX_NAMES, DeviceFile, Digests, DirectoryNotEmpty, FileStatus, Rejection
from karma.files.repository.files import FilePosition
from tests.contexts.files import FileRows, MemoryFileRows, StoredFileRows
from tests.support.plans import limited
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW
from tests.support.stores import Store

FOUND = Digests(5, "s", "m", "text/plain")


@pytest.fixture
def rows(store: Store) -> FileRows:
    return MemoryFileRows() if store.in_memory else StoredFileRows()


def listed(rows: FileRows, path: str = "/a") -> list[str]:
    return [file.name for file in rows.files.in_directory(rows.device_id, path, limit=50).files]


def found(rows: FileRows, file: DeviceFile) -> DeviceFile:
    stored = rows.files.find(file.device_id, file.id)
    assert stored is not None
    return stored


class TestAnUpload:
    def test_is_listed_when_it_was_verified_and_not_before(self, rows: FileRows) -> None:
        file = rows.new_file(metadata={"a": [1]}, permissions={"owner": "rw"}, declared_sha256="s")
        assert rows.files.missing(file.device_id, [("/", "a")]) == [("/", "a")]
        rows.add(file, rows.new_directory())
        assert rows.files.missing(file.device_id, [("/", "a")]) == []
        assert found(rows, file) == rows.files.unlisted(file.device_id, file.id) == file
        assert rows.files.holder(file.device_id, "/a", "notes.txt") == file.id

        rows.files.begin_upload(file, "u1", checksums=True)
        with pytest.raises(ConditionFailed):
            rows.files.begin_upload(file, "u2", checksums=False)
        rows.files.begin_upload(found(rows, file), "u1", checksums=True)
        with pytest.raises(ConditionFailed):
            rows.files.begin_upload(replace(file, upload_id="u0"), "u2", checksums=False)
        verifying = rows.files.completed(file, now=NOW, due=LATER)
        with pytest.raises(ConditionFailed):
            rows.files.completed(file, now=NOW, due=LATER)
        assert (verifying.upload_id, verifying.part_checksums, verifying.status) == ("u1", True, "verifying")
        assert listed(rows) == []

        rows.files.publish(verifying, FOUND, now=LATER)
        with pytest.raises(ConditionFailed):
            rows.files.publish(verifying, FOUND, now=LATER)
        assert listed(rows) == ["notes.txt"]
        assert rows.files.unlisted(file.device_id, file.id) is None
        ready = found(rows, file)
        assert (ready.status, ready.sha256, ready.md5, ready.mime_type) == ("ready", "s", "m", "text/plain")
        rows.files.accessed(ready, now=LATER)
        assert found(rows, file).accessed_at is not None

    def test_is_made_once_for_a_key(self, rows: FileRows) -> None:
        first = rows.new_file(path="/")
        assert rows.files.made_by(rows.device_id, asked()) is None
        rows.add(first, request=asked())
        with pytest.raises(AlreadyExists):
            rows.add(rows.new_file(name="other", path="/"), request=asked())
        assert rows.files.made_by(rows.device_id, asked()) == first.id
        with pytest.raises(IdempotencyKeyReused):
            rows.files.made_by(rows.device_id, asked("k", "another file"))
        assert listed(rows, path="/") == [] == listed(rows)

    @pytest.mark.fault("F-13b")
    def test_takes_a_name_once(self, rows: FileRows) -> None:
        rows.add(rows.new_file(), rows.new_directory())
        second = rows.new_file()
        with pytest.raises(AlreadyExists):
            rows.add(second)
        with pytest.raises(ConditionFailed):
            rows.add(rows.new_file(name="other"), rows.new_directory())
        with pytest.raises(AlreadyExists):
            rows.files.missing(rows.device_id, [("/a", "notes.txt")])
        assert rows.files.find(second.device_id, second.id) is None
        assert rows.files.missing(rows.device_id, []) == []

    def test_needs_its_device(self, rows: FileRows) -> None:
        file = rows.new_file()
        rows.lose_device()
        with pytest.raises(NotFound):
            rows.add(file)

    def test_is_looked_at_by_the_sweep_when_it_is_due(self, rows: FileRows) -> None:
        file = rows.uploading
        assert rows.files.due(before=NOW, limit=5) == []
        assert rows.files.due(before=LATER, limit=5) == [file]
        rows.files.postpone(file, due=LATER)
        assert rows.files.due(before=LATER, limit=5) == []
        assert rows.files.due(before=LATER + DAY, limit=5) == [file]
        with pytest.raises(ConditionFailed):
            rows.files.postpone(replace(file, status=FileStatus.VERIFYING), due=LATER)

    def test_that_is_rejected_gives_its_name_back(self, rows: FileRows) -> None:
        file = rows.verifying
        rows.files.reject(file, Rejection.SIZE, now=NOW, due=NOW)
        with pytest.raises(ConditionFailed):
            rows.files.reject(file, Rejection.SIZE, now=NOW, due=NOW)
        rejected = found(rows, file)
        assert (rejected.status, rejected.rejection) == (FileStatus.REJECTED, Rejection.SIZE)
        assert rows.files.holder(file.device_id, file.path, file.name) is None
        rows.add(rows.new_file())
        rows.files.cleaned(rejected, now=NOW)
        assert rejected.id not in {due.id for due in rows.files.due(before=LATER + DAY, limit=5)}
        rows.files.begin_delete(rejected, now=NOW, due=NOW)
        with pytest.raises(ConditionFailed):
            rows.files.cleaned(rejected, now=NOW)
        assert rows.files.holder(file.device_id, file.path, file.name) is not None, "the name is another's"


class TestLists:
    def test_of_a_device_are_newest_first_page_by_page(self, rows: FileRows) -> None:
        made = []
        for n in range(5):
            folder = rows.new_directory(f"d{n}")
            rows.add(folder)
            made.append(folder.id)
        rows.add(rows.new_file(path="/"))
        first = rows.files.newest(rows.device_id, limit=3)
        second = rows.files.newest(rows.device_id, limit=3, after=first.files[-1].id)
        assert [file.id for file in [*first.files, *second.files]] == sorted(made, reverse=True)
        assert (first.more, second.more) == (True, False)
        assert [rows.files.count(rows.device_id, path, most=4) for path in (None, "/", "/d1")] == [4, 4, 0]

    def test_of_a_directory_are_directories_first_then_by_name(self, rows: FileRows) -> None:
        for name in ("b.txt", "A.txt", "C.txt"):
            file = rows.new_file(name=name, path="/")
            rows.add(file)
            rows.files.publish(rows.files.completed(file, now=NOW, due=NOW), FOUND, now=NOW)
        rows.add(rows.new_directory("z"))
        first = rows.files.in_directory(rows.device_id, "/", limit=2)
        second = rows.files.in_directory(rows.device_id, "/", limit=2, after=FilePosition.of(first.files[-1]))
        assert [file.name for file in [*first.files, *second.files]] == ["z", "A.txt", "b.txt", "C.txt"]
        assert (first.more, second.more) == (True, False)

    @pytest.mark.parametrize("name", ["\U0001f4a1" * 255, "İ" * 255, "ß" * 255])
    def test_take_the_longest_names(self, rows: FileRows, name: str) -> None:
        folder = rows.new_directory(name)
        rows.add(folder)
        page = rows.files.in_directory(rows.device_id, "/", limit=1)
        assert [file.name for file in page.files] == [name]
        assert rows.files.in_directory(rows.device_id, "/", limit=1, after=FilePosition.of(folder)).files == []


class TestAChange:
    def test_takes_a_new_name_and_gives_the_old_one_back(self, rows: FileRows) -> None:
        file = rows.ready
        changed = replace(file, name="other.txt", path="/c", revision=file.revision + 1)
        rows.files.change(file, changed, directories=[rows.new_directory("c")])
        assert found(rows, file) == changed
        assert (listed(rows, "/a"), listed(rows, "/c"), listed(rows, "/")) == ([], ["other.txt"], ["a", "c"])
        assert rows.files.holder(file.device_id, "/a", "notes.txt") is None
        assert rows.files.holder(file.device_id, "/c", "other.txt") == file.id
        with pytest.raises(StaleVersion):
            rows.files.change(file, replace(file, name="late.txt"), directories=[])
        with pytest.raises(StaleVersion):
            rows.files.change(replace(changed, revision=1), replace(changed, category="x"), directories=[])

    def test_to_a_taken_name_is_refused(self, rows: FileRows) -> None:
        file = rows.ready
        rows.add(rows.new_file(name="taken.txt"))
        with pytest.raises(AlreadyExists):
            rows.files.change(file, replace(file, name="taken.txt", revision=2), directories=[])
        assert found(rows, file) == file


class TestRemoving:
    @pytest.mark.parametrize("state", ["uploading", "verifying", "ready", "rejected"])
    def test_begins_once_and_ends_with_the_tombstone(self, rows: FileRows, state: str) -> None:
        file: DeviceFile = getattr(rows, state)
        file = found(rows, file)
        rows.files.begin_delete(file, now=NOW, due=NOW)
        with pytest.raises(ConditionFailed):
            rows.files.begin_delete(file, now=NOW, due=NOW)
        left = rows.files.unlisted(file.device_id, file.id)
        assert left is not None
        assert left.status is FileStatus.DELETING
        assert rows.files.holder(file.device_id, file.path, file.name) is None
        assert listed(rows) == []
        rows.files.forget(left)
        with pytest.raises(ConditionFailed):
            rows.files.forget(left)
        assert rows.files.find(file.device_id, file.id) is None
        with pytest.raises(ConditionFailed):
            rows.files.accessed(file, now=NOW)

    def test_a_directory_goes_as_it_was_read(self, rows: FileRows) -> None:
        folder = rows.folder
        with pytest.raises(ConditionFailed):
            rows.files.remove_directory(replace(folder, revision=9))
        rows.files.remove_directory(folder)
        assert rows.files.find(folder.device_id, folder.id) is None
        assert rows.files.missing(folder.device_id, [("/", "b")]) == [("/", "b")]

    def test_everything_of_a_device_goes_by_pieces(self, rows: FileRows) -> None:
        rows.ready  # noqa: B018  file and directory, each with the item of its unique name, and their number
        assert [rows.files.remove_rows(rows.device_id, limit=3) for _ in range(3)] == [3, 2, 0]


def test_a_file_that_is_not_there_is_not_found(rows: FileRows) -> None:
    nobody = FileId(new_id())
    assert rows.files.find(rows.device_id, nobody) is None
    assert rows.files.holder(rows.device_id, "/", "x") is None
    assert rows.files.newest(rows.device_id, limit=5) == ([], False)
    assert rows.files.in_directory(rows.device_id, "/", limit=5) == ([], False)


@pytest.mark.fault("F-13a")
class TestADirectory:
    @pytest.mark.parametrize("state", ["uploading", "verifying", "ready"])
    def test_is_not_empty_while_a_name_in_it_is_taken(self, rows: FileRows, state: str) -> None:
        file = found(rows, getattr(rows, state))
        above = directory_at(rows, "/", "a")
        with pytest.raises(DirectoryNotEmpty):
            rows.files.remove_directory(above)
        assert rows.files.inside(rows.device_id, "/a") == file.id
        rows.files.begin_delete(file, now=NOW, due=NOW)
        assert rows.files.inside(rows.device_id, "/a") is None
        rows.files.remove_directory(above)

    @pytest.mark.parametrize("state", ["rejected", "vanishing"])
    def test_is_empty_when_what_was_in_it_has_no_name_any_more(self, rows: FileRows, state: str) -> None:
        assert getattr(rows, state).path == "/a"
        rows.files.remove_directory(directory_at(rows, "/", "a"))

    def test_counts_what_moves_in_and_out(self, rows: FileRows) -> None:
        file = rows.ready
        renamed = replace(file, name="other.txt", revision=2)
        rows.files.change(file, renamed, directories=[])
        lower = replace(renamed, path="/a/b", revision=3)
        rows.files.change(renamed, lower, directories=[rows.new_directory("b", "/a")])
        with pytest.raises(DirectoryNotEmpty):
            rows.files.remove_directory(directory_at(rows, "/a", "b"))
        higher = replace(lower, path="/", revision=4)
        rows.files.change(lower, higher, directories=[])
        with pytest.raises(DirectoryNotEmpty):
            rows.files.remove_directory(directory_at(rows, "/", "a"))
        rows.files.remove_directory(directory_at(rows, "/a", "b"))
        rows.files.remove_directory(directory_at(rows, "/", "a"))
        assert listed(rows, "/") == ["other.txt"]

    def test_that_is_gone_takes_nothing(self, rows: FileRows) -> None:
        rows.files.remove_directory(rows.folder)
        late = rows.new_file(path="/b")
        with pytest.raises(ConditionFailed):
            rows.add(late)
        with pytest.raises(ConditionFailed):
            rows.files.publish(replace(rows.verifying, path="/b"), FOUND, now=NOW)
        with pytest.raises(ConditionFailed):
            rows.files.change(rows.ready, replace(rows.ready, path="/b", revision=2), directories=[])
        with pytest.raises(ConditionFailed):
            rows.add(rows.new_directory("c", "/b/a"), rows.new_directory("a", "/b"))
        assert rows.files.find(late.device_id, late.id) is None
        assert found(rows, rows.ready) == rows.ready

    @pytest.mark.fault("F-13b")
    def test_that_is_a_file_by_now_takes_nothing(self, rows: FileRows) -> None:
        rows.files.remove_directory(rows.folder)
        rows.add(rows.new_file(name="b", path="/"))
        with pytest.raises(ConditionFailed):
            rows.add(rows.new_file(path="/b"))
        with pytest.raises(ConditionFailed):
            rows.add(rows.new_file(path="/b"), rows.new_directory("b"))


def directory_at(rows: FileRows, path: str, name: str) -> DeviceFile:
    holder = rows.files.holder(rows.device_id, path, name)
    assert holder is not None
    directory = rows.files.find(rows.device_id, holder)
    assert directory is not None
    return directory


@pytest.mark.fault("F-26d")
class TestTheNumberOfNames:
    """The limit is a device's own, whatever the entries weigh."""

    def test_is_limited_for_each_way_to_make_one(self, rows: FileRows) -> None:
        ready = rows.ready
        moved = replace(ready, path="/x/y", revision=2)
        above = [rows.new_directory("x"), rows.new_directory("y", "/x")]
        ways: list[tuple[int, Callable[[], None]]] = [
            (1, lambda: rows.add(rows.new_file(name="f", path="/"))),
            (1, lambda: rows.add(rows.new_directory("d"))),
            (3, lambda: rows.add(rows.new_file(path="/p/q"), rows.new_directory("p"), rows.new_directory("q", "/p"))),
            (2, lambda: rows.files.change(ready, moved, directories=above)),
        ]
        for names, make in ways:
            rows.fill(MAX_NAMES - names + 1)
            with pytest.raises(Conflict) as refused:
                make()
            assert (refused.value.code, refused.value.details) == (
                "TOO_MANY_OBJECTS",
                {"kind": "file", "limit": MAX_NAMES},
            )
            rows.fill(MAX_NAMES - names)
            make()
        renamed = replace(moved, name="other", revision=3)
        rows.files.change(moved, renamed, directories=[])  # takes as many as it frees

    @pytest.mark.parametrize("state", ["uploading", "verifying", "ready", "rejected"])
    def test_has_room_again_for_what_is_removed(self, rows: FileRows, state: str) -> None:
        file = found(rows, getattr(rows, state))
        rows.fill(MAX_NAMES - (file.status is FileStatus.REJECTED))
        rows.files.begin_delete(file, now=NOW, due=NOW)
        rows.add(rows.new_directory("d"))
        with pytest.raises(Conflict):
            rows.add(rows.new_directory("e"))
        rows.files.remove_directory(directory_at(rows, "/", "d"))
        rows.add(rows.new_directory("e"))

    def test_tells_of_a_name_that_is_taken_first(self, rows: FileRows) -> None:
        rows.add(rows.new_file(path="/"))
        rows.fill(MAX_NAMES)
        with pytest.raises(AlreadyExists):
            rows.add(rows.new_file(path="/"))


GB = 1_000_000_000


@pytest.mark.fault("F-19a")
class TestRoom:
    def test_is_taken_with_the_upload_or_the_upload_is_not_begun(self, rows: FileRows) -> None:
        first, second = rows.new_file(name="first", path="/"), rows.new_file(name="second", path="/")
        add_limited(rows, first, GB)
        with pytest.raises(QuotaExceeded) as refused:
            add_limited(rows, second, 1)
        assert refused.value.details == {
            "limit": "storage",
            "plan": "free",
            "allowed": GB,
            "requested": 1,
            "resets_at": None,
        }
        assert (rows.files.find(rows.device_id, second.id), rows.stored_bytes) == (None, GB)
        assert rows.files.holder(rows.device_id, "/", "second") is None
        add_limited(rows, rows.new_file(name="empty", path="/", size=0), 0)

    def test_a_name_that_is_taken_is_told_before_the_limit(self, rows: FileRows) -> None:
        add_limited(rows, rows.new_file(path="/"), GB)
        with pytest.raises(AlreadyExists):
            add_limited(rows, rows.new_file(path="/"), GB)

    def test_for_one_is_had_by_one_of_two_at_once(self, rows: FileRows) -> None:
        def begin(file: DeviceFile) -> bool:
            try:
                add_limited(rows, file, GB)
            except (QuotaExceeded, StorageThrottled):
                return False
            return True

        files = [rows.new_file(name=name, path="/", size=GB) for name in ("a", "b")]
        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(begin, files)) == [False, True]
        assert rows.stored_bytes == GB

    @pytest.mark.parametrize("state", ["uploading", "verifying", "ready", "rejected", "vanishing"])
    def test_is_given_back_once_with_the_device_in_every_state(self, rows: FileRows, state: str) -> None:
        rows.add(rows.new_file(name="other", path="/", size=7))
        file: DeviceFile = getattr(rows, state)
        assert rows.stored_bytes == 7 + (5 if found(rows, file).takes_room else 0)
        with ThreadPoolExecutor(2) as pool:
            removed = list(pool.map(lambda limit: remove_rows(rows, limit), (50, 50)))
        assert (rows.stored_bytes, remove_rows(rows, 50)) == (0, 0), removed

    @pytest.mark.parametrize("state", ["uploading", "verifying", "ready", "rejected"])
    def test_is_given_back_once_with_the_file(self, rows: FileRows, state: str) -> None:
        file = found(rows, getattr(rows, state))
        rows.add(rows.new_file(name="other", path="/", size=7))
        for _ in range(2):
            with contextlib.suppress(ConditionFailed):
                rows.files.begin_delete(file, now=NOW, due=NOW)
            assert rows.stored_bytes == 7


def add_limited(rows: FileRows, file: DeviceFile, size: int) -> None:
    """Add a file to a device of an owner on the free plan."""
    rows.files.add(file, reservation=limited(rows.owner_id, Metric.STORAGE, size), directories=[], due=NOW)


def remove_rows(rows: FileRows, limit: int) -> int:
    """Remove rows as a sweep does that is called again when the database was busy."""
    while True:
        with contextlib.suppress(StorageThrottled):
            return rows.files.remove_rows(rows.device_id, limit=limit)
