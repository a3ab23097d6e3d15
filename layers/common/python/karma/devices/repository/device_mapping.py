"""Items of devices as the domain knows them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

import orjson

from karma.core.clock import iso
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.domain import (
    CertificateOverlap,
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceState,
    Latest,
    PresenceEvent,
    PresenceState,
    Reading,
)
from karma.devices.repository.items import (
    DEVICE_PREFIX,
    SWEEP_PARTITION,
    DeviceItem,
    DevicesItem,
    LatestItem,
    PresenceItem,
    TombstoneItem,
    UniqueSerial,
    device_key,
    tombstone_key,
    unique_serial_key,
)


class SerialClaim(Record, kw_only=True):
    """Owner and device of a serial number, with the certificates that may send for it."""

    serial_number: str
    user_id: UserId
    device_id: DeviceId
    state: DeviceState
    certificate_ids: frozenset[str]
    next_certificate_id: str = ""
    """The one of them that has not connected yet; "": there is one certificate."""
    removed_certificate_id: str = ""
    removed_ms: int = 0
    since_ms: int = 0
    """Moment in milliseconds at which another account gave the device to its owner; 0: none did."""

    def takes(self, certificate_id: str, *, received_ms: int) -> bool:
        """Tell whether a certificate spoke for the device when the broker got a message.

        One that was removed counts for what the broker had before, which a queue may bring much later.
        """
        if certificate_id in self.certificate_ids:
            return True
        return certificate_id == self.removed_certificate_id and received_ms <= self.removed_ms


class GoneDevice(NamedTuple):
    """A deleted device whose data is not removed yet."""

    user_id: UserId
    device_id: DeviceId


def latest_from(item: DevicesItem | None) -> Latest:
    """Return the facts that `latest_json` wrote, with the values that came since."""
    if not isinstance(item, LatestItem):
        return Latest()
    readings = {name: Reading(orjson.loads(value), ts) for name, (value, ts) in item.fresh.items()}
    return _whole(item).merge(Latest(readings=readings, last_seen_ms=int(item.seen_ms)))


def _whole(item: LatestItem) -> Latest:
    facts = dict(cast("dict[str, Any]", item.facts or {}))
    readings = {name: Reading(value, ts) for name, (value, ts) in facts.pop("readings", {}).items()}
    # An earlier release had one time for both.
    beat_ms = facts.pop("heartbeat_ms", 0)
    for name, time in (("ip", "ip_ms"), ("firmware_version", "firmware_ms")):
        if name in facts:
            facts.setdefault(time, beat_ms)
    return Latest(readings=readings, **facts)


def presence_from(item: DevicesItem | None) -> PresenceState:
    """Return the presence of an item; None: an empty one."""
    if not isinstance(item, PresenceItem) or not item.events:
        return PresenceState()
    return PresenceState(tuple(PresenceEvent(*event) for event in cast("list[Any]", item.events)))


def latest_json(latest: Latest) -> dict[str, Any]:
    """Return the attributes of the newest facts, without absent ones."""
    facts = {
        "readings": {name: [reading.value, reading.ts] for name, reading in latest.readings.items()},
        "last_seen_ms": latest.last_seen_ms,
        "ready_ms": latest.ready_ms,
        "ip_ms": latest.ip_ms,
        "ip": latest.ip,
        "firmware_ms": latest.firmware_ms,
        "firmware_version": latest.firmware_version,
        "condition_ms": latest.condition_ms,
        "condition": latest.condition,
    }
    return {name: value for name, value in facts.items() if value}


def current_devices_of(items: Sequence[DevicesItem]) -> list[CurrentDevice]:
    """Put each device's items together, in the order in which the devices appear."""
    rows: dict[str, Device] = {}
    facts: dict[str, DevicesItem] = {}
    order: dict[str, None] = {}
    for item in items:
        base, _, part = item.sk.removeprefix(DEVICE_PREFIX).partition("#")
        order[base] = None
        if isinstance(item, DeviceItem):
            rows[base] = device_of(item)
        else:
            facts[f"{base}#{part}"] = item
    return [
        CurrentDevice(
            rows[base], latest_from(facts.get(f"{base}#LATEST")), presence_from(facts.get(f"{base}#PRESENCE"))
        )
        for base in order
        if base in rows
    ]


