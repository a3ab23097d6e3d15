"""Creating, changing and deleting devices: rows, things and certificates together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, Conflict, NotFound, StaleVersion, Upstream
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, refuse_shown_once, repeatable
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.domain import (
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceState,
    Latest,
    PresenceState,
)
from karma.devices.ports import Registry
from karma.devices.reading import DeviceReader
from karma.devices.repository.devices import DeviceRepository


class NewDevice(Record, kw_only=True):
    """Content of a new device; validated by schemas.CreateDeviceRequest."""

    name: str
    model: DeviceModel
    mac: str
    serial_number: str
    ip: str | None = None
    firmware_version: str | None = None
    capabilities: Mapping[str, Any]
    hardware: Mapping[str, Any]
    network: Mapping[str, Any]
    location: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()


class Created(Record):
    """A new device with its private key, which is shown only once."""

    current: CurrentDevice
    certificate: Certificate
    endpoint: Endpoint


class DeviceService(DeviceReader):
    """Creates, changes and deletes devices; reads them as well."""

    def __init__(self, devices: DeviceRepository, registry: Registry, clock: Clock) -> None:
        super().__init__(devices)
        self._registry = registry
        self._clock = clock

    def create(
        self,
        user_id: UserId,
        new: NewDevice,
        *,
        allowance: Allowance,
        csr: str = "",
        idempotency_key: IdempotencyKey | None = None,
    ) -> Created:
        """Create a device: row, thing, certificate, policy; then it is active.

        May be repeated after a crash at any point: an unfinished creation of the same owner and serial number is
        taken over, and the request that began it can no longer finish it. A failure removes what was created; what
        cannot be removed now is swept later.

        Raises:
            AlreadyExists: the serial number is taken.
            QuotaExceeded: the owner's plan has no room for another device.
            AlreadyCreated: this request created a device before, whose private key is shown only once.
            Gone: that device was deleted meanwhile.
            IdempotencyKeyReused: the first request with this key asked for another device.
            Conflict: another request took this creation over.
            ValidationFailed: the signing request cannot be signed.
            Upstream: IoT or the database did not answer.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, new, csr, at=now)
        if request is not None:
            # Before IoT is asked for a thing and a certificate, while the record is written only when both are there.
            made = self._devices.made_by(user_id, request)
            if made is not None:
                refuse_shown_once(made, partial(self.get, user_id), what="device")
        attempt = new_id()
        device = provisioning(user_id, new, now=iso(now))
        try:
            self._devices.claim(device, reservation=allowance.reserve(Metric.DEVICES), attempt=attempt, now=now)
            resumed = False
        except AlreadyExists:
            device = self._devices.take_over(device, attempt=attempt, now=now)
            resumed = True
        return self._provision(device, attempt=attempt, csr=csr, resumed=resumed, request=request)

    def _provision(
        self, device: Device, *, attempt: str, csr: str, resumed: bool, request: RepeatableRequest | None
    ) -> Created:
        thing = device.serial_number
        certificate: Certificate | None = None
        active: Device | None = None
        fenced = False
        try:
            endpoint = self._registry.endpoint()
            self._registry.create_thing(thing, device_id=device.id)
            if resumed:
                self._registry.remove_certificates(thing)
            certificate = self._registry.create_certificate(csr=csr)
            self._registry.attach_certificate(thing, certificate)
            active = self._devices.activate(
                device, attempt=attempt, certificate_id=certificate.id, now=self._clock.now(), request=request
            )
        except ConditionFailed as exc:
            fenced = True
            raise Conflict(f"The creation of {thing} was taken over by another request") from exc
        finally:
            if fenced:
                # Thing and rows are the other attempt's now, only the certificate is ours.
                self._undo(lambda: self._remove(certificate, thing), device)
            elif active is None:
                self._undo(lambda: self._abandon(device, certificate, attempt=attempt), device)
        count("DeviceCreated")
        logger.info("device.created", device_id=active.id)
        return Created(CurrentDevice(active, Latest(), PresenceState()), certificate, endpoint)

    def _abandon(self, device: Device, certificate: Certificate | None, *, attempt: str) -> None:
        self._remove(certificate, device.serial_number)
        # Rows last: while they stand, the sweep finds what could not be removed.
        current = self._devices.row(device.user_id, device.id, consistent=True)
        if current is not None and current.state is DeviceState.PROVISIONING:
            self._registry.remove_thing(device.serial_number)
            self._devices.discard(device, attempt=attempt)

    def _remove(self, certificate: Certificate | None, thing: str) -> None:
        if certificate is not None:
            self._registry.remove_certificate(certificate.arn, thing=thing)

    def _undo(self, undo: Callable[[], None], device: Device) -> None:
        try:
            undo()
        except (Upstream, ConditionFailed) as exc:
            logger.warning("device.left_for_sweep", device_id=device.id, cause=type(exc).__name__)

    def change(
        self, user_id: UserId, device_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> CurrentDevice:
        """Change name, tags or location.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
            StaleVersion: `version` is not the stored one.
        """
        if not is_id(device_id):
            raise NotFound(f"Device {device_id} not found")
        if changes:
            self._devices.change(user_id, DeviceId(device_id), changes, version=version, now=self._clock.now())
        return self.get(user_id, device_id)

    def delete(self, user_id: UserId, device_id: str, *, version: int | None = None) -> None:
        """Delete a device: tombstone, then certificates and thing, then rows; a sweep removes its data.

        May be repeated after a crash at any point. When IoT does not answer, owner and ingest do not
        see the device any more, and the sweep goes on.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
            StaleVersion: `version` is not the stored one; a deletion that has begun is gone on with all the same.
        """
        row = self._devices.row(user_id, DeviceId(device_id), consistent=True) if is_id(device_id) else None
        if row is None or row.state is DeviceState.PROVISIONING:
            raise NotFound(f"Device {device_id} not found")
        if row.state is DeviceState.ACTIVE:
            try:
                self._devices.begin_delete(row, version=version, now=self._clock.now())
            except ConditionFailed:
                self._require_version(row, version)
                if self._devices.row(row.user_id, row.id, consistent=True) is None:
                    # Deleted to the end, or another account's by now: the thing of that name is not ours to remove.
                    return
                # Somebody else deletes it too: both may go on.
                logger.info("device.delete_raced", device_id=row.id)
            count("DeviceDeleted")
        self._undo(lambda: self.finish_delete(row), row)

    def _require_version(self, row: Device, version: int | None) -> None:
        current = self._devices.row(row.user_id, row.id, consistent=True) if version is not None else None
        if current is not None and current.state is DeviceState.ACTIVE:
            raise StaleVersion(f"Device {row.id} was changed by somebody else; read it again")

    def finish_delete(self, row: Device) -> None:
        """Remove thing, certificates and rows of a device that is being deleted.

        Raises:
            ConditionFailed: another request finished the deletion.
            Upstream: IoT or the database did not answer.
        """
        self._registry.remove_thing(row.serial_number)
        self._devices.finish_delete(row, now=self._clock.now())


def provisioning(user_id: UserId, new: NewDevice, *, now: str) -> Device:
    """Return a new device as it is stored first, seen by nobody."""
    return Device(
        id=DeviceId(new_id()),
        user_id=user_id,
        name=new.name,
        model=new.model,
        mac=new.mac,
        serial_number=new.serial_number,
        state=DeviceState.PROVISIONING,
        ip=new.ip,
        firmware_version=new.firmware_version,
        capabilities=new.capabilities,
        hardware=new.hardware,
        network=new.network,
        location=new.location,
        tags=new.tags,
        version=0,
        created_at=now,
        updated_at=now,
    )
