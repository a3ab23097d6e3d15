"""The services of firmware over stores in memory, and simulated devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from karma.core.ids import DeviceId, UserId, new_id
from karma.firmware.advance import RolloutSweep
from karma.firmware.domain import (
    Release,
    Rollout,
    RolloutState,
    RolloutTarget,
    tally,
)
from karma.firmware.rollouts import RolloutCandidate, RolloutPlan, RolloutService
from karma.firmware.service import ReleaseService
from tests.fakes.devices import FakeClock
from tests.fakes.firmware import FakeFleet, FakeJobs, MemoryBytes, MemoryFirmware, MemoryReleases, MemoryRollouts
from tests.support.firmware import FIRMWARE, manifest_of, signed

USER = UserId(new_id())
PLAN = RolloutPlan(
    everybody=True, waves=(20, 100), wave_hours=24, abort_percent=20, abort_min_finished=5, timeout_minutes=60
)


@dataclass
class World:
    """The services of firmware over stores in memory, and devices that do what they are told."""

    clock: FakeClock = field(default_factory=FakeClock)
    firmware: MemoryFirmware = field(default_factory=MemoryFirmware)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    bytes: MemoryBytes = field(default_factory=MemoryBytes)
    versions: dict[str, str] = field(default_factory=dict)
    """Version that each device runs, by serial number."""

    def __post_init__(self) -> None:
        stores = MemoryReleases(self.firmware), MemoryRollouts(self.firmware)
        self.releases = ReleaseService(*stores, self.bytes, self.clock)
        self.rollouts = RolloutService(
            stores[1], self.jobs, self.clock, candidates=self.fleet, release=self.releases.get
        )
        self.sweep = RolloutSweep(
            rollouts=stores[1],
            looks=stores[1],
            releases=stores[0],
            jobs=self.jobs,
            devices=self.fleet,
            clock=self.clock,
        )

    def add_devices(self, number: int, *, model: str = "EOS-3A", version: str = "1.0.0") -> list[DeviceId]:
        made = [DeviceId(new_id()) for _ in range(number)]
        for each in made:
            serial = f"EOS-{len(self.fleet.devices):04d}"
            self.fleet.devices[each] = RolloutCandidate(
                device_id=each, serial=serial, model=model, firmware_version=version
            )
            self.versions[serial] = version
        return made

    def release(self, **changed: Any) -> Release:
        made = self.releases.create(USER, signed(manifest_of(**changed)))
        self.bytes.objects[made.id] = FIRMWARE
        return self.releases.publish(USER, made.id)

    def minute(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.pass_time(minutes=1)
            self.sweep.run()

    def work(self, version: str, bad: Iterable[str] = ()) -> None:
        """Let each device do what it is offered; the bad ones fail, and keep what they have."""
        for serial in self.versions:
            if self.jobs.begin(serial):
                failed = serial in set(bad)
                self.jobs.finish(serial, "FAILED" if failed else "SUCCEEDED", "HASH: another" if failed else "")
                if not failed:
                    self.versions[serial] = version

    def targets(self, rollout: Rollout) -> list[RolloutTarget]:
        return [each for batch in self.rollouts.batches(rollout) for each in batch.targets]

    def counts(self, rollout: Rollout) -> dict[str, int]:
        by_state = tally(self.targets(rollout)).by_state
        return {state.value: number for state, number in by_state.items() if number}

    def state(self, rollout: Rollout) -> RolloutState:
        return self.rollouts.get(USER, rollout.id).state

    @property
    def updated(self) -> int:
        return sum(version == "2.0.0" for version in self.versions.values())
