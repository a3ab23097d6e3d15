"""Fires in memory: what becomes of each, whichever process dies when, and that failures come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from karma.billing.plans import PlanName, plan_at
from karma.conversations.domain import ThreadKey
from karma.core.errors import Forbidden, QuotaExceeded, StorageThrottled
from karma.core.ids import RunId, ThreadId
from karma.identity.domain import Caller
from karma.identity.transactional import AccountGone
from karma.runs.domain import RunKey, RunStatus
from karma.schedules.domain import (
    MAX_FAILURES,
    CatchUp,
    FireKey,
    FireOutcome,
    Overlap,
    Schedule,
    ScheduleChanged,
    ScheduleStatus,
)
from karma.schedules.firing import RUNS_FAILED, TRIED_FOR, Fires
from karma.schedules.sweeps import AHEAD, LOOK_AGAIN, fire_message, read_fire, send_due
from karma.schedules.timing import Timing
from tests.contract.stores.test_schedules import schedule as a_schedule
from tests.fakes.runs import caller
from tests.fakes.schedules import MemorySchedules
from tests.support.lost_runs import Handle, Killed, Life, World

HOUR = timedelta(hours=1)


class Scheduled:
    """Schedules beside the runs that they begin."""

    def __init__(self) -> None:
        self.world = World()
        self.store = MemorySchedules()
        self.refused: Exception | None = None
        self.plan = PlanName.ENTERPRISE
        self.sent: list[tuple[str, int]] = []
        self.commands: object = None

    @property
    def now(self) -> datetime:
        return self.world.clock.now()

    def add(self, *, run: Mapping[str, Any] | None = None, at: datetime | None = None, **more: Any) -> Schedule:
        made = a_schedule(user=caller().user_id, run=run, next_fire_at=at or self.now)
        made = replace(made, timing=more.pop("timing", Timing(cron="0 * * * *")), **more)
        self.store.create(made, request=None)
        return made

    def fires(self, life: Life | None = None) -> Fires:
        life = life or Life(None)
        return Fires(
            Handle(self.store, life),
            queue=Handle(self, life),
            runs=self.world.background(life),
            started=Handle(self.world.store, life),
            commands=lambda: Handle(self.commands, life),
            caller_by_now=self._caller,
            plan_of=lambda _: plan_at(self.plan, self.now),
            clock=self.world.clock,
        )

    def fire(self, due_at: datetime | None = None, life: Life | None = None) -> str:
        shown = self.shown
        key = FireKey(shown.user_id, shown.id, due_at or shown.next_fire_at or self.now)
        return asyncio.run(self.fires(life).fire(key))

    def give_up(self, key: FireKey) -> bool:
        return asyncio.run(self.fires().give_up(key))

    def end(self, status: RunStatus) -> None:
        """Let the run that was begun last end."""
        key = RunKey(self.shown.user_id, self.shown.last_run_id or RunId(""))
        store = self.world.store
        run = store.runs_by_key[key]
        store.runs_by_key[key] = replace(run, status=status)
        thread = ThreadKey(key.user_id, ThreadId(run.thread_id))
        store.threads[thread] = replace(store.threads[thread], active_run_id=None)

    @property
    def shown(self) -> Schedule:
        [schedule] = self.store.schedules.values()
        return schedule

    @property
    def runs(self) -> list[RunKey]:
        return list(self.world.store.runs_by_key)

    def _caller(self, _: Schedule) -> Caller:
        if self.refused is not None:
            raise self.refused
        return caller()

    # A queue of fires.
    def send(self, body: str, *, delay_s: int = 0) -> None:
        self.sent.append((body, delay_s))


@pytest.fixture
def scheduled() -> Scheduled:
    return Scheduled()


class TestAFire:
    def test_begins_a_run_and_waits_for_the_next(self, scheduled: Scheduled) -> None:
        made = scheduled.add()
        assert scheduled.fire() == "started"
        [key] = scheduled.runs
        assert key.run_id == FireKey(made.user_id, made.id, scheduled.now).run_id
        assert scheduled.world.executions.requested == [key]
        after = scheduled.shown
        assert (after.last_run_id, after.counts.started, after.next_fire_at) == (key.run_id, 1, scheduled.now + HOUR)
        assert after.version == made.version

    def test_that_comes_again_or_too_early_does_nothing(self, scheduled: Scheduled) -> None:
        at = scheduled.now
        scheduled.add()
        assert [scheduled.fire(at), scheduled.fire(at), scheduled.fire(at + HOUR), scheduled.fire(at - HOUR)] == [
            "started",
            "over",
            "early",
            "over",
        ]
        assert len(scheduled.runs) == 1

    def test_of_a_paused_deleted_or_unknown_schedule_does_nothing(self, scheduled: Scheduled) -> None:
        made = scheduled.add()
        scheduled.store.replace(made, replace(made, enabled=False, next_fire_at=None, version=2))
        assert scheduled.fire(scheduled.now) == "over"
        key = FireKey(made.user_id, made.id, scheduled.now)
        scheduled.store.delete(scheduled.shown)
        assert asyncio.run(scheduled.fires().fire(key)) == "over"
        assert scheduled.runs == []

    def test_ends_a_schedule_of_one_moment(self, scheduled: Scheduled) -> None:
        scheduled.add(timing=Timing(at=scheduled.now))
        assert scheduled.fire() == "started"
        assert (scheduled.shown.status, scheduled.shown.next_fire_at) == (ScheduleStatus.ENDED, None)
        assert scheduled.store.notices == []

    def test_named_for_the_same_time_again_finds_its_run(self, scheduled: Scheduled) -> None:
        """As when the clock of whoever edits it is behind."""
        at = scheduled.now
        scheduled.add()
        scheduled.fire(at)
        scheduled.store.replace(scheduled.shown, replace(scheduled.shown, next_fire_at=at, version=2))
        scheduled.end(RunStatus.FINISHED)
        assert scheduled.fire(at) == "started"
        assert len(scheduled.runs) == 1
        assert scheduled.shown.next_fire_at == at + HOUR

    def test_that_is_too_late_is_missed_and_told_if_it_was_the_only_one(self, scheduled: Scheduled) -> None:
        at = scheduled.now
        scheduled.add(timing=Timing(at=at), catch_up=CatchUp.NONE)
        scheduled.world.clock.pass_by(HOUR)
        assert scheduled.fire(at) == "missed"
        assert (scheduled.shown.counts.missed, scheduled.runs) == (1, [])
        [notice] = scheduled.store.notices
        assert notice.data["code"] == "MISSED"

    def test_after_an_outage_begins_one_run(self, scheduled: Scheduled) -> None:
        at = scheduled.now
        scheduled.add(timing=Timing(cron="* * * * *"))
        scheduled.world.clock.pass_by(timedelta(days=3, seconds=30))
        assert scheduled.fire(at) == "started"
        after = scheduled.shown
        assert (after.counts.started, after.counts.missed) == (1, 3 * 24 * 60)
        assert after.next_fire_at == scheduled.now + timedelta(seconds=30)


class TestAProcessThatDies:
    def test_at_any_step_leaves_one_run_once_the_fire_comes_again(self) -> None:
        points = 0
        for after in (False, True):
            for left in range(1, 99):
                scheduled = Scheduled()
                at = scheduled.now
                scheduled.add()
                life = Life(left, after=after)
                try:
                    scheduled.fire(at, life)
                except Killed:
                    points += 1
                assert len(scheduled.runs) == scheduled.shown.counts.started
                scheduled.fire(at)
                assert len(scheduled.runs) == scheduled.shown.counts.started == 1
                assert scheduled.shown.next_fire_at == at + HOUR
                if not life.is_dead:
                    break
        assert points >= 12

    def test_at_any_step_of_a_sweep_loses_no_fire(self) -> None:
        for after in (False, True):
            for left in range(1, 9):
                scheduled = Scheduled()
                made = scheduled.add(at=scheduled.now + timedelta(seconds=30))
                life = Life(left, after=after)
                try:
                    send_due(Handle(scheduled.store, life), Handle(scheduled, life), scheduled.world.clock)
                except Killed:
                    send_due(scheduled.store, scheduled, scheduled.world.clock)
                assert {body for body, _ in scheduled.sent} == {
                    fire_message(FireKey(made.user_id, made.id, made.next_fire_at or scheduled.now))
                }
                scheduled.sent.clear()
                assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 0
                scheduled.world.clock.pass_by(timedelta(seconds=30) + LOOK_AGAIN)
                assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 1

    def test_of_a_storage_that_is_busy_nothing_is_noted(self, scheduled: Scheduled) -> None:
        scheduled.add()
        scheduled.refused = StorageThrottled("busy")
        with pytest.raises(StorageThrottled):
            scheduled.fire()
        assert scheduled.shown.last_fire is None


class TestTheRunBefore:
    def test_is_waited_for_by_queue(self, scheduled: Scheduled) -> None:
        scheduled.add(run={"message": "go", "thread_id": "t1"}, overlap=Overlap.QUEUE)
        for _ in range(3):
            assert scheduled.fire() == "started"
            scheduled.world.clock.pass_by(HOUR)
        status = [scheduled.world.store.runs_by_key[key].status for key in scheduled.runs]
        assert status == [RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.QUEUED]
        assert scheduled.shown.counts.started == 3

    def test_goes_on_beside_by_allow(self, scheduled: Scheduled) -> None:
        scheduled.add(overlap=Overlap.ALLOW)
        for _ in range(3):
            assert scheduled.fire() == "started"
            scheduled.world.clock.pass_by(HOUR)
        threads = {scheduled.world.store.runs_by_key[key].thread_id for key in scheduled.runs}
        assert len(threads) == len(scheduled.runs) == 3

    def test_has_said_the_same_words_which_are_said_anew(self, scheduled: Scheduled) -> None:
        scheduled.add(run={"message": "go", "thread_id": "t1"})
        for _ in range(2):
            assert scheduled.fire() == "started"
            scheduled.end(RunStatus.FINISHED)
            scheduled.world.clock.pass_by(HOUR)
        thread = scheduled.world.store.thread(ThreadKey(caller().user_id, ThreadId("t1")))
        assert [(m.role, m.content) for m in thread.messages].count(("user", "go")) == 2
        first, second = thread.messages
        assert first.id != second.id


REFUSED = [
    Forbidden("The account is disabled", code="ACCOUNT_DISABLED"),
    Forbidden.lacking("agent:run"),
    QuotaExceeded("The plan is used up"),
]


class TestFailures:
    @pytest.mark.parametrize("refused", REFUSED, ids=lambda each: str(each.code))
    def test_are_shown_and_stop_the_schedule_in_the_end(self, scheduled: Scheduled, refused: Exception) -> None:
        scheduled.add()
        scheduled.refused = refused
        for n in range(1, MAX_FAILURES + 1):
            assert scheduled.fire() == "failed"
            last = scheduled.shown.last_fire
            assert last is not None
            assert last.error is not None
            assert last.error.code == refused.code  # type: ignore[attr-defined]
            assert (scheduled.shown.failures, scheduled.shown.counts.failed) == (n, n)
            scheduled.world.clock.pass_by(HOUR)
        after = scheduled.shown
        assert (after.status, after.enabled, after.next_fire_at) == (ScheduleStatus.STOPPED, False, None)
        assert scheduled.fire() == "over"
        [notice] = scheduled.store.notices
        assert notice.data == {"schedule_id": after.id, "code": refused.code}  # type: ignore[attr-defined]
        assert scheduled.runs == []

    def test_of_its_runs_stop_it_too(self, scheduled: Scheduled) -> None:
        scheduled.add()
        for _ in range(MAX_FAILURES):
            assert scheduled.fire() == "started"
            scheduled.end(RunStatus.FAILED)
            scheduled.world.clock.pass_by(HOUR)
        assert scheduled.fire() == "failed"
        after = scheduled.shown
        assert after.status is ScheduleStatus.STOPPED
        assert len(scheduled.runs) == MAX_FAILURES
        assert after.last_fire is not None
        assert after.last_fire.error is not None
        assert after.last_fire.error.code == RUNS_FAILED
        assert len(scheduled.store.notices) == 1

    def test_are_forgotten_by_a_run_that_ends_well(self, scheduled: Scheduled) -> None:
        scheduled.add()
        for status in [RunStatus.FAILED] * (MAX_FAILURES - 1) + [RunStatus.FINISHED, RunStatus.FAILED]:
            assert scheduled.fire() == "started"
            scheduled.end(status)
            scheduled.world.clock.pass_by(HOUR)
        assert scheduled.fire() == "started"
        assert scheduled.shown.failures == 1

    def test_of_its_agent_and_its_thread_have_their_codes(self, scheduled: Scheduled) -> None:
        scheduled.add(run={"message": "go", "agent_id": "nobody"})
        assert scheduled.fire() == "failed"
        last = scheduled.shown.last_fire
        assert last is not None
        assert last.error is not None
        assert last.error.code == "NOT_FOUND"
        assert "nobody" in last.error.message

    def test_of_an_account_that_is_gone_are_nobody_s(self, scheduled: Scheduled) -> None:
        scheduled.add()
        scheduled.refused = AccountGone(caller().user_id)
        assert scheduled.fire() == "gone"
        scheduled.refused = None
        scheduled.world.store.gone.add(caller().user_id)
        assert scheduled.fire() == "gone"
        assert scheduled.shown.last_fire is None
        assert scheduled.runs == []

    def test_of_ours_are_tried_anew_for_a_while_and_then_shown(self, scheduled: Scheduled) -> None:
        made = scheduled.add()
        scheduled.refused = RuntimeError("nobody foresaw this")
        key = FireKey(made.user_id, made.id, scheduled.now)
        assert scheduled.give_up(key) is False
        assert scheduled.shown == made
        scheduled.world.clock.pass_by(TRIED_FOR)
        with pytest.raises(RuntimeError):
            scheduled.fire()
        assert scheduled.give_up(key) is True
        after = scheduled.shown
        assert after.last_fire is not None
        assert after.last_fire.error is not None
        assert (after.last_fire.outcome, after.last_fire.error.code) == (FireOutcome.FAILED, "INTERNAL")
        assert key.run_id in after.last_fire.error.message
        assert "foresaw" not in after.last_fire.error.message
        assert (after.failures, after.counts.failed) == (1, 1)
        assert after.next_fire_at is not None
        assert after.next_fire_at > scheduled.now
        assert scheduled.give_up(key) is False, "it is over"
        assert scheduled.fire(key.due_at) == "over"
        assert scheduled.shown == after

    def test_of_ours_stop_it_too(self, scheduled: Scheduled) -> None:
        scheduled.add()
        scheduled.world.clock.pass_by(TRIED_FOR)
        for _ in range(MAX_FAILURES):
            shown = scheduled.shown
            assert shown.next_fire_at is not None
            assert scheduled.give_up(FireKey(shown.user_id, shown.id, shown.next_fire_at))
            scheduled.world.clock.pass_by(HOUR)
        assert scheduled.shown.status is ScheduleStatus.STOPPED
        [notice] = scheduled.store.notices
        assert notice.data == {"schedule_id": scheduled.shown.id, "code": "INTERNAL"}


class TestItsOwner:
    def test_who_changes_it_at_any_step_of_a_fire_decides(self) -> None:
        """Pausing at step n: either the run was begun before, or it never is."""
        for at_step in range(1, 30):
            scheduled = Scheduled()
            scheduled.add()
            begun: list[int] = []

            def pause(scheduled: Scheduled = scheduled, begun: list[int] = begun) -> None:
                seen = scheduled.shown
                begun.append(len(scheduled.runs))
                scheduled.store.replace(seen, replace(seen, enabled=False, next_fire_at=None, version=2))

            life = Life(None, meets=pause, meets_at=at_step)
            scheduled.fire(scheduled.now, life)
            if not begun:
                assert at_step > 6
                break
            assert len(scheduled.runs) == begun[0] == scheduled.shown.counts.started
            assert scheduled.shown.status is ScheduleStatus.PAUSED

    def test_who_names_it_anew_at_any_step_loses_no_fire(self) -> None:
        for at_step in range(1, 30):
            scheduled = Scheduled()
            scheduled.add()
            named: list[str] = []

            def rename(scheduled: Scheduled = scheduled, named: list[str] = named) -> None:
                seen = scheduled.shown
                scheduled.store.replace(seen, replace(seen, name="x", version=seen.version + 1))
                named.append("x")

            scheduled.fire(scheduled.now, Life(None, meets=rename, meets_at=at_step))
            assert len(scheduled.runs) == scheduled.shown.counts.started == 1
            if not named:
                break

    def test_who_changes_it_each_time_makes_the_message_come_again(self, scheduled: Scheduled) -> None:
        scheduled.add()

        class Restless(MemorySchedules):
            def fired(self, _: object) -> Any:
                def join(__: object) -> None:
                    raise ScheduleChanged("changed")

                return join

        scheduled.store.__class__ = Restless
        with pytest.raises(ScheduleChanged):
            scheduled.fire()


class TestTheSweep:
    def test_sends_what_is_due_within_a_minute_to_arrive_when_it_is(self, scheduled: Scheduled) -> None:
        made = scheduled.add(at=scheduled.now + timedelta(seconds=30))
        assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 1
        [(body, delay_s)] = scheduled.sent
        assert (read_fire(body).due_at, delay_s) == (made.next_fire_at, 30)
        assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 0

    def test_that_is_late_makes_no_fire_late(self, scheduled: Scheduled) -> None:
        """A fire that is due behind the next sweep is sent by this one, should that come late."""
        made = scheduled.add(at=scheduled.now + timedelta(seconds=85))
        assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 1
        [(body, delay_s)] = scheduled.sent
        assert (read_fire(body).due_at, delay_s) == (made.next_fire_at, 85)

    def test_leaves_what_is_due_later(self, scheduled: Scheduled) -> None:
        scheduled.add(at=scheduled.now + AHEAD)
        assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 0

    def test_goes_on_behind_one_that_cannot_be_sent(self, scheduled: Scheduled) -> None:
        scheduled.add()

        class Broken:
            def send(self, *_: object, **__: object) -> None:
                raise StorageThrottled("busy")

        assert send_due(scheduled.store, Broken(), scheduled.world.clock) == 0
        assert send_due(scheduled.store, scheduled, scheduled.world.clock) == 1
