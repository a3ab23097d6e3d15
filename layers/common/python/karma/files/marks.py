"""Marks of trees that are being moved or deleted, by which readers and writers of a device know them (docs/adr/0074).

A mark stands in the device's item COUNT from the request until the work is over. A **source** is the path of the
directory that is moved or deleted, a **target** the path that it gets. A mark that **is begun** changes what readers
see at once, whatever the worker has done by then:

    deletion   what is in the source is not there
    move       what is in the source is shown in the target, which has a part of it already; the source is not there

A deletion is begun from the request on, a move once its worker has looked at the whole tree. Nobody takes or frees a
name in a source or a target before the work is over: each write of names requires the version of the marks that its
request has read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Final, NewType

from karma.core.errors import Conflict, NotFound
from karma.core.ids import FileId
from karma.core.records import Record
from karma.files.domain import ROOT, DeviceFile, FileStatus

TreeChangeId = NewType("TreeChangeId", str)

MAX_MARKS: Final = 5
"""Trees of a device that are moved or deleted at a time: each request for a file reads all marks."""
_NAMED: Final = frozenset({FileStatus.UPLOADING, FileStatus.VERIFYING, FileStatus.READY})


class TreeChangeKind(StrEnum):
    """Kind of a tree change."""

    MOVE = "move"
    DELETE = "delete"


class TreeBusy(Conflict):
    """The path is in a tree that is being moved or deleted, or above it; `details.id` names that work."""

    code = "TREE_BUSY"


class TreeMarksChanged(Conflict):
    """Another request has begun, or a worker has ended, work on a tree of the device since the marks were read."""


class TreeMark(Record, kw_only=True):
    """A tree that is being moved or deleted."""

    change_id: TreeChangeId
    kind: TreeChangeKind
    directory_id: FileId
    source: str
    target: str = ""
    """"": it is deleted."""
    is_begun: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """Return the paths of the directories in which nothing changes but by the work."""
        return (self.source, self.target) if self.target else (self.source,)


class TreeMarks(Record):
    """All marks of a device; `version` goes up with each change of them."""

    version: int = 0
    marks: tuple[TreeMark, ...] = ()

    def of(self, directory_id: FileId) -> TreeMark | None:
        """Return the mark of a directory, if it is being moved or deleted itself."""
        return next((mark for mark in self.marks if mark.directory_id == directory_id), None)

    def without(self, change_id: TreeChangeId) -> tuple[TreeMark, ...]:
        """Return the marks of all other works."""
        return tuple(mark for mark in self.marks if mark.change_id != change_id)

    def shown(self, file: DeviceFile) -> DeviceFile | None:
        """Return a stored entry as its owner sees it; None: it is not there any more.

        What the worker of a move has not come to yet is shown as it leaves it: with its new path, as a new version.
        """
        for mark in self._begun():
            if not mark.target:
                if file.id == mark.directory_id or is_within(file.path, mark.source):
                    return None
            elif file.status in _NAMED and is_within(file.path, mark.source):
                moved = mark.target + file.path.removeprefix(mark.source)
                return replace(file, path=moved, revision=file.revision + 1)
        return file

    def other_place(self, path: str) -> str | None:
        """Return the path of the directory in which entries of the directory `path` may still be stored.

        Raises:
            NotFound: the directory is not there any more.
        """
        other = None
        for mark in self.marks:
            # The target of a move that has not begun is a name without an entry.
            if is_within(path, mark.source if mark.is_begun else mark.target):
                raise NotFound(f"Directory {path} not found")
            if mark.is_begun and mark.target and is_within(path, mark.target):
                other = mark.source + path.removeprefix(mark.target)
        return other

    def require_still(self, path: str, *, with_what_is_in_it: bool = False) -> None:
        """Require that no work is done at an entry's own path, nor with the flag on anything that is in it.

        Raises:
            TreeBusy: some is.
        """
        for mark in self.marks:
            for place in mark.places:
                if is_within(path, place) or (with_what_is_in_it and is_within(place, path)):
                    doing = "moved" if mark.target else "deleted"
                    told = f"The directory {mark.source} is being {doing}; try again when that is over"
                    raise TreeBusy(told, details={"id": mark.change_id})

    def _begun(self) -> Iterator[TreeMark]:
        return (mark for mark in self.marks if mark.is_begun)


def is_within(path: str, above: str) -> bool:
    """Tell whether a path is that of a directory, or of anything below it; everything is within the root."""
    return path == above or path.startswith(f"{above.rstrip(ROOT)}{ROOT}")
