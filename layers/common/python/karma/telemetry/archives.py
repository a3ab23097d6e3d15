"""Raw telemetry beyond its time in the database: packed by day into one object, and read as if it were still there.

    object    one blob an hour, one behind the other: zlib of JSON `[[key, units, samples], ...]`, in the order of keys
    note      an item of the table: the object's name, and where in it each hour is, so that a read is one GET

A batch has its key with it. So packing a day again, from its object and what the table has, is the same whoever does it
and however often; what came late is added, and what is in both counts once.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import orjson

from karma.core.clock import Clock, epoch_ms
from karma.core.ids import DeviceId
from karma.core.records import Record
from karma.devices.domain import RAW_RETENTION_S, RAW_STORED_S
from karma.devices.samples import StoredBatch
from karma.telemetry.domain import DAY_MS, HOUR_MS
from karma.telemetry.ports import Batches

GET_UNITS: Final = 1_000
"""Units that a GET counts for beside what it brings: a page of raw ends behind sixteen of them."""
GET_BYTES: Final = 256 * 1024
"""Bytes of neighbouring hours that one GET brings; a larger hour is read alone."""
_LINGERS_MS: Final = 3 * DAY_MS
"""Time that the database takes at the most until it deletes what has expired."""


class PackedHour(NamedTuple):
    """Place of an hour in an object."""

    hour: int
    """Counted from 1970."""
    offset: int
    size: int


class ArchivedDay(Record, kw_only=True):
    """Note of a day of a device that is archived."""

    device_id: DeviceId
    number: int
    """Counted from 1970."""
    name: str
    """Name of the object."""
    hours: tuple[PackedHour, ...]
    kept_days: int
    """Days after the day for which it is kept."""
    replaced: str = ""
    """Name of the object that this one stands for now; "": there was none."""


class Archives(Protocol):
    """Notes of archived days; implemented by archive_repository.ArchiveRepository."""

    def find(self, device_id: DeviceId, *, first: int, last: int, consistent: bool = False) -> Sequence[ArchivedDay]:
        """Read the archived days with numbers from `first` to `last`, in order."""


class ArchiveObjects(Protocol):
    """Objects of archived days; implemented by integrations.s3.S3Archives."""

    def keep(self, name: str, data: bytes) -> None:
        """Store an object; the same again changes nothing. Raises Upstream."""

    def read(self, name: str, *, offset: int, size: int) -> bytes:
        """Read a part of an object; empty: it is gone. Raises Upstream."""

    def remove(self, name: str) -> None:
        """Remove an object; an absent one counts as removed. Raises Upstream."""

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects of a device; return how many, fewer than `limit`: none is left."""


def packed(batches: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return the blob of an hour, of batches by key: units and JSON of the samples."""
    rows = (b'["%b",%d,%b]' % (sk.encode(), units, samples) for sk, units, samples in batches)
    return zlib.compress(b"[" + b",".join(rows) + b"]", 6)


def unpacked(blob: bytes) -> Iterator[StoredBatch]:
    """Yield the batches of an hour."""
    for sk, units, samples in orjson.loads(zlib.decompress(blob)):
        yield StoredBatch(int(sk[:13]), samples, units, sk)


def groups_of(
    day: ArchivedDay, objects: ArchiveObjects, hours: Sequence[PackedHour]
) -> Iterator[Iterator[StoredBatch]]:
    """Yield the batches of hours of a day, group by group; one GET for neighbours of up to GET_BYTES together."""
    for group in _neighbours(hours):
        begin, end = group[0].offset, group[-1].offset + group[-1].size
        data = objects.read(day.name, offset=begin, size=end - begin)
        if data:
            blobs = [data[each.offset - begin : each.offset - begin + each.size] for each in group]
            yield itertools.chain.from_iterable(map(unpacked, blobs))


def _neighbours(hours: Sequence[PackedHour]) -> Iterator[list[PackedHour]]:
    group: list[PackedHour] = []
    for each in hours:
        if group and each.offset + each.size - group[0].offset > GET_BYTES:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


class ArchivedBatches:
    """Raw batches, from the table and from archived days; fulfils ports.Batches."""

    def __init__(self, batches: Batches, archives: Archives, objects: ArchiveObjects, clock: Clock) -> None:
        self._batches = batches
        self._archives = archives
        self._objects = objects
        self._clock = clock

    def batches(
        self, device_id: DeviceId, *, from_ms: int, to_ms: int, consistent: bool = False, page: int = 100
    ) -> Iterator[StoredBatch]:
        """See Batches; where days may be archived, one Query more, and for those that are GETs in place of Queries.

        Of a day that the table may still have a part of, both are read.
        """
        now_ms = epoch_ms(self._clock.now())

        def stored(begin_ms: int, end_ms: int) -> Iterator[StoredBatch]:
            return self._batches.batches(device_id, from_ms=begin_ms, to_ms=end_ms, consistent=consistent, page=page)

        place = max(0, from_ms - from_ms % HOUR_MS)
        for day in self._days(device_id, place, to_ms, now_ms, consistent=consistent):
            begin, end = max(place, day.number * DAY_MS), min(to_ms, (day.number + 1) * DAY_MS)
            if place < begin:
                yield from stored(place, begin)
            is_mixed = (day.number + 1) * DAY_MS + RAW_STORED_S * 1000 + _LINGERS_MS > now_ms
            yield from _once(self._archived(day, begin, end), stored(begin, end) if is_mixed else iter(()))
            place = end
        if place < to_ms:
            yield from stored(place, to_ms)

    def _days(
        self, device_id: DeviceId, begin_ms: int, end_ms: int, now_ms: int, *, consistent: bool
    ) -> Sequence[ArchivedDay]:
        # No later day is archived: samples of it are taken.
        last_ms = min(end_ms - 1, now_ms - RAW_RETENTION_S * 1000 - DAY_MS)
        if begin_ms > last_ms:
            return ()
        return self._archives.find(device_id, first=begin_ms // DAY_MS, last=last_ms // DAY_MS, consistent=consistent)

    def _archived(self, day: ArchivedDay, begin_ms: int, end_ms: int) -> Iterator[StoredBatch]:
        wanted = [each for each in day.hours if begin_ms <= each.hour * HOUR_MS < end_ms]
        for group in groups_of(day, self._objects, wanted):
            # The first of each group pays for its GET.
            yield from (each._replace(units=each.units + GET_UNITS) for each in itertools.islice(group, 1))
            yield from group


def _once(archived: Iterator[StoredBatch], stored: Iterator[StoredBatch]) -> Iterator[StoredBatch]:
    last = ""
    for batch in heapq.merge(archived, stored, key=lambda each: each.sk):
        if batch.sk != last:
            yield batch
        last = batch.sk


class Packing:
    """The object of a day, made hour by hour."""

    def __init__(self) -> None:
        self._blobs: list[bytes] = []
        self._hours: list[PackedHour] = []
        self._size = 0

    def add(self, hour: int, batches: Mapping[str, tuple[int, bytes]]) -> None:
        """Add the batches of an hour, by key."""
        if not batches:
            return
        blob = packed((sk, *batches[sk]) for sk in sorted(batches))
        self._blobs.append(blob)
        self._hours.append(PackedHour(hour, self._size, len(blob)))
        self._size += len(blob)

    @property
    def data(self) -> bytes:
        """Return the object."""
        return b"".join(self._blobs)

    @property
    def hours(self) -> tuple[PackedHour, ...]:
        """Return where its hours are."""
        return tuple(self._hours)
