"""Removing what a deleted device left: commands, dead letters, telemetry, and in the end its tombstone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import delete, get, query
from karma.core.dynamo.items import Item, bind
from karma.core.ids import DeviceId
from karma.devices.domain import RAW_RETENTION_S
from karma.devices.repository.items import (
    DevicesItem,
    TelemetryItem,
    TombstoneItem,
    children_pk,
    days_between,
    telemetry_pk,
    tombstone_key,
)

_PAGE_ITEMS = 100


class LeftoverRepository:
    """Deletes in both tables."""

    def __init__(self, devices_table: str, telemetry_table: str) -> None:
        """Bind the tables; no request is made."""
        bind(DevicesItem, devices_table)
        bind(TelemetryItem, telemetry_table)

    def remove(self, device_id: DeviceId, *, now: datetime, limit: int) -> int:
        """Remove up to `limit` items of a deleted device; the tombstone goes last, when nothing else is left.

        Returns:
            How many items were removed; fewer than `limit` means that all are gone.
        """
        removed = 0
        for item in self._items(device_id, now=now):
            if removed == limit:
                return removed
            delete(item)
            removed += 1
        tombstone = get(TombstoneItem, tombstone_key(device_id))
        if tombstone is not None and removed < limit:
            delete(tombstone)
        return removed

    def _items(self, device_id: DeviceId, *, now: datetime) -> Iterator[Item]:
        yield from self._partition(DevicesItem, children_pk(device_id))
        oldest = now - timedelta(seconds=RAW_RETENTION_S + 2 * 24 * 3600)
        for day in days_between(epoch_ms(oldest), epoch_ms(now + timedelta(days=1))):
            yield from self._partition(TelemetryItem, telemetry_pk(device_id, day))

    def _partition(self, kind: type[Item], pk: str) -> Iterator[Item]:
        start = None
        while True:
            page = query(kind, pk, limit=_PAGE_ITEMS, start=start)
            yield from (item for item in page.items if not isinstance(item, TombstoneItem))
            start = page.last
            if start is None:
                return
