import contextlib
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma_device.commands import CommandRunner, Reply
from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.errors import StateFileBusy, StateFileUnusable
from karma_device.messages import Command, Topics
from karma_device.store import CommandState, Number, StateStore


def command(command_id: str) -> Command:
    return Command(id=command_id, name="move", params={"x": 1, "s": "ü"}, issued_at=1, expires_at=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "device.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[StateStore]:
    store = StateStore(path, remember=3)
    yield store
    store.close()


class TestCommands:
    def test_only_the_first_accept_is_new(self, store: StateStore) -> None:
        assert store.accept(command("a"), b"c") is None
        known = store.accept(command("a"), b"c")
        assert known is not None
        assert (known.state, known.command, known.answer) == (CommandState.ACCEPTED, command("a"), None)

    def test_everything_survives_a_restart(self, path: Path) -> None:
        first = StateStore(path)
        for command_id in ("accepted", "started", "done"):
            first.accept(command(command_id), command_id.encode())
        first.start("started")
        first.start("done")
        first.finish("done", b"answer")
        first.close()

        second = StateStore(path)
        assert [(c.command.id, c.state, c.correlation) for c in second.unfinished()] == [
            ("accepted", CommandState.ACCEPTED, b"accepted"),
            ("started", CommandState.STARTED, b"started"),
        ]
        assert [(c.command.id, c.answer) for c in second.undelivered()] == [("done", b"answer")]
        second.delivered("done")
        assert second.undelivered() == []
        second.close()

    def test_memory_is_bounded_and_forgets_the_oldest_finished(self, store: StateStore) -> None:
        store.accept(command("running"), b"")
        for number in range(10):
            store.accept(command(f"c{number}"), b"")
            store.finish(f"c{number}", b"answer")
        remembered = [f"c{number}" for number in range(10) if store.get(f"c{number}") is not None]
        assert remembered == ["c7", "c8", "c9"]
        assert store.get("running") is not None


class TestSequence:
    def test_counts_up_within_a_boot(self, store: StateStore) -> None:
        assert [store.next_number("b").seq for _ in range(600)] == list(range(600))

    def test_a_restart_within_a_boot_never_repeats_a_number(self, path: Path) -> None:
        seen: list[int] = []
        for count in (1, 300, 5):
            store = StateStore(path)
            seen += [store.next_number("b").seq for _ in range(count)]
            store.close()
        assert seen == sorted(set(seen))

    def test_a_new_boot_starts_at_zero(self, path: Path) -> None:
        store = StateStore(path)
        store.next_number("old")
        assert store.next_number("new") == ("new", 0)
        store.close()


class TestFile:
    def test_it_is_private(self, store: StateStore, path: Path) -> None:
        assert store.get("a") is None
        assert path.stat().st_mode & 0o077 == 0

    def test_a_second_process_is_refused(self, store: StateStore, path: Path) -> None:
        with pytest.raises(StateFileBusy):
            StateStore(path)
        assert store.accept(command("a"), b"") is None

    def test_a_torn_file_is_set_aside(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"not a database at all, but long enough to look at" * 100)
        store = StateStore(path)
        assert store.accept(command("a"), b"") is None
        store.close()
        assert path.with_suffix(".corrupt").exists()

    def test_a_place_where_no_file_can_be_is_named(self, path: Path) -> None:
        path.mkdir(parents=True)
        with pytest.raises(StateFileUnusable, match="unable to open"):
            StateStore(path)


@pytest.mark.fault("F-12m")
@pytest.mark.parametrize("damage", [b"\xff", b"\0"])
def test_a_torn_page_ends_neither_a_connection_nor_a_start(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The first page is whole, so that the file opens; no table can be read."""
    store = StateStore(path)
    store.accept(command("a"), b"")
    store.begin_session("mine")
    store.close()
    with sqlite3.connect(path) as db:
        [size] = db.execute("PRAGMA page_size").fetchone()
    db.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:size] + damage * (len(whole) - size))
    store = StateStore(path)
    sent: list[Reply] = []
    runner = CommandRunner(
        topics=Topics("T"), store=store, send=sent.append, clock_ms=lambda: 1, workers=1, max_waiting=1, device_id="d"
    )
    runner.start()
    assert runner.stop(timeout_s=5)
    assert (store.session_of(), store.undelivered(), store.unfinished(), sent) == ("", [], [], [])
    assert "state.unreadable" in caplog.text
    store.close()
    for read in (store.session_of, store.undelivered):
        with pytest.raises(sqlite3.ProgrammingError):
            read()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let the system refuse every byte that this process writes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk(*, full: bool) -> contextlib.AbstractContextManager[None]:
    return full_disk() if full else contextlib.nullcontext()


@pytest.mark.fault("F-12k")
class TestFullDisk:
    @given(
        begins_full=st.booleans(),
        steps=st.lists(st.tuples(st.booleans(), st.integers(1, 600), st.booleans()), min_size=1, max_size=5),
    )
    @settings(max_examples=30)
    def test_every_message_gets_a_number_that_no_other_has(
        self, begins_full: bool, steps: list[tuple[bool, int, bool]]
    ) -> None:
        """Whether the disk is full or not at any start, block or restart; a lost process leaves its numbers used."""
        seen: list[Number] = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "device.sqlite3")
            with disk(full=begins_full):
                store = StateStore(path)
            for full, count, again in steps:
                with disk(full=full):
                    numbers = [store.next_number("b") for _ in range(count)]
                assert [each.seq for each in numbers] == list(range(numbers[0].seq, numbers[0].seq + count))
                seen += numbers
                if again:
                    with disk(full=full):
                        store.close()
                        store = StateStore(path)
            store.close()
        assert len(set(seen)) == len(seen)

    def test_it_is_told_and_ends(self, store: StateStore, caplog: pytest.LogCaptureFixture) -> None:
        store.next_number("b")
        with full_disk():
            numbers = [store.next_number("b") for _ in range(300)]
            told = store.failure
        assert told is not None
        assert [each.boot == "b" for each in numbers] == [True] * 255 + [False] * 45
        assert sum("state.unwritable" in each for each in caplog.messages) == 1
        assert {store.next_number("b").boot for _ in range(211)} == {numbers[-1].boot}
        assert store.next_number("b") == ("b", 512)
        assert store.failure is None
        assert "state.writable_again" in caplog.text

    def test_a_first_start_takes_no_command_until_there_is_room(self, path: Path) -> None:
        path.parent.mkdir()
        with full_disk():
            store = StateStore(path)
            with pytest.raises(sqlite3.OperationalError):
                store.accept(command("a"), b"")
            store.delivered("a")
            assert (store.unfinished(), store.undelivered()) == ([], [])
        assert store.accept(command("a"), b"") is None
        store.close()
        store = StateStore(path)
        assert [each.command.id for each in store.unfinished()] == ["a"]
        store.close()

    def test_a_device_records_without_it(self, tmp_path: Path) -> None:
        names = ("ca_pem", "certificate_pem", "private_key")
        credentials = {"thing_name": "a", "mqtt_host": "127.0.0.1", "mqtt_port": 1, **dict.fromkeys(names, "")}
        config = DeviceConfig.from_credentials(credentials, state_dir=tmp_path / "state", batch_max_samples=1)
        (tmp_path / "state").mkdir()
        with full_disk():
            device = Device(config)
            for _ in range(600):
                device.record({"n": 1})
        assert (device.stats.buffered_batches, device.stats.dropped_samples) == (600, 0)
        assert device.stats.state_failure is not None
        device.close()

    def test_a_start_goes_on_and_settles_later_what_it_cannot_record(self, store: StateStore) -> None:
        for name in ("a", "b"):
            store.accept(command(name), b"")
        store.start("a")
        for full, told in ((True, []), (False, [("a", True)])):
            sent: list[Reply] = []
            runner = CommandRunner(
                topics=Topics("T"), store=store, send=sent.append, clock_ms=lambda: 1, workers=0, max_waiting=1
            )
            with disk(full=full):
                runner.start()
            assert runner.stop(timeout_s=5)
            assert [(reply.command_id, reply.final) for reply in sent] == told
        assert [each.command.id for each in store.unfinished()] == ["b"]

    def test_a_delivery_that_cannot_be_kept_ends_no_connection(self, store: StateStore) -> None:
        store.accept(command("a"), b"")
        store.finish("a", b"{}")
        with full_disk():
            store.delivered("a")
        assert [each.command.id for each in store.undelivered()] == ["a"]


@pytest.mark.fault("F-11h")
def test_a_file_of_before_commands_named_their_device_is_read_on(path: Path) -> None:
    path.parent.mkdir(parents=True)
    old = sqlite3.connect(path)
    old.executescript(
        "CREATE TABLE commands (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,"
        " name TEXT NOT NULL, params TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,"
        " correlation BLOB NOT NULL, answer BLOB, delivered INTEGER NOT NULL DEFAULT 0);"
        "INSERT INTO commands (id, state, name, params, issued_at, expires_at, correlation)"
        " VALUES ('a', 'accepted', 'move', '{}', 1, 2, x'00');"
    )
    old.close()
    for _ in range(2):
        store = StateStore(path)
        assert [each.command.device_id for each in store.unfinished()] == [""]
        assert store.session_of() == ""
        store.close()
    store = StateStore(path)
    assert store.forget_others("mine") == 1
    store.begin_session("mine")
    assert (store.unfinished(), store.session_of()) == ([], "mine")
    store.close()


@pytest.mark.fault("F-11h")
def test_a_full_disk_keeps_no_foreign_command_s_end_and_no_session(store: StateStore) -> None:
    store.accept(command("a"), b"")
    with full_disk():
        assert store.forget_others("mine") == 0
        store.begin_session("mine")
    assert ([each.command.id for each in store.unfinished()], store.session_of()) == (["a"], "")
