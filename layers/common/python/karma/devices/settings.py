"""Use cases of devices' settings: show them, change what is desired, and list who has changed what.

The shadow at the broker is the truth, and each change of it is conditional on the version that it was read in. Who
asks for what is stored, with the entry of the audit log, before the broker is told: a request that dies in between
leaves a change that is `asked`, never one that nobody has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock, parse_iso
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import logger
from karma.core.records import Record
from karma.devices.domain import Device, DeviceState
from karma.devices.ports import Shadows
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.shadow import Json, SettingsChange, Shadow, check_desired, merged, patch_to, same, without_empty

_TRIES: Final = 5
"""Times that a change is tried beside others, and beside reports of the device."""


class Asker(Record, kw_only=True):
    """The user who asks for a change, with the origin of the request."""

    user_id: UserId
    source: Source


class SettingsService:
    """Use cases of settings."""

    def __init__(
        self, devices: DeviceRepository, changes: SettingsChangeRepository, shadows: Shadows, clock: Clock
    ) -> None:
        self._devices = devices
        self._changes = changes
        self._shadows = shadows
        self._clock = clock

    def get(self, owner: UserId, device_id: str) -> Shadow:
        """Return a device's settings.

        Raises:
            NotFound: the owner has no such device.
            Upstream: the broker did not answer.
        """
        return self._read(self._require(owner, device_id))[1]

    def change(self, owner: UserId, device_id: str, patch: Json, *, by: Asker, version: int | None = None) -> Shadow:
        """Change the desired settings by a merge patch, and return all; one that changes nothing writes nothing.

        Args:
            owner: whose device it is.
            device_id: id of the device.
            patch: null removes a setting.
            by: who asks.
            version: version that the settings must have; None: any.

        Raises:
            NotFound: the owner has no such device.
            StaleVersion: the settings have another version, or others change them all the time.
            ValidationFailed: the settings would be none that a device can have.
            Upstream: the broker did not answer; the change may have taken effect.
        """
        device = self._require(owner, device_id)
        asked: SettingsChange | None = None
        for _ in range(_TRIES):
            stored, seen = self._read(device)
            wanted = without_empty(merged(seen.desired, patch))
            # The answer to the update before may have been lost, with the client's own repeat refused by its version.
            if asked is not None and same(wanted, seen.desired):
                self._changes.settle(asked, version=None)
                return seen
            if version is not None and stored.version != version:
                break
            check_desired(wanted)
            if same(wanted, seen.desired):
                return seen
            asked = asked or self._ask(device, patch, by)
            if version == 0:
                # Nothing can be compared with settings that do not exist: they are made first, by whoever comes first.
                stored = self._made_empty(device)
                if stored.desired or stored.reported:
                    break
            made = self._shadows.update(
                device.serial_number,
                desired=patch_to(wanted, stored=stored.desired, seen=seen.desired),
                reported=patch_to(seen.reported, stored=stored.reported, seen=seen.reported),
                version=stored.version,
                token=asked.id,
            )
            if made is not None:
                self._changes.settle(asked, version=made)
                logger.info("device.settings_changed", device_id=device.id, version=made)
                return self._read(device)[1]
        if asked is not None:
            self._changes.refuse(asked)
        raise StaleVersion("The device's settings were changed by another request, or by the device; read them again")

    def changes(
        self, owner: UserId, device_id: str, *, limit: int, after: str = ""
    ) -> tuple[Sequence[SettingsChange], str | None]:
        """Return changes of the desired settings, newest first, and the id behind which more follow.

        Raises:
            NotFound: the owner has no such device.
        """
        device = self._require(owner, device_id)
        return self._changes.page(device.id, limit=limit, after=after, now=self._clock.now())

    def _require(self, owner: UserId, device_id: str) -> Device:
        row = self._devices.row(owner, DeviceId(device_id), consistent=True) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id[:64]} not found")
        return row

    def _read(self, device: Device) -> tuple[Shadow, Shadow]:
        """Return a device's shadow as it is stored, and as its owner may see it."""
        stored = self._shadows.read(device.serial_number)
        return stored, stored.since(parse_iso(device.created_at))

    def _made_empty(self, device: Device) -> Shadow:
        """Make a device's settings without any value, and return them; they have some where somebody came first."""
        thing = device.serial_number
        self._shadows.update(thing, desired={}, reported={}, version=0, token=new_id())
        return self._shadows.read(thing)

    def _ask(self, device: Device, patch: Json, by: Asker) -> SettingsChange:
        now = self._clock.now()
        change = SettingsChange(id=new_id(), device_id=device.id, changed_by=by.user_id, patch=patch, at=now)
        entry = AuditEntry(
            user_id=device.user_id,
            event=AuditEvent.DEVICE_SETTINGS_CHANGED,
            at=now,
            actor_id=by.user_id,
            source=by.source,
            details={"device_id": device.id, "change_id": change.id},
        )
        self._changes.ask(device.user_id, change, entry=entry)
        return change
