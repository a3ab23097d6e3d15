"""Declarations of threads for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property

import pytest

from karma.billing.allowances import Metric
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.conversations.domain import MAX_TITLE_CHARS, ThreadChange, ThreadHead, ThreadKey, TitleSource
from karma.conversations.repository import ThreadRepository
from karma.conversations.title_repository import TitleRepository
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import RunId, ThreadId, new_id
from karma.core.requests import RETENTION
from karma.runs.attachment_repository import Attached, AttachmentRepository
from karma.runs.domain import Run
from karma.runs.removal_repository import RunRemovalRepository
from tests.contexts.runs import RunRows, record
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Pages, Scenarios, made
from tests.support.plans import limited
from tests.support.requests import asked
from tests.support.rows import LATER, NOW


class ThreadRows(RunRows):
    def __init__(self) -> None:
        super().__init__()
        self.threads = ThreadRepository()
        self.deletions = ThreadDeletionRepository()
        self.removals = RunRemovalRepository()
        self.titles = TitleRepository()
        self.attachments = AttachmentRepository()

    @property
    def head(self) -> ThreadHead:
        head = self.threads.get(self.thread_key)
        assert head is not None
        return head

    @cached_property
    def empty(self) -> ThreadHead:
        return ThreadHead(
            key=self.thread_key,
            title="Greenhouse",
            title_from=TitleSource.USER,
            created_at=NOW,
            updated_at=NOW,
            agent_id=None,
            active_run_id=None,
            message_count=0,
            version=1,
            last_run_id=RunId(""),
            expires_at=LATER,
        )

    @cached_property
    def made(self) -> ThreadHead:
        self.threads.create(self.empty, request=asked("t"))
        return self.empty

    @cached_property
    def over(self) -> Run:
        """Return a run that has ended, in a thread that was deleted since."""
        self.second  # noqa: B018  ends the first
        self.deletions.begin(self.head, at=NOW, due_at=NOW)
        return self.running

    @cached_property
    def released(self) -> Attached:
        run, name = self.run(), "a" * 64
        image = {"type": "image", "source": {"type": "file", "value": f"attachments/{name}", "mimeType": "image/png"}}
        said = (replace(self.said, content=(image,)),)
        self.runs.start(run, thread=self.thread, segment=self.segment(), messages=said, attachments={name: 5})
        self.attachments.release(self.thread_key, name)
        return Attached(self.ada.id, name)

    @cached_property
    def unlisted(self) -> Run:
        self.removals.unlist(self.over, at=NOW)
        return self.over


SCENARIOS = Scenarios[ThreadRows](
    ThreadRows,
    {
        "ThreadRepository.get": made(lambda r: r.running, lambda r, _: r.threads.get(r.thread_key)),
        "ThreadRepository.page": made(lambda r: r.running, lambda r, _: r.threads.page(r.ada.id, limit=5, below=None)),
        "ThreadRepository.whole": made(lambda r: r.running, lambda r, _: r.threads.whole(r.thread_key)),
        "ThreadRepository.made_by": made(lambda r: r.made, lambda r, _: r.threads.made_by(r.ada.id, asked("t"))),
        "ThreadRepository.create": made(lambda r: r.empty, lambda r, head: r.threads.create(head, request=asked("t"))),
        "ThreadRepository.change": made(
            lambda r: r.made,
            lambda r, head: r.threads.change(head.key, ThreadChange(title="New"), version=head.version, at=NOW),
        ),
        "ThreadDeletionRepository.begin": made(
            lambda r: r.made, lambda r, head: r.deletions.begin(head, at=NOW, due_at=NOW)
        ),
        "ThreadDeletionRepository.get": made(lambda r: r.over, lambda r, _: r.deletions.get(r.thread_key)),
        "ThreadDeletionRepository.is_deleted": made(
            lambda r: r.over, lambda r, _: r.deletions.is_deleted(r.thread_key)
        ),
        "ThreadDeletionRepository.due": made(lambda r: r.over, lambda r, _: r.deletions.due(LATER, limit=5)),
        "ThreadDeletionRepository.postpone": made(
            lambda r: r.over, lambda r, _: r.deletions.postpone(r.thread_key, due_at=LATER)
        ),
        "ThreadDeletionRepository.finish": made(
            lambda r: r.over, lambda r, _: r.deletions.finish(r.thread_key, forget_at=LATER)
        ),
        "TitleRepository.claim": made(
            lambda r: r.running,
            lambda r, _: r.titles.claim(r.thread_key, limited(r.ada.id, Metric.MODEL_SPEND, 2), at=NOW),
        ),
        "TitleRepository.propose": made(
            lambda r: r.running,
            lambda r, _: r.titles.propose(r.thread_key, "Lamps", limited(r.ada.id, Metric.MODEL_SPEND, 2).adjusted(1)),
        ),
        "AttachmentRepository.release": made(
            lambda r: r.running, lambda r, _: r.attachments.release(r.thread_key, "a" * 64)
        ),
        "AttachmentRepository.released": made(
            lambda r: r.released, lambda r, _: list(r.attachments.released(r.thread_key))
        ),
        "AttachmentRepository.begin_removal": made(lambda r: r.released, lambda r, of: r.attachments.begin_removal(of)),
        "AttachmentRepository.finish_removal": made(
            lambda r: (r.released, r.attachments.begin_removal(r.released)),
            lambda r, n: r.attachments.finish_removal(n[0]),
        ),
        "RunRemovalRepository.runs": made(
            lambda r: r.over, lambda r, run: list(r.removals.runs(r.thread_key, newest=run.key.run_id))
        ),
        "RunRemovalRepository.unlist": made(lambda r: r.over, lambda r, run: r.removals.unlist(run, at=NOW)),
        "RunRemovalRepository.empty": made(
            lambda r: (r.unlisted, r.purge()), lambda r, n: r.removals.empty(n[0].key, n[1], keep_last=True)
        ),
        "RunRemovalRepository.unlisted": made(
            lambda r: r.unlisted, lambda r, _: list(r.removals.unlisted(r.thread_key))
        ),
        "RunRemovalRepository.forget": made(lambda r: r.unlisted, lambda r, run: r.removals.forget([run.key])),
    },
)


def _thread(world: World, owner: str, _: Mapping[str, str]) -> str:
    run_id = new_id()
    record(world.person(owner).id, run_id)
    return f"thread-of-{run_id}"


OBJECTS: Objects = {"thread_name": _thread}

BODIES: Bodies = {
    "POST /api/v1/threads": lambda *_: {"title": "Greenhouse"},
    "PATCH /api/v1/threads/{thread_name}": lambda *_: {"title": "Glasshouse"},
}

PAGES: Pages = {
    "threads": (100, 6 * MAX_TITLE_CHARS + 4_000),
    "threads/{thread_name}/runs": (100, 16_000),
    "interrupts": (100, 16_000),
}


def _thread_over(rows: ThreadRows) -> None:
    head = rows.made
    assert not head.is_over(LATER - timedelta(seconds=1))
    found = rows.threads.get(head.key)
    assert found is not None
    assert found.is_over(LATER)
    with pytest.raises(NotFound):
        rows.threads.change(head.key, ThreadChange(title="New"), version=None, at=LATER)


def _request_over(rows: ThreadRows) -> None:
    rows.made  # noqa: B018
    another = replace(rows.empty, key=ThreadKey(rows.ada.id, ThreadId("t2")))
    with pytest.raises(AlreadyExists):
        rows.threads.create(another, request=asked("t"))
    rows.threads.create(another, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[ThreadRows](ThreadRows, {"thread": _thread_over, "thread_request": _request_over})
