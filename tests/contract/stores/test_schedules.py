"""Schedules: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists
from karma.core.ids import ApiKeyId, BulkId, RunId, UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice, NoticeType
from karma.schedules.domain import (
    MAX_SCHEDULES,
    Author,
    CatchUp,
    FireAction,
    Fired,
    FireError,
    FireKey,
    FireOutcome,
    Overlap,
    Schedule,
    ScheduleChanged,
    ScheduleId,
    TooManySchedules,
)
from karma.schedules.ports import DueFire, Schedules
from karma.schedules.repository import ScheduleRepository
from karma.schedules.timing import Timing
from tests.fakes.schedules import MemorySchedules
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
USER, OTHER, GONE = UserId(new_id()), UserId(new_id()), UserId(new_id())


@pytest.fixture
def schedule_store(store: Store) -> Schedules:
    return MemorySchedules(deleted_accounts={GONE}) if store.in_memory else stored()


@pytest.fixture
def dynamo(database: Database) -> ScheduleRepository:
    return stored()


def stored() -> ScheduleRepository:
    for user in (USER, OTHER):
        open_account(user)
    return ScheduleRepository()


def schedule(
    number: int = 1,
    *,
    user: UserId = USER,
    run: Mapping[str, Any] | None = None,
    next_fire_at: datetime | None = NOW + HOUR,
) -> Schedule:
    return Schedule(
        id=ScheduleId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        name=f"schedule {number}",
        timing=Timing(cron="0 * * * *", time_zone="Europe/Berlin"),
        run=run or {"message": "Go"},
        overlap=Overlap.SKIP,
        catch_up=CatchUp.LATEST,
        catch_up_window_s=3600,
        enabled=next_fire_at is not None,
        author=Author(),
        next_fire_at=next_fire_at,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def fired(seen: Schedule, outcome: FireOutcome = FireOutcome.STARTED, **more: Any) -> Fired:
    """Say that the fire which a schedule waits for is over; it waits for the one an hour later."""
    assert seen.next_fire_at is not None
    given: dict[str, Any] = (
        {"run_id": RunId("r1"), "open_run_ids": (RunId("r0"), RunId("r1"))} if outcome is FireOutcome.STARTED else {}
    )
    return Fired(
        seen=seen,
        due_at=seen.next_fire_at,
        at=seen.next_fire_at,
        outcome=outcome,
        missed=more.pop("missed", 0),
        next_fire_at=more.pop("next_fire_at", seen.next_fire_at + HOUR),
        **given,
        **more,
    )


def committed(store: Schedules, of: Fired) -> None:
    tx = Transaction()
    store.fired(of)(tx)
    if not isinstance(store, MemorySchedules):
        tx.commit()


def without_run(of: Schedule) -> Schedule:
    return replace(of, run=None)


def test_a_census_counts_those_that_wait_and_is_over_by_the_next_write(schedule_store: Schedules) -> None:
    assert schedule_store.census(USER) == (0, 0, 0)
    first = schedule()
    schedule_store.create(first, request=None, seen=schedule_store.census(USER))
    paused = replace(schedule(next_fire_at=None), id=ScheduleId(new_id()), enabled=False)
    before = schedule_store.census(USER)
    schedule_store.create(paused, request=None, seen=before)
    assert schedule_store.census(USER)[:2] == (2, 1)
    assert schedule_store.census(OTHER) == (0, 0, 0)
    with pytest.raises(ScheduleChanged):
        schedule_store.create(replace(first, id=ScheduleId(new_id())), request=None, seen=before)
    woken = replace(paused, enabled=True, next_fire_at=NOW + HOUR, version=2)
    with pytest.raises(ScheduleChanged):
        schedule_store.replace(paused, woken, seen=before)
    seen = schedule_store.census(USER)
    schedule_store.replace(paused, woken, seen=seen)
    assert schedule_store.census(USER)[:2] == (2, 2)
    with pytest.raises(ScheduleChanged):
        schedule_store.replace(woken, replace(woken, version=3), seen=seen)
    seen = schedule_store.census(USER)
    schedule_store.delete(first)
    assert schedule_store.census(USER)[:2] == (1, 1)
    assert schedule_store.census(USER).version > seen.version


def test_it_reads_back_whole(schedule_store: Schedules) -> None:
    bare = schedule(1)
    once = replace(
        schedule(2, run={"messages": [{"role": "user", "content": "a"}], "thread_id": "t1"}),
        timing=Timing(at=NOW + HOUR, end_at=NOW + 2 * HOUR),
        overlap=Overlap.QUEUE,
        catch_up=CatchUp.ALL,
        catch_up_window_s=60,
        author=Author(api_key_id=ApiKeyId(new_id())),
    )
    paused = schedule(3, next_fire_at=None)
    for each in (bare, once, paused):
        schedule_store.create(each, request=None)
    assert [schedule_store.get(USER, each.id) for each in (bare, once, paused)] == [bare, once, paused]


def test_one_of_commands_reads_back_whole(schedule_store: Schedules) -> None:
    made = replace(
        schedule(),
        action=FireAction.COMMAND,
        run=None,
        command={"tag": "north", "command": "blink", "ttl_s": 600, "params": {"x": 1}},
    )
    schedule_store.create(made, request=None)
    assert schedule_store.get(USER, made.id) == made
    changed = replace(made, command={"device_id": "d", "command": "stop", "ttl_s": 60}, version=2, run_version=2)
    schedule_store.replace(made, changed)
    over = replace(fired(changed), run_id=None, open_run_ids=(), bulk_id=BulkId("b"))
    committed(schedule_store, over)
    after = schedule_store.get(USER, made.id)
    assert after == over.applied()
    assert (after.last_bulk_id, after.last_run_id, after.command) == ("b", None, changed.command)
    assert schedule_store.page(USER, below="", limit=5) == [replace(after, command=None)]


def test_what_does_not_exist_or_is_another_s_is_nothing(schedule_store: Schedules) -> None:
    schedule_store.create(schedule(user=OTHER), request=asked("t"))
    assert schedule_store.get(USER, schedule().id) is None
    assert schedule_store.made_by(USER, asked("t")) is None
    assert schedule_store.page(USER, below="", limit=5) == []


def test_a_request_makes_one(schedule_store: Schedules) -> None:
    schedule_store.create(schedule(1), request=asked("t"))
    with pytest.raises(AlreadyExists):
        schedule_store.create(schedule(2), request=asked("t"))
    assert schedule_store.made_by(USER, asked("t")) == schedule(1).id
    assert schedule_store.get(USER, schedule(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        schedule_store.made_by(USER, asked("t", "another schedule"))
    day_after = asked("t", "another schedule", at=NOW + RETENTION)
    assert schedule_store.made_by(USER, day_after) is None
    schedule_store.create(schedule(3), request=day_after)
    assert schedule_store.made_by(USER, day_after) == schedule(3).id


def test_an_account_has_so_many_and_room_again_when_one_is_deleted(schedule_store: Schedules) -> None:
    made = [schedule(n) for n in range(MAX_SCHEDULES)]
    for each in made:
        schedule_store.create(each, request=None)
    with pytest.raises(TooManySchedules):
        schedule_store.create(schedule(MAX_SCHEDULES), request=asked("t"))
    schedule_store.create(schedule(1000, user=OTHER), request=None)
    assert schedule_store.made_by(USER, asked("t")) is None
    schedule_store.delete(made[0])
    schedule_store.create(schedule(MAX_SCHEDULES), request=asked("t"))
    with pytest.raises(TooManySchedules):
        schedule_store.create(made[0], request=None)


def test_lists_go_by_age_and_below_an_id(schedule_store: Schedules) -> None:
    made = [schedule(n) for n in range(5, 0, -1)]
    for each in made:
        schedule_store.create(each, request=asked("t") if each is made[0] else None)
    shown = [without_run(each) for each in made]
    assert schedule_store.page(USER, below="", limit=9) == shown
    assert schedule_store.page(USER, below=made[1].id, limit=2) == shown[2:4]


def test_a_stale_version_changes_and_deletes_nothing(schedule_store: Schedules) -> None:
    old = schedule()
    schedule_store.create(old, request=None)
    new = replace(old, name="new", updated_at=NOW + timedelta(seconds=1), version=2)
    schedule_store.replace(old, new)
    with pytest.raises(ScheduleChanged):
        schedule_store.replace(old, replace(new, name="late"))
    with pytest.raises(ScheduleChanged):
        schedule_store.delete(old)
    assert schedule_store.get(USER, old.id) == new
    other = replace(new, run={"message": "Stop"}, run_version=3, version=3, next_fire_at=None, enabled=False)
    schedule_store.replace(new, other)
    assert schedule_store.get(USER, old.id) == other
    schedule_store.delete(other)
    assert schedule_store.get(USER, old.id) is None


def test_nothing_is_made_for_an_account_that_is_gone(schedule_store: Schedules) -> None:
    with pytest.raises(AccountGone):
        schedule_store.create(schedule(user=GONE), request=asked("t"))
    assert schedule_store.get(GONE, schedule().id) is None


class TestFires:
    def test_are_found_when_they_are_due_and_not_before(self, schedule_store: Schedules) -> None:
        made = [schedule(n, next_fire_at=NOW + n * HOUR) for n in range(4)]
        for each in (*made, schedule(9, next_fire_at=None)):
            schedule_store.create(each, request=None)
        found = schedule_store.due(NOW + 2 * HOUR, limit=9)
        assert {(each.key.schedule_id, each.key.due_at) for each in found} == {
            (each.id, each.next_fire_at) for each in made[:2]
        }
        assert len(schedule_store.due(NOW + 9 * HOUR, limit=9)) == 4

    def test_are_put_off_by_one_sweep(self, schedule_store: Schedules) -> None:
        schedule_store.create(schedule(), request=None)
        [due] = schedule_store.due(NOW + 2 * HOUR, limit=9)
        assert schedule_store.put_off(due, until=NOW + 3 * HOUR)
        assert not schedule_store.put_off(due, until=NOW + 4 * HOUR)
        assert schedule_store.due(NOW + 2 * HOUR, limit=9) == []
        [later] = schedule_store.due(NOW + 4 * HOUR, limit=9)
        assert later.key == due.key
        assert schedule_store.get(USER, schedule().id) == schedule()

    def test_one_that_nobody_has_put_off_is_by_its_own_moment(self, schedule_store: Schedules) -> None:
        made = schedule()
        schedule_store.create(made, request=None)
        assert made.next_fire_at is not None
        due = DueFire(FireKey(USER, made.id, made.next_fire_at))
        assert not schedule_store.put_off(due._replace(key=due.key._replace(due_at=NOW - HOUR)), until=NOW + 3 * HOUR)
        assert schedule_store.put_off(due, until=NOW + 3 * HOUR)
        assert not schedule_store.put_off(due, until=NOW + 4 * HOUR)
        [later] = schedule_store.due(NOW + 4 * HOUR, limit=9)
        assert later.key == due.key

    def test_one_that_was_put_off_is_no_more_when_its_schedule_is_paused(self, schedule_store: Schedules) -> None:
        old = schedule()
        schedule_store.create(old, request=None)
        [due] = schedule_store.due(NOW + 2 * HOUR, limit=9)
        schedule_store.replace(old, replace(old, enabled=False, next_fire_at=None, version=2))
        assert not schedule_store.put_off(due, until=NOW + 3 * HOUR)
        assert schedule_store.due(NOW + 9 * HOUR, limit=9) == []

    def test_are_over_once(self, schedule_store: Schedules) -> None:
        old = schedule()
        schedule_store.create(old, request=None)
        committed(schedule_store, fired(old))
        after = schedule_store.get(USER, old.id)
        assert after == fired(old).applied()
        assert (after.counts.started, after.last_run_id, after.version) == (1, "r1", 1)
        with pytest.raises(ScheduleChanged):
            committed(schedule_store, fired(old))
        with pytest.raises(ScheduleChanged):
            schedule_store.settle(fired(old, FireOutcome.SKIPPED), notice=None)
        with pytest.raises(ScheduleChanged):
            schedule_store.replace(old, replace(old, name="x", version=2))
        assert schedule_store.get(USER, old.id) == after
        [due] = schedule_store.due(NOW + 9 * HOUR, limit=9)
        assert due.key.due_at == NOW + 2 * HOUR
        schedule_store.delete(old)  # fires do not change its version

    def test_of_a_schedule_that_was_changed_or_deleted_change_nothing(self, schedule_store: Schedules) -> None:
        old = schedule()
        schedule_store.create(old, request=None)
        new = replace(old, name="x", version=2)
        schedule_store.replace(old, new)
        with pytest.raises(ScheduleChanged):
            committed(schedule_store, fired(old))
        assert schedule_store.get(USER, old.id) == new
        schedule_store.delete(new)
        with pytest.raises(ScheduleChanged):
            committed(schedule_store, fired(new))
        assert schedule_store.get(USER, old.id) is None

    def test_that_begin_nothing_say_why(self, schedule_store: Schedules) -> None:
        old = schedule()
        schedule_store.create(old, request=None)
        error = FireError(code="QUOTA_EXCEEDED", message="The plan is used up")
        notice = Notice(
            user_id=USER, type=NoticeType.SCHEDULE_FAILED, created_at=NOW, data={"schedule_id": old.id, "code": "X"}
        )
        over = fired(old, FireOutcome.FAILED, error=error, failures=10, missed=3)
        schedule_store.settle(over, notice=notice)
        after = schedule_store.get(USER, old.id)
        assert after == over.applied()
        assert (after.stopped, after.enabled, after.next_fire_at, after.counts.missed) == (True, False, None, 3)
        assert schedule_store.due(NOW + 9 * HOUR, limit=9) == []

    def test_tell_nobody_whose_account_is_gone(self, schedule_store: Schedules) -> None:
        old = schedule()
        schedule_store.create(old, request=None)
        notice = Notice(user_id=GONE, type=NoticeType.SCHEDULE_FAILED, created_at=NOW, data={})
        with pytest.raises(AccountGone):
            schedule_store.settle(fired(old, FireOutcome.FAILED), notice=notice)
        assert schedule_store.get(USER, old.id) == old


def test_an_account_s_go_with_it(dynamo: ScheduleRepository, database: Database) -> None:
    for each in (schedule(1), schedule(2), schedule(3, user=OTHER)):
        dynamo.create(each, request=asked("t") if each.id == schedule(1).id else None)
    assert not dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() - 1, settled=True))
    assert dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
    assert {item["pk"]["S"] for item in database.items("agents")} == {f"SCHEDULES#{OTHER}"}
    with pytest.raises(ScheduleChanged):
        dynamo.settle(fired(schedule(1)), notice=None)
