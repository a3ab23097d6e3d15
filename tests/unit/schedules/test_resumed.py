"""A schedule whose owner pauses and resumes it, or moves it, while runs that it began are active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from karma.billing.plans import PlanName, plan_at
from karma.core.ids import DeviceId
from karma.runs.domain import RunStatus
from karma.schedules.domain import MAX_FAILURES, Overlap, ScheduleStatus
from karma.schedules.service import ScheduleService
from tests.fakes.runs import caller
from tests.unit.schedules.test_firing import HOUR, Scheduled, scheduled

__all__ = ["scheduled"]

RESUMED: tuple[Mapping[str, Any], ...] = ({"enabled": False}, {"enabled": True})
MOVED: tuple[Mapping[str, Any], ...] = ({"cron": "30 * * * *"},)


def change(scheduled: Scheduled, *changes: Mapping[str, Any]) -> None:
    service = ScheduleService(
        scheduled.store,
        scheduled.world.clock,
        agent_id_of=str,
        device_id_of=lambda _, ref, __: DeviceId(ref),
        require_receiver=lambda *_: None,
        plan_of=lambda _: plan_at(PlanName.ENTERPRISE, scheduled.now),
    )
    for each in changes:
        service.change(caller(), scheduled.shown.id, each)


def fire_next(scheduled: Scheduled) -> str:
    scheduled.world.clock.at = scheduled.shown.next_fire_at or scheduled.now
    return scheduled.fire()


def fail_all(scheduled: Scheduled, *, at_hour: int = 0) -> None:
    ended_at = scheduled.now + at_hour * HOUR
    store = scheduled.world.store
    for key, run in list(store.runs_by_key.items()):
        store.runs_by_key[key] = replace(run, status=RunStatus.FAILED, finished_at=ended_at)


@pytest.mark.parametrize("how", [RESUMED, MOVED], ids=["resumed", "moved"])
def test_a_run_that_is_active_still_counts_for_overlap(
    scheduled: Scheduled, how: tuple[Mapping[str, Any], ...]
) -> None:
    scheduled.add()
    assert scheduled.fire() == "started"
    change(scheduled, *how)
    assert fire_next(scheduled) == "skipped"
    scheduled.end(RunStatus.FINISHED)
    assert fire_next(scheduled) == "started"


def test_no_more_go_on_side_by_side_than_before(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.schedules.firing.MAX_OPEN_RUNS", 2)
    scheduled.add(overlap=Overlap.ALLOW)
    told = []
    for _ in range(4):
        told.append(fire_next(scheduled))
        change(scheduled, *RESUMED)
    assert told == ["started", "started", "skipped", "skipped"]


def test_failures_count_on_where_it_was_only_moved(scheduled: Scheduled) -> None:
    scheduled.add(overlap=Overlap.ALLOW)
    for _ in range(3):
        fire_next(scheduled)
    fail_all(scheduled)
    fire_next(scheduled)
    assert scheduled.shown.failures == 3
    change(scheduled, *MOVED)
    assert scheduled.shown.failures == 3


def test_failures_of_before_are_forgotten_where_it_is_enabled_again_and_later_ones_are_not(
    scheduled: Scheduled,
) -> None:
    scheduled.add(overlap=Overlap.ALLOW)
    for _ in range(MAX_FAILURES):
        assert fire_next(scheduled) == "started"
    fail_all(scheduled)
    change(scheduled, *RESUMED)
    assert fire_next(scheduled) == "started"
    assert scheduled.shown.failures == 0
    for _ in range(MAX_FAILURES - 1):
        assert fire_next(scheduled) == "started"
    change(scheduled, *RESUMED)
    fail_all(scheduled, at_hour=1)
    assert fire_next(scheduled) == "failed"
    assert scheduled.shown.status is ScheduleStatus.STOPPED
