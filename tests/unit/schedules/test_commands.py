"""Fires of schedules that send commands, in memory: one bulk command a fire or none, whichever process dies when."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from karma.billing.plans import Plan, PlanName
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError, Forbidden, NotFound, StorageThrottled, ValidationFailed
from karma.core.ids import BulkId, UserId
from karma.identity.domain import Role
from karma.runs.ports import Also
from karma.schedules.domain import (
    MAX_FAILURES,
    CatchUp,
    FireAction,
    FireKey,
    Overlap,
    Schedule,
    ScheduleStatus,
)
from karma.schedules.schemas import ChangeScheduleBody
from karma.schedules.service import NewCommandSchedule, ScheduleService
from karma.schedules.timing import Timing
from tests.support.lost_runs import Killed, Life
from tests.unit.schedules.test_firing import HOUR, Scheduled
from tests.unit.schedules.test_service import ADA, Interrupted, clock, new, schedules, store, with_key

__all__ = ["clock", "schedules", "store"]

COMMAND = {"tag": "north", "command": "blink", "ttl_s": 600, "serial": False}


@dataclass
class Commands:
    """Bulk commands by their ids."""

    made: list[BulkId] = field(default_factory=list)
    refused: AppError | None = None
    at_work: bool = False
    plans: list[PlanName] = field(default_factory=list)

    def begin(self, schedule: Schedule, key: FireKey, plan: Plan, *, also: Also) -> bool:
        assert schedule.command == COMMAND
        self.plans.append(plan.name)
        if self.refused is not None:
            raise self.refused
        if key.bulk_id in self.made:
            return False
        also(Transaction())
        self.made.append(key.bulk_id)
        return True

    def is_at_work(self, user_id: UserId, bulk_id: BulkId | None) -> bool:
        assert user_id
        return bulk_id is not None and self.at_work


@pytest.fixture
def commanded() -> Scheduled:
    return of_commands()


def of_commands(**more: Any) -> Scheduled:
    scheduled = Scheduled()
    scheduled.commands = Commands()
    scheduled.add(**more)
    made = scheduled.shown
    scheduled.store.schedules[made.id] = replace(made, action=FireAction.COMMAND, run=None, command=COMMAND)
    return scheduled


def commands_of(scheduled: Scheduled) -> Commands:
    assert isinstance(scheduled.commands, Commands)
    return scheduled.commands


class TestAFire:
    def test_makes_one_bulk_command_and_no_run(self, commanded: Scheduled) -> None:
        at = commanded.now
        assert [commanded.fire(at), commanded.fire(at)] == ["started", "over"]
        after = commanded.shown
        assert commands_of(commanded).made == [after.last_bulk_id]
        assert (after.counts.started, after.open_run_ids, after.last_run_id) == (1, (), None)
        assert (after.next_fire_at, commanded.runs) == (at + HOUR, [])
        assert commands_of(commanded).plans == [PlanName.ENTERPRISE]

    def test_that_an_earlier_delivery_did_is_noted(self, commanded: Scheduled) -> None:
        made = commanded.shown
        key = FireKey(made.user_id, made.id, commanded.now)
        commands_of(commanded).made.append(key.bulk_id)
        assert commanded.fire() == "started"
        assert (commanded.shown.last_bulk_id, commands_of(commanded).made) == (key.bulk_id, [key.bulk_id])

    @pytest.mark.parametrize("at_work", [False, True], ids=["over", "at work"])
    @pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.ALLOW])
    def test_is_left_out_while_the_one_before_is_at_work(self, overlap: Overlap, at_work: bool) -> None:
        scheduled = of_commands(overlap=overlap)
        scheduled.fire()
        commands_of(scheduled).at_work = at_work
        scheduled.world.clock.pass_by(HOUR)
        left_out = overlap is Overlap.SKIP and at_work
        assert scheduled.fire() == ("skipped" if left_out else "started")
        assert len(commands_of(scheduled).made) == 1 if left_out else 2

    def test_that_is_late_is_caught_up_as_runs_are(self) -> None:
        scheduled = of_commands(catch_up=CatchUp.NONE)
        scheduled.world.clock.pass_by(HOUR / 2)
        assert scheduled.fire(scheduled.shown.next_fire_at) == "missed"
        assert commands_of(scheduled).made == []


class TestARefusal:
    @pytest.mark.parametrize("refused", [NotFound("Device d not found"), ValidationFailed.of("tag", "nobody has it")])
    def test_is_shown_and_counted_until_it_stops(self, commanded: Scheduled, refused: AppError) -> None:
        commands_of(commanded).refused = refused
        for _ in range(MAX_FAILURES):
            assert commanded.fire() == "failed"
            commanded.world.clock.pass_by(HOUR)
        after = commanded.shown
        assert after.last_fire is not None
        assert after.last_fire.error is not None
        assert (after.last_fire.error.code, after.status) == (refused.code, ScheduleStatus.STOPPED)
        assert (commands_of(commanded).made, len(commanded.store.notices)) == ([], 1)

    def test_is_forgotten_by_a_fire_that_sends(self, commanded: Scheduled) -> None:
        commands_of(commanded).refused = NotFound("Device d not found")
        commanded.fire()
        commands_of(commanded).refused = None
        commanded.world.clock.pass_by(HOUR)
        assert commanded.fire() == "started"
        assert (commanded.shown.failures, commanded.shown.counts.failed) == (0, 1)

    def test_of_what_may_pass_comes_again(self, commanded: Scheduled) -> None:
        before = commanded.shown
        commands_of(commanded).refused = StorageThrottled("busy")
        with pytest.raises(StorageThrottled):
            commanded.fire()
        assert commanded.shown == before

    def test_of_its_author_sends_nothing(self, commanded: Scheduled) -> None:
        commanded.refused = Forbidden.lacking("device:control")
        assert commanded.fire() == "failed"
        assert commands_of(commanded).made == []


def test_a_death_at_any_step_leaves_one() -> None:
    for step in range(1, 30):
        scheduled = of_commands()
        at = scheduled.now
        life = Life(step)
        with contextlib.suppress(Killed):
            scheduled.fire(at, life)
        died = life.is_dead
        scheduled.fire(at)
        assert commands_of(scheduled).made == [scheduled.shown.last_bulk_id]
        assert scheduled.shown.counts.started == 1
        if not died:
            assert step > 3
            return
    pytest.fail("it never ends")


def new_commands(**more: Any) -> NewCommandSchedule:
    given: dict[str, Any] = {
        "timing": Timing(cron="0 * * * *"),
        "run": {},
        "command": COMMAND,
        "overlap": Overlap.SKIP,
        "catch_up": CatchUp.LATEST,
        "catch_up_window_s": 3600,
        "enabled": True,
    }
    return NewCommandSchedule(name="first", **{**given, **more})


class TestWriting:
    def test_needs_the_right_to_control_devices(self, schedules: ScheduleService) -> None:
        made = schedules.create(replace(ADA, email_verified=False), new_commands())
        assert (made.action, made.run, made.command) == (FireAction.COMMAND, None, COMMAND)
        schedules.create(with_key("schedule:write", "device:control"), new_commands())
        for refused in (replace(ADA, role=Role.VIEWER), with_key("schedule:write", "agent:run")):
            with pytest.raises(Forbidden):
                schedules.create(refused, new_commands())
            with pytest.raises(Forbidden):
                schedules.change(refused, made.id, {"command": {**COMMAND, "ttl_s": 60}})

    def test_names_a_device_by_its_id(self, schedules: ScheduleService, store: Interrupted) -> None:
        named = {"device_id": "SN-1", "command": "blink", "ttl_s": 60}
        made = schedules.create(ADA, new_commands(command=named))
        assert made.command == {**named, "device_id": f"SN-1 of {ADA.user_id}"}
        with pytest.raises(NotFound, match=r"command\.device_id"):
            schedules.create(ADA, new_commands(command={**named, "device_id": "nobody's"}))
        changed = schedules.change(ADA, made.id, {"command": COMMAND})
        assert (changed.command, changed.run_version, store.schedules[made.id]) == (COMMAND, 2, changed)
        assert schedules.change(ADA, made.id, {"command": COMMAND}) == changed

    def test_leaves_each_what_it_is(self, schedules: ScheduleService) -> None:
        commands, runs = schedules.create(ADA, new_commands()), schedules.create(ADA, new())
        body = ChangeScheduleBody.model_validate({"run": {"message": "Go"}})
        for made, changes in ((commands, body.changes()), (runs, {"command": COMMAND})):
            with pytest.raises(ValidationFailed) as refused:
                schedules.change(ADA, made.id, changes)
            assert refused.value.first.endswith(f"each fire has a {made.action}")

    def test_refuses_a_queue_of_fires(self, schedules: ScheduleService) -> None:
        with pytest.raises(ValidationFailed):
            schedules.create(ADA, new_commands(overlap=Overlap.QUEUE))
        made = schedules.create(ADA, new_commands())
        with pytest.raises(ValidationFailed):
            schedules.change(ADA, made.id, {"overlap": Overlap.QUEUE})
        assert schedules.change(ADA, made.id, {"overlap": Overlap.ALLOW}).command == COMMAND
