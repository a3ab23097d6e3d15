"""Use cases of rollouts: begin, list, read, pause, resume, cancel, retry, roll back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, StaleVersion, Upstream, ValidationFailed
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.firmware.domain import (
    MAX_DEVICES,
    MAX_OPEN,
    DevicesInRollout,
    Release,
    ReleaseState,
    RolledBackTooFar,
    Rollout,
    RolloutBatch,
    RolloutId,
    RolloutState,
    RolloutTarget,
    RolloutToNobody,
    TargetState,
    TooManyRollouts,
    as_it_ended,
    batched,
)
from karma.firmware.ports import Fleet, RolloutJobs, Rollouts
from karma.firmware.retry import retried
from karma.firmware.service import MET

_TOLD: Final = 5
"""Devices that an error names."""
BROUGHT_BACK: Final = frozenset(
    {TargetState.QUEUED, TargetState.IN_PROGRESS, TargetState.SUCCEEDED, TargetState.TIMED_OUT}
)
"""States of devices that have the release, or may have it: one that is queued may have begun just now."""


class RolloutCandidate(Record, kw_only=True):
    """A device to which a release may be brought."""

    device_id: DeviceId
    serial: str
    model: str
    firmware_version: str | None


class RolloutCandidates(Protocol):
    """Devices of an account; implemented by karma.firmware.fleet.DeviceFleet."""

    def named(self, user_id: UserId, ids: Sequence[DeviceId]) -> list[RolloutCandidate]:
        """Return those of the devices that exist."""
        ...

    def tagged(self, user_id: UserId, tag: str | None, *, at_most: int) -> list[RolloutCandidate]:
        """Return devices with a tag, or all, up to `at_most`."""
        ...


class RolloutPlan(Record, kw_only=True):
    """Order to bring a release to devices: `device_ids`, those with `tag`, or, without either, all."""

    device_ids: tuple[DeviceId, ...] = ()
    tag: str | None = None
    everybody: bool = False
    waves: tuple[int, ...]
    wave_hours: int
    abort_percent: int
    abort_min_finished: int
    timeout_minutes: int


class RolloutPage(Record, kw_only=True):
    """A page of rollouts, newest first."""

    rollouts: tuple[Rollout, ...]
    next_below: RolloutId | None
    """Ids of the next page are below this one; None at the end."""


class RolloutService:
    """Use cases of rollouts. Each raises NotFound for a rollout of another account."""

    def __init__(
        self,
        rollouts: Rollouts,
        jobs: RolloutJobs,
        clock: Clock,
        *,
        candidates: RolloutCandidates,
        release: Callable[[UserId, str], Release],
    ) -> None:
        """Make the service; `release` raises NotFound for a release that the account does not have."""
        self._rollouts = rollouts
        self._jobs = jobs
        self._clock = clock
        self._candidates = candidates
        self._release = release

    def get(self, user_id: UserId, rollout_id: str) -> Rollout:
        """Read one rollout.

        Raises:
            NotFound: absent or forgotten.
        """
        rollout = self._rollouts.get(user_id, RolloutId(rollout_id)) if is_id(rollout_id) else None
        if rollout is None:
            raise NotFound(f"Rollout {rollout_id} not found")
        return rollout

    def batches(self, rollout: Rollout) -> list[RolloutBatch]:
        """Read what became of the devices of a rollout."""
        return as_it_ended(rollout, self._rollouts.batches(rollout.id))

    def page(self, user_id: UserId, *, below: str, limit: int) -> RolloutPage:
        """Return a page by age, from below an id on; "" is the newest."""
        found = self._rollouts.page(user_id, below=below, limit=limit + 1)
        shown = found[:limit]
        return RolloutPage(rollouts=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def create(
        self, user_id: UserId, release_id: str, plan: RolloutPlan, *, idempotency_key: IdempotencyKey | None = None
    ) -> Rollout:
        """Begin to bring a published release to devices; those that report its version already are left out.

        The first devices are offered it within a minute or two. A repeat with the same key returns the one that the
        first made.

        Raises:
            NotFound: the release does not exist, or is another account's.
            ValidationFailed: the release is a draft, or a device is none of the account's.
            RolloutToNobody: no device is left.
            DevicesInRollout: an unfinished rollout has some of the devices.
            TooManyRollouts: the account has as many unfinished ones as one may have.
            Gone, IdempotencyKeyReused, AccountGone: as ReleaseService.create.
        """
        request = repeatable(idempotency_key, release_id, plan, at=self._clock.now())
        if request is not None and (made := self._rollouts.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)

        def once() -> Rollout:
            fleet = self._rollouts.fleet(user_id)
            release = self._published(user_id, release_id)
            targets = self._targets(user_id, release, plan)
            return self._store(user_id, release, targets, plan, fleet=fleet, rollback_of=None, request=request)

        return repeat(once, on=MET)

    def roll_back(
        self, user_id: UserId, rollout_id: str, release_id: str, *, idempotency_key: IdempotencyKey | None = None
    ) -> Rollout:
        """Cancel a rollout, and bring an earlier release to the devices that have its own, or may have it, at once.

        Raises:
            NotFound: as `get`, or as `create`.
            ValidationFailed: the release is a draft, or the rollout's own.
            RolledBackTooFar: devices would refuse it, by its rollback index.
            RolloutToNobody: no device had begun.
            DevicesInRollout, TooManyRollouts, Gone, IdempotencyKeyReused: as `create`.
        """
        source = self.get(user_id, rollout_id)
        request = repeatable(idempotency_key, rollout_id, release_id, at=self._clock.now())
        if request is not None and (made := self._rollouts.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)
        release = self._published(user_id, release_id)
        if release.id == source.release_id:
            raise ValidationFailed.of("release_id", "must be another release than the rollout's own")
        self._require_not_below(source, release)
        if not source.is_finished:
            self.move(user_id, rollout_id, RolloutState.CANCELLED)
        plan = RolloutPlan(
            waves=(100,),
            wave_hours=source.wave_hours,
            abort_percent=100,
            abort_min_finished=source.abort_min_finished,
            timeout_minutes=source.timeout_minutes,
        )

        def once() -> Rollout:
            fleet = self._rollouts.fleet(user_id)
            brought = [
                RolloutTarget(device_id=each.device_id, serial=each.serial, from_version=source.release_version)
                for batch in as_it_ended(self.get(user_id, source.id), self._rollouts.batches(source.id))
                for each in batch.targets
                if each.state in BROUGHT_BACK
            ]
            existing = self._candidates.named(user_id, [each.device_id for each in brought])
            ids = {each.device_id for each in existing}
            targets = [each for each in brought if each.device_id in ids]
            if not targets:
                raise _nobody("rollout_id", "no device of the rollout has begun to install its release")
            return self._store(user_id, release, targets, plan, fleet=fleet, rollback_of=source.id, request=request)

        return repeat(once, on=MET)

    def retry(
        self, user_id: UserId, rollout_id: str, device_ids: Sequence[DeviceId] = (), *, version: int | None = None
    ) -> Rollout:
        """Try devices of a rollout that have failed once more: those of `device_ids`, or without any, all of them.

        Raises:
            NotFound: as `get`; or the rollout is completed, and its release was deleted.
            StaleVersion: `version` is not the stored one.
            InvalidTransition, ValidationFailed, RolloutToNobody: as karma.firmware.retry.retried.
            DevicesInRollout, TooManyRollouts: the rollout is completed; as `create`.
        """

        def once() -> Rollout:
            fleet = self._rollouts.fleet(user_id)
            old = self._of_version(user_id, rollout_id, version)
            again = retried(old, self._rollouts.batches(old.id), device_ids, at=self._clock.now())
            if again is None:
                return old
            if old.is_finished:
                self._published(user_id, old.release_id)
                if len(fleet.open) >= MAX_OPEN:
                    raise TooManyRollouts
                self._require_free(again.targets, fleet)
            self._rollouts.retry(old, again.rollout, again.batches, fleet=fleet)
            count("RolloutRetried")
            logger.info("rollout.retried", rollout_id=old.id, devices=len(again.targets))
            return again.rollout

        return repeat(once, on=MET)

    def move(self, user_id: UserId, rollout_id: str, to: RolloutState, *, version: int | None = None) -> Rollout:
        """Pause, resume or cancel a rollout; what is in that state already stays as it is.

        What was offered and not begun is taken back now, or by the next sweep where AWS does not answer.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            InvalidTransition: there is no way to that state.
        """

        def once() -> Rollout:
            old = self._of_version(user_id, rollout_id, version)
            if old.state is to:
                return old
            new = old.moved(to, at=self._clock.now())
            self._rollouts.replace(old, new)
            count("RolloutMoved", state=to.value)
            logger.info("rollout.moved", rollout_id=old.id, state=to.value)
            return new

        moved = repeat(once, on=MET)
        if moved.state is not RolloutState.RUNNING:
            self._take_back(moved)
        return moved

    def _of_version(self, user_id: UserId, rollout_id: str, version: int | None) -> Rollout:
        rollout = self.get(user_id, rollout_id)
        if version is not None and rollout.version != version:
            raise StaleVersion(f"Rollout {rollout.id} has version {rollout.version}")
        return rollout

    def _take_back(self, rollout: Rollout) -> None:
        try:
            for batch in self._rollouts.batches(rollout.id):
                for round_ in batch.open_rounds:
                    self._jobs.cancel(batch.job_id(round_))
        except Upstream as exc:  # its state is stored, and the sweep goes by it
            logger.warning("rollout.left_for_sweep", rollout_id=rollout.id, cause=type(exc).__name__)

    def _published(self, user_id: UserId, release_id: str) -> Release:
        release = self._release(user_id, release_id)
        if release.state is not ReleaseState.PUBLISHED:
            raise ValidationFailed.of("release_id", "must be the id of a published release: publish it first")
        return release

    def _require_not_below(self, source: Rollout, release: Release) -> None:
        try:
            newer = self._release(source.user_id, source.release_id)
        except NotFound:
            return
        if release.rollback_index < newer.rollback_index:
            raise RolledBackTooFar(
                f"Devices with {newer.release_version} refuse releases with a rollback index below"
                f" {newer.rollback_index}; that of {release.release_version} is {release.rollback_index}"
            )

    def _targets(self, user_id: UserId, release: Release, plan: RolloutPlan) -> list[RolloutTarget]:
        if plan.device_ids:
            found = self._candidates.named(user_id, plan.device_ids)
            _require_all(plan.device_ids, found)
            field = "device_ids"
        else:
            found = self._candidates.tagged(user_id, plan.tag, at_most=MAX_DEVICES + 1)
            field = "tag" if plan.tag is not None else "all"
        if len(found) > MAX_DEVICES:
            raise ValidationFailed.of(field, f"must mean at most {MAX_DEVICES} devices; divide them")
        fitting = [each for each in found if each.model in release.models]
        if not fitting:
            models = ", ".join(release.models)
            raise _nobody(field, f"must mean at least one device of the release's models: {models}")
        targets = [
            RolloutTarget(device_id=each.device_id, serial=each.serial, from_version=each.firmware_version)
            for each in fitting
            if each.firmware_version != release.release_version
        ]
        if not targets:
            raise _nobody(field, f"must mean a device that does not have {release.release_version} already")
        return targets

    def _store(
        self,
        user_id: UserId,
        release: Release,
        targets: Sequence[RolloutTarget],
        plan: RolloutPlan,
        *,
        fleet: Fleet,
        rollback_of: RolloutId | None,
        request: RepeatableRequest | None,
    ) -> Rollout:
        if len(fleet.open) >= MAX_OPEN:
            raise TooManyRollouts
        self._require_free(targets, fleet)
        now = self._clock.now()
        rollout_id = RolloutId(new_id())
        batches = batched(rollout_id, targets, plan.waves)
        rollout = Rollout(
            id=rollout_id,
            user_id=user_id,
            release_id=release.id,
            release_version=release.release_version,
            rollback_of=rollback_of,
            waves=plan.waves,
            wave_began_at=now,
            wave_hours=plan.wave_hours,
            abort_percent=plan.abort_percent,
            abort_min_finished=plan.abort_min_finished,
            timeout_minutes=plan.timeout_minutes,
            size=len(targets),
            created_at=now,
            updated_at=now,
            changed_at=now,
            version=1,
        )
        try:
            self._rollouts.create(rollout, batches, fleet=fleet, request=request)
        except AlreadyExists:  # by the same request, sent twice at once
            return self._earlier(user_id, self._rollouts.made_by(user_id, request) if request else None)
        count("RolloutCreated")
        logger.info("rollout.created", rollout_id=rollout.id, devices=rollout.size)
        return rollout

    def _require_free(self, targets: Sequence[RolloutTarget], fleet: Fleet) -> None:
        wanted = {each.device_id for each in targets}
        for rollout_id in sorted(fleet.open):
            batches = self._rollouts.batches(rollout_id)
            taken = _sorted(each.device_id for batch in batches for each in batch.targets if each.device_id in wanted)
            if taken:
                raise DevicesInRollout(
                    f"{len(taken)} of the devices are in rollout {rollout_id}, which has not ended",
                    details={"rollout_id": rollout_id, "device_ids": taken[:_TOLD]},
                )

    def _earlier(self, user_id: UserId, made: RolloutId | None) -> Rollout:
        stored = self._rollouts.get(user_id, made) if made else None
        if stored is None:
            raise no_longer(made)
        return stored


def _require_all(wanted: Sequence[DeviceId], found: Sequence[RolloutCandidate]) -> None:
    lacking = _sorted(set(wanted) - {each.device_id for each in found})
    if lacking:
        raise ValidationFailed.of("device_ids", f"must be devices of yours; not so {', '.join(lacking[:_TOLD])}")


def _nobody(field: str, why: str) -> RolloutToNobody:
    return RolloutToNobody(
        "The rollout would reach no device", details=[{"field": field, "message": why, "type": "value_error"}]
    )


def _sorted(ids: Iterable[DeviceId]) -> list[DeviceId]:
    return sorted(ids)
