"""The work on a tree change, attempt by attempt; called at least once, late, and side by side (docs/adr/0074).

    1. take      hold the tree change, under the version that was read; pass over one that is held, or over
    2. survey    look at the whole tree, if nobody has; a move ends here when its target cannot hold the tree
    3. begin     let readers see a move; a deletion has begun
    4. go on     move or delete some entries by each transaction, the lowest directories first; with the next message
                 when the time is over
    5. finish    the directory's own old name, or the directory, and the mark

A process that dies leaves a tree, and what it has done is not in the source any more: whoever takes the tree change
next begins at the top and finds what is left. Numbers of what is done are what attempts have saved, so a death may
have them lag behind; the last one says the total.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

from karma.core.clock import Clock, monotonic
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import FileId
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.files.domain import DeviceFile, DirectoryNotEmpty, FileStatus, child_of
from karma.files.entries import TRIES
from karma.files.marks import TreeChangeKind, TreeMarks, TreeMarksChanged
from karma.files.ports import ObjectStore, Queue
from karma.files.removal import finish_removal
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import TreeName, TreeRepository
from karma.files.trees.domain import (
    LOOKED_AFTER,
    MAX_ATTEMPTS,
    STUCK_AFTER,
    Survey,
    TreeChange,
    TreeChangeFailure,
    TreeChangeKey,
    TreeChangeLost,
)
from karma.files.trees.messages import send_tree_change
from karma.files.uploads import GRACE

T = TypeVar("T")

WORK_S: Final = 20
"""Seconds after which an attempt ends with the entries that it is at: others wait for the worker."""
SAVE_S: Final = 5
"""Seconds after which an attempt notes how far it has come, and holds the tree change anew."""
HELD_FOR: Final = timedelta(minutes=1)
"""Time for which an attempt holds a tree change; a survey of the largest tree takes less."""
NAMES_A_READ: Final = 1_000
IDS_A_READ: Final = 50


class _TimeOver(Exception):
    """The attempt has had its time."""


class TreeTools(Record, kw_only=True):
    """Repositories, store, queue and clock of an attempt."""

    files: FileRepository
    changes: TreeChangeRepository
    trees: TreeRepository
    store: ObjectStore
    queue: Queue
    clock: Clock


class TreeWorker:
    """Moves and deletes trees."""

    def __init__(self, tools: TreeTools, *, work_s: float = WORK_S) -> None:
        self._tools = tools
        self._work_s = work_s

    def take(self, key: TreeChangeKey) -> str:
        """Go on with a tree change for some seconds; return what came of it.

        Raises:
            Upstream: the database or the store did not answer; the tree change must be delivered again.
        """
        changes, now = self._tools.changes, self._tools.clock.now()
        change = changes.get(key)
        if change is None:
            return "gone"
        if not change.is_open:
            return "over"
        if change.is_held(now):
            return "held"
        try:
            held = changes.take(change, until=now + _hold_of(change))
            return _Attempt(self._tools, held, work_s=self._work_s).go_on()
        except (TreeChangeLost, TreeMarksChanged) as exc:
            # Another worker was quicker, or an upload in the tree changes again and again: the sweep sends it again.
            logger.info("tree_change.left", change_id=key.change_id, cause=type(exc).__name__)
            return "changed"


class _Attempt:
    """One attempt of a worker at one tree change."""

    def __init__(self, tools: TreeTools, change: TreeChange, *, work_s: float) -> None:
        self._tools = tools
        self._changes, self._trees = tools.changes, tools.trees
        self._change = change
        self._ends_at = monotonic() + work_s
        self._saves_at = monotonic() + SAVE_S
        self._device_id = change.key.device_id
        self._fruitless = 0

    @property
    def _now(self) -> datetime:
        return self._tools.clock.now()

    def go_on(self) -> str:
        """Do what the time allows; return what came of it."""
        change = self._change
        if change.total is None or not change.is_begun:
            survey = self._survey(change.source)
            refusal = self._refusal(survey)
            if refusal is not None:
                self._again(lambda marks: self._changes.give_up(change, marks, at=self._now, failure=refusal))
                count("TreeChangeFailed")
                return "failed"
            self._begin(survey.entries)
        try:
            if change.kind is TreeChangeKind.MOVE:
                self._move(change.source, change.target)
            else:
                self._empty(change.source)
        except _TimeOver:
            self._changes.save(self._change, held_until=None, due=self._now + LOOKED_AFTER)
            send_tree_change(self._tools.queue, change.key)
            return "goes on"
        self._finish()
        return "succeeded"

    # Looking

    def _survey(self, path: str) -> Survey:
        """Look at a directory and all below it; nothing but its entries' uploads changes meanwhile."""
        entries, longest, deepest = 0, 0, 0
        directories: list[FileId] = []
        start = None
        while True:
            page = self._trees.names(self._device_id, path, limit=NAMES_A_READ, start=start)
            entries += len(page.names)
            directories += [name.file_id for name in page.names if name.is_directory]
            if (start := page.last) is None:
                break
        for at in range(0, len(directories), IDS_A_READ):
            for entry in self._trees.entries(self._device_id, directories[at : at + IDS_A_READ]).values():
                below = self._survey(child_of(path, entry.name))
                entries += below.entries
                longest = max(longest, len(f"/{entry.name}".encode()) + below.longest)
                deepest = max(deepest, 1 + below.deepest)
        return Survey(entries=entries, longest=longest, deepest=deepest)

    def _refusal(self, survey: Survey) -> TreeChangeFailure | None:
        if self._change.is_begun:
            return None
        if self._change.attempts > MAX_ATTEMPTS:
            return TreeChangeFailure("MOVE_FAILED", "The directory could not be moved")
        return survey.refusal(self._change.target)

    def _begin(self, total: int) -> None:
        change, now = replace(self._change, total=total), self._now
        if change.is_begun:
            self._change = self._changes.save(change, held_until=now + HELD_FOR, due=now + HELD_FOR)
            return
        directory = self._tools.files.find(self._device_id, change.directory_id)
        if directory is None:
            raise TreeChangeLost
        self._change = self._again(lambda marks: self._changes.begin_move(change, directory, marks, at=now))

    # Going on

    def _empty(self, path: str) -> None:
        """Delete all that is in a directory."""
        while names := self._names(path):
            entries = self._entries(names)
            files = [entry for entry in entries if not entry.is_directory]
            if files and self._is_done(self._delete, files):
                self._did(len(files))
            for directory in entries:
                if directory.is_directory:
                    self._empty(child_of(path, directory.name))
                    if self._is_done(self._tools.files.remove_directory, directory):
                        self._did(1)

    def _delete(self, files: Sequence[DeviceFile]) -> None:
        self._trees.delete_files(files, now=self._now, due=self._now + GRACE)
        for file in files:
            with contextlib.suppress(ConditionFailed):  # the sweep was quicker
                deleting = replace(file, status=FileStatus.DELETING)
                finish_removal(self._tools.files, self._tools.store, deleting, now=self._now)

    def _move(self, source: str, target: str) -> None:
        """Move all that is in a directory into another one, which exists."""
        while names := self._names(source):
            entries = self._entries(names)
            files = [entry for entry in entries if not entry.is_directory]
            if files and self._is_done(self._trees.move_files, files, target):
                self._did(len(files))
            for directory in entries:
                if directory.is_directory and self._has_entered(directory, source, target):
                    old = child_of(source, directory.name)
                    self._move(old, child_of(target, directory.name))
                    if self._is_done(self._trees.leave, self._device_id, directory.id, old):
                        self._did(1)

    def _has_entered(self, directory: DeviceFile, source: str, target: str) -> bool:
        return directory.path != source or self._is_done(self._trees.enter, directory, target)

    def _is_done(self, write: Callable[..., None], *arguments: object) -> bool:
        """Write, or tell that an entry has changed since it was read, and is to be read again."""
        try:
            write(*arguments)
        except (ConditionFailed, DirectoryNotEmpty):
            self._count_fruitless()
            return False
        self._fruitless = 0
        return True

    def _count_fruitless(self) -> None:
        self._fruitless += 1
        if self._fruitless > TRIES:
            raise TreeChangeLost

    def _names(self, path: str) -> Sequence[TreeName]:
        return self._trees.names(self._device_id, path).names

    def _entries(self, names: Sequence[TreeName]) -> Sequence[DeviceFile]:
        found = self._trees.entries(self._device_id, [name.file_id for name in names])
        if len(found) < len(names):
            # One was listed between the reads of its two keys, or has ended.
            self._count_fruitless()
        return list(found.values())

    def _did(self, entries: int) -> None:
        total = self._change.total or 0
        self._change = replace(self._change, done=min(total, self._change.done + entries), attempts=0)
        if monotonic() >= self._ends_at:
            raise _TimeOver
        if monotonic() >= self._saves_at:
            until = self._now + HELD_FOR
            self._change = self._changes.save(self._change, held_until=until, due=until)
            self._saves_at = monotonic() + SAVE_S

    def _finish(self) -> None:
        self._change = replace(self._change, done=self._change.total or 0)
        self._again(lambda marks: self._changes.finish(self._change, marks, at=self._now))
        count("TreeChangeSucceeded", kind=self._change.kind)

    def _again(self, write: Callable[[TreeMarks], T]) -> T:
        """Write with the device's marks; once more when other works began or ended meanwhile."""
        for left in reversed(range(TRIES)):
            try:
                return write(self._tools.files.marks(self._device_id))
            except TreeMarksChanged:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")


def _hold_of(change: TreeChange) -> timedelta:
    if change.attempts < MAX_ATTEMPTS:
        return HELD_FOR
    logger.error("tree_change.stuck", change_id=change.key.change_id, attempts=change.attempts)
    count("TreeChangeStuck")
    return STUCK_AFTER
