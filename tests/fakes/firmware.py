"""In-memory stand-ins for the stores of firmware, jobs and bytes. The stores pass the contract suite of DynamoDB's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.clock import iso
from karma.core.ids import DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.firmware.domain import (
    MAX_RELEASES,
    FirmwareChanged,
    JobExecution,
    Release,
    ReleaseId,
    ReleaseState,
    Rollout,
    RolloutBatch,
    RolloutId,
    TooManyReleases,
    VersionTaken,
)
from karma.firmware.ports import Fleet, RolloutLook, SignedUpload
from karma.firmware.rollouts import RolloutCandidate
from karma.identity.transactional import AccountGone
from karma.integrations.iot import DeviceServiceUnavailable
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryFirmware:
    """Releases, rollouts, batches and looks in dictionaries: both stores, since they share the account's fleet."""

    releases: dict[ReleaseId, Release] = field(default_factory=dict)
    stored: dict[RolloutId, Rollout] = field(default_factory=dict)
    parts: dict[RolloutId, dict[int, RolloutBatch]] = field(default_factory=dict)
    looks: dict[RolloutId, RolloutLook] = field(default_factory=dict)
    fleets: dict[UserId, int] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def count_up(self, user_id: UserId) -> None:
        self.fleets[user_id] = self.fleets.get(user_id, 0) + 1

    def require_account(self, user_id: UserId) -> None:
        if user_id in self.deleted_accounts:
            raise AccountGone(user_id)


@dataclass
class MemoryReleases:
    """Releases of MemoryFirmware."""

    firmware: MemoryFirmware = field(default_factory=MemoryFirmware)

    def get(self, user_id: UserId, release_id: ReleaseId) -> Release | None:
        found = self.firmware.releases.get(release_id)
        return found if found is not None and found.user_id == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ReleaseId | None:
        made = self.firmware.requests.noted(user_id, request)
        return ReleaseId(made) if made else None

    def create(self, release: Release, *, request: RepeatableRequest | None) -> None:
        self.firmware.require_account(release.user_id)
        self.firmware.requests.require_new(release.user_id, request)
        mine = [each for each in self.firmware.releases.values() if each.user_id == release.user_id]
        if any(each.release_version == release.release_version for each in mine):
            raise VersionTaken(release.release_version)
        if len(mine) >= MAX_RELEASES:
            raise TooManyReleases
        self.firmware.requests.note(release.user_id, request, release.id)
        self.firmware.releases[release.id] = release
        self.firmware.count_up(release.user_id)

    def publish(self, release: Release) -> None:
        old = self.firmware.releases.get(release.id)
        if old is None or old.version != release.version - 1 or old.state is not ReleaseState.DRAFT:
            raise FirmwareChanged(f"Release {release.id} was changed by another request; read it again")
        self.firmware.releases[release.id] = release

    def delete(self, release: Release, *, fleet: Fleet) -> None:
        old = self.firmware.releases.get(release.id)
        is_same = self.firmware.fleets.get(release.user_id, 0) == fleet.version
        if old is None or old.version != release.version or not is_same:
            raise FirmwareChanged(f"Release {release.id} was changed by another request; read it again")
        del self.firmware.releases[release.id]
        self.firmware.count_up(release.user_id)

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Release]:
        mine = [each for each in self.firmware.releases.values() if each.user_id == user_id]
        mine = [each for each in mine if not below or each.id < below]
        return sorted(mine, key=lambda each: each.id, reverse=True)[:limit]


