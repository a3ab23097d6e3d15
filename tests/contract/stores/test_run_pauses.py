"""Runs that are paused and resumed: one suite for the store in memory and for DynamoDB."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric, Reservation
from karma.conversations.domain import ThreadKey
from karma.core.errors import QuotaExceeded
from karma.core.ids import AgentId, RunId, ThreadId
from karma.models.budgets import Budget, BudgetName, NamedBudget
from karma.runs.domain import MAX_PAUSE, OwnershipLost, Run, RunKey, RunPause, RunStatus
from karma.runs.ports import Runs
from karma.runs.wishes import Wish, WishesChanged
from tests.contract.stores.test_runs import END, NOW, OTHER, THREAD, USER, begin, run, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.support.plans import limited
from tests.support.stores import Store

PAUSED_AT = NOW + timedelta(seconds=3)
PAUSE = RunPause(at=PAUSED_AT, turns=2, usages=[{"inputTokens": 3}], cost_micros=70)


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def pause(store: Runs, n: int = 2, **more: Any) -> None:
    assert store.wish(run().key, Wish.PAUSE, at=NOW)
    store.pause(segment(n, **more), PAUSE)


def stored(store: Runs) -> Run:
    found = store.run(run().key)
    assert found is not None
    return found


def test_a_run_is_paused_with_its_segment_and_keeps_its_thread(runs: Runs) -> None:
    begin(runs)
    pause(runs)
    runs.pause(segment(2), PAUSE)  # its own repeat

    found = stored(runs)
    assert (found.status, found.paused_at, found.turns) == (RunStatus.PAUSED, PAUSED_AT, 2)
    assert (found.usage, found.cost_micros) == ({"inputTokens": 3}, 70)
    assert runs.tail(run().key) == segment(2)
    assert runs.wishes(run().key) == {}
    assert runs.thread(THREAD).active_run_id == "r1"
    assert not runs.wish(run().key, Wish.CANCEL, at=NOW)
    with pytest.raises(OwnershipLost):
        runs.extend(run().key, limited(USER, Metric.MODEL_SPEND, 7))


def test_a_run_is_paused_only_as_long_as_that_is_wished(runs: Runs) -> None:
    begin(runs)
    with pytest.raises(WishesChanged):
        runs.pause(segment(2), PAUSE)
    assert runs.wish(run().key, Wish.PAUSE, at=NOW)
    assert runs.withdraw(run().key, Wish.PAUSE)
    assert not runs.withdraw(run().key, Wish.PAUSE)
    with pytest.raises(WishesChanged):
        runs.pause(segment(2), PAUSE)
    for wish in (Wish.PAUSE, Wish.CANCEL):
        assert runs.wish(run().key, wish, at=NOW)
    with pytest.raises(WishesChanged):
        runs.pause(segment(2), PAUSE)

    assert stored(runs).status is RunStatus.RUNNING
    assert runs.tail(run().key) == segment()
    assert set(runs.wishes(run().key)) == {Wish.PAUSE, Wish.CANCEL}


def test_a_run_whose_log_went_on_is_not_paused_by_a_late_writer(runs: Runs) -> None:
    begin(runs)
    runs.append(segment(2, writer="w2"))
    assert runs.wish(run().key, Wish.PAUSE, at=NOW)
    with pytest.raises(OwnershipLost):
        runs.pause(segment(2), PAUSE)
    assert stored(runs).status is RunStatus.RUNNING
    assert runs.wishes(run().key) == {Wish.PAUSE: ""}


def test_a_paused_run_is_resumed_once_and_its_pauses_add_up(runs: Runs) -> None:
    begin(runs)
    pause(runs)
    before, later = stored(runs), PAUSED_AT + timedelta(seconds=10)
    again = replace(segment(3), epoch=2)
    runs.resume(again, before, at=later)
    runs.resume(again, before, at=later)  # its own repeat
    with pytest.raises(OwnershipLost):
        runs.resume(replace(segment(3, writer="w2"), epoch=2), before, at=later)
    with pytest.raises(OwnershipLost):
        runs.resume(segment(4), before, at=later)

    found = stored(runs)
    assert (found.status, found.paused_at, found.paused_ms) == (RunStatus.RUNNING, None, 10_000)
    assert (found.resumed_epoch, found.turns, found.usage, found.cost_micros) == (2, 0, None, None)
    pause(runs, 4)
    runs.resume(replace(segment(5), epoch=3), stored(runs), at=PAUSED_AT + timedelta(seconds=1))
    assert stored(runs).paused_ms == 11_000


def test_paused_runs_are_listed_from_the_longest_paused_on_once_their_time_is_over(runs: Runs) -> None:
    for i in (2, 1, 3):
        one = replace(run(f"r{i}"), thread_id=ThreadId(f"t{i}"))
        begin(runs, one)
        assert runs.wish(one.key, Wish.PAUSE, at=NOW)
        runs.pause(segment(2, of=one), RunPause(at=NOW + timedelta(minutes=i)))
    first, second, third = (RunKey(USER, RunId(f"r{i}")) for i in (1, 2, 3))
    over = NOW + MAX_PAUSE

    assert runs.paused_before(over + timedelta(seconds=30), limit=9) == []
    assert runs.paused_before(over + timedelta(hours=1), limit=9) == [first, second, third]
    assert runs.paused_before(over + timedelta(hours=1), limit=1) == [first]
    assert runs.paused_before(over + timedelta(minutes=2, seconds=1), limit=9) == [first, second]

    found = runs.run(second)
    assert found is not None
    runs.resume(segment(3, of=found), found, at=NOW + timedelta(minutes=5))
    end = replace(END, status=RunStatus.CANCELLED, was=RunStatus.PAUSED)
    runs.finish(segment(3, of=replace(run(), key=first), terminal=True), end, thread=ThreadKey(USER, ThreadId("t1")))
    assert runs.paused_before(over + timedelta(hours=1), limit=9) == [third]


def test_the_runs_of_an_agent_that_have_not_ended_are_listed_by_pages(runs: Runs) -> None:
    one, two = AgentId("karma"), AgentId("01890000-0000-7000-8000-0000000000aa")
    for i in range(6):
        of = replace(run(f"r{i}", at=NOW + timedelta(seconds=i)), thread_id=ThreadId(f"t{i}"))
        begin(runs, replace(of, agent_id=two if i == 4 else one, agent_version=1))
    begin(runs, replace(run("other", user=OTHER), agent_id=one, agent_version=1))
    begin(runs, replace(run("older"), thread_id=ThreadId("t9")))
    for i in (1, 2):
        of = replace(run(f"r{i}"), thread_id=ThreadId(f"t{i}"))
        if i == 1:
            runs.finish(segment(2, of=of, terminal=True), END, thread=ThreadKey(USER, of.thread_id))
        else:
            assert runs.wish(of.key, Wish.PAUSE, at=NOW)
            runs.pause(segment(2, of=of), PAUSE)

    first = runs.active(USER, one, limit=2)
    second = runs.active(USER, one, limit=2, start=first.last)

    assert [key.run_id for key in (*first.keys, *second.keys)] == ["r0", "r2", "r3", "r5"]
    assert [key.run_id for key in runs.active(USER, two, limit=9).keys] == ["r4"]
    assert runs.active(OTHER, two, limit=9) == ([], None)


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_run_is_ended_only_from_the_state_that_its_end_expects(runs: Runs, *, is_paused: bool) -> None:
    begin(runs)
    if is_paused:
        pause(runs)
    was = RunStatus.RUNNING if is_paused else RunStatus.PAUSED
    with pytest.raises(OwnershipLost):
        runs.finish(segment(3, terminal=True), replace(END, was=was), thread=THREAD)
    assert stored(runs).finished_at is None
    other = RunStatus.PAUSED if is_paused else RunStatus.RUNNING
    end = replace(END, was=other, status=RunStatus.CANCELLED)
    runs.finish(segment(3, terminal=True), end, thread=THREAD)
    assert (stored(runs).status, stored(runs).paused_at) == (RunStatus.CANCELLED, None)
    assert runs.thread(THREAD).active_run_id is None


def test_a_pause_gives_back_what_was_not_spent_and_who_resumes_says_the_budgets(runs: Runs) -> None:
    def of_thousand(amount: int) -> Reservation:
        return replace(limited(USER, Metric.MODEL_SPEND, amount), allowed=1_000)

    first = of_thousand(100)
    runs.take(first)
    begin(runs, replace(run(), reserved_micros=100))
    assert runs.wish(run().key, Wish.PAUSE, at=NOW)
    runs.pause(segment(2), replace(PAUSE, correction=first.adjusted(-30)))
    runs.pause(segment(2), replace(PAUSE, correction=first.adjusted(-30)))  # its own repeat

    assert stored(runs).reserved_micros == 70
    runs.take(of_thousand(930))
    with pytest.raises(QuotaExceeded):
        runs.take(of_thousand(1))

    budgets = (NamedBudget(name=BudgetName.AGENT, budget=Budget(max_tokens=7)),)
    runs.resume(replace(segment(3), epoch=2), replace(stored(runs), budgets=budgets), at=PAUSED_AT)
    assert stored(runs).budgets == budgets
    pause(runs, 4)
    runs.resume(replace(segment(5), epoch=3), replace(stored(runs), budgets=()), at=PAUSED_AT)
    assert stored(runs).budgets == ()
