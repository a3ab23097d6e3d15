"""Drafts of threads: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.billing.allowances import Metric
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.conversations.domain import MAX_ADDED_BYTES, Message, ThreadChanged, ThreadKey
from karma.conversations.purge import threads_of
from karma.conversations.repository import ThreadRepository
from karma.core.errors import QuotaExceeded
from karma.core.ids import ThreadId
from karma.runs.draft_repository import DraftRepository
from karma.runs.drafts import Drafting, Drafts
from karma.runs.ports import Runs
from tests.contract.stores.test_runs import NOW, run, segment, stored_runs
from tests.fakes.drafts import MemoryDrafts
from tests.fakes.runs import MemoryRuns, SetClock
from tests.support.plans import limited, take
from tests.support.stores import Store

KEY = ThreadKey(run().key.user_id, ThreadId("copy"))
LATER = NOW + timedelta(minutes=15)


@pytest.fixture
def stores(store: Store) -> tuple[Runs, Drafts]:
    if store.in_memory:
        runs = MemoryRuns()
        return runs, MemoryDrafts(runs)
    return stored_runs(store.database), DraftRepository()


def words(size: int, count: int) -> tuple[Message, ...]:
    return tuple(Message(id=f"m{n}", role="user", content=f"{n} " + "x" * size) for n in range(count))


def begun(runs: Runs, drafts: Drafts, messages: tuple[Message, ...]) -> None:
    draft = Drafting(drafts, SetClock(NOW)).draft(KEY, messages)
    begins = replace(run(), thread_id=KEY.thread_id)
    runs.start(begins, thread=draft, segment=segment(1), messages=(), after=draft.latest)


@pytest.mark.parametrize(("size", "count"), [(10, 3), (250_000, 20), (MAX_ADDED_BYTES - 200, 3)])
def test_a_run_begins_in_a_draft_with_all_its_messages(stores: tuple[Runs, Drafts], size: int, count: int) -> None:
    runs, drafts = stores
    messages = words(size, count)
    begun(runs, drafts, messages)
    thread = runs.thread(KEY)
    assert (thread.messages, thread.forks, thread.next_message) == (messages, {}, count)
    assert (thread.active_run_id, thread.is_deleted) == (run().key.run_id, False)


def test_a_draft_is_no_thread(stores: tuple[Runs, Drafts]) -> None:
    runs, drafts = stores
    Drafting(drafts, SetClock(NOW)).draft(KEY, words(10, 2))
    assert runs.thread(KEY).is_deleted
    with pytest.raises(ThreadChanged):
        drafts.begin(KEY, at=NOW, removed_at=LATER)


def test_of_what_the_plan_has_no_room_for_nothing_is_stored(stores: tuple[Runs, Drafts]) -> None:
    runs, drafts = stores
    one = replace(limited(KEY.user_id, Metric.RUNS), allowed=1)
    if isinstance(runs, MemoryRuns):
        runs.usage.reserve([one])
    else:
        take(one)
    with pytest.raises(QuotaExceeded):
        Drafting(drafts, SetClock(NOW)).draft(KEY, words(10, 2), reservations=[one])
    assert not runs.thread(KEY).version
    Drafting(drafts, SetClock(NOW)).draft(KEY, words(10, 2), reservations=[replace(one, allowed=2)])


def test_a_thread_takes_no_more_of_a_draft(stores: tuple[Runs, Drafts]) -> None:
    runs, drafts = stores
    begun(runs, drafts, words(10, 2))
    with pytest.raises(ThreadChanged):
        drafts.add(KEY, words(10, 1), n=2, at=NOW)
    assert runs.thread(KEY).next_message == 2


class TestOnDynamoDB:
    @pytest.fixture(autouse=True)
    def _only(self, store: Store) -> None:
        if store.in_memory:
            pytest.skip("the fake removes nothing")

    def test_it_is_listed_nowhere_and_due_to_be_removed(self, stores: tuple[Runs, Drafts]) -> None:
        _, drafts = stores
        drafts.begin(KEY, at=NOW, removed_at=LATER)
        assert ThreadRepository().page(KEY.user_id, limit=5, below=None) == []
        assert ThreadRepository().get(KEY) is None
        assert [each.key for each in ThreadDeletionRepository().due(LATER + timedelta(seconds=1), limit=5)] == [KEY]
        assert ThreadDeletionRepository().due(LATER, limit=5) == []
        assert list(threads_of(KEY.user_id)) == [KEY]

    def test_once_it_has_begun_it_is_due_no_more_and_listed(self, stores: tuple[Runs, Drafts]) -> None:
        begun(*stores, words(10, 2))
        assert ThreadDeletionRepository().due(LATER + timedelta(days=1), limit=5) == []
        assert [head.key for head in ThreadRepository().page(KEY.user_id, limit=5, below=None)] == [KEY]

    def test_once_its_removal_has_begun_nothing_is_added_and_nothing_begins(self, stores: tuple[Runs, Drafts]) -> None:
        runs, drafts = stores
        draft = Drafting(drafts, SetClock(NOW)).draft(KEY, words(10, 2))
        assert ThreadDeletionRepository().postpone(KEY, due_at=LATER)
        with pytest.raises(ThreadChanged):
            drafts.add(KEY, words(10, 1), n=2, at=NOW)
        begins = replace(run(), thread_id=KEY.thread_id)
        with pytest.raises(ThreadChanged):
            runs.start(begins, thread=draft, segment=segment(1), messages=(), after=draft.latest)
        assert runs.run(run().key) is None
        assert runs.thread(KEY).is_deleted
