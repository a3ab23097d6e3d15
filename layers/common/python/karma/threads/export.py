"""Exports a thread as one JSON document: all its messages with their tree, and its runs without their events.

A document that an answer of a function can hold is answered as it is; a larger one is stored, and the answer has a
link. Attachments are links, too: both end after some hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol, TypedDict, cast

import orjson

from karma.conversations.attachments import linked
from karma.conversations.domain import ThreadChanged, ThreadKey
from karma.conversations.ports import Attachments
from karma.core.clock import Clock, iso
from karma.core.errors import NotFound
from karma.core.freeform import render
from karma.core.ids import RunId, UserId
from karma.core.paging import MAX_PAGE_BYTES
from karma.core.records import Record
from karma.runs.answers import RunView, run_view
from karma.runs.domain import Run
from karma.runs.events import CURRENT
from karma.runs.opening import shown
from karma.threads.answers import ThreadView, thread_view
from karma.threads.ports import Threads

FORMAT: Final = 1
"""Version of the document; members are added without a new one."""


class ExportedMessage(TypedDict):
    """A message of any branch."""

    position: int
    """From 0, in the order in which messages were stored."""
    follows: int
    """Position of the message that it answers or follows; -1: it begins a branch. Each branch is a way to the root."""
    message: Mapping[str, object]
    """An AG-UI message."""


class ExportedThread(TypedDict):
    """A thread as it is exported."""

    format: int
    thread: ThreadView
    messages: list[ExportedMessage]
    runs: list[RunView]
    """The newest first, without their events."""


class Export(Record):
    """An exported thread; one of `document` and `url` is there."""

    document: bytes | None
    """JSON of an ExportedThread."""
    url: str | None
    until: datetime | None
    """End of the link."""


class FoundRun(Protocol):
    """A run of a thread, as karma.runs.removal_repository finds it."""

    @property
    def run(self) -> Run: ...  # noqa: D102


class RunsOfThread(Protocol):
    """Runs by thread: karma.runs.removal_repository.RunRemovalRepository."""

    def runs(self, thread: ThreadKey, *, newest: RunId | None) -> Iterator[FoundRun]: ...  # noqa: D102


class ExportStore(Protocol):
    """Documents that are too large for an answer: integrations.s3.S3Exports."""

    def keep(self, user_id: UserId, document: bytes, *, now: datetime) -> tuple[str, datetime]:
        """Store a document for a day, and return a link to it and the end of the link."""


class ThreadExports:
    """Exports threads for their owners."""

    def __init__(
        self,
        *,
        threads: Threads,
        runs: RunsOfThread,
        attachments: Attachments,
        store: ExportStore,
        clock: Clock,
        most_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        """Build the service; documents of up to `most_bytes` are answered as they are."""
        self._threads = threads
        self._runs = runs
        self._attachments = attachments
        self._store = store
        self._clock = clock
        self._most_bytes = most_bytes

    def export(self, key: ThreadKey) -> Export:
        """Export a thread, by one Query a megabyte of it and one Get a run.

        Raises:
            NotFound: there is no such thread.
            ThreadChanged: the thread is being written; try again.
        """
        whole, now = self._threads.whole(key), self._clock.now()
        if whole is None:
            raise ThreadChanged
        head, thread = whole
        if head is None or head.is_over(now):
            raise NotFound("Thread not found")
        messages = linked(self._attachments, key.user_id, thread.messages)
        document: ExportedThread = {
            "format": FORMAT,
            "thread": thread_view(head),
            "messages": [
                {"position": at, "follows": thread.shown_before(at), "message": shown(message, CURRENT)}
                for at, message in enumerate(messages)
                if message.role != "summary"
            ],
            "runs": [run_view(found.run) for found in self._runs.runs(key, newest=thread.last_run_id)],
        }
        data = render(document)
        if len(data) <= self._most_bytes:
            return Export(data, None, None)
        url, until = self._store.keep(key.user_id, data, now=now)
        return Export(None, url, until)


class ExportData(TypedDict):
    """`GET /threads/{name}/export`."""

    export: ExportedThread | None
    """The whole thread; null where it is larger than 4.65 MB, and `url` leads to it."""
    url: str | None
    """Link to a JSON file with what would be `export`."""
    expires_at: str | None
    """End of the link."""


def export_data(export: Export) -> ExportData:
    """Shape an export; the document is JSON already and is not parsed again."""
    document = None if export.document is None else orjson.Fragment(export.document)
    return {
        "export": cast("ExportedThread | None", document),
        "url": export.url,
        "expires_at": iso(export.until) if export.until else None,
    }
