"""Brings a rollout a step on: reads what devices did, decides, and offers the release to the next of them.

Called each minute for each rollout that is looked after. A step may be made twice, by two processes at once, and may
die between any two calls: devices are written as offered before their job is made, under the version of their batch; a
job's id derives from rollout, round and batch, so it is made once; a rollout moves under its version. What AWS has not
told yet, it tells the next minute. No event of a job is needed, and none can be lost.

The number of jobs a round and batch is one: while devices of a batch still hold an offer of an earlier round that has
not begun, which is being taken back, the batch has no new job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from karma.core.clock import Clock
from karma.core.ids import DeviceId, UserId
from karma.core.observability import count, logger
from karma.core.sweeping import sweep_each
from karma.firmware.domain import (
    FAILURES,
    LEFT,
    MAX_NOTE_CHARS,
    FirmwareChanged,
    Rollout,
    RolloutBatch,
    RolloutState,
    RolloutTarget,
    TargetState,
    followed,
    is_failing,
    is_wave_over,
    offered,
    tally,
)

if TYPE_CHECKING:
    from karma.firmware.domain import JobExecution
    from karma.firmware.ports import Releases, RolloutJobs, RolloutLook, RolloutLooks, Rollouts

EVERY: Final = timedelta(seconds=55)
"""Time between two looks, below the minute between two sweeps."""
SETTLES: Final = timedelta(minutes=3)
"""Time after a stop in which a process that began before it may still make a job: the time of a sweep, and more."""
LOOKS_A_SWEEP: Final = 50
ALL_EVERY: Final = timedelta(hours=1)
"""Time between two looks for every device that is gone; those that have just gone are looked for each time."""
NOTES_A_STEP: Final = 25
"""Devices of which a step asks what they said of their failure; of those beyond, nothing is kept."""


class ActiveDevices(Protocol):
    """The devices of an account; implemented by karma.firmware.fleet.DeviceFleet."""

    def active(self, user_id: UserId, ids: Sequence[DeviceId]) -> frozenset[DeviceId]:
        """Return those of the devices that exist."""
        ...

    def gone(self, user_id: UserId) -> frozenset[DeviceId]:
        """Return devices that were deleted, or changed hands, a few minutes ago: the first hundred of them."""
        ...


class RolloutSweep:
    """Looks after rollouts."""

    def __init__(
        self,
        *,
        rollouts: Rollouts,
        looks: RolloutLooks,
        releases: Releases,
        jobs: RolloutJobs,
        devices: ActiveDevices,
        clock: Clock,
    ) -> None:
        self._rollouts = rollouts
        self._looks = looks
        self._releases = releases
        self._jobs = jobs
        self._devices = devices
        self._clock = clock

    def run(self) -> int:
        """Look after what is due, a bounded number of rollouts; return how many. One that fails is left for later."""
        now = self._clock.now()

        def go_on(due: RolloutLook) -> int:
            look = self._looks.take(due, again_at=now + EVERY)
            if look is None:
                return 0
            with suppress(FirmwareChanged):  # a person, or another process; the next look reads what is stored then
                if self.advance(look.user_id, look):
                    self._looks.end(look)
            return 1

        due = self._looks.due(before=now, limit=LOOKS_A_SWEEP)
        return sweep_each("rollouts", due, go_on, name=lambda look: look.rollout_id, clock=self._clock)

    def advance(self, user_id: UserId, look: RolloutLook) -> bool:
        """Bring a rollout a step on; True: nothing is left to be looked after.

        Raises:
            FirmwareChanged: somebody else has changed it meanwhile.
            Upstream: the database or the device service did not answer.
        """
        rollout = self._rollouts.get(user_id, look.rollout_id)
        if rollout is None:
            return True
        now = self._clock.now()
        if not rollout.is_finished and now >= rollout.ends_at:
            rollout = self._move(rollout, RolloutState.CANCELLED, reason="expired")
        batches = self._rollouts.batches(rollout.id)
        lately = self._devices.gone(user_id) if any(batch.open_rounds for batch in batches) else frozenset()
        batches = [self._follow(rollout, batch, lately) for batch in batches]
        if rollout.state is RolloutState.RUNNING:
            rollout, batches = self._go_on(rollout, batches, lately)
        if rollout.state is RolloutState.RUNNING:
            return False
        is_quiet = not any(batch.open_rounds for batch in batches)
        return is_quiet and now >= rollout.changed_at + SETTLES

    # Reading what devices did

    def _follow(self, rollout: Rollout, batch: RolloutBatch, lately: frozenset[DeviceId]) -> RolloutBatch:
        """Take up what the jobs of a batch say, after those that nobody shall begin any more were cancelled."""
        after = batch
        for round_ in batch.open_rounds:
            job_id = batch.job_id(round_)
            is_taken_back = rollout.state is not RolloutState.RUNNING or round_ != rollout.round
            if is_taken_back and any(_is_queued(each, round_) for each in batch.targets):
                self._jobs.cancel(job_id)
            executions = self._jobs.executions(job_id)
            if executions is None and not is_taken_back:
                self._offer(rollout, after)
                continue
            after = followed(
                after,
                round_,
                executions,
                taken_back=is_taken_back,
                settled=is_taken_back and self._clock.now() >= rollout.changed_at + SETTLES,
                gone=self._gone(rollout, after, round_, executions or {}, lately),
            )
        after = self._noted(batch, after)
        return after if after == batch else self._rollouts.save(after)

    def _gone(
        self,
        rollout: Rollout,
        batch: RolloutBatch,
        round_: int,
        known: Mapping[str, JobExecution],
        lately: frozenset[DeviceId],
    ) -> frozenset[str]:
        """Return serial numbers of devices that are gone, and take back what they are still offered.

        A deleted one is missing in its job. One that changed hands is not: its thing is somebody else's now, who must
        not be given firmware by its former owner.
        """
        open_ = [each for each in batch.targets if each.round == round_ and each.state in LEFT]
        asked = [each for each in open_ if each.serial not in known or self._is_time_for_all(rollout)]
        gone = self._deleted(rollout.user_id, asked) | {each.serial for each in open_ if each.device_id in lately}
        for serial in sorted(gone & known.keys()):
            if known[serial].is_open:
                self._jobs.withdraw(batch.job_id(round_), serial)
        return gone

    def _is_time_for_all(self, rollout: Rollout) -> bool:
        since = self._clock.now() - rollout.created_at
        return since % ALL_EVERY < timedelta(minutes=1)

    def _deleted(self, user_id: UserId, targets: Sequence[RolloutTarget]) -> frozenset[str]:
        if not targets:
            return frozenset()
        active = self._devices.active(user_id, [each.device_id for each in targets])
        return frozenset(each.serial for each in targets if each.device_id not in active)

    def _noted(self, before: RolloutBatch, after: RolloutBatch) -> RolloutBatch:
        """Add what devices said of their failure, which the list of executions does not have."""
        asked, targets = 0, list[RolloutTarget]()
        for old, new in zip(before.targets, after.targets, strict=True):
            told = new
            if new.state in FAILURES and old.state is not new.state and not new.note and asked < NOTES_A_STEP:
                asked += 1
                told = replace(new, note=self._jobs.note(after.job_id(new.round), new.serial)[:MAX_NOTE_CHARS])
            targets.append(told)
        return replace(after, targets=tuple(targets))

    # Deciding, and offering

    def _go_on(
        self, rollout: Rollout, batches: list[RolloutBatch], lately: frozenset[DeviceId]
    ) -> tuple[Rollout, list[RolloutBatch]]:
        if not tally(each for batch in batches for each in batch.targets).left:
            return self._move(rollout, RolloutState.COMPLETED), batches
        if is_failing(rollout, batches):
            rollout = self._move(rollout, RolloutState.ABORTED, reason="failure_rate")
            return rollout, [self._follow(rollout, batch, lately) for batch in batches]
        last = max(batch.wave for batch in batches)
        if rollout.wave < last and is_wave_over(rollout, batches, now=self._clock.now()):
            new = rollout.next_wave(at=self._clock.now())
            self._rollouts.replace(rollout, new)
            rollout = new
        return rollout, [self._begin(rollout, batch) if batch.wave <= rollout.wave else batch for batch in batches]

    def _begin(self, rollout: Rollout, batch: RolloutBatch) -> RolloutBatch:
        """Offer the release to the devices of a batch that wait."""
        waiting = [each for each in batch.targets if each.state is TargetState.WAITING]
        held_back = any(each.round < rollout.round and each.state is TargetState.QUEUED for each in batch.targets)
        if not waiting or held_back:
            return batch
        gone = self._deleted(rollout.user_id, waiting)
        targets = tuple(
            replace(each, state=TargetState.REMOVED) if each.serial in gone and each in waiting else each
            for each in batch.targets
        )
        # First the intent: whoever stops the rollout from now on cancels this job, be it made or not.
        batch = self._rollouts.save(offered(replace(batch, targets=targets), rollout.round))
        self._offer(rollout, batch)
        return batch

    def _offer(self, rollout: Rollout, batch: RolloutBatch) -> None:
        release = self._releases.get(rollout.user_id, rollout.release_id)
        serials = [each.serial for each in batch.targets if _is_queued(each, rollout.round)]
        if release is None or not serials:
            return
        job_id = batch.job_id(rollout.round)
        if not self._jobs.start(job_id, serials=serials, release=release, timeout_minutes=rollout.timeout_minutes):
            # One was deleted just now; without it the next look makes the job.
            self._rollouts.save(self._without_deleted(rollout, batch))

    def _without_deleted(self, rollout: Rollout, batch: RolloutBatch) -> RolloutBatch:
        gone = self._deleted(rollout.user_id, [each for each in batch.targets if _is_queued(each, rollout.round)])
        return replace(
            batch,
            targets=tuple(
                replace(each, state=TargetState.REMOVED) if each.serial in gone else each for each in batch.targets
            ),
        )

    def _move(self, rollout: Rollout, to: RolloutState, *, reason: str = "") -> Rollout:
        new = rollout.moved(to, at=self._clock.now(), reason=reason)
        self._rollouts.replace(rollout, new)
        count("RolloutMoved", state=to.value)
        logger.info("rollout.moved", rollout_id=rollout.id, state=to.value, reason=reason)
        return new


def _is_queued(target: RolloutTarget, round_: int) -> bool:
    return target.round == round_ and target.state is TargetState.QUEUED
