"""Telemetry in DynamoDB: one item a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from karma.core.dynamo.access import put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.statements import WriteOutcome, insert, write_each
from karma.core.ids import DeviceId, UserId, is_id
from karma.devices.domain import RAW_STORED_S
from karma.devices.repository.items import (
    BatchItem,
    day_of,
    days_between,
    telemetry_pk,
    telemetry_sk,
)
from karma.devices.samples import Batch, StoredBatch, StoredItem

_PAGE_ITEMS = 100
_UNIT_BYTES = 1_024
_STORED_ITEMS = 1_000
_HOUR_MS = 3_600_000
_END_MS = 10**13
"""End of all sort keys, which have 13 digits, until the year 2286: DynamoDB refuses a range that ends before it begins.
"""


def stored_hour(pk: str, sk: str) -> tuple[DeviceId, int] | None:
    """Return the device and the hour, counted from 1970, of the batch with a key; None: it is no batch's."""
    root, _, rest = pk.partition("#")
    device_id, _, day = rest.partition("#")
    moment = sk[:13]
    if root != "DEV" or not day or not is_id(device_id) or not moment.isdecimal():
        return None
    return DeviceId(device_id), int(moment) // _HOUR_MS


class OwnedBatch(NamedTuple):
    """A batch, and whose it is."""

    device_id: DeviceId
    batch: Batch
    owner: UserId | None
    """Account that has the device."""


class TelemetryRepository:
    """Conditional puts and range reads of one `telemetry` table."""

    def store_new(self, batches: Sequence[OwnedBatch]) -> list[WriteOutcome]:
        """Store those of these batches whose keys are free, in one call for every 25.

        REFUSED: the key is taken, and `holds` tells by what. UNKNOWN: `store` is to be asked for this one.
        """
        return write_each([insert(_item(*each)) for each in batches])

    def store(self, device_id: DeviceId, batch: Batch, *, owner: UserId | None = None) -> bool:
        """Store a batch once; return False when its key holds another body. A repeat of the same body succeeds."""
        item = _item(device_id, batch, owner)
        try:
            put(item)
        except ConditionFailed:
            return self.holds(device_id, batch)
        return True

    def holds(self, device_id: DeviceId, batch: Batch) -> bool:
        """Tell whether a batch is stored, and no other body under its key: one consistent Query."""
        pk, sk = telemetry_pk(device_id, day_of(batch.min_ts)), telemetry_sk(batch.min_ts, batch.boot, batch.seq)
        stored = query(BatchItem, pk, BatchItem.sk == sk, limit=1, consistent=True).items
        return bool(stored) and stored[0].digest == batch.digest

    def batches(
        self, device_id: DeviceId, *, from_ms: int, to_ms: int, consistent: bool = False, page: int = _PAGE_ITEMS
    ) -> Iterator[StoredBatch]:
        """Read the batches that may hold samples of [from, to), by their first sample; a Query a day and page.

        All samples of a batch are of one hour of UTC.
        """
        earliest, to_ms = max(0, from_ms - from_ms % _HOUR_MS), min(to_ms, _END_MS - 1)
        if earliest >= to_ms:
            return
        for day in days_between(earliest, max(earliest, to_ms - 1)):
            start = None
            while True:
                found = query(
                    BatchItem,
                    telemetry_pk(device_id, day),
                    BatchItem.sk.between(f"{earliest:013d}", f"{to_ms:013d}"),
                    limit=page,
                    start=start,
                    consistent=consistent,
                )
                for item in found.items:
                    units = -(-len(item.samples) // _UNIT_BYTES)
                    yield StoredBatch(int(item.sk[:13]), orjson.loads(item.samples), units, item.sk)
                if found.last is None:
                    break
                start = found.last

    def stored(self, device_id: DeviceId, *, from_ms: int, to_ms: int) -> Iterator[StoredItem]:
        """Read batches whose first sample is in [from, to) of one day, strongly consistent; a Query a megabyte."""
        start = None
        while True:
            found = query(
                BatchItem,
                telemetry_pk(device_id, day_of(from_ms)),
                BatchItem.sk.between(f"{from_ms:013d}", f"{to_ms:013d}"),
                limit=_STORED_ITEMS,
                start=start,
                consistent=True,
            )
            for item in found.items:
                yield StoredItem(item.sk, item.samples, -(-len(item.samples) // _UNIT_BYTES), item.owner or "")
            if found.last is None:
                return
            start = found.last


def _item(device_id: DeviceId, batch: Batch, owner: UserId | None) -> BatchItem:
    return BatchItem(
        telemetry_pk(device_id, day_of(batch.min_ts)),
        telemetry_sk(batch.min_ts, batch.boot, batch.seq),
        samples=batch.samples_json,
        digest=batch.digest,
        max_ts=batch.max_ts,
        owner=owner,
        expires_at=batch.max_ts // 1000 + RAW_STORED_S,
    )
