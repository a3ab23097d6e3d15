"""Telemetry in DynamoDB: one item a batch, and dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import orjson

from karma.core.dynamo.access import put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import DeviceId
from karma.devices.domain import RAW_RETENTION_S
from karma.devices.repository.items import (
    BatchItem,
    day_of,
    days_between,
    telemetry_pk,
    telemetry_sk,
)
from karma.devices.samples import Batch

_DAY_S = 24 * 3600
_PAGE_ITEMS = 100
_UNIT_BYTES = 1_024
MAX_SPAN_MS = 3_600_000
"""Longest span of a batch in milliseconds, so samples of a range are in batches that begin up to an hour before it."""
_END_MS = 10**13
"""End of all sort keys, which have 13 digits, until the year 2286: DynamoDB refuses a range that ends before it begins.
"""


class StoredBatch(NamedTuple):
    """A batch as stored."""

    min_ts: int
    samples: list[tuple[int, dict[str, float]]]
    units: int
    """Begun kilobytes of the samples."""


class TelemetryRepository:
    """Conditional puts and range reads of one `telemetry` table."""

    def store(self, device_id: DeviceId, batch: Batch) -> bool:
        """Store a batch once; return False when its key holds another body. A repeat of the same body succeeds."""
        item = BatchItem(
            telemetry_pk(device_id, day_of(batch.min_ts)),
            telemetry_sk(batch.min_ts, batch.boot, batch.seq),
            samples=batch.samples_json,
            digest=batch.digest,
            max_ts=batch.max_ts,
            expires_at=batch.max_ts // 1000 + RAW_RETENTION_S + _DAY_S,
        )
        try:
            put(item)
        except ConditionFailed:
            stored = query(BatchItem, item.pk, BatchItem.sk == item.sk, limit=1, consistent=True).items
            return bool(stored) and stored[0].digest == batch.digest
        return True

    def batches(self, device_id: DeviceId, *, from_ms: int, to_ms: int) -> Iterator[StoredBatch]:
        """Read the batches that may hold samples of [from, to), by their first sample; a query a day and page."""
        earliest, to_ms = max(0, from_ms - MAX_SPAN_MS), min(to_ms, _END_MS - 1)
        if earliest >= to_ms:
            return
        for day in days_between(earliest, max(earliest, to_ms - 1)):
            start = None
            while True:
                page = query(
                    BatchItem,
                    telemetry_pk(device_id, day),
                    BatchItem.sk.between(f"{earliest:013d}", f"{to_ms:013d}"),
                    limit=_PAGE_ITEMS,
                    start=start,
                )
                for item in page.items:
                    units = -(-len(item.samples) // _UNIT_BYTES)
                    yield StoredBatch(int(item.sk[:13]), orjson.loads(item.samples), units)
                if page.last is None:
                    break
                start = page.last
