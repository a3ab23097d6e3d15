"""Failures of runs that a schedule has going on side by side: each counts once, whichever ends first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.runs.domain import RunStatus
from karma.schedules.domain import MAX_FAILURES, Overlap, ScheduleStatus
from tests.unit.schedules.test_firing import HOUR, Scheduled, scheduled

__all__ = ["scheduled"]


def test_failures_stop_it_whichever_ends_first(scheduled: Scheduled) -> None:
    """The first one goes on for ever; all that begin behind it fail."""
    scheduled.add(overlap=Overlap.ALLOW)
    for _ in range(MAX_FAILURES + 1):
        assert scheduled.fire() == "started"
        scheduled.world.clock.pass_by(HOUR)
    first, *others = scheduled.runs
    for key in others:
        run = scheduled.world.store.runs_by_key[key]
        scheduled.world.store.runs_by_key[key] = replace(run, status=RunStatus.FAILED)
    assert scheduled.fire() == "failed"
    assert scheduled.shown.status is ScheduleStatus.STOPPED
    assert scheduled.shown.open_run_ids == (first.run_id,)


def test_failures_are_those_of_all_its_runs_each_once(scheduled: Scheduled) -> None:
    scheduled.add(overlap=Overlap.ALLOW)
    for _ in range(6):
        assert scheduled.fire() == "started"
        scheduled.world.clock.pass_by(HOUR)
    ends = [RunStatus.FAILED, RunStatus.FAILED, RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CANCELLED]
    for key, status in zip(scheduled.runs, [*ends, RunStatus.FAILED], strict=True):
        run = scheduled.world.store.runs_by_key[key]
        scheduled.world.store.runs_by_key[key] = replace(run, status=status)
    for _ in range(2):
        assert scheduled.fire() == "started"
        scheduled.world.clock.pass_by(HOUR)
        assert scheduled.shown.failures == 1


def test_no_more_begin_beside_as_many_as_are_watched(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.schedules.firing.MAX_OPEN_RUNS", 3)
    scheduled.add(overlap=Overlap.ALLOW)
    told = []
    for _ in range(4):
        told.append(scheduled.fire())
        scheduled.world.clock.pass_by(HOUR)
    assert told == ["started", "started", "started", "skipped"]