@dataclass
class MemoryRollouts:
    """Rollouts of MemoryFirmware, and the looks after them."""

    firmware: MemoryFirmware = field(default_factory=MemoryFirmware)

    def fleet(self, user_id: UserId) -> Fleet:
        mine = [each for each in self.firmware.stored.values() if each.user_id == user_id and not each.is_finished]
        return Fleet(open=frozenset(each.id for each in mine), version=self.firmware.fleets.get(user_id, 0))

    def get(self, user_id: UserId, rollout_id: RolloutId) -> Rollout | None:
        found = self.firmware.stored.get(rollout_id)
        return found if found is not None and found.user_id == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> RolloutId | None:
        made = self.firmware.requests.noted(user_id, request)
        return RolloutId(made) if made else None

    def create(
        self, rollout: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet, request: RepeatableRequest | None
    ) -> None:
        self.firmware.require_account(rollout.user_id)
        self.firmware.requests.require_new(rollout.user_id, request)
        release = self.firmware.releases.get(rollout.release_id)
        is_same = self.firmware.fleets.get(rollout.user_id, 0) == fleet.version
        if release is None or release.state is not ReleaseState.PUBLISHED or not is_same:
            raise FirmwareChanged("Releases or rollouts were changed by another request; try again")
        self.firmware.requests.note(rollout.user_id, request, rollout.id)
        self.firmware.stored[rollout.id] = rollout
        self.firmware.parts[rollout.id] = {batch.number: batch for batch in batches}
        self.firmware.count_up(rollout.user_id)
        self._look(rollout)

    def replace(self, old: Rollout, new: Rollout) -> None:
        stored = self.firmware.stored.get(old.id)
        if stored is None or stored.version != old.version:
            raise FirmwareChanged(f"Rollout {old.id} was changed by another request; read it again")
        self.firmware.stored[new.id] = new
        if new.is_finished:
            self.firmware.count_up(new.user_id)
        self._look(new)

    def retry(self, old: Rollout, new: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet) -> None:
        stored, parts = self.firmware.stored.get(old.id), self.firmware.parts.get(old.id, {})
        same = all(each.number in parts and parts[each.number].version == each.version for each in batches)
        if old.is_finished:
            release = self.firmware.releases.get(old.release_id)
            is_open = release is not None and release.state is ReleaseState.PUBLISHED
            same = same and is_open and self.firmware.fleets.get(old.user_id, 0) == fleet.version
        if stored is None or stored.version != old.version or not same:
            raise FirmwareChanged(f"Rollout {old.id} was changed by another request; read it again")
        self.firmware.stored[new.id] = new
        self.firmware.parts[new.id] |= {each.number: replace(each, version=each.version + 1) for each in batches}
        if old.is_finished:
            self.firmware.count_up(new.user_id)
        self._look(new)

    def batches(self, rollout_id: RolloutId) -> list[RolloutBatch]:
        return [batch for _, batch in sorted(self.firmware.parts.get(rollout_id, {}).items())]

    def save(self, batch: RolloutBatch) -> RolloutBatch:
        stored = self.firmware.parts.get(batch.rollout_id, {}).get(batch.number)
        if stored is None or stored.version != batch.version:
            raise FirmwareChanged(f"Batch {batch.number} was changed by another process; read it again")
        new = replace(batch, version=batch.version + 1)
        self.firmware.parts[batch.rollout_id][batch.number] = new
        return new

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Rollout]:
        mine = [each for each in self.firmware.stored.values() if each.user_id == user_id]
        mine = [each for each in mine if not below or each.id < below]
        return sorted(mine, key=lambda each: each.id, reverse=True)[:limit]

    def due(self, *, before: datetime, limit: int) -> list[RolloutLook]:
        due = [look for look in self.firmware.looks.values() if look.due < iso(before)]
        return sorted(due, key=lambda look: look.due)[:limit]

    def take(self, look: RolloutLook, *, again_at: datetime) -> RolloutLook | None:
        if self.firmware.looks.get(look.rollout_id) != look:
            return None
        taken = look._replace(due=f"{iso(again_at)}#{look.rollout_id}")
        self.firmware.looks[look.rollout_id] = taken
        return taken

    def end(self, look: RolloutLook) -> None:
        if self.firmware.looks.get(look.rollout_id) == look:
            del self.firmware.looks[look.rollout_id]

    def _look(self, rollout: Rollout) -> None:
        due = f"{iso(rollout.updated_at)}#{rollout.id}"
        self.firmware.looks[rollout.id] = RolloutLook(rollout.user_id, rollout.id, due)


