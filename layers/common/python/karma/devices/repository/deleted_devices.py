"""Removing the data of deleted devices (commands, dead letters, telemetry, last the tombstone), and of an owner."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import delete, query
from karma.core.dynamo.items import Item
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.ids import DeviceId, UserId
from karma.core.purge import PurgeAttempt
from karma.devices.domain import RAW_STORED_S
from karma.devices.repository.device_mapping import GoneDevice
from karma.devices.repository.items import (
    DEVICE_PREFIX,
    GONE_PREFIX,
    DevicesItem,
    TelemetryItem,
    TombstoneItem,
    children_pk,
    days_between,
    owner_pk,
    telemetry_pk,
    tombstone_key,
)

_PAGE_ITEMS = 100


class DeletedDeviceRepository:
    """Removal of deleted devices' data from both tables."""

    def __init__(self, *, retention_s: int = RAW_STORED_S) -> None:
        """Build the repository.

        Telemetry is removed from each day within `retention_s` seconds.
        """
        self._retention = timedelta(seconds=retention_s)

    def remove(self, gone: GoneDevice, *, now: datetime, limit: int) -> int:
        """Remove up to `limit` items of a deleted device; the tombstone goes last, when nothing else is left.

        Returns:
            Number of removed items; fewer than `limit`: none is left.
        """
        removed = 0
        for item in self._items(gone.device_id, now=now):
            if removed == limit:
                return removed
            delete(item)
            removed += 1
        if removed < limit:
            delete(TombstoneItem(*tombstone_key(*gone)))
        return removed

    def empty(self, device_id: DeviceId, purge: PurgeAttempt, *, now: datetime) -> bool:
        """Remove all data but the tombstone, 25 items a call; return False when the time was over before the end."""
        return empty(DevicesItem, children_pk(device_id), purge) and all(
            empty(TelemetryItem, telemetry_pk(device_id, day), purge) for day in self._days(now)
        )

    def gone(self, user_id: UserId) -> list[GoneDevice]:
        """Read an owner's first hundred deleted devices whose data is not removed, strongly consistent."""
        found = next(pages(DevicesItem, owner_pk(user_id), prefix=GONE_PREFIX))
        return [GoneDevice(user_id, DeviceId(key.sk.removeprefix(GONE_PREFIX))) for key in found]

    def empty_owner(self, purge: PurgeAttempt) -> bool:
        """Remove an owner's counter and records of requests; return True when no device is left either."""
        own = owner_pk(purge.user_id)
        kept = (DEVICE_PREFIX, GONE_PREFIX)
        left = False
        for page in pages(DevicesItem, own):
            if purge.over():
                return False
            delete_keys(DevicesItem, [key for key in page if not key.sk.startswith(kept)])
            left = left or any(key.sk.startswith(kept) for key in page)
        return not left

    def forget(self, gone: GoneDevice) -> None:
        """Remove the tombstone, once nothing of the device can be written any more."""
        delete(TombstoneItem(*tombstone_key(*gone)))

    def _items(self, device_id: DeviceId, *, now: datetime) -> Iterator[Item]:
        yield from self._partition(DevicesItem, children_pk(device_id))
        for day in self._days(now):
            yield from self._partition(TelemetryItem, telemetry_pk(device_id, day))

    def _partition(self, kind: type[Item], pk: str) -> Iterator[Item]:
        start = None
        while True:
            page = query(kind, pk, limit=_PAGE_ITEMS, start=start)
            yield from page.items
            start = page.last
            if start is None:
                return

    def _days(self, now: datetime) -> Iterator[str]:
        oldest = now - self._retention - timedelta(days=2)
        return days_between(epoch_ms(oldest), epoch_ms(now + timedelta(days=1)))
