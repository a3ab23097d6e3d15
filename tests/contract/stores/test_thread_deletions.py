"""Deletions of threads, the removal of what they leave, and titles that are proposed, on each engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.conversations.domain import Message, ThreadChange, ThreadChanged, ThreadHead, ThreadKey, TitleSource
from karma.conversations.repository import ThreadRepository
from karma.conversations.title_repository import TitleRepository
from karma.core.errors import AlreadyExists, NotFound, QuotaExceeded, StaleVersion
from karma.core.ids import RunId, ThreadId
from karma.core.purge import PurgeAttempt
from karma.runs.attachment_repository import Attached, AttachmentRepository
from karma.runs.domain import RunExists
from karma.runs.removal_repository import RunRemovalRepository
from karma.runs.repository import RunRepository
from tests.contract.stores.test_runs import NOW, THREAD, USER, begin, run, said, segment, stored_runs
from tests.contract.stores.test_threads import finish
from tests.support.plans import allowance, limited, take
from tests.support.requests import asked
from tests.support.stores import Database

NAME = "a" * 64


@pytest.fixture
def runs(database: Database) -> RunRepository:
    return stored_runs(database)


@pytest.fixture
def threads(runs: RunRepository) -> ThreadRepository:
    begin(runs, None, said("hi"))
    finish(runs, run(), after_s=1)
    begin(runs, run("r2", at=NOW + timedelta(seconds=2)), said("again"))
    return ThreadRepository()


def head_of(threads: ThreadRepository, key: ThreadKey = THREAD) -> ThreadHead:
    head = threads.get(key)
    assert head is not None
    return head


def spent(metric: Metric, *, at: datetime = NOW) -> int:
    return next(each.used for each in UsageRepository().read(allowance(USER, at=at)) if each.metric is metric)


def test_a_thread_that_its_owner_makes_is_made_once(runs: RunRepository) -> None:
    assert runs.count(USER) == 0
    threads = ThreadRepository()
    head = ThreadHead(
        key=THREAD,
        title="Greenhouse",
        title_from=TitleSource.USER,
        created_at=NOW,
        updated_at=NOW,
        agent_id=None,
        active_run_id=None,
        message_count=0,
        version=1,
        last_run_id=RunId(""),
        expires_at=NOW + timedelta(days=30),
    )
    threads.create(head, request=asked("t"))
    assert threads.get(THREAD) == head
    assert threads.made_by(USER, asked("t")) == THREAD.thread_id
    assert threads.made_by(USER, asked("other")) is None
    for request in (None, asked("t"), asked("other")):
        with pytest.raises(AlreadyExists):
            threads.create(replace(head, title="Another"), request=request)
    begin(runs, None, said("hi"))
    assert (head_of(threads).title, head_of(threads).expires_at, head_of(threads).version) == ("Greenhouse", None, 2)
    whole = threads.whole(THREAD)
    assert whole is not None
    assert (whole[0], len(whole[1].messages)) == (threads.get(THREAD), 1)


def test_a_rename_is_of_a_version_or_of_whatever_is_there(threads: ThreadRepository) -> None:
    seen = head_of(threads)
    named = threads.change(THREAD, ThreadChange(title="One"), version=seen.version, at=NOW)
    assert named == replace(seen, title="One", title_from=TitleSource.USER, version=seen.version + 1)
    with pytest.raises(StaleVersion):
        threads.change(THREAD, ThreadChange(title="Two"), version=seen.version, at=NOW)
    assert threads.change(THREAD, ThreadChange(title="Two"), version=None, at=NOW).title == "Two"
    with pytest.raises(NotFound):
        threads.change(ThreadKey(USER, ThreadId("t9")), ThreadChange(title="Two"), version=None, at=NOW)


def test_a_deletion_is_due_until_it_is_finished(threads: ThreadRepository, runs: RunRepository) -> None:
    deletions, later = ThreadDeletionRepository(), NOW + timedelta(minutes=2)
    seen = head_of(threads)
    with pytest.raises(StaleVersion):
        deletions.begin(replace(seen, version=seen.version - 1), at=NOW, due_at=later)
    assert (deletions.get(THREAD), deletions.is_deleted(THREAD)) == (None, False)
    before = runs.thread(THREAD)

    deletions.begin(seen, at=NOW, due_at=later)

    assert (threads.get(THREAD), threads.page(USER, limit=5, below=None)) == (None, [])
    assert deletions.is_deleted(THREAD)
    found = deletions.get(THREAD)
    assert found is not None
    assert (found.requested_at, found.attempts, found.last_run_id) == (NOW, 0, "r2")
    assert deletions.due(later, limit=5) == []
    assert [each.key for each in deletions.due(later + timedelta(seconds=1), limit=5)] == [THREAD]
    with pytest.raises(StaleVersion):
        deletions.begin(replace(seen, version=seen.version + 1), at=NOW, due_at=later)
    with pytest.raises(NotFound):
        threads.change(THREAD, ThreadChange(title="One"), version=None, at=NOW)
    for thread in (before, runs.thread(THREAD)):
        with pytest.raises(ThreadChanged):
            runs.start(run("r3"), thread=thread, segment=segment(of=run("r3")), messages=())

    assert deletions.postpone(THREAD, due_at=later + timedelta(hours=1))
    assert deletions.due(later + timedelta(seconds=1), limit=5) == []
    for _ in range(2):
        deletions.finish(THREAD, forget_at=NOW + timedelta(days=90))
    assert not deletions.postpone(THREAD, due_at=later)
    assert (deletions.get(THREAD), deletions.is_deleted(THREAD)) == (None, True)


def test_runs_of_a_thread_are_found_and_removed(threads: ThreadRepository, runs: RunRepository) -> None:
    removals = RunRemovalRepository()
    attempt = PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=float("inf"), settled=True)
    other = replace(run("other"), thread_id=ThreadId("t9"))
    begin(runs, other, said("hi"))
    finish(runs, run("r2"), after_s=3)
    found = list(removals.runs(THREAD, newest=RunId("r2")))
    assert [(each.run.key.run_id, each.is_unlisted) for each in found] == [("r2", False), ("r1", False)]
    assert head_of(threads).active_run_id is None

    for _ in range(2):
        removals.unlist(found[0].run, at=NOW)
    again = list(removals.runs(THREAD, newest=RunId("r2")))
    assert [each.is_unlisted for each in again] == [True, False]
    assert [each.run.input_query for each in again] == [None, "hi"]
    assert runs.run(found[0].run.key) is None
    assert runs.count(USER) == 2
    assert {each.key.run_id for each in runs.runs(USER, limit=5, start=None).runs} == {"r1", "other"}
    assert runs.owners(RunId("r2")) == []
    with pytest.raises(RunExists):
        begin(runs, run("r2"))

    assert removals.empty(found[0].run.key, attempt, keep_last=True)
    last = runs.tail(found[0].run.key)
    assert last is not None
    assert (last.n, last.terminal, runs.setup(found[0].run.key)) == (2, True, None)
    assert removals.empty(found[0].run.key, attempt, keep_last=False)
    assert runs.tail(found[0].run.key) is None
    assert list(removals.unlisted(THREAD)) == [[found[0].run.key]]
    removals.forget([found[0].run.key])
    assert [list(keys) for keys in removals.unlisted(THREAD)] == [[]]


def test_a_title_is_asked_for_once_within_the_plan(threads: ThreadRepository) -> None:
    titles, costs = TitleRepository(), limited(USER, Metric.MODEL_SPEND, 50)
    assert titles.claim(THREAD, costs, at=NOW)
    assert not titles.claim(THREAD, costs, at=NOW)
    assert spent(Metric.MODEL_SPEND) == 50
    assert titles.propose(THREAD, "Lamps", costs.adjusted(-20))
    assert (head_of(threads).title, head_of(threads).title_from) == ("Lamps", TitleSource.MODEL)
    threads.change(THREAD, ThreadChange(title="Mine"), version=None, at=NOW)
    assert not titles.propose(THREAD, "Fans", costs.adjusted(-20))
    assert not titles.propose(THREAD, "", costs.adjusted(5))
    assert (head_of(threads).title, spent(Metric.MODEL_SPEND)) == ("Mine", 15)


def test_a_plan_with_nothing_left_notes_no_question(threads: ThreadRepository) -> None:
    assert head_of(threads).title == "hi"
    titles = TitleRepository()
    take(limited(USER, Metric.MODEL_SPEND, 2_000_000))
    with pytest.raises(QuotaExceeded):
        titles.claim(THREAD, limited(USER, Metric.MODEL_SPEND, 1), at=NOW)
    assert titles.claim(THREAD, allowance(USER).reserve(Metric.MODEL_SPEND, 1), at=NOW)


def test_an_attachment_is_released_by_the_last_thread_that_names_it(runs: RunRepository) -> None:
    items, of = AttachmentRepository(), Attached(USER, NAME)
    image = {"type": "image", "source": {"type": "file", "value": f"attachments/{NAME}", "mimeType": "image/png"}}
    for i in range(2):
        each = replace(run(f"r{i}"), thread_id=ThreadId(f"t{i}"))
        key = ThreadKey(USER, each.thread_id)
        runs.start(
            each,
            thread=runs.thread(key),
            segment=segment(of=each),
            messages=(Message(id="m", role="user", content=(image,)),),
            attachments={} if i else {NAME: 5},
            reservations=[] if i else [limited(USER, Metric.STORAGE, 5)],
        )
    first, second = (ThreadKey(USER, ThreadId(f"t{i}")) for i in range(2))

    for _ in range(2):
        items.release(first, NAME)
    assert (list(items.released(first)), items.begin_removal(of)) == ([], False)
    items.release(second, NAME)
    assert list(items.released(second)) == [of]
    items.finish_removal(of)
    assert spent(Metric.STORAGE) == 5  # nobody has begun
    assert items.begin_removal(of)
    for _ in range(2):
        items.finish_removal(of)
    assert (list(items.released(second)), spent(Metric.STORAGE)) == ([], 0)
    assert runs.unkept(USER, [NAME]) == [NAME]
