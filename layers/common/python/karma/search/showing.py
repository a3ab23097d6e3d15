"""Rows of others that projects show: they stand in the index of whoever is shown them, so that one ranking has all.

Whether somebody is shown a device is read with each query. Its row is its owner's, which is read again when the
number of that owner's changes has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.search_rows import SearchKey
from karma.search.domain import Found, ObjectType
from karma.search.index import Index
from karma.search.ports import SearchRows, SharedObjects

if TYPE_CHECKING:
    from karma.search.cache import KeptIndex

MAX_PROJECTS: Final = 100
"""Projects of a person whose devices are found: the newest ones."""
MAX_SHARED: Final = 1_000
"""Devices of others that a person finds."""


class Shown(Record, kw_only=True):
    """Rows of others as an index has them."""

    projects: Mapping[SearchKey, str] = field(default_factory=dict)
    """The project that shows each; some may have no row, or none yet."""
    changes: Mapping[UserId, int] = field(default_factory=dict)
    """Numbers of changes of their owners at which they were read."""
    is_complete: bool = True


class Showing:
    """Keeps rows of others in the indexes of those who are shown them."""

    def __init__(self, rows: SearchRows, objects: SharedObjects) -> None:
        self._rows = rows
        self._objects = objects

    def renew(self, viewer: UserId, kept: KeptIndex) -> None:
        """Let an index have the rows of others that its account is shown at this moment, as they are, and no others.

        Somebody who is in no project costs no call.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; the index is unchanged.
        """
        projects = kept.projects(MAX_PROJECTS + 1)
        before = kept.shown
        if not projects and not before.projects:
            return
        found = self._objects.shown_to(viewer, projects[:MAX_PROJECTS], most=MAX_SHARED)
        changes = self._rows.changes_of({key.owner for key in found.projects}) if found.projects else {}
        unknown = [
            key
            for key in found.projects
            if key not in before.projects or before.changes.get(key.owner) != changes[key.owner]
        ]
        rows = {row.key: row for row in self._rows.rows_of(unknown)} if unknown else {}
        gone = before.projects.keys() - found.projects.keys()
        for key in (*gone, *(each for each in unknown if each not in rows)):
            kept.index.remove(key)
        for key, row in rows.items():
            if kept.index.row_of(key) != row:
                kept.index.put(row)
        if kept.index.is_sparse:
            kept.index = Index(kept.index.rows())
        kept.shown = Shown(
            projects=found.projects,
            changes=changes,
            is_complete=found.is_complete and len(projects) <= MAX_PROJECTS,
        )

    def confirmed(self, viewer: UserId, found: Found) -> Found:
        """Return a page without what its viewer may not find any more though its row is still there.

        Rows of projects and of others' devices follow the end of a membership or of a device by some hundred
        milliseconds. Pages without such rows cost no call.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer.
        """
        doubtful = {
            hit.row.key for hit in found.hits if hit.row.key.owner != viewer or hit.row.key.type == ObjectType.PROJECT
        }
        gone = doubtful - set(self._objects.findable(viewer, doubtful)) if doubtful else set()
        if not gone:
            return found
        hits = tuple(hit for hit in found.hits if hit.row.key not in gone)
        return replace(found, hits=hits, total=found.total - len(gone))
