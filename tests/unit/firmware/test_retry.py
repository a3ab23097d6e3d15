"""Devices of a rollout that have failed are tried once more, each once at a time, whatever became of the rollout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.errors import InvalidTransition, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import DeviceId, new_id
from karma.firmware.domain import (
    DevicesInRollout,
    FirmwareChanged,
    Rollout,
    RolloutState,
    RolloutToNobody,
    TargetState,
    TooManyRollouts,
)
from karma.firmware.rollouts import RolloutPlan
from tests.support.firmware_world import PLAN, USER, World

AT_ONCE = replace(PLAN, waves=(100,), abort_percent=100, abort_min_finished=100)

pytestmark = pytest.mark.fault("F-43f")


@pytest.fixture
def world() -> World:
    return World()


def begun(world: World, number: int = 10, *, bad: int = 3, plan: RolloutPlan = AT_ONCE) -> tuple[Rollout, list[str]]:
    """Return a rollout of which the first devices of its first wave have failed, and their serial numbers."""
    world.add_devices(number)
    rollout = world.rollouts.create(USER, world.release().id, plan)
    failing = [each.serial for each in world.targets(rollout)][:bad]
    world.minute()
    world.work("2.0.0", failing)
    world.minute()
    return world.rollouts.get(USER, rollout.id), failing


def ids_of(world: World, rollout: Rollout, state: TargetState) -> list[DeviceId]:
    return [each.device_id for each in world.targets(rollout) if each.state is state]


def test_all_that_failed_in_a_completed_rollout_are_tried_once_more(world: World) -> None:
    rollout, failing = begun(world)
    assert rollout.state is RolloutState.COMPLETED
    world.minute(10)
    assert not world.firmware.looks
    world.rollouts.retry(USER, rollout.id)
    assert world.counts(rollout) == {"succeeded": 7, "waiting": 3}
    world.minute()
    world.work("2.0.0", failing[:1])
    world.minute()
    assert world.counts(rollout) == {"succeeded": 9, "failed": 1}
    assert world.state(rollout) is RolloutState.COMPLETED
    assert world.updated == 9


def test_a_repeat_changes_nothing_and_a_device_has_one_try_at_a_time(world: World) -> None:
    rollout, _ = begun(world)
    failed = ids_of(world, rollout, TargetState.FAILED)
    first = world.rollouts.retry(USER, rollout.id, failed[:1])
    assert world.rollouts.retry(USER, rollout.id, failed[:1]) == first
    world.minute()
    assert world.rollouts.retry(USER, rollout.id, failed[:1]) == first, "it is queued"
    again = world.rollouts.retry(USER, rollout.id)
    assert again.version == first.version + 1
    world.minute(2)
    assert world.rollouts.retry(USER, rollout.id) == again
    begun_jobs = [serial for job in world.jobs.jobs.values() for serial, status in job.items() if status == "QUEUED"]
    assert len(begun_jobs) == len(set(begun_jobs)) == 3, "nobody is offered it twice"
    world.work("2.0.0")
    world.minute()
    with pytest.raises(RolloutToNobody):
        world.rollouts.retry(USER, rollout.id)


def test_an_aborted_one_goes_on_with_them_and_a_paused_one_waits(world: World) -> None:
    rollout, _ = begun(world, 20, plan=replace(PLAN, waves=(50, 100)))
    assert rollout.state is RolloutState.ABORTED
    world.minute()
    world.rollouts.retry(USER, rollout.id)
    world.minute()
    assert world.counts(rollout) == {"succeeded": 7, "queued": 3, "waiting": 10}, "the failures are forgiven"
    world.work("2.0.0")
    world.minute()
    assert world.counts(rollout) == {"succeeded": 10, "queued": 10}
    one = next(each.serial for each in world.targets(rollout) if each.state is TargetState.QUEUED)
    world.jobs.begin(one)
    world.jobs.finish(one, "REJECTED", "DISK_FULL: no room")
    world.minute()
    world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
    world.rollouts.retry(USER, rollout.id)
    world.minute(5)
    assert world.state(rollout) is RolloutState.PAUSED
    assert world.counts(rollout) == {"succeeded": 10, "waiting": 10}
    assert not any(world.jobs.begin(serial) for serial in world.versions)
    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    world.minute()
    world.work("2.0.0")
    world.minute()
    assert world.state(rollout) is RolloutState.COMPLETED


def test_in_a_running_one_those_that_wait_for_their_turn_are_not_disturbed(world: World) -> None:
    rollout, _ = begun(world, 10, bad=2, plan=replace(AT_ONCE, waves=(50, 100), wave_hours=1))
    world.minute()
    assert world.counts(rollout) == {"succeeded": 3, "failed": 2, "queued": 5}
    [one, *_] = [each.serial for each in world.targets(rollout) if each.state is TargetState.QUEUED]
    world.jobs.begin(one)
    world.minute()
    world.rollouts.retry(USER, rollout.id)
    world.minute(2)
    assert world.counts(rollout) == {"succeeded": 3, "queued": 6, "in_progress": 1}
    world.jobs.finish(one, "SUCCEEDED")
    world.work("2.0.0")
    world.minute(2)
    assert world.state(rollout) is RolloutState.COMPLETED
    assert world.counts(rollout) == {"succeeded": 10}


def test_a_device_that_timed_out_and_came_back_late_succeeds_at_once(world: World) -> None:
    world.add_devices(2)
    rollout = world.rollouts.create(USER, world.release().id, AT_ONCE)
    world.minute()
    late, other = [each.serial for each in world.targets(rollout)]
    world.jobs.begin(late)
    world.jobs.finish(late, "TIMED_OUT")
    world.work("2.0.0")
    world.minute()
    assert world.counts(rollout) == {"succeeded": 1, "timed_out": 1}
    world.rollouts.retry(USER, rollout.id)
    world.minute()
    assert world.jobs.begin(late)
    assert not world.jobs.begin(other)


def test_what_cannot_be_tried_is_refused_by_name(world: World) -> None:
    rollout, _ = begun(world)
    with pytest.raises(ValidationFailed):
        world.rollouts.retry(USER, rollout.id, ids_of(world, rollout, TargetState.SUCCEEDED)[:1])
    with pytest.raises(ValidationFailed):
        world.rollouts.retry(USER, rollout.id, [DeviceId(new_id())])
    with pytest.raises(StaleVersion):
        world.rollouts.retry(USER, rollout.id, version=1)
    assert world.rollouts.get(USER, rollout.id) == rollout
    world.clock.pass_time(days=30)
    with pytest.raises(InvalidTransition):
        world.rollouts.retry(USER, rollout.id)


def test_a_cancelled_one_stays_as_it_is(world: World) -> None:
    rollout, _ = begun(world, 20, plan=PLAN)
    world.rollouts.move(USER, rollout.id, RolloutState.CANCELLED)
    with pytest.raises(InvalidTransition):
        world.rollouts.retry(USER, rollout.id)


@pytest.mark.fault("F-49e")
@pytest.mark.parametrize("minutes", [0, 1])
def test_who_was_to_be_tried_again_in_one_that_is_cancelled_has_failed(world: World, minutes: int) -> None:
    rollout, failing = begun(world, 10, plan=replace(AT_ONCE, waves=(50, 100)))
    noted = {each.serial: each.note for each in world.targets(rollout) if each.state is TargetState.FAILED}
    world.rollouts.retry(USER, rollout.id)
    world.minute(minutes)
    world.rollouts.move(USER, rollout.id, RolloutState.CANCELLED)
    world.minute(5)
    ended = [each for batch in world.rollouts.batches(world.rollouts.get(USER, rollout.id)) for each in batch.targets]
    assert {each.serial: each.note for each in ended if each.state is TargetState.FAILED} == noted
    assert {each.state for each in ended} == {TargetState.SUCCEEDED, TargetState.FAILED, TargetState.WAITING}
    assert not [each for each in ended if each.state is TargetState.WAITING and each.serial in failing]


@pytest.mark.fault("F-49e")
def test_who_timed_out_before_is_brought_back_with_the_others(world: World) -> None:
    world.add_devices(2)
    old, rollout = world.release(version="1.0.0"), world.rollouts.create(USER, world.release().id, AT_ONCE)
    world.minute()
    late, _ = [each.serial for each in world.targets(rollout)]
    world.jobs.begin(late)
    world.jobs.finish(late, "TIMED_OUT")
    world.minute()
    world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
    world.minute(5)
    world.rollouts.retry(USER, rollout.id)
    back = world.rollouts.roll_back(USER, rollout.id, old.id)
    assert late in [each.serial for each in world.targets(back)], "it may have the release"


@pytest.mark.fault("F-49e")
def test_where_nobody_has_failed_yet_nothing_changes(world: World) -> None:
    world.add_devices(4)
    rollout = world.rollouts.create(USER, world.release().id, AT_ONCE)
    assert world.rollouts.retry(USER, rollout.id) == rollout
    world.minute()
    world.work("2.0.0")
    assert world.rollouts.retry(USER, rollout.id).version == world.rollouts.get(USER, rollout.id).version
    world.minute()
    with pytest.raises(RolloutToNobody):
        world.rollouts.retry(USER, rollout.id)


def test_a_completed_one_is_open_again_on_the_conditions_of_a_new_one(world: World) -> None:
    rollout, _ = begun(world)
    devices = [each.device_id for each in world.targets(rollout)]
    failed = ids_of(world, rollout, TargetState.FAILED)
    other = world.release(version="3.0.0")
    second = world.rollouts.create(USER, other.id, replace(AT_ONCE, everybody=False, device_ids=(failed[0],)))
    with pytest.raises(DevicesInRollout):
        world.rollouts.retry(USER, rollout.id)
    world.rollouts.retry(USER, rollout.id, failed[1:])
    with pytest.raises(DevicesInRollout):
        world.rollouts.create(USER, other.id, replace(AT_ONCE, everybody=False, device_ids=tuple(devices[3:])))
    world.minute()
    world.work("2.0.0")
    world.minute()
    assert world.state(second) is RolloutState.COMPLETED
    more = world.add_devices(10)
    for each in more:
        world.rollouts.create(USER, other.id, replace(AT_ONCE, everybody=False, device_ids=(each,)))
    with pytest.raises(TooManyRollouts):
        world.rollouts.retry(USER, rollout.id)


def test_a_release_that_was_deleted_is_tried_by_nobody(world: World) -> None:
    rollout, _ = begun(world)
    world.releases.delete(USER, rollout.release_id)
    with pytest.raises(NotFound):
        world.rollouts.retry(USER, rollout.id)
    assert world.state(rollout) is RolloutState.COMPLETED


@pytest.mark.parametrize("waits", [0, 1])
def test_two_at_once_with_a_sweep_between_their_reads_and_writes(world: World, waits: int) -> None:
    """A sweep moves the rollout, or takes up what devices did, while a retry is under way."""
    world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, replace(AT_ONCE, waves=(30, 100)))
    failing = [each.serial for each in world.targets(rollout)][:2]
    world.minute()
    world.work("2.0.0", failing)
    world.minute(waits)
    store, met = world.rollouts._rollouts, list[str]()
    write = store.retry

    def late(*args: object, **given: object) -> None:
        if not met:
            met.append("a sweep")
            world.work("2.0.0", failing)
            world.minute(2)
        write(*args, **given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "retry", late)
        try:
            world.rollouts.retry(USER, rollout.id)
        except (RolloutToNobody, FirmwareChanged):
            assert waits == 0
    for _ in range(4):
        world.minute()
        world.work("2.0.0")
    if world.counts(rollout).get("failed"):
        world.rollouts.retry(USER, rollout.id)
    for _ in range(4):
        world.minute()
        world.work("2.0.0")
    assert world.counts(rollout) == {"succeeded": 10}
    assert world.state(rollout) is RolloutState.COMPLETED
