"""A move or a deletion of a tree: types and rules that need no I/O."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.errors import RateLimited
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.records import Record
from karma.files.domain import MAX_DEPTH, MAX_PATH_BYTES
from karma.files.marks import MAX_MARKS, TreeChangeId, TreeChangeKind, TreeMark

RETENTION: Final = timedelta(days=7)
"""Time for which a tree change is shown after its end."""
LOOKED_AFTER: Final = timedelta(minutes=1)
"""Time after which the sweep sends a tree change again that no worker took."""
MAX_ATTEMPTS: Final = 5
"""Attempts one after the other that move nothing on, after which a move that has not begun fails."""
STUCK_AFTER: Final = timedelta(minutes=15)
"""Time between attempts at work that has begun, once as many have moved nothing on."""


class TreeChangeState(StrEnum):
    """State of a tree change."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN: Final = frozenset({TreeChangeState.QUEUED, TreeChangeState.RUNNING})


class TooManyTreeChanges(RateLimited):
    """The device has as many trees that are being moved or deleted as it may have."""

    def __init__(self) -> None:
        """Build the error."""
        told = f"{MAX_MARKS} directories of this device are being moved or deleted; wait for one to end"
        super().__init__(told, retry_after_s=10)


class TreeChangeLost(Exception):
    """The tree change is not as it was read: another worker took it, or it was cancelled or removed."""


class TreeChangeKey(NamedTuple):
    """Key of a tree change."""

    device_id: DeviceId
    change_id: TreeChangeId


class TreeChangeFailure(NamedTuple):
    """Reason for which a move failed."""

    code: str
    message: str


class TreeChange(Record, kw_only=True):
    """A move or a deletion of a directory with all that is in it."""

    key: TreeChangeKey
    user_id: UserId
    kind: TreeChangeKind
    directory_id: FileId
    source: str
    """Path of the directory itself, when it was asked for."""
    target: str = ""
    """Path that the directory gets; "": it is deleted."""
    state: TreeChangeState = TreeChangeState.QUEUED
    is_begun: bool = False
    """True: readers see its result, and nothing ends it before it is done."""
    total: int | None = None
    """Entries in the directory, unfinished uploads included; None: they were not counted yet."""
    done: int = 0
    """Entries of these that the worker has moved, or deleted."""
    created_ms: int
    ended_ms: int | None = None
    attempts: int = 0
    """Attempts since the last one that moved something on."""
    held_until_ms: int = 0
    failure: TreeChangeFailure | None = None
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Tell whether it is not over yet."""
        return self.state in OPEN

    @property
    def mark(self) -> TreeMark:
        """Return what readers and writers know of it."""
        return TreeMark(
            change_id=self.key.change_id,
            kind=self.kind,
            directory_id=self.directory_id,
            source=self.source,
            target=self.target,
            is_begun=self.is_begun,
        )

    @property
    def forget_at(self) -> datetime | None:
        """Return when it is forgotten; None: it is not over."""
        return None if self.ended_ms is None else from_epoch_ms(self.ended_ms) + RETENTION

    def is_forgotten(self, now: datetime) -> bool:
        """Tell whether its retention is over, though the database may not have deleted it yet."""
        return self.forget_at is not None and now >= self.forget_at

    def is_held(self, now: datetime) -> bool:
        """Tell whether a worker may be at it."""
        return epoch_ms(now) < self.held_until_ms


class Survey(Record, kw_only=True):
    """A look at a whole tree."""

    entries: int = 0
    longest: int = 0
    """Bytes of the longest path of a directory in it, counted from the directory's own path."""
    deepest: int = 0
    """Directories that stand in each other in it, at the most."""

    def refusal(self, target: str) -> TreeChangeFailure | None:
        """Return why the tree cannot stand at a path; None: it can."""
        if len(target.encode()) + self.longest > MAX_PATH_BYTES:
            told = f"The path of a directory in it would have more than {MAX_PATH_BYTES} bytes in UTF-8"
            return TreeChangeFailure("PATH_TOO_LONG", told)
        if target.count("/") + self.deepest > MAX_DEPTH:
            told = f"A directory in it would be more than {MAX_DEPTH} directories deep"
            return TreeChangeFailure("PATH_TOO_DEEP", told)
        return None
