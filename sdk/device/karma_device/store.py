"""The state that a device keeps over a restart: commands that it received and message numbers that it has used.

One small SQLite file. Rows of `commands` move accepted -> started -> done:

    accepted   the request is stored, so it may be acknowledged; nothing was done yet
    started    its handler may have had an effect
    done       `answer` is sent now and on every redelivery; `delivered` once the broker has it
"""

import contextlib
import errno
import json
import logging
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from karma_device.errors import StateFileBusy, StateFileUnusable
from karma_device.messages import Command, encode_json

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS commands (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, name TEXT NOT NULL,
    params TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, correlation BLOB NOT NULL,
    answer BLOB, delivered INTEGER NOT NULL DEFAULT 0, device_id TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS sequence (boot TEXT PRIMARY KEY, reserved INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS session (one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT NOT NULL);
"""
_OF_DEVICE = "ALTER TABLE commands ADD COLUMN device_id TEXT NOT NULL DEFAULT ''"
_SEQ_BLOCK = 256
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNWRITABLE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
_UNWRITABLE_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})


class Number(NamedTuple):
    """The name of one message: no other has both the same."""

    boot: str
    seq: int


_FAULTS = (sqlite3.Error, OSError, StateFileBusy)


class CommandState(StrEnum):
    """State of a stored command."""

    ACCEPTED = "accepted"
    STARTED = "started"
    DONE = "done"


@dataclass(frozen=True)
class StoredCommand:
    """A stored command."""

    command: Command
    state: CommandState
    correlation: bytes
    answer: bytes | None


class StateStore:
    """The state file. Thread-safe; holds the file locked, so that one device is one process.

    A disk that is full or broken costs what needs it, no more: a command that cannot be stored is not accepted, and the
    file is opened again with the next one; messages are numbered without it.

    Args:
        path: The file; it is created with its folder.
        remember: Number of finished commands to keep. Older ones are forgotten; a command repeated after that would be
            done again, so this is far above what can be redelivered within a command's lifetime.

    Raises:
        StateFileBusy: Another process holds the file.
        StateFileUnusable: The file cannot be opened, and no disk is at fault that may have room again.
    """

    def __init__(self, path: Path, *, remember: int = 1000) -> None:
        self._remember = remember
        self._lock = threading.Lock()
        self._path = path
        self.failure: str | None = None
        """Reason why the file could not be written last; None: it was written."""
        self._stand_in = False
        try:
            self._db = _open_or_renew(path)
        except (sqlite3.OperationalError, OSError) as exc:
            if not _is_unwritable(exc):
                raise StateFileUnusable(f"{path} cannot be opened: {exc}") from exc
            self._db, self._stand_in = _empty(), True
            self._unwritable(exc)
        self._seq_boot: str | None = None
        self._seq_next = 0
        self._seq_reserved = 0
        self._seq_read = False
        self._unreserved_boot = uuid.uuid4().hex
        self._unreserved_left = 0

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def accept(self, command: Command, correlation: bytes) -> StoredCommand | None:
        """Store a new command durably; None if it is new, else the stored one.

        Raises:
            sqlite3.Error: It could not be stored.
        """
        with self._lock, self._file() as db, db:
            row = self._row(command.id)
            if row is not None:
                return row
            db.execute(
                "INSERT INTO commands (id, state, name, params, issued_at, expires_at, correlation, device_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    command.id,
                    CommandState.ACCEPTED,
                    command.name,
                    encode_json(dict(command.params)).decode(),
                    command.issued_at,
                    command.expires_at,
                    correlation,
                    command.device_id,
                ),
            )
            return None

    def forget_others(self, device_id: str) -> int:
        """Forget what is unfinished or unanswered of commands that are not this device's; return how many there were.

        The ids of those that were done are kept.
        """
        try:
            with self._lock, self._file() as db, db:
                gone = db.execute(
                    "DELETE FROM commands WHERE state != ? AND device_id != ?", (CommandState.DONE, device_id)
                ).rowcount
                told = db.execute(
                    "UPDATE commands SET delivered = 1 WHERE state = ? AND delivered = 0 AND device_id != ?",
                    (CommandState.DONE, device_id),
                ).rowcount
        except _FAULTS:
            return 0
        return gone + told

    def session_of(self) -> str:
        """Return the identity under which the broker keeps a session; "": none is known, or it cannot be read."""
        try:
            with self._lock:
                row = self._db.execute("SELECT identity FROM session").fetchone()
        except sqlite3.ProgrammingError:  # the store is closed
            raise
        except _FAULTS as exc:
            # To begin anew is safe: the service sends again what the broker forgets with its session.
            self._unreadable(exc)
            return ""
        return str(row[0]) if row else ""

    def begin_session(self, identity: str) -> None:
        """Record that the broker has begun a session anew for this identity; if it cannot be kept, it does so again."""
        with contextlib.suppress(*_FAULTS), self._lock, self._file() as db, db:
            db.execute("INSERT OR REPLACE INTO session VALUES (1, ?)", (identity,))

    def start(self, command_id: str) -> None:
        """Record that the command is about to run: from here on it may have had an effect."""
        with self._lock, self._file() as db, db:
            db.execute("UPDATE commands SET state = ? WHERE id = ?", (CommandState.STARTED, command_id))

    def finish(self, command_id: str, answer: bytes) -> None:
        """Store the final answer, and delete the oldest finished commands beyond the limit."""
        with self._lock, self._file() as db, db:
            db.execute(
                "UPDATE commands SET state = ?, answer = ?, delivered = 0, params = '{}' WHERE id = ?",
                (CommandState.DONE, answer, command_id),
            )
            db.execute(
                "DELETE FROM commands WHERE state = ?"
                " AND n <= (SELECT n FROM commands ORDER BY n DESC LIMIT 1 OFFSET ?)",
                (CommandState.DONE, self._remember),
            )

    def delivered(self, command_id: str) -> None:
        """Record that the broker has the final answer."""
        with self._lock:
            try:
                with self._file() as db, db:
                    db.execute(
                        "UPDATE commands SET delivered = 1 WHERE id = ? AND state = ?",
                        (command_id, CommandState.DONE),
                    )
            except _FAULTS:
                log.warning("state.delivery_not_kept: the answer of command %s is sent again after a start", command_id)

    def get(self, command_id: str) -> StoredCommand | None:
        """Look a command up."""
        with self._lock:
            return self._row(command_id)

    def unfinished(self) -> list[StoredCommand]:
        """List commands accepted or started, oldest first: after a start, those of the last process.

        Those that cannot be read are left out.
        """
        return self._rows("state != 'done'")

    def undelivered(self) -> list[StoredCommand]:
        """List final answers that the broker never confirmed, oldest first, without those that cannot be read."""
        return self._rows("state = 'done' AND delivered = 0")

    def next_number(self, boot: str) -> Number:
        """Return a number for the boot's next message, never one twice, even after restarts.

        Numbers are reserved on disk in blocks, so that a write to flash is paid once in 256 messages; a restart skips
        the rest of its block. A block that cannot be reserved goes out under another boot name, which no other process
        ever has, so that its numbers need no disk; then it is tried again.
        """
        with self._lock:
            if self._seq_boot != boot:
                self._seq_boot, self._seq_read = boot, False
                self._seq_next = self._seq_reserved = 0
            if self._seq_next >= self._seq_reserved and not self._unreserved_left:
                try:
                    self._reserve(boot)
                except sqlite3.ProgrammingError:  # the store is closed
                    raise
                except _FAULTS:
                    self._unreserved_left = _SEQ_BLOCK
            if self._unreserved_left:
                self._unreserved_left -= 1
                name = self._unreserved_boot
            else:
                name = boot
            seq = self._seq_next
            self._seq_next += 1
            return Number(name, seq)

    def _reserve(self, boot: str) -> None:
        with self._file() as db, db:
            if not self._seq_read:
                row = db.execute("SELECT reserved FROM sequence WHERE boot = ?", (boot,)).fetchone()
                self._seq_next = max(self._seq_next, int(row[0]) if row else 0)
            reserved = self._seq_next + _SEQ_BLOCK
            db.execute("DELETE FROM sequence WHERE boot != ?", (boot,))
            db.execute("INSERT OR REPLACE INTO sequence VALUES (?, ?)", (boot, reserved))
        self._seq_reserved, self._seq_read = reserved, True

    @contextlib.contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        """Give the file for writing, opened again if it could not be before, and note whether it was written."""
        try:
            if self._stand_in:
                db = _open_or_renew(self._path)
                self._db.close()
                self._db, self._stand_in = db, False
            yield self._db
        except _FAULTS as exc:
            self._unwritable(exc)
            raise
        if self.failure is not None:
            log.warning("state.writable_again: %s", self._path)
            self.failure = None

    def _unwritable(self, exc: Exception) -> None:
        if self.failure is None:
            log.error(
                "state.unwritable: %s: %s: telemetry goes on, commands are not accepted until it can be written",
                self._path,
                exc,
            )
        self.failure = f"{self._path}: {exc}"

    def _unreadable(self, exc: Exception) -> None:
        log.error("state.unreadable: %s: %s: the device goes on with what can be read", self._path, exc)

    def _row(self, command_id: str) -> StoredCommand | None:
        row = self._db.execute(f"{_SELECT} WHERE id = ?", (command_id,)).fetchone()
        return _stored(row) if row else None

    def _rows(self, condition: str) -> list[StoredCommand]:
        found: list[StoredCommand] = []
        try:
            with self._lock:
                found.extend(_stored(row) for row in self._db.execute(f"{_SELECT} WHERE {condition} ORDER BY n"))
        except sqlite3.ProgrammingError:  # the store is closed
            raise
        except _FAULTS as exc:
            self._unreadable(exc)
        return found


_SELECT = "SELECT id, name, params, issued_at, expires_at, state, correlation, answer, device_id FROM commands"


def _empty() -> sqlite3.Connection:
    """Open a state in memory that is read while there is no file, and never written."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(_SCHEMA)
    return db


def _is_unwritable(exc: sqlite3.Error | OSError) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in _UNWRITABLE_ERRNO
    return exc.sqlite_errorcode & 0xFF in _UNWRITABLE


def _open_or_renew(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _open(path)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF in _BUSY:
            raise StateFileBusy(f"{path} is held by another process: {exc}") from exc
        raise
    except sqlite3.DatabaseError:
        # A torn file (power loss on worn flash) must not brick the device: keep it for inspection, start afresh.
        broken = path.with_suffix(".corrupt")
        log.exception("state.corrupt: %s is kept as %s, and a new one begun", path, broken)
        path.replace(broken)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        if "device_id" not in [column[1] for column in db.execute("PRAGMA table_info(commands)")]:
            # The file is of an earlier release: whose commands it holds is not known.
            with db:
                db.execute(_OF_DEVICE)
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            db.close()
        raise
    return db


def _stored(row: tuple[str, str, str, int, int, str, bytes, bytes | None, str]) -> StoredCommand:
    command_id, name, params, issued_at, expires_at, state, correlation, answer, device_id = row
    command = Command(command_id, name, json.loads(params), issued_at, expires_at, device_id)
    return StoredCommand(command=command, state=CommandState(state), correlation=correlation, answer=answer)
