"""The steps of devices in the deletion of an account."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.clock import Clock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import DeviceId
from karma.core.purge import PurgeAttempt, PurgeStep
from karma.devices.domain import Device, DeviceState
from karma.devices.ports import DataOfDevices, Registry
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.transfers import TransferRepository
from karma.devices.service import DeviceService

_ROWS = 100
_THINGS = 500


class DevicesPurge:
    """Step of a deletion that deletes each device as its owner would, and then its data."""

    name = "devices"

    def __init__(
        self,
        *,
        devices: DeviceRepository,
        deleted_devices: DeletedDeviceRepository,
        registry: Registry,
        clock: Clock,
        others: Sequence[DataOfDevices] = (),
    ) -> None:
        """Build the step.

        `others` remove the data that other contexts keep for a device.
        """
        self._devices = devices
        self._deleted = deleted_devices
        self._registry = registry
        self._service = DeviceService(devices, registry, clock)
        self._clock = clock
        self._others = others

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's devices with their data; return True when none is left.

        A tombstone is kept until `SETTLES_AFTER` the deletion: a process of ingest with a cached row may have written
        for the device after the first round.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        while rows := [row for row in self._devices.rows(purge.user_id, limit=_ROWS) if self._may_go(row, purge)]:
            for row in rows:
                if purge.over():
                    return False
                self._remove(row)
        for gone in self._deleted.gone(purge.user_id):
            if not (self._remove_others(gone.device_id, purge) and self._empty(gone.device_id, purge)):
                return False
            if purge.settled:
                self._deleted.forget(gone)
        return self._deleted.empty_owner(purge)

    def _empty(self, device_id: DeviceId, purge: PurgeAttempt) -> bool:
        return self._deleted.empty(device_id, purge, now=self._clock.now())

    def _remove_others(self, device_id: DeviceId, purge: PurgeAttempt) -> bool:
        for other in self._others:
            while other.remove(device_id, limit=_THINGS) == _THINGS:
                if purge.over():
                    return False
        return True

    def _may_go(self, row: Device, purge: PurgeAttempt) -> bool:
        # Whoever makes it now removes it when it finds no account; a thing must not be made behind our back.
        return purge.settled or row.state is not DeviceState.PROVISIONING

    def _remove(self, row: Device) -> None:
        try:
            if row.state is DeviceState.PROVISIONING:
                self._registry.remove_thing(row.serial_number)
                self._devices.discard(row, attempt=None)
                return
            if row.state is DeviceState.ACTIVE:
                self._devices.begin_delete(row, now=self._clock.now())
            self._service.finish_delete(row)
        except ConditionFailed:
            # The sweep, or another go, was quicker; the next look tells.
            return


def purge() -> PurgeStep:
    """Return the step that removes the offers of devices to an account, and its refusals."""
    return TransferRepository()
