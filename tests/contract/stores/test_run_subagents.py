"""The work of subagents, beside the runs in which they began: the same in memory and in the databases."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from karma.billing.allowances import Adjustment, DaySpend, Metric, day_of
from karma.billing.repository.usage import UsageRepository
from karma.core.ids import AgentId, RunId
from karma.runs.domain import Checkpoint, OwnershipLost, Progress, RunExists, RunKey, RunPause, RunStatus
from karma.runs.ports import AtWork, DelegatedWork, Runs, StoredStep
from karma.runs.wishes import AgentStop, Wish
from tests.contract.stores.test_runs import END, NOW, THREAD, USER, begin, run, runs, said, segment
from tests.fakes.runs import MemoryRuns

__all__ = ["runs"]


def test_what_subagents_did_is_stored_with_the_segment_once(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    own, other = run().key, RunKey(USER, RunId("r0"))
    steps = [
        StoredStep(own.run_id, "sub_b", 0, b"0", own.run_id),
        StoredStep(own.run_id, "sub_a", 1, b"1" * 70_000, own.run_id),
        StoredStep(own.run_id, "sub_a", 0, b"0", own.run_id),
        # One that began in an earlier run, with which this one goes on, is stored beside that.
        StoredStep(other.run_id, "sub_c", 7, b"7", own.run_id),
    ]
    for _ in range(2):  # the second is its own repeat
        runs.append(segment(2), delegated=DelegatedWork(steps))
    assert runs.delegated(own) == [step._replace(n=2, epoch=1) for step in (steps[2], steps[1], steps[0])]
    assert runs.delegated(other) == [steps[3]._replace(n=2, epoch=1)]
    assert [each.n for each in runs.segments(own, after=0, limit=5)] == [1, 2]
    whole = runs.whole(own)
    assert whole is not None
    assert len(whole.log) == 2
    with pytest.raises(OwnershipLost):
        runs.append(segment(3), delegated=DelegatedWork([steps[0]]))
    with pytest.raises(OwnershipLost):
        runs.append(segment(2, writer="w2"), delegated=DelegatedWork([steps[0]._replace(at=1)]))
    assert len(runs.delegated(own)) == 3
    assert len(runs.segments(own, after=0, limit=5)) == 2


def test_a_run_from_a_point_begins_with_a_copy_of_their_work(runs: Runs) -> None:
    own, other = run().key, RunKey(USER, RunId("r0"))
    copies = [StoredStep(own.run_id, "sub_a", at, b"%d" % at, other.run_id) for at in range(2)]
    thread = runs.thread(THREAD)
    checkpoint = Checkpoint(n=1, epoch=1, position=0, progress=Progress())
    for _ in range(2):
        with suppress(RunExists):  # the second time
            runs.start(
                run(),
                thread=thread,
                segment=segment(),
                messages=(said("hi"),),
                checkpoint=checkpoint,
                delegated=copies,
            )
        assert runs.delegated(own) == [each._replace(n=1, epoch=1) for each in copies]
    assert runs.delegated(other) == []
    more = StoredStep(own.run_id, "sub_a", 2, b"2", own.run_id)
    runs.append(segment(2), delegated=DelegatedWork([more]))
    assert [each.at for each in runs.delegated(own)] == [0, 1, 2]


def test_what_called_agents_used_stands_in_the_run(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    used = {"agent_id": "a1", "calls": 1, "turns": 2, "tokens": 30, "cost_micros": 4}
    runs.finish(segment(2, terminal=True), replace(END, delegated=(used,)), thread=THREAD)
    stored = runs.run(run().key)
    assert stored is not None
    assert stored.delegated == (used,)


def test_what_no_step_has_counted_counts_in_the_days_of_agents_with_the_end_once(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    usage = runs.usage if isinstance(runs, MemoryRuns) else UsageRepository()
    before = usage.read_day(USER, NOW)
    lacking = tuple(
        Adjustment(
            user_id=USER,
            metric=Metric.MODEL_SPEND,
            period="2026-11",
            difference=micros,
            days=(DaySpend(day=day_of(NOW), agent_id=agent),),
            of_days_alone=True,
        )
        for agent, micros in (("scout", 5), ("digger", 7), ("idle", 0))
    )
    for _ in range(2):  # the second is its own repeat
        runs.finish(segment(2, terminal=True), replace(END, of_days=lacking), thread=THREAD)
    found = usage.read_day(USER, NOW)
    assert (found.by_agent, found.delegated) == ({"scout": 5, "digger": 7}, {"scout": 5, "digger": 7})
    assert found.total == before.total


def test_a_run_is_listed_while_an_agent_works_in_it_for_another(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    scout, found = AgentId("scout"), partial(runs.with_work_of, USER, limit=10)
    for n, name in enumerate(("s1", "s2", "s3"), start=2):
        runs.append(segment(n), delegated=DelegatedWork([], begun=AtWork(name, scout)))
    runs.append(segment(5), delegated=DelegatedWork([], begun=AtWork("s3", scout)))  # another process goes on with it
    assert found(scout).keys == [run().key] * 3
    assert found(AgentId("digger")).keys == []
    assert runs.active(USER, scout, limit=10).keys == []
    page = found(scout, limit=2)
    assert (len(page.keys), len(found(scout, start=page.last).keys)) == (2, 1)
    runs.append(segment(6), delegated=DelegatedWork([], ended="s1"))
    assert found(scout).keys == [run().key] * 2
    runs.finish(segment(7, terminal=True), replace(END, left=("s2", "s3")), thread=THREAD)
    assert found(scout).keys == []


def test_an_agent_is_to_stop_in_a_run_that_runs_or_is_paused(runs: Runs) -> None:
    begin(runs, None, said("hi"))
    stop = AgentStop(AgentId("scout"))
    assert runs.wish(run().key, stop, at=NOW, reason="enough")
    assert runs.wish(run().key, stop, at=NOW, reason="again")
    assert runs.wish(run().key, Wish.PAUSE, at=NOW)
    assert runs.wishes(run().key) == {stop: "enough", Wish.PAUSE: ""}
    runs.pause(segment(2), RunPause(at=NOW))
    digger = AgentStop(AgentId("digger"))
    assert runs.wish(run().key, digger, at=NOW)
    assert runs.wishes(run().key) == {stop: "enough", digger: ""}
    runs.finish(
        segment(3, terminal=True), replace(END, status=RunStatus.CANCELLED, was=RunStatus.PAUSED), thread=THREAD
    )
    assert not runs.wish(run().key, AgentStop(AgentId("late")), at=NOW)
