"""Threads that go back to a point once for a request: one suite for the store in memory and for DynamoDB."""

from contextlib import nullcontext

import pytest

from karma.conversations.domain import History
from karma.core.errors import AlreadyExists
from karma.core.requests import IdempotencyKeyReused
from karma.runs.domain import Checkpoint, Progress, RunExists
from karma.runs.points import Earlier, Noted
from karma.runs.ports import Runs
from tests.contract.stores.test_runs import END, NOW, THREAD, begin, run, said, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.requests import asked
from tests.support.stores import Store


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def test_a_request_restores_a_thread_once(runs: Runs) -> None:
    begin(runs, None, said("a"), said("b"))
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    by = Noted(run().key, asked("k"))
    assert runs.restored_by(by) is None
    runs.restore(runs.thread(THREAD), position=0, at=NOW, by=by)
    assert runs.restored_by(by) == Earlier(2, THREAD.thread_id)
    before = runs.thread(THREAD)
    with pytest.raises(AlreadyExists):
        runs.restore(before, position=1, at=NOW, by=by)
    assert runs.thread(THREAD) == before
    with pytest.raises(IdempotencyKeyReused):
        runs.restored_by(Noted(run().key, asked("k", "another")))
    assert runs.restored_by(Noted(run().key, asked("other"))) is None


def test_a_request_that_begins_a_run_from_a_point_is_noted_with_it(runs: Runs) -> None:
    begin(runs, None, said("a"))
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    by, made = Noted(run().key, asked("k")), run("r2")
    for expected in (None, RunExists):
        noting = runs.noting(by, Earlier(1, made.key.run_id))
        with pytest.raises(expected) if expected else nullcontext():
            runs.start(made, thread=runs.thread(THREAD), segment=segment(of=made), messages=(), also=noting)
    assert runs.restored_by(by) == Earlier(1, "r2")
    runs.finish(segment(2, terminal=True, of=made), END, thread=THREAD)
    with pytest.raises(AlreadyExists):
        runs.start(run("r3"), thread=runs.thread(THREAD), segment=segment(of=run("r3")), messages=(), also=noting)
    assert runs.run(run("r3").key) is None


def test_a_thread_goes_on_where_a_run_from_a_point_does_though_that_adds_nothing(runs: Runs) -> None:
    begin(runs, None, said("a"), said("b"), said("c"))
    runs.finish(segment(2, terminal=True), END, thread=THREAD)
    made, point = run("r2"), Checkpoint(n=1, epoch=0, position=0, progress=Progress())
    thread = runs.thread(THREAD)
    runs.start(made, thread=thread, segment=segment(of=made), messages=(), after=0, checkpoint=point)
    assert (thread.latest, runs.thread(THREAD).latest) == (2, 0)
    runs.append(segment(2, of=made), history=History(THREAD, 3, (said("d"),), 0))
    found = runs.thread(THREAD)
    assert (found.latest, found.path_to(found.latest)) == (3, [0, 3])
