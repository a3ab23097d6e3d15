"""Releases and rollouts of firmware: types, limits, transitions, and what needs no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NewType

from karma.core.errors import AlreadyExists, Conflict, InvalidTransition, StaleVersion, ValidationFailed
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record

ReleaseId = NewType("ReleaseId", str)
RolloutId = NewType("RolloutId", str)

MAX_RELEASES: Final = 200
"""Releases of one account."""
MAX_OPEN: Final = 10
"""Unfinished rollouts of one account."""
MAX_DEVICES: Final = 1_000
"""Devices of one rollout: its batches are written in one transaction."""
MAX_WAVES: Final = 10
A_BATCH: Final = 100
"""Devices of a batch: AWS IoT takes as many targets a job."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Bytes of a release: they are read once, in the request that publishes it."""
MAX_MANIFEST_CHARS: Final = 4_096
MAX_VERSION_CHARS: Final = 50
"""Characters of a version: as many as a device may say of its own."""
MAX_NOTE_CHARS: Final = 200
"""Characters that are kept of what a device says of its failure."""
DEFAULT_WAVES: Final = (5, 20, 50, 100)
LIFE: Final = timedelta(days=30)
"""Time after which a rollout that is not finished is cancelled."""
RETENTION: Final = timedelta(days=180)
"""Time after which a rollout is forgotten, from its creation."""


class ReleaseState(StrEnum):
    """State of a release."""

    DRAFT = "draft"
    PUBLISHED = "published"


class RolloutState(StrEnum):
    """State of a rollout."""

    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    """Too many devices have failed."""
    COMPLETED = "completed"
    CANCELLED = "cancelled"


