"""Rollouts to simulated devices: waves, the threshold, pause and resume, roll back; and each call that may fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from karma.core.errors import InvalidTransition, StaleVersion, Upstream, ValidationFailed
from karma.core.ids import DeviceId, new_id
from karma.firmware.domain import (
    DevicesInRollout,
    ReleaseInUse,
    RolledBackTooFar,
    Rollout,
    RolloutState,
    RolloutTarget,
    RolloutToNobody,
    TargetState,
    TooManyRollouts,
    batched,
)
from karma.firmware.rollouts import RolloutPlan
from tests.fakes.firmware import MemoryRollouts
from tests.support.firmware_world import PLAN, USER, World


@pytest.fixture
def world() -> World:
    return World()


def bad_ones(world: World, rollout: Rollout, first_wave: int, later: int) -> set[str]:
    batches = world.rollouts.batches(rollout)
    first = [each.serial for batch in batches if batch.wave == 1 for each in batch.targets]
    others = [each.serial for batch in batches if batch.wave > 1 for each in batch.targets]
    return {*first[:first_wave], *others[:later]}


def test_a_rollout_to_50_of_which_6_fail_aborts_keeps_the_rest_and_resumes(world: World) -> None:
    world.add_devices(50)
    rollout = world.rollouts.create(USER, world.release().id, PLAN)
    bad = bad_ones(world, rollout, 3, 3)
    world.minute()
    assert world.counts(rollout) == {"waiting": 40, "queued": 10}
    world.work("2.0.0", bad)
    world.minute()
    stored = world.rollouts.get(USER, rollout.id)
    assert (stored.state, stored.reason) == (RolloutState.ABORTED, "failure_rate")
    assert world.counts(rollout) == {"waiting": 40, "succeeded": 7, "failed": 3}
    world.minute(10)
    world.work("2.0.0", bad)
    assert world.updated == 7, "the rest keep the old version"
    assert not world.firmware.looks, "nobody looks after it any more"

    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    for _ in range(3):
        world.minute()
        world.work("2.0.0", bad)
    world.minute()
    assert world.state(rollout) is RolloutState.COMPLETED
    assert world.counts(rollout) == {"succeeded": 44, "failed": 6}
    assert world.updated == 44
    assert {each.note for each in world.targets(rollout) if each.state is TargetState.FAILED} == {"HASH: another"}


def test_a_wave_waits_for_the_one_before(world: World) -> None:
    world.add_devices(20)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(5, 50, 100)))
    seen = []
    for _ in range(4):
        world.minute()
        seen.append(world.counts(rollout))
        world.minute(5)
        assert world.counts(rollout) == seen[-1], "without a result no wave begins"
        world.work("2.0.0")
    assert seen[:3] == [
        {"waiting": 19, "queued": 1},
        {"waiting": 10, "queued": 9, "succeeded": 1},
        {"queued": 10, "succeeded": 10},
    ]
    assert world.state(rollout) is RolloutState.COMPLETED


def test_the_hours_of_a_wave_let_the_next_one_begin_beside_silent_devices(world: World) -> None:
    world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, PLAN)
    world.minute()
    [first, second] = [each.serial for each in world.targets(rollout) if each.state is TargetState.QUEUED]
    world.clock.pass_time(hours=30)
    world.minute()
    assert world.rollouts.get(USER, rollout.id).wave == 1, "nobody has ended: nobody knows whether it works"
    world.jobs.begin(first)
    world.jobs.finish(first, "SUCCEEDED")
    world.minute()
    assert world.counts(rollout) == {"queued": 9, "succeeded": 1}
    world.jobs.begin(second)
    world.minute()
    assert world.counts(rollout) == {"queued": 8, "in_progress": 1, "succeeded": 1}


def test_a_pause_takes_back_what_has_not_begun_and_a_resume_offers_it_again(world: World) -> None:
    world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,)))
    world.minute()
    begun = [each.serial for each in world.targets(rollout)][:3]
    for serial in begun:
        world.jobs.begin(serial)
    world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
    assert not any(world.jobs.begin(serial) for serial in world.versions), "at once, not with the next sweep"
    world.minute()
    assert world.counts(rollout) == {"waiting": 7, "in_progress": 3}
    world.jobs.finish(begun[0], "SUCCEEDED")
    world.minute(5)
    assert world.counts(rollout) == {"waiting": 7, "in_progress": 2, "succeeded": 1}, "they go on to their end"
    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    world.minute()
    assert world.counts(rollout) == {"queued": 7, "in_progress": 2, "succeeded": 1}
    for serial in begun[1:]:
        world.jobs.finish(serial, "TIMED_OUT")
    world.work("2.0.0")
    world.minute()
    assert world.counts(rollout) == {"succeeded": 8, "timed_out": 2}


def test_a_pause_does_not_forgive_and_a_resume_after_an_abort_does(world: World) -> None:
    world.add_devices(50)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,), abort_percent=10))
    world.minute()
    serials = [each.serial for each in world.targets(rollout)]
    for serial in serials[:4]:
        world.jobs.begin(serial)
        world.jobs.finish(serial, "FAILED")
    world.minute()
    world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
    world.minute()
    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    world.minute()
    assert world.state(rollout) is RolloutState.RUNNING
    world.jobs.begin(serials[5])
    world.jobs.finish(serials[5], "SUCCEEDED")
    world.minute()
    assert world.state(rollout) is RolloutState.ABORTED, "4 of 5, of which four are of before the pause"
    world.minute()
    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    world.minute()
    assert world.state(rollout) is RolloutState.RUNNING


def test_rejections_and_time_outs_count_as_failures(world: World) -> None:
    world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,), abort_percent=100))
    world.minute()
    for number, each in enumerate(world.targets(rollout)[:5]):
        world.jobs.begin(each.serial)
        world.jobs.finish(each.serial, ("FAILED", "REJECTED", "TIMED_OUT")[number % 3])
    world.minute()
    assert world.state(rollout) is RolloutState.ABORTED


def test_a_rollback_brings_the_earlier_release_to_those_that_may_have_the_later_one(world: World) -> None:
    world.add_devices(10)
    old = world.release(version="1.0.0")
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(50, 100), abort_percent=100))
    world.minute()
    bad = bad_ones(world, rollout, 1, 0)
    world.work("2.0.0", bad)
    world.minute()
    back = world.rollouts.roll_back(USER, rollout.id, old.id)
    assert world.state(rollout) is RolloutState.CANCELLED
    assert (back.rollback_of, back.size, back.waves) == (rollout.id, 4 + 5, (100,))
    for _ in range(3):
        world.minute()
        world.work("1.0.0")
    assert world.state(back) is RolloutState.COMPLETED
    assert set(world.versions.values()) == {"1.0.0"}


def test_a_rollback_that_devices_would_refuse_is_refused_first(world: World) -> None:
    world.add_devices(10)
    old = world.release(version="1.0.0", rollback_index=0)
    rollout = world.rollouts.create(USER, world.release().id, PLAN)
    with pytest.raises(RolledBackTooFar):
        world.rollouts.roll_back(USER, rollout.id, old.id)
    assert world.state(rollout) is RolloutState.RUNNING
    with pytest.raises(ValidationFailed):
        world.rollouts.roll_back(USER, rollout.id, rollout.release_id)
    with pytest.raises(RolloutToNobody):
        world.rollouts.roll_back(USER, rollout.id, world.release(version="1.5.0").id)


NOBODY: list[tuple[str, Callable[[World], RolloutPlan]]] = [
    ("no device at all", lambda _: PLAN),
    ("no device with the tag", lambda world: [world.add_devices(3), replace(PLAN, everybody=False, tag="x")][1]),  # type: ignore[list-item, return-value]
    ("devices of another model", lambda world: [world.add_devices(3, model="EOS-3B"), PLAN][1]),  # type: ignore[list-item, return-value]
    ("devices that have it", lambda world: [world.add_devices(3, version="2.0.0"), PLAN][1]),  # type: ignore[list-item, return-value]
]


@pytest.mark.parametrize(("_", "plan"), NOBODY, ids=[name for name, _ in NOBODY])
def test_a_rollout_to_nobody_is_refused(world: World, _: str, plan: Callable[[World], RolloutPlan]) -> None:
    release = world.release()
    with pytest.raises(RolloutToNobody) as refused:
        world.rollouts.create(USER, release.id, plan(world))
    assert refused.value.status == 422
    assert not world.firmware.stored


def test_a_device_is_in_one_unfinished_rollout(world: World) -> None:
    [first, *others] = world.add_devices(3)
    release = world.release()
    rollout = world.rollouts.create(USER, release.id, replace(PLAN, everybody=False, device_ids=(first,)))
    with pytest.raises(DevicesInRollout):
        world.rollouts.create(USER, release.id, PLAN)
    world.rollouts.create(USER, release.id, replace(PLAN, everybody=False, device_ids=tuple(others)))
    with pytest.raises(ReleaseInUse):
        world.releases.delete(USER, release.id)
    world.rollouts.move(USER, rollout.id, RolloutState.CANCELLED)
    with pytest.raises(InvalidTransition):
        world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    with pytest.raises(StaleVersion):
        world.rollouts.move(USER, rollout.id, RolloutState.CANCELLED, version=9)


def test_an_account_has_only_so_many_unfinished_rollouts(world: World) -> None:
    devices = world.add_devices(11)
    release = world.release()
    for each in devices[:10]:
        world.rollouts.create(USER, release.id, replace(PLAN, everybody=False, device_ids=(each,)))
    with pytest.raises(TooManyRollouts):
        world.rollouts.create(USER, release.id, replace(PLAN, everybody=False, device_ids=(devices[10],)))


def test_a_deleted_device_is_removed_and_holds_up_nobody(world: World) -> None:
    devices = world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(50, 100)))
    world.jobs.things = set(world.versions)
    deleted = {each.serial for each in world.targets(rollout)[::3]}
    world.minute()
    for each in devices:
        if world.fleet.devices[each].serial in deleted:
            del world.fleet.devices[each]
    world.jobs.things -= deleted
    for _ in range(4):
        world.work("2.0.0")
        world.minute()
    assert world.counts(rollout) == {"succeeded": 6, "removed": 4}
    assert world.state(rollout) is RolloutState.COMPLETED


def test_a_device_that_is_deleted_as_its_job_is_made_holds_up_nobody(world: World) -> None:
    world.add_devices(5)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,)))
    gone = world.targets(rollout)[0]
    world.jobs.things = set(world.versions) - {gone.serial}
    world.minute()
    del world.fleet.devices[gone.device_id]
    world.minute(3)
    world.work("2.0.0")
    world.minute(2)
    assert world.counts(rollout) == {"succeeded": 4, "removed": 1}


@pytest.mark.fault("F-43g")
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "unseen"])
def test_a_device_that_changes_hands_is_given_nothing_by_its_former_owner(world: World, is_seen: bool) -> None:
    """Its thing and its jobs stay; its traces are seen at once, or it is missed within the hour."""
    world.add_devices(5)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,)))
    world.minute()
    queued, begun, ended, *_ = world.targets(rollout)
    for each in (begun, ended):
        world.jobs.begin(each.serial)
    world.jobs.finish(ended.serial, "SUCCEEDED")
    world.jobs.fails = 1  # one that does not answer is asked again
    for each in (queued, begun, ended):
        del world.fleet.devices[each.device_id]
        if is_seen:
            world.fleet.lately.add(each.device_id)
    world.minute(2 if is_seen else 61)
    assert not world.jobs.begin(queued.serial)
    assert begun.serial not in [
        it for job in world.jobs.jobs.values() for it, is_ in job.items() if is_ == "IN_PROGRESS"
    ]
    assert world.counts(rollout) == {"queued": 2, "removed": 2, "succeeded": 1}
    world.work("2.0.0")
    world.minute()
    assert world.state(rollout) is RolloutState.COMPLETED


def test_what_somebody_else_cancels_has_failed(world: World) -> None:
    world.add_devices(5)
    rollout = world.rollouts.create(USER, world.release().id, replace(PLAN, waves=(100,), abort_percent=100))
    world.minute()
    [job] = world.jobs.jobs
    world.jobs.cancel(job)
    world.minute()
    assert world.counts(rollout) == {"failed": 5}
    assert world.state(rollout) is RolloutState.COMPLETED, "nobody is left who could be spared"


def test_one_that_does_not_end_is_cancelled_after_30_days(world: World) -> None:
    world.add_devices(5)
    rollout = world.rollouts.create(USER, world.release().id, PLAN)
    world.minute()
    world.clock.pass_time(days=30)
    world.minute()
    stored = world.rollouts.get(USER, rollout.id)
    assert (stored.state, stored.reason) == (RolloutState.CANCELLED, "expired")
    world.minute()
    assert world.counts(rollout) == {"waiting": 5}


@pytest.mark.parametrize("failing", range(12))
def test_calls_that_do_not_answer_change_nothing_in_the_end(world: World, failing: int) -> None:
    """The call number `failing`, and the one after it, are carried out or not, and do not answer."""
    world.add_devices(30)
    rollout = world.rollouts.create(
        USER, world.release().id, replace(PLAN, abort_percent=100, waves=(10, 20, 40, 60, 80, 100))
    )
    bad = bad_ones(world, rollout, 1, 3)
    paused = False
    for _ in range(40):
        if len(world.jobs.calls) >= failing and not paused:
            world.jobs.fails = 2
            world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
            world.minute(2)
            world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
            world.jobs.fails = 1
            paused = True
        world.minute()
        world.work("2.0.0", bad)
    assert paused
    assert world.state(rollout) is RolloutState.COMPLETED
    assert world.counts(rollout) == {"succeeded": 26, "failed": 4}
    assert world.updated == 26


def test_a_job_that_is_made_after_the_rollout_was_stopped_reaches_nobody_for_long(world: World) -> None:
    """A process dies, or sleeps, between its intent and the job; a person pauses; then the job is made after all."""
    world.add_devices(5)
    release = world.release()
    rollout = world.rollouts.create(USER, release.id, replace(PLAN, waves=(100,)))
    made: list[tuple[str, list[str]]] = []

    def sleep(job_id: str, *, serials: list[str], **_: object) -> bool:
        made.append((job_id, list(serials)))
        raise KeyboardInterrupt("the process sleeps")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.jobs, "start", sleep)
        with pytest.raises(KeyboardInterrupt):
            world.minute()
    assert world.counts(rollout) == {"queued": 5}, "the intent is stored"
    world.rollouts.move(USER, rollout.id, RolloutState.PAUSED)
    world.minute()
    assert world.counts(rollout) == {"queued": 5}, "it may still be made"
    [(job_id, serials)] = made
    world.jobs.start(job_id, serials=serials, release=release, timeout_minutes=60)
    world.minute()
    assert not any(world.jobs.begin(serial) for serial in world.versions)
    world.minute(5)
    assert world.counts(rollout) == {"waiting": 5}
    world.rollouts.move(USER, rollout.id, RolloutState.RUNNING)
    world.minute()
    world.work("2.0.0")
    assert world.updated == 5


def test_two_sweeps_at_once_do_what_one_does(world: World) -> None:
    world.add_devices(10)
    rollout = world.rollouts.create(USER, world.release().id, PLAN)
    world.clock.pass_time(minutes=1)
    due = MemoryRollouts(world.firmware).due(before=world.clock.now(), limit=9)
    for look in (*due, *due, *due):
        world.sweep.advance(USER, look)
    assert len(world.jobs.jobs) == 1
    assert world.counts(rollout) == {"waiting": 8, "queued": 2}


def test_batches_hold_a_hundred_and_waves_are_filled_by_percentages() -> None:
    targets = [RolloutTarget(device_id=DeviceId(new_id()), serial=f"S{n}", from_version=None) for n in range(450)]
    batches = batched("r", targets, (10, 60, 100))  # type: ignore[arg-type]
    assert [(each.number, each.wave, len(each.targets)) for each in batches] == [
        (1, 1, 45),
        (2, 2, 100),
        (3, 2, 100),
        (4, 2, 25),
        (5, 3, 100),
        (6, 3, 80),
    ]
    assert sorted(each.serial for batch in batches for each in batch.targets) == sorted(each.serial for each in targets)
    few = batched("r", targets[:2], (1, 2, 50, 100))  # type: ignore[arg-type]
    assert [(each.wave, len(each.targets)) for each in few] == [(1, 1), (2, 1)]


def test_a_sweep_leaves_what_fails_for_the_next_minute(world: World) -> None:
    world.add_devices(5)
    world.rollouts.create(USER, world.release().id, PLAN)
    world.jobs.fails = 1
    world.minute()
    world.jobs.fails = 1
    with pytest.raises(Upstream):
        world.jobs.cancel("x")
    world.minute()
    assert len(world.jobs.jobs) == 1
