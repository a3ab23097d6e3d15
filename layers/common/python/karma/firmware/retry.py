"""Another try for devices of a rollout that have failed: which of them, and what the rollout is then.

| rollout | with its failed devices waiting again it |
|---|---|
| running | goes on, in a new round |
| paused | stays paused: they wait for its resume |
| aborted | goes on; the failures that aborted it are forgiven, as by a resume |
| completed | is unfinished again, on the conditions on which a rollout is begun; what failed before is forgiven |
| cancelled, or older than LIFE | cannot: who wants the release there begins another rollout |

A device has one try at a time: whoever waits, or has begun, is left as it is, so that a repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from karma.core.errors import InvalidTransition, ValidationFailed
from karma.core.ids import DeviceId
from karma.firmware.domain import (
    FAILURES,
    LEFT,
    Rollout,
    RolloutBatch,
    RolloutState,
    RolloutTarget,
    RolloutToNobody,
    TargetState,
)

_NAMED: Final = 5
"""Devices that an error names."""


class Retried(NamedTuple):
    """A rollout of which devices are tried once more."""

    rollout: Rollout
    batches: Sequence[RolloutBatch]
    """Those that have such devices."""

    @property
    def targets(self) -> list[RolloutTarget]:
        """Return the devices that are tried once more."""
        return [each for batch in self.batches for each in batch.targets if each.state is TargetState.WAITING]


def retried(
    rollout: Rollout, batches: Sequence[RolloutBatch], ids: Collection[DeviceId], *, at: datetime
) -> Retried | None:
    """Return a rollout whose failed devices, or those of `ids`, wait again.

    None: none of them has failed, and some have not ended; they wait, or are being tried, and stay as they are.

    Raises:
        InvalidTransition: it is cancelled, or its time is over.
        ValidationFailed: some of `ids` are not in it, or have not failed.
        RolloutToNobody: all devices have ended, and none has failed.
    """
    if rollout.state is RolloutState.CANCELLED:
        raise InvalidTransition(f"Rollout {rollout.id} is cancelled; begin another one")
    if at >= rollout.ends_at:
        raise InvalidTransition(f"The time of rollout {rollout.id} was over on {rollout.ends_at.date()}; begin another")
    targets = {each.device_id: each for batch in batches for each in batch.targets}
    _require_known(ids, targets)
    wanted = [targets[each] for each in ids] if ids else list(targets.values())
    if ids:
        _require_failed(each for each in wanted if each.state not in FAILURES | LEFT)
    chosen = {each.device_id for each in wanted if each.state in FAILURES}
    if not chosen:
        if any(each.state in LEFT for each in wanted):
            return None
        raise RolloutToNobody("No device of the rollout has failed")
    return Retried(_going_on(rollout, at), [_waiting(each, chosen) for each in batches if _has(each, chosen)])


def _going_on(rollout: Rollout, at: datetime) -> Rollout:
    is_forgiven = rollout.state in (RolloutState.ABORTED, RolloutState.COMPLETED)
    return replace(
        rollout,
        state=RolloutState.PAUSED if rollout.state is RolloutState.PAUSED else RolloutState.RUNNING,
        reason="",
        round=rollout.round + 1,
        judged_from=rollout.round + 1 if is_forgiven else rollout.judged_from,
        wave_began_at=at,
        changed_at=at,
        updated_at=at,
        version=rollout.version + 1,
    )


def _has(batch: RolloutBatch, chosen: Collection[DeviceId]) -> bool:
    return any(each.device_id in chosen for each in batch.targets)


def _waiting(batch: RolloutBatch, chosen: Collection[DeviceId]) -> RolloutBatch:
    targets = tuple(
        replace(each, state=TargetState.WAITING, failed_as=each.state) if each.device_id in chosen else each
        for each in batch.targets
    )
    return replace(batch, targets=targets)


def _require_known(ids: Collection[DeviceId], known: Collection[DeviceId]) -> None:
    if lacking := sorted(set(ids) - set(known)):
        names = ", ".join(lacking[:_NAMED])
        raise ValidationFailed.of("device_ids", f"must be devices of the rollout; not so {names}")


def _require_failed(others: Iterable[RolloutTarget]) -> None:
    if told := [f"{each.device_id} ({each.state.value})" for each in others]:
        raise ValidationFailed.of("device_ids", f"must be devices that have failed; not so {', '.join(told[:_NAMED])}")
