"""Ports of telemetry: who fulfils each is said there; what a repository promises is said at its port."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.samples import StoredBatch
from karma.telemetry.domain import Level, Period, Rollup

if TYPE_CHECKING:
    from karma.devices.lookup import FoundDevice


class DirtyPeriod(NamedTuple):
    """An hour or a day whose rollups are to be computed again, as its mark was read."""

    period: Period
    token: str


class MetricDirectory(Record):
    """Directory of a device's rollups, read before any of them."""

    metrics: tuple[str, ...] = ()
    """Names of the metrics that are rolled up; the place of a name is its number."""
    closed: bool = False
    """True: the device is deleted, and nothing is written for it."""
    dirty: frozenset[Period] = field(default=frozenset())


class DeviceClosed(Exception):
    """The device is deleted: nothing is written for it."""


class PeriodChanged(Exception):
    """The mark was replaced or removed since it was read; what was computed is not written."""


class Batches(Protocol):
    """Raw telemetry; implemented by devices.repository.telemetry.TelemetryRepository."""

    def batches(
        self, device_id: DeviceId, *, from_ms: int, to_ms: int, consistent: bool = False, page: int = 100
    ) -> Iterator[StoredBatch]:
        """Read the batches that may hold samples of [from, to), by their first sample; `page` of them a Query."""


class Devices(Protocol):
    """Devices that somebody may read; implemented by devices.lookup, DeviceLookup and SharedLookup."""

    def find(self, user_id: UserId, device_id: str) -> FoundDevice:
        """Return an active device with whose it is; one read of one's own. Raises NotFound."""


class Rollups(Protocol):
    """Rollups and what is dirty of them; implemented by repository.RollupRepository."""

    def mark(self, period: Period, *, due: datetime) -> None:
        """Mark a period as dirty, from a moment on due to be computed again; a mark that stands gets a new token."""

    def dirty(self, period: Period) -> DirtyPeriod | None:
        """Read the mark of a period, strongly consistent; None: it is not dirty."""

    def due(self, shard: int, *, before: datetime, limit: int) -> Sequence[DirtyPeriod]:
        """Read marks that are due, from one of `DUE_SHARDS` partitions of the index."""

    def put_off(self, dirty: DirtyPeriod, *, until: datetime) -> None:
        """Let a mark be due later; nothing happens when it was replaced or removed."""

    def directory(self, device_id: DeviceId, *, consistent: bool = False) -> MetricDirectory:
        """Read which metrics of a device are rolled up, and up to 500 of its dirty periods; one Query."""

    def numbers(self, device_id: DeviceId, metrics: Collection[str]) -> Mapping[str, int]:
        """Return the numbers of metrics, and give numbers to new ones while there are fewer than MAX_METRICS.

        Raises:
            DeviceClosed: the device is deleted.
        """

    def replace(self, dirty: DirtyPeriod, rollups: Mapping[int, Rollup], *, parent_due: datetime | None = None) -> None:
        """Write the rollups of a period by metric, and remove the mark; mark the day of an hour, or a day's archive.

        What is marked is due at `parent_due`. One transaction for 90 metrics, of which the last removes the mark.

        Raises:
            PeriodChanged: the mark is not the one that was read.
            DeviceClosed: the device is deleted.
        """

    def read(
        self, device_id: DeviceId, level: Level, metric: int, *, first: int, last: int, consistent: bool = False
    ) -> list[tuple[int, Rollup]]:
        """Read a metric's rollups of the hours or days with numbers from `first` to `last`; a Query a megabyte."""
