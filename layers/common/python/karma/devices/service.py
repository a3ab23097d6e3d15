"""Use cases of devices: create, list, read, change, delete, search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyCreated, AlreadyExists, Conflict, InvalidRequest, NotFound, Upstream
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.domain import (
    SERIAL,
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceState,
    DeviceStatus,
    Latest,
    PresenceState,
)
from karma.devices.ports import Registry
from karma.devices.repository.devices import DeviceRepository
from karma.devices.search import SearchWords

MAX_OFFSET_ROWS = 1_000
"""Largest number of an owner's rows that pages by number, filters and sorting in memory read."""
SORT_FIELDS = ("created_at", "name", "updated_at", "model", "status", "serial_number", "last_heartbeat")


@dataclass(frozen=True, kw_only=True)
class NewDevice:
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


@dataclass(frozen=True)
class Created:
    """A new device with its private key, which is shown only once."""

    view: CurrentDevice
    certificate: Certificate
    endpoint: Endpoint


@dataclass(frozen=True, kw_only=True)
class DeviceQuery:
    """Filters, order and page of a list. `after` is the `next_position` of the page before; it excludes `offset`."""

    limit: int = 20
    offset: int = 0
    after: Mapping[str, object] | None = None
    sort: str = "created_at"
    descending: bool = True
    status: DeviceStatus | None = None
    model: DeviceModel | None = None

    @property
    def filtered(self) -> bool:
        """Tell whether rows are dropped after reading."""
        return self.status is not None or self.model is not None

    @property
    def in_order(self) -> bool:
        """Tell whether an index has the order that is asked for."""
        return self.sort in ("created_at", "name") and not self.filtered

    def position_of(self, view: CurrentDevice) -> Mapping[str, object]:
        """Return the position behind a device, from which the next page's `after` goes on."""
        if self.in_order:
            return {"id": view.device.id, "name": view.device.name}
        return {"id": view.device.id, "key": _sort_key(self.sort)(view)[0]}


@dataclass(frozen=True, kw_only=True)
class DevicePage:
    """A page of devices."""

    devices: tuple[CurrentDevice, ...]
    total: int
    total_capped: bool = False
    next_position: Mapping[str, object] | None = None


