"""The state that a device keeps over a restart: commands that it received and message numbers that it has used.

One small SQLite file. Rows of `commands` move accepted -> started -> done:

    accepted   the request is stored, so it may be acknowledged; nothing was done yet
    started    its handler may have had an effect
    done       `answer` is sent now and on every redelivery; `delivered` once the broker has it
"""

import contextlib
import json
import logging
import sqlite3
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from karma_device.errors import StateFileBusy
from karma_device.messages import Command, encode_json

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS commands (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, name TEXT NOT NULL,
    params TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, correlation BLOB NOT NULL,
    answer BLOB, delivered INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sequence (boot TEXT PRIMARY KEY, reserved INTEGER NOT NULL);
"""
_SEQ_BLOCK = 256


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

    Args:
        path: The file; it is created with its folder.
        remember: Number of finished commands to keep. Older ones are forgotten; a command repeated after that would be
            done again, so this is far above what can be redelivered within a command's lifetime.

    Raises:
        StateFileBusy: Another process holds the file.
    """

    def __init__(self, path: Path, *, remember: int = 1000) -> None:
        self._remember = remember
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._db = _open(path)
        except sqlite3.OperationalError as exc:
            raise StateFileBusy(f"{path} cannot be locked: {exc}") from exc
        except sqlite3.DatabaseError:
            # A torn file (power loss on worn flash) must not brick the device: keep it for inspection, start afresh.
            broken = path.with_suffix(".corrupt")
            log.exception("state.corrupt: %s is kept as %s, and a new one begun", path, broken)
            path.replace(broken)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = _open(path)
        self._seq_boot: str | None = None
        self._seq_next = 0
        self._seq_reserved = 0

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def accept(self, command: Command, correlation: bytes) -> StoredCommand | None:
        """Store a new command durably; None if it is new, else the stored one."""
        with self._lock, self._db:
            row = self._row(command.id)
            if row is not None:
                return row
            self._db.execute(
                "INSERT INTO commands (id, state, name, params, issued_at, expires_at, correlation)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    command.id,
                    CommandState.ACCEPTED,
                    command.name,
                    encode_json(dict(command.params)).decode(),
                    command.issued_at,
                    command.expires_at,
                    correlation,
                ),
            )
            return None

    def start(self, command_id: str) -> None:
        """Record that the command is about to run: from here on it may have had an effect."""
        with self._lock, self._db:
            self._db.execute("UPDATE commands SET state = ? WHERE id = ?", (CommandState.STARTED, command_id))

    def finish(self, command_id: str, answer: bytes) -> None:
        """Store the final answer, and delete the oldest finished commands beyond the limit."""
        with self._lock, self._db:
            self._db.execute(
                "UPDATE commands SET state = ?, answer = ?, delivered = 0, params = '{}' WHERE id = ?",
                (CommandState.DONE, answer, command_id),
            )
            self._db.execute(
                "DELETE FROM commands WHERE state = ?"
                " AND n <= (SELECT n FROM commands ORDER BY n DESC LIMIT 1 OFFSET ?)",
                (CommandState.DONE, self._remember),
            )

    def delivered(self, command_id: str) -> None:
        """Record that the broker has the final answer."""
        with self._lock, self._db:
            self._db.execute(
                "UPDATE commands SET delivered = 1 WHERE id = ? AND state = ?", (command_id, CommandState.DONE)
            )

    def get(self, command_id: str) -> StoredCommand | None:
        """Look a command up."""
        with self._lock:
            return self._row(command_id)

    def unfinished(self) -> list[StoredCommand]:
        """List commands accepted or started, oldest first: after a start, those of the last process."""
        return self._rows("state != 'done'")

    def undelivered(self) -> list[StoredCommand]:
        """List final answers that the broker never confirmed, oldest first."""
        return self._rows("state = 'done' AND delivered = 0")

    def next_seq(self, boot: str) -> int:
        """Return the boot's next message number, never one twice, even after restarts.

        Numbers are reserved on disk in blocks, so that a write to flash is paid once in 256 messages; a restart skips
        the rest of its block.
        """
        with self._lock:
            if self._seq_boot != boot:
                row = self._db.execute("SELECT reserved FROM sequence WHERE boot = ?", (boot,)).fetchone()
                self._seq_boot = boot
                self._seq_next = self._seq_reserved = int(row[0]) if row else 0
            if self._seq_next >= self._seq_reserved:
                self._seq_reserved = self._seq_next + _SEQ_BLOCK
                with self._db:
                    self._db.execute("DELETE FROM sequence WHERE boot != ?", (boot,))
                    self._db.execute("INSERT OR REPLACE INTO sequence VALUES (?, ?)", (boot, self._seq_reserved))
            seq = self._seq_next
            self._seq_next += 1
            return seq

    def _row(self, command_id: str) -> StoredCommand | None:
        row = self._db.execute(f"{_SELECT} WHERE id = ?", (command_id,)).fetchone()
        return _stored(row) if row else None

    def _rows(self, condition: str) -> list[StoredCommand]:
        with self._lock:
            return [_stored(row) for row in self._db.execute(f"{_SELECT} WHERE {condition} ORDER BY n")]


_SELECT = "SELECT id, name, params, issued_at, expires_at, state, correlation, answer FROM commands"


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            db.close()
        raise
    return db


def _stored(row: tuple[str, str, str, int, int, str, bytes, bytes | None]) -> StoredCommand:
    command_id, name, params, issued_at, expires_at, state, correlation, answer = row
    command = Command(id=command_id, name=name, params=json.loads(params), issued_at=issued_at, expires_at=expires_at)
    return StoredCommand(command=command, state=CommandState(state), correlation=correlation, answer=answer)
