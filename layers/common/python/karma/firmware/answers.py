"""Answers of the routes of firmware: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.firmware.domain import FAILURES, Release, Rollout, RolloutBatch, RolloutTarget, tally

if TYPE_CHECKING:
    from karma.firmware.ports import SignedUpload


class ReleaseView(TypedDict):
    """A release."""

    id: str
    state: str
    """`draft`, or `published`: for good."""
    firmware_version: str
    models: list[str]
    size: int
    sha256: str
    rollback_index: int
    manifest: str
    """The very text that was signed."""
    signature: str
    public_key: str
    key_id: str
    """First 16 digits of the SHA-256 of `public_key`."""
    created_at: ShownMoment
    updated_at: ShownMoment
    published_at: ShownMoment | None
    version: int


class SignedUploadView(TypedDict):
    """A request that sends the bytes of a release, for 15 minutes."""

    method: str
    url: str
    headers: dict[str, str]
    """Headers that must be sent as they are."""


class RolloutView(TypedDict):
    """A release on its way to devices."""

    id: str
    release_id: str
    firmware_version: str
    rollback_of: str | None
    state: str
    """`running`, `paused`, `aborted`, `completed` or `cancelled`."""
    reason: str | None
    """`failure_rate`: too many have failed; `expired`: it had not ended in 30 days; null: a person's doing."""
    waves: list[int]
    wave: int
    """Number of the wave that is under way, from 1 on."""
    wave_hours: int
    abort_percent: int
    abort_min_finished: int
    timeout_minutes: int
    devices: int
    """Number of devices."""
    created_at: ShownMoment
    updated_at: ShownMoment
    changed_at: ShownMoment
    """Moment of its state."""
    ends_at: ShownMoment
    """Moment at which it is cancelled if it has not ended."""
    version: int


class ProgressView(TypedDict):
    """Numbers of devices of a rollout, by their state."""

    waiting: int
    queued: int
    in_progress: int
    succeeded: int
    failed: int
    rejected: int
    timed_out: int
    removed: int


class TargetView(TypedDict):
    """One device of a rollout."""

    device_id: str
    serial_number: str
    wave: int
    state: str
    """As the members of `progress`."""
    from_version: str | None
    """Version that it reported when the rollout was made."""
    note: str | None
    """Its own words of its failure."""


def release_view(release: Release) -> ReleaseView:
    """Shape a release."""
    return {
        "id": release.id,
        "state": release.state.value,
        "firmware_version": release.release_version,
        "models": list(release.models),
        "size": release.size,
        "sha256": release.sha256,
        "rollback_index": release.rollback_index,
        "manifest": release.manifest,
        "signature": release.signature,
        "public_key": release.public_key,
        "key_id": release.key_id,
        "created_at": iso(release.created_at),
        "updated_at": iso(release.updated_at),
        "published_at": iso(release.published_at) if release.published_at else None,
        "version": release.version,
    }


def upload_view(upload: SignedUpload) -> SignedUploadView:
    """Shape a signed upload."""
    return {"method": "PUT", "url": upload.url, "headers": dict(upload.headers)}


def rollout_view(rollout: Rollout) -> RolloutView:
    """Shape a rollout."""
    return {
        "id": rollout.id,
        "release_id": rollout.release_id,
        "firmware_version": rollout.release_version,
        "rollback_of": rollout.rollback_of,
        "state": rollout.state.value,
        "reason": rollout.reason or None,
        "waves": list(rollout.waves),
        "wave": rollout.wave,
        "wave_hours": rollout.wave_hours,
        "abort_percent": rollout.abort_percent,
        "abort_min_finished": rollout.abort_min_finished,
        "timeout_minutes": rollout.timeout_minutes,
        "devices": rollout.size,
        "created_at": iso(rollout.created_at),
        "updated_at": iso(rollout.updated_at),
        "changed_at": iso(rollout.changed_at),
        "ends_at": iso(rollout.ends_at),
        "version": rollout.version,
    }


def progress_view(batches: Sequence[RolloutBatch]) -> ProgressView:
    """Shape the numbers of a rollout's devices."""
    counts = {state.value: number for state, number in tally(_all(batches)).by_state.items()}
    return {
        "waiting": counts["waiting"],
        "queued": counts["queued"],
        "in_progress": counts["in_progress"],
        "succeeded": counts["succeeded"],
        "failed": counts["failed"],
        "rejected": counts["rejected"],
        "timed_out": counts["timed_out"],
        "removed": counts["removed"],
    }


def target_view(batch: RolloutBatch, target: RolloutTarget) -> TargetView:
    """Shape one device of a rollout."""
    return {
        "device_id": target.device_id,
        "serial_number": target.serial,
        "wave": batch.wave,
        "state": target.state.value,
        "from_version": target.from_version,
        "note": (target.note or None) if target.state in FAILURES else None,
    }


def _all(batches: Sequence[RolloutBatch]) -> list[RolloutTarget]:
    return [each for batch in batches for each in batch.targets]


class ReleaseData(TypedDict):
    """One release."""

    release: ReleaseView


class UploadData(TypedDict):
    """The request that sends the bytes of a release."""

    upload: SignedUploadView


class ReleaseListData(TypedDict):
    """A page of releases."""

    releases: list[ReleaseView]
    limit: int
    next_cursor: str | None


class RolloutData(TypedDict):
    """One rollout."""

    rollout: RolloutView


class RolloutProgressData(TypedDict):
    """One rollout with what became of its devices."""

    rollout: RolloutView
    progress: ProgressView


class RolloutListData(TypedDict):
    """A page of rollouts."""

    rollouts: list[RolloutView]
    limit: int
    next_cursor: str | None


class TargetListData(TypedDict):
    """A page of a rollout's devices."""

    devices: list[TargetView]
    limit: int
    next_cursor: str | None