def unfinished_of(item: DevicesItem) -> SerialClaim | GoneDevice | None:
    """Return what an item of the work list stands for: a device half made or half deleted, or data that is left."""
    if isinstance(item, UniqueSerial):
        return claim_of(item)
    if isinstance(item, TombstoneItem) and item.device_id and item.user_id:
        return GoneDevice(UserId(item.user_id), DeviceId(item.device_id))
    return None


def claim_of(item: UniqueSerial) -> SerialClaim:
    """Return the owner of a serial number."""
    return SerialClaim(
        serial_number=item.serial_number,
        user_id=UserId(item.user_id),
        device_id=DeviceId(item.device_id),
        state=DeviceState(item.state),
        certificate_ids=frozenset(item.certificate_ids or ()),
        next_certificate_id=item.next_certificate_id or "",
        removed_certificate_id=item.removed_certificate_id or "",
        removed_ms=int(item.removed_ms or 0),
        since_ms=int(item.since_ms or 0),
    )


def unique_serial(device: Device, *, attempt: str, now: str) -> UniqueSerial:
    """Return the item that makes a device's serial number its own; `attempt` names the request that creates it."""
    pk, sk = unique_serial_key(device.serial_number)
    return UniqueSerial(
        pk,
        sk,
        serial_number=device.serial_number,
        user_id=device.user_id,
        device_id=device.id,
        state=device.state,
        attempt=attempt,
        created_at=now,
        updated_at=now,
        gsi1pk=SWEEP_PARTITION,
        gsi1sk=f"{now}#{device.serial_number}",
    )


def tombstone(device: Device, now: datetime) -> TombstoneItem:
    """Return the item by which the data of a device that is gone is found, until that is removed."""
    stamp = iso(now)
    return TombstoneItem(
        *tombstone_key(device.user_id, device.id),
        user_id=device.user_id,
        device_id=device.id,
        deleted_ms=round(now.timestamp() * 1000),
        created_at=stamp,
        updated_at=stamp,
        gsi1pk=SWEEP_PARTITION,
        gsi1sk=f"{stamp}#{device.id}",
    )


def device_item(device: Device, *, attempt: str) -> DeviceItem:
    """Return a device's row; `attempt` names the request that creates it."""
    pk, sk = device_key(device.user_id, device.id)
    return DeviceItem(
        pk,
        sk,
        device_id=device.id,
        user_id=device.user_id,
        name=device.name,
        model=device.model,
        mac=device.mac,
        serial_number=device.serial_number,
        state=device.state,
        attempt=attempt,
        ip=device.ip,
        firmware_version=device.firmware_version,
        capabilities=dict(device.capabilities),
        hardware=dict(device.hardware),
        network=dict(device.network),
        location=dict(device.location) if device.location is not None else None,
        tags=list(device.tags),
        created_at=device.created_at,
        updated_at=device.updated_at,
    )


def device_of(item: DeviceItem) -> Device:
    """Return the device of a row."""
    return Device(
        id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        name=item.name,
        model=DeviceModel(item.model),
        mac=item.mac,
        serial_number=item.serial_number,
        state=DeviceState(item.state),
        ip=item.ip,
        firmware_version=item.firmware_version,
        capabilities=cast("dict[str, Any]", item.capabilities or {}),
        hardware=cast("dict[str, Any]", item.hardware or {}),
        network=cast("dict[str, Any]", item.network or {}),
        location=cast("dict[str, Any] | None", item.location),
        tags=stored_tags(item.tags),
        overlap=_overlap(item),
        is_bare=bool(item.bare),
        first_id=DeviceId(item.first_id) if item.first_id else None,
        version=int(item.version or 0),
        created_at=item.created_at or "",
        updated_at=item.updated_at or "",
    )


def stored_tags(found: Any) -> tuple[str, ...]:
    """Return tags as they are compared; some are of before they had one form."""
    tags = cast("list[str]", found or [])
    if all(map(str.isascii, tags)):
        return tuple(tags)
    from karma.core.lines import composed_tags  # local: no start needs it

    return composed_tags(tags)


RENEWAL: Final = "renewal"
"""Word behind certificate, beginning and end of a rotation that the device asked for."""


def _overlap(item: DeviceItem) -> CertificateOverlap | None:
    said = cast("list[Any] | None", item.rotation)
    if not said:
        return None
    certificate_id, began_ms, ends_ms, *kind = said
    return CertificateOverlap(
        certificate_id=certificate_id, began_ms=began_ms, ends_ms=ends_ms, is_renewal=kind == [RENEWAL]
    )