class DeviceService:
    """Use cases of owners with devices."""

    def __init__(self, devices: DeviceRepository, registry: Registry, clock: Clock) -> None:
        self._devices = devices
        self._registry = registry
        self._clock = clock

    # Reading

    def get(self, user_id: UserId, device_id: str) -> CurrentDevice:
        """Return an active device, in one query.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        view = self._devices.view(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if view is None:
            raise NotFound(f"Device {device_id} not found")
        return view

    def latest(self, user_id: UserId, device_id: str) -> Latest:
        """Return the newest facts of a device.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        return self.get(user_id, device_id).latest

    def find_by_ref(self, user_id: UserId, ref: str) -> CurrentDevice:
        """Return a device by id or by serial number.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        if is_id(ref):
            return self.get(user_id, ref)
        guard = self._devices.guard(ref) if SERIAL.fullmatch(ref) else None
        if guard is None or guard.user_id != user_id:
            raise NotFound(f"Device {ref} not found")
        view = self._devices.view(user_id, guard.device_id)
        if view is None:
            raise NotFound(f"Device {ref} not found")
        return view

    def list(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        """Return a page of the owner's devices.

        Unfiltered by creation: one query and, unless the first page holds all, one read of the counter. By name: one
        query and one batch read. Filters, other orders and offsets read the first 1,000 rows.

        Raises:
            InvalidRequest: the page, offset or order needs more than 1,000 rows.
        """
        if query.offset + query.limit > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor`", code="INVALID_PAGE"
            )
        if query.in_order:
            return self._page_in_order(user_id, query)
        return self._page_in_memory(user_id, query)

    def _page_in_order(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        wanted = query.offset + query.limit
        after = query.after or {}
        after_id = DeviceId(str(after["id"])) if "id" in after else None
        if query.sort == "name":
            start = (str(after.get("name", "")), after_id) if after_id is not None else None
            rows = self._devices.by_name(user_id, descending=query.descending, limit=wanted, after=start)
        else:
            rows = self._devices.by_age(user_id, newest_first=query.descending, limit=wanted, after=after_id)
        # A list that was seen whole needs no counter, and is not behind the stream.
        seen_whole = not rows.more and after_id is None
        total = len(rows.views) if seen_whole else max(self._devices.count(user_id), len(rows.views))
        shown = rows.views[query.offset :]
        return DevicePage(
            devices=tuple(shown),
            total=total,
            next_position=query.position_of(shown[-1]) if rows.more and shown else None,
        )

    def _page_in_memory(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        rows = self._devices.by_age(user_id, newest_first=True, limit=MAX_OFFSET_ROWS)
        if rows.more and query.sort not in ("created_at", "name"):
            raise InvalidRequest(
                f"Owners of more than {MAX_OFFSET_ROWS} devices can sort by created_at or name", code="INVALID_SORT"
            )
        matches = [view for view in rows.views if _matches(view, query)]
        matches.sort(key=_sort_key(query.sort), reverse=query.descending)
        total, key = len(matches), _sort_key(query.sort)
        if query.after is not None:
            passed = (query.after.get("key"), query.after.get("id"))
            matches = [view for view in matches if (key(view) < passed if query.descending else key(view) > passed)]
        shown = matches[query.offset : query.offset + query.limit]
        more = query.offset + query.limit < len(matches)
        return DevicePage(
            devices=tuple(shown),
            total=total,
            total_capped=rows.more,
            next_position=query.position_of(shown[-1]) if more and shown else None,
        )

    def search(self, user_id: UserId, query: str, *, limit: int) -> tuple[CurrentDevice, ...]:
        """Find devices by words; status and model words filter ("online devices"), others must occur.

        Reads the newest 1,000 devices. Best matches first: a name that begins with a word beats one that contains it.
        """
        wanted = SearchWords.read(query)
        rows = self._devices.by_age(user_id, newest_first=True, limit=MAX_OFFSET_ROWS)
        scored = [(wanted.score(view), view) for view in rows.views]
        found = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
        return tuple(view for _, view in found[:limit])

    # Creating

    def create(
        self, user_id: UserId, new: NewDevice, *, allowance: Allowance, csr: str = "", idempotency_key: str = ""
    ) -> Created:
        """Create a device: row, thing, certificate, policy; then it is active.

        May be repeated after a crash at any point: an unfinished creation of the same owner and serial number is
        taken over, and the request that began it can no longer finish it. A failure removes what was created; what
        cannot be removed now is swept later.

        Raises:
            AlreadyExists: the serial number is taken.
            QuotaExceeded: the owner's plan has no room for another device.
            AlreadyCreated: this Idempotency-Key has created a device before, whose private key is shown only once.
            Conflict: another request took this creation over, or the key was used for another body.
            ValidationFailed: the signing request cannot be signed.
            Upstream: IoT or the database did not answer.
        """
        now = self._clock.now()
        request_hash = _request_hash(new, csr)
        if idempotency_key:
            self._refuse_repeat(user_id, idempotency_key, request_hash)
        attempt = new_id()
        device = _provisioning(user_id, new, now=iso(now))
        try:
            idempotency = (idempotency_key, request_hash) if idempotency_key else None
            reservation = allowance.reserve(Metric.DEVICES)
            self._devices.claim(device, reservation=reservation, attempt=attempt, now=now, idempotency=idempotency)
            resumed = False
        except AlreadyExists:
            device = self._devices.take_over(device, attempt=attempt, now=now)
            resumed = True
        return self._provision(device, attempt=attempt, csr=csr, resumed=resumed)

    def _refuse_repeat(self, user_id: UserId, key: str, request_hash: str) -> None:
        made = self._devices.made_by(user_id, "devices", key, now=self._clock.now())
        if made is None:
            return
        if made.request_hash != request_hash:
            raise Conflict("This Idempotency-Key was used for another request", code="IDEMPOTENCY_KEY_REUSED")
        row = self._devices.row(user_id, DeviceId(made.id))
        if row is not None and row.state is not DeviceState.PROVISIONING:
            raise AlreadyCreated(
                f"Device {made.id} was created by this request before; its private key is shown once",
                details={"id": made.id},
            )

    def _provision(self, device: Device, *, attempt: str, csr: str, resumed: bool) -> Created:
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
                device, attempt=attempt, certificate_id=certificate.id, now=self._clock.now()
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

    # Changing and deleting

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

    def delete(self, user_id: UserId, device_id: str) -> None:
        """Delete a device: tombstone, then certificates and thing, then rows; a sweep removes its data.

        May be repeated after a crash at any point. When IoT does not answer, owner and ingest do not
        see the device any more, and the sweep goes on.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        row = self._devices.row(user_id, DeviceId(device_id), consistent=True) if is_id(device_id) else None
        if row is None or row.state is DeviceState.PROVISIONING:
            raise NotFound(f"Device {device_id} not found")
        if row.state is DeviceState.ACTIVE:
            try:
                self._devices.begin_delete(row, now=self._clock.now())
            except ConditionFailed:
                # Somebody else deletes it too: both may go on.
                logger.info("device.delete_raced", device_id=row.id)
            count("DeviceDeleted")
        self._undo(lambda: self.finish_delete(row), row)

    def finish_delete(self, row: Device) -> None:
        """Remove thing, certificates and rows of a device that is being deleted.

        Raises:
            ConditionFailed: another request finished the deletion.
            Upstream: IoT or the database did not answer.
        """
        self._registry.remove_thing(row.serial_number)
        self._devices.finish_delete(row, now=self._clock.now())


def _provisioning(user_id: UserId, new: NewDevice, *, now: str) -> Device:
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


def _request_hash(new: NewDevice, csr: str) -> str:
    return hashlib.sha256(orjson.dumps([new, csr], option=orjson.OPT_SORT_KEYS)).hexdigest()


def _matches(view: CurrentDevice, query: DeviceQuery) -> bool:
    if query.status is not None and view.status is not query.status:
        return False
    return query.model is None or view.device.model is query.model


def _sort_key(field: str) -> Callable[[CurrentDevice], tuple[Any, str]]:
    def key(view: CurrentDevice) -> tuple[Any, str]:
        device = view.device
        value: Any = {
            "created_at": device.id,
            "name": device.name.casefold(),
            "updated_at": device.updated_at,
            "model": device.model,
            "status": view.status,
            "serial_number": device.serial_number,
            "last_heartbeat": view.latest.last_seen_ms,
        }[field]
        return value, device.id

    return key
