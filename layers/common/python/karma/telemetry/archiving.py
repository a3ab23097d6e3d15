"""Archives the raw batches of a day before the database deletes them; called for a mark of level `archive`.

read the mark -> read the day's object, if there is one, and the table -> put the object -> note it and remove the mark

The mark is set by the transaction that writes a day's rollups, and is due when no sample of that day is taken any more.
One that comes all the same marks its hour, so its day, so the archive, again. An object's name derives from its
content, so a repeat of what died in between puts the same object. The note and the removal of the mark are one
transaction, on the token that was read first and on the device's not being deleted. Who dies behind the put, while the
device is deleted, leaves an object that the next delivery of its message removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import orjson

from karma.core.ids import DeviceId, UserId
from karma.core.observability import count
from karma.devices.samples import StoredItem
from karma.telemetry.archives import ArchivedDay, ArchiveObjects, Archives, Packing, groups_of
from karma.telemetry.domain import DAY_MS, HOUR_MS
from karma.telemetry.ports import DeviceClosed, DirtyPeriod, MetricDirectory

_MOST: Final = 1_000
UNKNOWN_KEPT_DAYS: Final = 365
"""Days for which batches are kept that do not name their account, as those of earlier releases."""


class RawStore(Protocol):
    """Batches as the table has them; implemented by devices.repository.telemetry.TelemetryRepository."""

    def stored(self, device_id: DeviceId, *, from_ms: int, to_ms: int) -> Iterator[StoredItem]:
        """Read batches whose first sample is in [from, to) of one day, strongly consistent; a Query a megabyte."""


class ArchiveNotes(Archives, Protocol):
    """Notes of archived days that can be written."""

    def directory(self, device_id: DeviceId) -> MetricDirectory:
        """Read a device's directory, strongly consistent."""

    def note(self, dirty: DirtyPeriod, day: ArchivedDay | None) -> None:
        """Note an archived day, if there is one, and remove its mark.

        Raises:
            PeriodChanged: the mark is not the one that was read.
            DeviceClosed: the device is deleted.
        """


class Archiving:
    """Archives days."""

    def __init__(
        self, raw: RawStore, notes: ArchiveNotes, objects: ArchiveObjects, *, kept_days: Callable[[UserId], int]
    ) -> None:
        """Build the service; `kept_days` reads how long the plan of an account keeps raw telemetry."""
        self._raw = raw
        self._notes = notes
        self._objects = objects
        self._kept_days = kept_days

    def archive(self, dirty: DirtyPeriod) -> None:
        """Archive a day with all that is known of it.

        Raises:
            PeriodChanged, DeviceClosed: as ArchiveNotes.note.
            Upstream: the database or the object storage did not answer.
        """
        device_id, number = dirty.period.device_id, dirty.period.number
        if self._notes.directory(device_id).closed:
            raise DeviceClosed
        old = next(iter(self._notes.find(device_id, first=number, last=number, consistent=True)), None)
        packing, owner = self._packed(device_id, number, old)
        kept_days = old.kept_days if old is not None else UNKNOWN_KEPT_DAYS
        if owner:
            kept_days = max(self._kept_days(UserId(owner)), old.kept_days if old is not None else 0)
        data = packing.data
        if not data or not kept_days:
            self._notes.note(dirty, None)
            return
        name = f"{kept_days}/{device_id}/{hashlib.sha256(data).hexdigest()}"
        self._objects.keep(name, data)
        replaced = old.name if old is not None and old.name != name else ""
        day = ArchivedDay(
            device_id=device_id,
            number=number,
            name=name,
            hours=packing.hours,
            kept_days=kept_days,
            replaced=replaced,
        )
        try:
            self._notes.note(dirty, day)
        except DeviceClosed:
            self.tidy(device_id, number)
            raise
        if replaced:
            self._objects.remove(replaced)
        count("TelemetryArchived", len(data))

    def tidy(self, device_id: DeviceId, number: int) -> None:
        """Remove what one who died may have left: objects of a deleted device, or a day's earlier one."""
        if self._notes.directory(device_id).closed:
            self._objects.remove_all(device_id, limit=_MOST)
        for day in self._notes.find(device_id, first=number, last=number, consistent=True):
            if day.replaced:
                self._objects.remove(day.replaced)

    def _packed(self, device_id: DeviceId, number: int, old: ArchivedDay | None) -> tuple[Packing, str]:
        packing, owner = Packing(), ""
        for hour in range(number * 24, number * 24 + 24):
            batches = dict(self._archived(old, hour))
            for each in self._raw.stored(device_id, from_ms=hour * HOUR_MS, to_ms=(hour + 1) * HOUR_MS):
                batches.setdefault(each.sk, (each.units, each.samples))
                owner = each.owner or owner
            packing.add(hour, batches)
        return packing, owner

    def _archived(self, old: ArchivedDay | None, hour: int) -> Iterator[tuple[str, tuple[int, bytes]]]:
        wanted = [each for each in old.hours if each.hour == hour] if old is not None else []
        if old is None or not wanted:
            return
        for group in groups_of(old, self._objects, wanted):
            yield from ((batch.sk, (batch.units, orjson.dumps(batch.samples))) for batch in group)


def expires_s(day: ArchivedDay) -> int:
    """Return the moment, in seconds since 1970, at which a day may be forgotten."""
    return (day.number + 1) * DAY_MS // 1000 + day.kept_days * 24 * 3600
