from collections.abc import Iterator
from pathlib import Path

import pytest

from karma_device.errors import StateFileBusy
from karma_device.messages import Command
from karma_device.store import CommandState, StateStore


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
        assert [store.next_seq("b") for _ in range(600)] == list(range(600))

    def test_a_restart_within_a_boot_never_repeats_a_number(self, path: Path) -> None:
        seen: list[int] = []
        for count in (1, 300, 5):
            store = StateStore(path)
            seen += [store.next_seq("b") for _ in range(count)]
            store.close()
        assert seen == sorted(set(seen))

    def test_a_new_boot_starts_at_zero(self, path: Path) -> None:
        store = StateStore(path)
        store.next_seq("old")
        assert store.next_seq("new") == 0
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