@dataclass
class FakeJobs:
    """Jobs as AWS IoT has them: made once, cancelled for those that have not begun, ended ones stay as they ended."""

    things: set[str] | None = None
    """Serial numbers that exist; None: all."""
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Job id -> serial number -> status."""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    fails: int = 0
    """Number of calls that do not answer next, although they may have been carried out."""
    calls: list[str] = field(default_factory=list)

    def start(self, job_id: str, *, serials: Sequence[str], release: Release, timeout_minutes: int) -> bool:
        assert 0 < len(serials) <= 100, "AWS takes no more targets"
        assert len(job_id) <= 64, "AWS takes no longer ids"
        if self.things is not None and not set(serials) <= self.things:
            return False
        self.jobs.setdefault(job_id, dict.fromkeys(serials, "QUEUED"))
        self._maybe_fail("start")
        return True

    def executions(self, job_id: str) -> Mapping[str, JobExecution] | None:
        self._maybe_fail("executions")
        job = self.jobs.get(job_id)
        if job is None:
            return None
        return {
            serial: JobExecution(status=status)
            for serial, status in job.items()
            if self.things is None or serial in self.things
        }

    def note(self, job_id: str, serial: str) -> str:
        self._maybe_fail("note")
        return self.notes.get((job_id, serial), "")

    def withdraw(self, job_id: str, serial: str) -> None:
        if self.jobs.get(job_id, {}).get(serial) in ("QUEUED", "IN_PROGRESS"):
            self.jobs[job_id][serial] = "CANCELED"
        self._maybe_fail("withdraw")

    def cancel(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None:
            self.cancelled.add(job_id)
            self.jobs[job_id] = {serial: "CANCELED" if it == "QUEUED" else it for serial, it in job.items()}
        self._maybe_fail("cancel")

    def remove(self, job_id: str) -> None:
        self.jobs.pop(job_id, None)

    # What devices do

    def begin(self, serial: str) -> bool:
        """Let a device begin the oldest job that it is offered; False: there is none."""
        for job in self.jobs.values():
            if job.get(serial) == "QUEUED":
                job[serial] = "IN_PROGRESS"
                return True
        return False

    def finish(self, serial: str, status: str, note: str = "") -> None:
        """Let a device end what it has begun."""
        for job_id, job in self.jobs.items():
            if job.get(serial) == "IN_PROGRESS":
                job[serial] = status
                self.notes[(job_id, serial)] = note

    def _maybe_fail(self, call: str) -> None:
        self.calls.append(call)
        if self.fails:
            self.fails -= 1
            raise DeviceServiceUnavailable("The device service did not answer; try again")


@dataclass
class FakeFleet:
    """Devices of one account."""

    devices: dict[DeviceId, RolloutCandidate] = field(default_factory=dict)
    tags: dict[DeviceId, set[str]] = field(default_factory=dict)
    lately: set[DeviceId] = field(default_factory=set)
    """Devices whose deletion, or change of hands, is still to be seen."""

    def gone(self, user_id: UserId) -> frozenset[DeviceId]:
        return frozenset(self.lately)

    def active(self, user_id: UserId, ids: Sequence[DeviceId]) -> frozenset[DeviceId]:
        return frozenset(each for each in ids if each in self.devices)

    def named(self, user_id: UserId, ids: Sequence[DeviceId]) -> list[RolloutCandidate]:
        return [self.devices[each] for each in ids if each in self.devices]

    def tagged(self, user_id: UserId, tag: str | None, *, at_most: int) -> list[RolloutCandidate]:
        found = [it for each, it in self.devices.items() if tag is None or tag in self.tags.get(each, set())]
        return found[:at_most]


@dataclass
class MemoryBytes:
    """Bytes of releases."""

    objects: dict[ReleaseId, bytes] = field(default_factory=dict)

    def upload(self, release: Release) -> SignedUpload:
        return SignedUpload(f"https://bucket.example/{release.id}", {})

    def digest(self, release: Release, *, at_most: int) -> tuple[int, str] | None:
        data = self.objects.get(release.id)
        return None if data is None else (min(len(data), at_most + 1), hashlib.sha256(data).hexdigest())

    def remove(self, user_id: UserId, release_id: ReleaseId) -> None:
        self.objects.pop(release_id, None)

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        found = list(self.objects)[:limit]
        for each in found:
            del self.objects[each]
        return len(found)
