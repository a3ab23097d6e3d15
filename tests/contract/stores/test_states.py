"""States of threads: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from karma.conversations.domain import History, Message
from karma.conversations.state import MAX_STATE_BYTES, State
from karma.runs.domain import OwnershipLost, RunStatus
from karma.runs.ports import Runs
from tests.contract.stores.test_runs import END, THREAD, begin, run, said, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.stores import Store


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def test_a_state_is_kept_with_what_changed_it_or_not_at_all(runs: Runs) -> None:
    def kept() -> object:
        return runs.thread(THREAD).state

    assert kept() is None
    runs.start(run(), thread=runs.thread(THREAD), segment=segment(), messages=(said("a"),), state=State({"n": 0}))
    assert kept() == State({"n": 0})
    result = Message(id="m2", role="tool", content="{}", tool_call_id="c1")
    runs.append(segment(2), history=History(THREAD, 1, (result,), state=State({"n": [1, None, "é"], "": {}})))
    assert kept() == State({"n": [1, None, "é"], "": {}})
    with pytest.raises(OwnershipLost):
        runs.append(segment(2, writer="w2"), history=History(THREAD, 2, (result,), state=State("lost")))
    runs.append(segment(3), history=History(THREAD, 2, (replace(result, id="m3"),)))
    assert kept() == State({"n": [1, None, "é"], "": {}})
    largest = State(os.urandom(MAX_STATE_BYTES // 2).hex())
    end = replace(END, status=RunStatus.CANCELLED)
    history = History(THREAD, 3, (replace(result, id="m4"),), state=largest)
    runs.finish(segment(4, terminal=True), end, thread=THREAD, history=history)
    assert kept() == largest

    # A run that begins without one of its own leaves it; null is one.
    begin(runs, run("r2"))
    assert kept() == largest
    runs.finish(segment(2, of=run("r2"), terminal=True), END, thread=THREAD)
    third = run("r3")
    runs.start(third, thread=runs.thread(THREAD), segment=segment(of=third), messages=(), state=State(None))
    assert kept() == State(None)
    assert len(runs.thread(THREAD).messages) == 4
