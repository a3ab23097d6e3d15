"""Fires that are skipped for long, and those of a schedule that today's plan would not allow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.billing.plans import PlanName, plan_at
from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId
from karma.notices.domain import NoticeType
from karma.runs.domain import RunStatus
from karma.schedules.domain import MAX_SKIPS, REST
from karma.schedules.limits import require_frequency
from karma.schedules.timing import Timing
from tests.fakes.runs import caller
from tests.unit.schedules.test_firing import HOUR, Scheduled


@pytest.fixture
def scheduled() -> Scheduled:
    return Scheduled()


class TestSkips:
    def skip(self, scheduled: Scheduled, times: int) -> None:
        for _ in range(times):
            scheduled.world.clock.at = scheduled.shown.next_fire_at or scheduled.now
            assert scheduled.fire() == "skipped"

    def test_leave_the_run_before_alone(self, scheduled: Scheduled) -> None:
        scheduled.add()
        scheduled.fire()
        scheduled.world.clock.pass_by(HOUR)
        assert scheduled.fire() == "skipped"
        assert (scheduled.shown.counts.skipped, len(scheduled.runs)) == (1, 1)
        scheduled.end(RunStatus.FINISHED)
        scheduled.world.clock.pass_by(HOUR)
        assert scheduled.fire() == "started"

    def test_come_from_somebody_else_s_run_in_the_thread_too(self, scheduled: Scheduled) -> None:
        scheduled.add(run={"message": "go", "thread_id": "t1"})
        key = ThreadKey(caller().user_id, ThreadId("t1"))
        thread = scheduled.world.store.thread(key)
        scheduled.world.store.threads[key] = replace(thread, active_run_id=RunId("other"))
        assert scheduled.fire() == "skipped"
        assert scheduled.runs == []

    def test_for_an_hour_let_it_rest_and_are_told_once_until_a_run_begins(self, scheduled: Scheduled) -> None:
        began = scheduled.now
        scheduled.add(timing=Timing(cron="* * * * *"))
        assert scheduled.fire() == "started"
        self.skip(scheduled, 60)
        assert not scheduled.shown.is_resting, "an hour is not over"
        assert (scheduled.shown.skips, scheduled.store.notices) == (60, [])
        self.skip(scheduled, 1)
        shown = scheduled.shown
        assert shown.is_resting
        assert shown.next_fire_at is not None
        assert shown.next_fire_at - scheduled.now > REST - timedelta(minutes=1)
        self.skip(scheduled, 5)
        assert scheduled.now - began > 5 * HOUR
        [notice] = scheduled.store.notices
        assert notice.type is NoticeType.SCHEDULE_RESTS
        assert notice.data == {"schedule_id": shown.id, "skips": "61"}
        scheduled.end(RunStatus.FINISHED)
        scheduled.world.clock.at = scheduled.shown.next_fire_at or scheduled.now
        assert scheduled.fire() == "started"
        after = scheduled.shown
        assert (after.skips, after.skipped_since, after.is_resting) == (0, None, False)
        assert after.next_fire_at == scheduled.now + timedelta(minutes=1)

    def test_of_a_daily_one_count_too(self, scheduled: Scheduled) -> None:
        scheduled.add(timing=Timing(cron="0 9 * * *"))
        scheduled.fire()
        self.skip(scheduled, MAX_SKIPS - 1)
        assert scheduled.store.notices == []
        self.skip(scheduled, 2)
        assert len(scheduled.store.notices) == 1
        assert scheduled.shown.next_fire_at == scheduled.now + timedelta(days=1)

    def test_in_a_process_that_dies_are_counted_once(self) -> None:
        """Told or not, the schedule and its notice are one transaction: a repeat finds the next fire."""
        scheduled = Scheduled()
        scheduled.add(timing=Timing(cron="0 * * * *"))
        scheduled.fire()
        self.skip(scheduled, MAX_SKIPS)
        due_at = scheduled.shown.next_fire_at
        scheduled.world.clock.at = due_at or scheduled.now
        assert scheduled.fire(due_at) == "skipped"
        assert [scheduled.fire(due_at), scheduled.fire(due_at)] == ["over", "over"]
        assert scheduled.shown.skips == MAX_SKIPS + 1


@pytest.mark.parametrize(
    ("zone", "cron", "at"),
    [
        ("Europe/Berlin", "30 1,2 * * *", datetime(2027, 3, 28, 0, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", "15 * * * *", datetime(2027, 4, 3, 14, 15, tzinfo=UTC)),
        ("Australia/Lord_Howe", "15 0-3 * * *", datetime(2027, 10, 2, 15, 15, tzinfo=UTC)),
    ],
)
def test_no_fire_fails_since_clocks_change(scheduled: Scheduled, zone: str, cron: str, at: datetime) -> None:
    timing = Timing(cron=cron, time_zone=zone)
    require_frequency(plan_at(PlanName.FREE, scheduled.now), timing, now=scheduled.now)
    scheduled.plan = PlanName.FREE
    scheduled.world.clock.at = at
    scheduled.add(timing=timing)
    assert scheduled.fire() == "started", scheduled.shown.last_fire


def test_a_schedule_of_a_larger_plan_fails_by_the_one_of_today(scheduled: Scheduled) -> None:
    scheduled.add(timing=Timing(cron="* * * * *"))
    scheduled.plan = PlanName.FREE
    assert scheduled.fire() == "failed"
    last = scheduled.shown.last_fire
    assert last is not None
    assert last.error is not None
    assert (last.error.code, "3600 s" in last.error.message) == ("QUOTA_EXCEEDED", True)
    assert scheduled.runs == []
    scheduled.plan = PlanName.TEAM
    scheduled.world.clock.at += timedelta(minutes=1)
    assert scheduled.fire() == "started"