_S = RolloutState
TRANSITIONS: Final[Mapping[RolloutState, frozenset[RolloutState]]] = {
    _S.RUNNING: frozenset({_S.PAUSED, _S.ABORTED, _S.COMPLETED, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.ABORTED: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.CANCELLED: frozenset(),
}


class TargetState(StrEnum):
    """State of one device in a rollout."""

    WAITING = "waiting"
    """Nothing was offered to it: its wave has not begun, or the offer was taken back."""
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    """It refused before it began: wrong signature or hash, full disk, low battery."""
    TIMED_OUT = "timed_out"
    REMOVED = "removed"
    """It was deleted, or is another account's."""


OPEN_TARGETS: Final = frozenset({TargetState.QUEUED, TargetState.IN_PROGRESS})
FAILURES: Final = frozenset({TargetState.FAILED, TargetState.REJECTED, TargetState.TIMED_OUT})
LEFT: Final = frozenset({TargetState.WAITING, *OPEN_TARGETS})
"""States of devices that have not ended."""


class TooManyReleases(AlreadyExists):
    """The account has as many releases as one may have."""

    code = "TOO_MANY_OBJECTS"

    def __init__(self) -> None:
        """Build the error."""
        super().__init__(f"An account has at most {MAX_RELEASES} firmware releases; delete one")


class TooManyRollouts(AlreadyExists):
    """The account has as many unfinished rollouts as one may have."""

    code = "TOO_MANY_OBJECTS"

    def __init__(self) -> None:
        """Build the error."""
        super().__init__(f"An account has at most {MAX_OPEN} unfinished rollouts; cancel one or let it end")


class VersionTaken(AlreadyExists):
    """Another release of the account has the version."""

    def __init__(self, version: str) -> None:
        """Build the error."""
        super().__init__(f"A release with version {version} exists; a version names the same bytes for ever")


class ReleaseInUse(Conflict):
    """An unfinished rollout brings the release to devices."""

    code = "RELEASE_IN_USE"


class FirmwareNotUploaded(Conflict):
    """The bytes of a release have not arrived."""

    code = "FIRMWARE_NOT_UPLOADED"


class FirmwareMismatch(Conflict):
    """The bytes that were uploaded are not those of the manifest."""

    code = "FIRMWARE_MISMATCH"


class RolloutToNobody(ValidationFailed):
    """No device is left to which a release could be brought."""

    code = "ROLLOUT_TO_NOBODY"


class DevicesInRollout(Conflict):
    """An unfinished rollout has some of the devices."""

    code = "DEVICES_IN_ROLLOUT"


class RolledBackTooFar(Conflict):
    """Devices would refuse the release: its rollback index is below that of the one they have."""

    code = "ROLLBACK_REFUSED_BY_DEVICES"


class FirmwareChanged(StaleVersion):
    """Another request changed the object between our reading of it and our write: read again."""


class Release(Record, kw_only=True):
    """Bytes that devices of some models may run."""

    id: ReleaseId
    user_id: UserId
    state: ReleaseState
    release_version: str
    """Version of the firmware, as devices report it."""
    models: tuple[str, ...]
    size: int
    """Bytes."""
    sha256: str
    """In hexadecimal."""
    rollback_index: int
    """Devices refuse a release whose index is below the highest that they have installed."""
    manifest: str
    """The very text that was signed."""
    signature: str
    """Ed25519, in base64."""
    public_key: str
    """In base64; devices go by the keys that they were made with, and never by this one."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None = None
    version: int

    @property
    def key_id(self) -> str:
        """Return the name of the key: the first 16 digits of its digest."""
        return hashlib.sha256(self.public_key.encode()).hexdigest()[:16]


class RolloutTarget(Record, kw_only=True):
    """One device of a rollout."""

    device_id: DeviceId
    serial: str
    from_version: str | None
    """Version that it reported when the rollout was made."""
    state: TargetState = TargetState.WAITING
    round: int = 0
    """Round in which it was offered the release last; 0: never."""
    note: str = ""
    """Its own words of its failure; those of the last one until a try after it has ended."""
    failed_as: TargetState | None = None
    """Its failure before it was to be tried once more; None: it has not failed, or fails now for the first time."""


class RolloutBatch(Record, kw_only=True):
    """Devices of one wave that have jobs together."""

    rollout_id: RolloutId
    number: int
    """From 1 on, over all waves."""
    wave: int
    """From 1 on."""
    targets: tuple[RolloutTarget, ...]
    version: int = 1

    def job_id(self, round_: int) -> str:
        """Return the id of its job in a round."""
        return f"{self.rollout_id}-{round_}-{self.number}"

    @property
    def open_rounds(self) -> tuple[int, ...]:
        """Return the rounds in which devices were offered the release that have not ended."""
        return tuple(sorted({each.round for each in self.targets if each.state in OPEN_TARGETS}))


class Rollout(Record, kw_only=True):
    """A release on its way to devices."""

    id: RolloutId
    user_id: UserId
    release_id: ReleaseId
    release_version: str
    rollback_of: RolloutId | None = None
    """Rollout whose devices it brings back."""
    state: RolloutState = RolloutState.RUNNING
    reason: str = ""
    """`failure_rate` or `expired`; "": a person's doing, or none."""
    waves: tuple[int, ...]
    """Percentages of the devices that have been offered the release from each wave on; the last is 100."""
    wave: int = 1
    wave_began_at: datetime
    wave_hours: int
    """Hours after which the next wave begins although not all devices of this one have ended."""
    abort_percent: int
    """Percentage of failures among the ended devices at which it is aborted; 100 and over: never."""
    abort_min_finished: int
    """Devices that must have ended before the percentage says anything."""
    timeout_minutes: int
    """Minutes from a device's begin to its end, after which it has timed out."""
    round: int = 1
    judged_from: int = 1
    """First round whose devices count for the percentage: what was forgiven by a resume does not."""
    size: int
    """Devices."""
    created_at: datetime
    updated_at: datetime
    changed_at: datetime
    """Moment of its state."""
    version: int

    @property
    def is_finished(self) -> bool:
        """Tell whether its state is final."""
        return not TRANSITIONS[self.state]

    @property
    def ends_at(self) -> datetime:
        """Return the moment at which it is cancelled if it has not ended."""
        return self.created_at + LIFE

    def moved(self, to: RolloutState, *, at: datetime, reason: str = "") -> Rollout:
        """Return it in another state; a resume begins a round, and forgives what aborted it.

        Raises:
            InvalidTransition: there is no way to that state.
        """
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"Rollout {self.id} is {self.state.value}; it cannot become {to.value}")
        new = replace(self, state=to, reason=reason, changed_at=at, updated_at=at, version=self.version + 1)
        if to is not RolloutState.RUNNING:
            return new
        forgiven = self.round + 1 if self.state is RolloutState.ABORTED else self.judged_from
        return replace(new, round=self.round + 1, judged_from=forgiven, wave_began_at=at)

    def next_wave(self, *, at: datetime) -> Rollout:
        """Return it with its next wave begun."""
        return replace(self, wave=self.wave + 1, wave_began_at=at, updated_at=at, version=self.version + 1)


class Tally(Record, kw_only=True):
    """Numbers of devices, by state."""

    by_state: Mapping[TargetState, int]

    @property
    def failed(self) -> int:
        """Return how many have failed, refused or timed out."""
        return sum(self.by_state.get(state, 0) for state in FAILURES)

    @property
    def finished(self) -> int:
        """Return how many have ended, well or not; deleted ones tell nothing."""
        return self.failed + self.by_state.get(TargetState.SUCCEEDED, 0)

    @property
    def left(self) -> int:
        """Return how many have not ended."""
        return sum(self.by_state.get(state, 0) for state in LEFT)


def tally(targets: Iterable[RolloutTarget]) -> Tally:
    """Count devices by state."""
    counts = dict.fromkeys(TargetState, 0)
    for each in targets:
        counts[each.state] += 1
    return Tally(by_state=counts)


def is_failing(rollout: Rollout, batches: Sequence[RolloutBatch]) -> bool:
    """Tell whether so many of the judged devices have failed that nobody else shall be offered the release."""
    judged = tally(each for batch in batches for each in batch.targets if each.round >= rollout.judged_from)
    enough = judged.finished >= min(rollout.abort_min_finished, rollout.size)
    return enough and judged.failed > 0 and 100 * judged.failed >= rollout.abort_percent * judged.finished


def is_wave_over(rollout: Rollout, batches: Sequence[RolloutBatch], *, now: datetime) -> bool:
    """Tell whether the next wave may begin: all have ended, or the wave's hours are over and some have."""
    of_it = tally(each for batch in batches if batch.wave <= rollout.wave for each in batch.targets)
    late = now >= rollout.wave_began_at + timedelta(hours=rollout.wave_hours)
    return of_it.left == 0 or (late and of_it.finished > 0)


def batched(rollout_id: RolloutId, targets: Sequence[RolloutTarget], waves: Sequence[int]) -> list[RolloutBatch]:
    """Divide devices into waves and batches, by a digest of rollout and device; a wave without devices is left out.

    The same devices are first in one rollout and last in another, and no order of theirs, such as by age, decides.
    """

    def place(target: RolloutTarget) -> bytes:
        return hashlib.sha256(f"{rollout_id}{target.device_id}".encode()).digest()

    ordered, batches, begin, wave = sorted(targets, key=place), list[RolloutBatch](), 0, 0
    for percent in waves:
        end = -(-len(ordered) * percent // 100)
        if end > begin:
            wave += 1
        for at in range(begin, end, A_BATCH):
            part = tuple(ordered[at : min(at + A_BATCH, end)])
            batches.append(RolloutBatch(rollout_id=rollout_id, number=len(batches) + 1, wave=wave, targets=part))
        begin = max(begin, end)
    return batches


class JobExecution(Record, kw_only=True):
    """State of one device and job as AWS IoT Jobs tells it."""

    status: str
    """QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, REJECTED, TIMED_OUT, REMOVED or CANCELED."""

    @property
    def is_open(self) -> bool:
        """Tell whether the device may still begin it, or go on with it."""
        return self.status in ("QUEUED", "IN_PROGRESS")


_SAID: Final[Mapping[str, TargetState]] = {
    "QUEUED": TargetState.QUEUED,
    "IN_PROGRESS": TargetState.IN_PROGRESS,
    "SUCCEEDED": TargetState.SUCCEEDED,
    "FAILED": TargetState.FAILED,
    "REJECTED": TargetState.REJECTED,
    "TIMED_OUT": TargetState.TIMED_OUT,
    "REMOVED": TargetState.REMOVED,
}


def followed(
    batch: RolloutBatch,
    round_: int,
    executions: Mapping[str, JobExecution] | None,
    *,
    taken_back: bool,
    settled: bool,
    gone: frozenset[str],
) -> RolloutBatch:
    """Return a batch after what the executions of a round's job say; what has ended stays as it ended.

    Args:
        batch: with devices that were offered the release in the round.
        round_: number of the round.
        executions: by serial number; None: there is no such job.
        taken_back: the job was cancelled by us, so that a cancelled device waits again. Otherwise somebody else has
            cancelled it, and it has failed.
        settled: nobody can still make the job, if there is none.
        gone: serial numbers of devices that are the account's no more.
    """

    def after(target: RolloutTarget) -> RolloutTarget:
        if target.round != round_ or target.state not in OPEN_TARGETS:
            return target
        said = executions.get(target.serial) if executions is not None else None
        if target.serial in gone and (said is None or said.is_open):
            return replace(target, state=TargetState.REMOVED)
        if said is None:
            return replace(target, state=TargetState.WAITING) if executions is None and settled else target
        if said.status != "CANCELED":
            state = _SAID.get(said.status, target.state)
            return replace(target, state=state, note=target.note if state in OPEN_TARGETS else "")
        if taken_back:
            return replace(target, state=TargetState.WAITING)
        return replace(target, state=TargetState.FAILED, note="CANCELED: somebody else cancelled it")

    return replace(batch, targets=tuple(after(each) for each in batch.targets))


def as_it_ended(rollout: Rollout, batches: Iterable[RolloutBatch]) -> list[RolloutBatch]:
    """Return batches as a rollout leaves them: once it is cancelled, nobody waits to be tried again.

    A device that had failed, and that was not tried again before the end, has failed.
    """
    if rollout.state is not RolloutState.CANCELLED:
        return list(batches)

    def ended(target: RolloutTarget) -> RolloutTarget:
        if target.state is not TargetState.WAITING or target.failed_as is None:
            return target
        return replace(target, state=target.failed_as)

    return [replace(batch, targets=tuple(ended(each) for each in batch.targets)) for batch in batches]


def offered(batch: RolloutBatch, round_: int) -> RolloutBatch:
    """Return a batch whose waiting devices are offered the release in a round."""
    targets = tuple(
        replace(each, state=TargetState.QUEUED, round=round_) if each.state is TargetState.WAITING else each
        for each in batch.targets
    )
    return replace(batch, targets=targets)
