"""Removal of what projects have of a device that is gone."""

from __future__ import annotations

from karma.core.ids import DeviceId
from karma.projects.repository.devices import ProjectDeviceRepository


class SharesOfDevices:
    """Removes what projects have of a deleted device; see karma.devices.ports.DataOfDevices."""

    def __init__(self, store: ProjectDeviceRepository) -> None:
        self._store = store

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` shares of a deleted device, and return how many."""
        found = self._store.of_device(device_id)[:limit]
        return sum(self._store.remove(each) for each in found)
