"""Ports of firmware; the second implementations are in tests/fakes/firmware.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.firmware.domain import JobExecution, Release, ReleaseId, Rollout, RolloutBatch, RolloutId


class Fleet(Record, kw_only=True):
    """Unfinished rollouts of an account, by which its releases and rollouts are changed one after the other."""

    open: frozenset[RolloutId]
    """Rollouts that are not finished."""
    version: int
    """Each creation and deletion counts it up, so that what was concluded from `open` holds; 0: there was none."""


class Releases(Protocol):
    """A store of releases. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, release_id: ReleaseId) -> Release | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ReleaseId | None:
        """Return the id of the release that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, release: Release, *, request: RepeatableRequest | None) -> None:
        """Store a new draft, the claim of its version, and the record of `request`.

        Raises:
            AlreadyExists: a request with this key created a release within the last 25 hours; `made_by` names it.
            VersionTaken: another release has its version.
            TooManyReleases: the account has MAX_RELEASES.
            AccountGone: its account is deleted.
        """

    def publish(self, release: Release) -> None:
        """Store a draft as published, which `release` is.

        Raises:
            FirmwareChanged: it is no draft of the version before any more.
        """

    def delete(self, release: Release, *, fleet: Fleet) -> None:
        """Delete a release, and free its version.

        Raises:
            FirmwareChanged: it was changed, or the account's fleet is not `fleet` any more.
        """

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Release]:
        """List releases, newest first, whose ids are below `below`; "" is the first page."""


class Rollouts(Protocol):
    """A store of rollouts with their batches. All calls block."""

    def fleet(self, user_id: UserId) -> Fleet:
        """Read what an account's rollouts share, consistently."""

    def get(self, user_id: UserId, rollout_id: RolloutId) -> Rollout | None:
        """Read one, consistently; None when it is absent, forgotten, or another account's."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> RolloutId | None:
        """Return the id of the rollout that a request created; as Releases.made_by."""

    def create(
        self, rollout: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet, request: RepeatableRequest | None
    ) -> None:
        """Store a new rollout, its batches and the record of `request`; it is looked after from now on.

        Raises:
            AlreadyExists: a request with this key created a rollout within the last 25 hours; `made_by` names it.
            FirmwareChanged: the account's fleet is not `fleet` any more, or the release was deleted.
            AccountGone: its account is deleted.
        """

    def replace(self, old: Rollout, new: Rollout) -> None:
        """Store `new`, which has the next version, in place of `old`; it is looked after from now on.

        Raises:
            FirmwareChanged: `old` is not the stored one any more.
        """

    def retry(self, old: Rollout, new: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet) -> None:
        """Store a rollout and those of its batches whose devices are tried once more; a finished one is open again.

        Raises:
            FirmwareChanged: rollout or batches are not of the stored version any more; of a finished rollout also: the
                account's fleet is not `fleet` any more, or the release was deleted.
        """

    def batches(self, rollout_id: RolloutId) -> list[RolloutBatch]:
        """Read the batches of a rollout, in their order, consistently."""

    def save(self, batch: RolloutBatch) -> RolloutBatch:
        """Store what has become of a batch's devices, and return it with its next version.

        Raises:
            FirmwareChanged: it is not of the stored version any more.
        """

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Rollout]:
        """List rollouts, newest first, whose ids are below `below`; "" is the first page."""


class RolloutLook(NamedTuple):
    """A rollout that is to be looked after."""

    user_id: UserId
    rollout_id: RolloutId
    due: str
    """Place in the order of what is due, by which the look is taken and ended."""


class RolloutLooks(Protocol):
    """Rollouts that are to be looked after; implemented by the repository of rollouts."""

    def due(self, *, before: datetime, limit: int) -> list[RolloutLook]:
        """Return rollouts whose next look is due."""

    def take(self, look: RolloutLook, *, again_at: datetime) -> RolloutLook | None:
        """Take a look, which is due again later unless it is ended; None: somebody else has taken it."""

    def end(self, look: RolloutLook) -> None:
        """End the looks after a rollout, unless somebody wants another one meanwhile."""


class RolloutJobs(Protocol):
    """Jobs of the fleet's broker; implemented by integrations.iot_jobs.IotJobs."""

    def start(self, job_id: str, *, serials: Sequence[str], release: Release, timeout_minutes: int) -> bool:
        """Offer a release to devices; False: one of them does not exist. A job that exists stays as it is."""

    def executions(self, job_id: str) -> Mapping[str, JobExecution] | None:
        """Return what became of the devices of a job, by serial number; None: there is no such job."""

    def note(self, job_id: str, serial: str) -> str:
        """Return what a device said of its end; "": nothing."""

    def withdraw(self, job_id: str, serial: str) -> None:
        """Take a job back from one device, also if it has begun; of an absent or ended one nothing."""

    def cancel(self, job_id: str) -> None:
        """Take the offer back from those that have not begun; of an absent or finished job nothing."""


class JobRemover(Protocol):
    """Removes jobs; implemented by integrations.iot_jobs.IotJobs."""

    def remove(self, job_id: str) -> None:
        """Remove a job whatever its state; an absent one counts as removed."""


class SignedUpload(NamedTuple):
    """A signed request that sends the bytes of a release."""

    url: str
    headers: Mapping[str, str]
    """Headers that must be sent as they are."""


class FirmwareBytes(Protocol):
    """Bytes of releases; implemented by integrations.s3_firmware.S3Firmware."""

    def upload(self, release: Release) -> SignedUpload:
        """Sign a PUT of exactly the bytes that the manifest names."""

    def digest(self, release: Release, *, at_most: int) -> tuple[int, str] | None:
        """Return size and SHA-256 of what was uploaded, reading `at_most` bytes and one; None: there is nothing."""

    def remove(self, user_id: UserId, release_id: ReleaseId) -> None:
        """Remove the bytes of a release in all their versions."""

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """Remove up to `limit` objects of an account; return how many, fewer than `limit`: none is left."""
