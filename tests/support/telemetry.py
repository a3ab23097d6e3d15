"""Telemetry of a `World`'s devices, from what ingest stored to the rollups: without a stream, a queue, or waiting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from karma.core.dynamo.items import Key
from karma.core.happenings import ItemChange
from karma.core.ids import DeviceId
from karma.core.streams import StreamRecord
from karma.devices.repository.telemetry import stored_hour
from karma.devices.service import Created
from karma.telemetry.archiving import Archiving
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Period, Rollup
from karma.telemetry.marking import Marking
from karma.telemetry.query import TelemetryPage, TelemetryQuery
from karma.telemetry.rebuilding import Rebuilding, read_periods
from karma.telemetry.sweeps import send_dirty
from tests.support.devices import World

Samples = Sequence[tuple[int, Mapping[str, float]]]


@dataclass
class MemoryQueue:
    """Messages that were sent and not taken yet."""

    bodies: list[str] = field(default_factory=list)

    def send(self, body: str, *, delay_s: int = 0) -> None:
        assert not delay_s
        self.bodies.append(body)


class Rolling:
    """One device, and what makes its rollups."""

    def __init__(self, world: World, made: Created | None = None) -> None:
        self.world = world
        self.made = made or world.create()
        self.device_id: DeviceId = self.made.current.device.id
        self.queue = MemoryQueue()
        self.archiving = Archiving(world.telemetry, world.notes, world.archives, kept_days=lambda _: world.kept_days)
        self.rebuilding = Rebuilding(
            world.rollups, world.batches, world.clock, archives=world.notes, archiving=self.archiving
        )
        self.seq = 0
        self.restart()

    def restart(self) -> None:
        """Start a fresh process of the stream's consumer, with nothing cached."""
        self.marking = Marking(self.world.rollups, self.world.clock, hour_of=stored_hour)

    def message(self, samples: Samples) -> Any:
        self.seq += 1
        body = {"boot": "b", "seq": self.seq, "samples": [{"ts": ts, "m": dict(values)} for ts, values in samples]}
        return self.world.message(self.made, "telemetry", body)

    def store(self, samples: Samples) -> None:
        """Let the device send samples, and the stream tell of them."""
        self.world.tell(self.message(samples))
        self.tell(self.keys(samples))

    def keys(self, samples: Samples) -> list[Key]:
        """Return keys of batches in the hours of samples, as far as the stream's consumer reads them."""
        hours = {ts - ts % HOUR_MS for ts, _ in samples}
        return [Key(f"DEV#{self.device_id}#2026-01-01", f"{hour:013d}#b#{self.seq:010d}") for hour in sorted(hours)]

    def tell(self, keys: Iterable[Key]) -> int:
        return self.marking.take([StreamRecord(key, ItemChange(None, None), "1") for key in keys])

    def sweep(self) -> int:
        """Sweep a second later, and let a worker handle what was sent; return how many rollups it computed."""
        self.world.clock.pass_time(seconds=1)
        send_dirty(self.world.rollups, self.queue, self.world.clock)
        bodies, self.queue.bodies = self.queue.bodies, []
        return sum(self.rebuilding.rebuild(period) for body in bodies for period in read_periods(body))

    def settle(self) -> None:
        """Pass a day, so that every hour and day until now is over, and rolled up."""
        self.world.clock.pass_time(hours=25)
        while self.sweep():
            self.world.clock.pass_time(minutes=11)

    def stored(self, metric: str, level: Level, ts: int) -> Rollup | None:
        """Return the rollup of a metric that is stored of the hour or day of a moment."""
        directory = self.world.rollups.directory(self.device_id, consistent=True)
        if metric not in directory.metrics:
            return None
        number = ts // (HOUR_MS if level is Level.HOUR else DAY_MS)
        found = self.world.rollups.read(
            self.device_id, level, directory.metrics.index(metric), first=number, last=number, consistent=True
        )
        return found[0][1] if found else None

    def dirty(self) -> list[Period]:
        return sorted(self.world.rollups.directory(self.device_id, consistent=True).dirty)

    def read(self, *metrics: str, **how: Any) -> TelemetryPage:
        query = TelemetryQuery(devices=(self.device_id,), metrics=metrics, **how)
        return self.world.reader.read(self.world.user, query)
