"""Ends of runs that withdraw half an answer: one suite for the store in memory and for DynamoDB."""

from dataclasses import replace

import pytest

from karma.conversations.domain import ThreadKey
from karma.core.ids import ThreadId
from karma.runs.domain import OwnershipLost, RunStatus
from karma.runs.ports import Runs
from tests.contract.stores.test_runs import END, THREAD, begin, run, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.stores import Store


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def test_an_end_that_withdraws_an_answer_is_two_segments_or_none(runs: Runs) -> None:
    begin(runs)
    withdrawal = replace(segment(2, writer="w2"), shows=0)
    last, end = segment(3, writer="w2", terminal=True), replace(END, withdrawal=withdrawal)
    for _ in range(2):
        runs.finish(last, end, thread=THREAD)
    log = runs.segments(run().key, after=1, limit=10)
    assert [(each.n, each.shows, each.terminal) for each in log] == [(2, 0, False), (3, None, True)]

    other = replace(run("r2"), thread_id=ThreadId("t2"))
    begin(runs, other)
    runs.append(segment(2, of=other))
    late = replace(end, withdrawal=replace(withdrawal, key=other.key))
    with pytest.raises(OwnershipLost):
        runs.finish(replace(last, key=other.key), late, thread=ThreadKey(other.key.user_id, other.thread_id))
    assert [each.n for each in runs.segments(other.key, after=0, limit=10)] == [1, 2]
    stored = runs.run(other.key)
    assert stored is not None
    assert stored.status is RunStatus.RUNNING


@pytest.mark.parametrize(("turns", "steps"), [(3, 1), (2, 2), (1, 0)])
def test_a_run_has_the_steps_with_which_it_ended(runs: Runs, turns: int, steps: int) -> None:
    begin(runs, replace(run(), steps_before=4))
    runs.finish(segment(2, terminal=True), replace(END, turns=turns, steps=steps), thread=THREAD)
    stored = runs.run(run().key)
    assert stored is not None
    assert (stored.turns, stored.steps, stored.steps_before) == (turns, steps, 4)
