"""Answers of the device routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

from pydantic import Field

from karma.core.clock import from_epoch_ms, iso
from karma.devices.domain import (
    CertificateOverlap,
    Command,
    CommandStatus,
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceStatus,
    LateResult,
    Latest,
)

if TYPE_CHECKING:
    from karma.devices.credentials import Certificate, Endpoint
    from karma.devices.repository.dead_letters import DeadLetter
    from karma.devices.rotation import DeviceCertificate


class ReadingView(TypedDict):
    """The newest value of a metric."""

    value: float
    ts: str


def readings_view(latest: Latest) -> dict[str, ReadingView]:
    """Render the newest value of each metric, by its name."""
    return {
        name: {"value": reading.value, "ts": iso(from_epoch_ms(reading.ts))}
        for name, reading in sorted(latest.readings.items())
    }


class OverlapView(TypedDict):
    """The time in which a device has two certificates."""

    certificate_id: Annotated[str, Field(description="The new one")]
    began_at: str
    ends_at: Annotated[
        str,
        Field(description="Unless the new one has connected by then, the old one is removed, of a renewal the new"),
    ]
    is_renewal: Annotated[bool, Field(description="The device asked for the new one itself")]


def _overlap_view(overlap: CertificateOverlap | None) -> OverlapView | None:
    if overlap is None:
        return None
    began, ends = from_epoch_ms(overlap.began_ms), from_epoch_ms(overlap.ends_ms)
    return {
        "certificate_id": overlap.certificate_id,
        "began_at": iso(began),
        "ends_at": iso(ends),
        "is_renewal": overlap.is_renewal,
    }


class DeviceView(TypedDict):
    """A device."""

    id: str
    user_id: str
    name: str
    model: DeviceModel
    status: DeviceStatus
    ip: str | None
    mac: str
    serial_number: str
    firmware_version: str | None
    last_heartbeat: str | None
    capabilities: Mapping[str, Any]
    hardware: Mapping[str, Any]
    network: Mapping[str, Any]
    location: Mapping[str, Any] | None
    tags: list[str]
    latest: dict[str, ReadingView]
    certificates: Annotated[
        int,
        Field(description="By which it may connect: 2 in a rotation, 0 since an import until the first is made"),
    ]
    rotation: Annotated[OverlapView | None, Field(description="While it has two certificates")]
    created_at: str
    updated_at: str
    version: int


def device_view(current: CurrentDevice) -> DeviceView:
    """Render a device with its status and newest values."""
    device, latest = current.device, current.latest
    return {
        "id": device.id,
        "user_id": device.user_id,
        "name": device.name,
        "model": device.model,
        "status": current.status,
        "ip": latest.ip or device.ip,
        "mac": device.mac,
        "serial_number": device.serial_number,
        "firmware_version": latest.firmware_version or device.firmware_version,
        "last_heartbeat": _time(latest.last_seen_ms),
        "capabilities": device.capabilities,
        "hardware": device.hardware,
        "network": device.network,
        "location": device.location,
        "tags": list(device.tags),
        "latest": readings_view(latest),
        "certificates": device.certificates,
        "rotation": _overlap_view(device.overlap),
        "created_at": device.created_at,
        "updated_at": device.updated_at,
        "version": device.version,
    }


class CredentialsView(TypedDict):
    """Credentials with which the device connects; shown once."""

    device_id: Annotated[
        str, Field(description="Names this device in its commands; another one may have the same serial number later")
    ]
    thing_name: str
    certificate_id: str
    certificate_pem: str
    private_key: NotRequired[str]
    ca_pem: str
    mqtt_host: str
    mqtt_port: int
    basic_ingest_rule: Annotated[
        str, Field(description="Telemetry may go to `$aws/rules/<this>/` and its topic: docs/mqtt.md")
    ]
    provisioning_template: Annotated[
        str, Field(description="Names the topics on which it may ask for a new certificate itself: docs/mqtt.md")
    ]


def credentials_view(device: Device, certificate: Certificate, endpoint: Endpoint) -> CredentialsView:
    """Render credentials; without a private key when the device made its own."""
    shown: CredentialsView = {
        "device_id": device.addressee,
        "thing_name": device.serial_number,
        "certificate_id": certificate.id,
        "certificate_pem": certificate.pem,
        "private_key": certificate.private_key or "",
        "ca_pem": endpoint.ca_pem,
        "mqtt_host": endpoint.host,
        "mqtt_port": endpoint.port,
        "basic_ingest_rule": endpoint.basic_ingest_rule,
        "provisioning_template": endpoint.provisioning_template,
    }
    if certificate.private_key is None:
        del shown["private_key"]
    return shown


class CertificateView(TypedDict):
    """A certificate by which a device may connect."""

    id: str
    is_new: Annotated[bool, Field(description="It was made to replace the other one, and has not connected yet")]
    ends_at: Annotated[
        str | None,
        Field(
            description="It is removed then unless the new one has connected: the old one, or the new one of a renewal"
        ),
    ]


class CertificateListData(TypedDict):
    """Certificates of a device."""

    certificates: list[CertificateView]


def certificate_view(certificate: DeviceCertificate) -> CertificateView:
    """Render a certificate."""
    return {"id": certificate.id, "is_new": certificate.is_new, "ends_at": _time(certificate.ends_ms)}


class CreatedDeviceData(TypedDict):
    """A new device and its credentials."""

    device: DeviceView
    credentials: CredentialsView


class DeviceData(TypedDict):
    """One device."""

    device: DeviceView


class DeviceListData(TypedDict):
    """A page of devices; `page` and `page_size` unless a cursor or an offset was given."""

    devices: list[DeviceView]
    total: int
    total_capped: bool
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class LatestData(TypedDict):
    """Status and newest values of a device."""

    device_id: str
    status: DeviceStatus
    last_heartbeat: str | None
    latest: dict[str, ReadingView]


def latest_data(current: CurrentDevice) -> LatestData:
    """Render the status and newest values of a device."""
    return {
        "device_id": current.device.id,
        "status": current.status,
        "last_heartbeat": _time(current.latest.last_seen_ms),
        "latest": readings_view(current.latest),
    }


class LateResultView(TypedDict):
    """Answer of the device after the command had ended otherwise; it changes nothing else."""

    status: CommandStatus
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    received_at: str


def late_result_view(late: LateResult) -> LateResultView:
    """Render a late answer."""
    return {
        "status": late.status,
        "result": _object(late.result),
        "error": _object(late.error),
        "received_at": iso(from_epoch_ms(late.received_ms)),
    }


class CommandView(TypedDict):
    """A command."""

    id: str
    device_id: str
    command: str
    params: dict[str, Any]
    status: CommandStatus
    serial: bool
    requested_by: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    late_result: LateResultView | None
    issued_at: str
    expires_at: str
    sent_at: str | None
    acknowledged_at: str | None
    finished_at: str | None


def command_view(command: Command) -> CommandView:
    """Render a command."""
    return {
        "id": command.id,
        "device_id": command.device_id,
        "command": command.command,
        "params": dict(command.params),
        "status": command.status,
        "serial": command.serial,
        "requested_by": command.requested_by or None,
        "result": _object(command.result),
        "error": _object(command.error),
        "late_result": late_result_view(command.late_result) if command.late_result is not None else None,
        "issued_at": iso(from_epoch_ms(command.issued_ms)),
        "expires_at": iso(from_epoch_ms(command.expires_ms)),
        "sent_at": _time(command.sent_ms),
        "acknowledged_at": _time(command.acknowledged_ms),
        "finished_at": _time(command.finished_ms),
    }


class CommandData(TypedDict):
    """One command."""

    command: CommandView


class CommandListData(TypedDict):
    """A page of commands, newest first."""

    commands: list[CommandView]
    limit: int
    next_cursor: str | None


class RefusedView(TypedDict):
    """A part of a message that was refused."""

    field: str
    reason: str


class DeadLetterView(TypedDict):
    """A message of the device of which a part was refused; lists show the first 4 KB of its payload."""

    id: str
    reason: str
    """Reason of the first refused part."""
    field: str
    """First refused part, such as `samples[3].m["temp_c"]`; "": the whole message."""
    refused: list[RefusedView]
    """Refused parts, at most the first 20."""
    refused_count: int
    taken: bool
    """True: the rest of the message was stored."""
    topic: str
    received_at: str
    size: int
    payload_base64: str
    truncated: bool
    payload_withheld: bool
    """True: the payload is empty, since it may tell of the time before the device was transferred to you."""


def dead_letter_view(letter: DeadLetter) -> DeadLetterView:
    """Render a dead letter; the payload in base64, since it may be anything."""
    return {
        "id": letter.id,
        "reason": letter.refused[0].reason,
        "field": letter.refused[0].field,
        "refused": [{"field": each.field, "reason": each.reason} for each in letter.refused],
        "refused_count": letter.refused_count,
        "taken": letter.taken,
        "topic": letter.topic,
        "received_at": iso(from_epoch_ms(letter.received_ms)),
        "size": letter.size,
        "payload_base64": base64.b64encode(letter.payload).decode(),
        "truncated": letter.size > len(letter.payload),
        "payload_withheld": letter.is_withheld,
    }


class DeadLetterData(TypedDict):
    """One dead letter, with its whole payload."""

    dead_letter: DeadLetterView


class DeadLetterListData(TypedDict):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterView]
    limit: int
    next_cursor: str | None


def _time(milliseconds: int) -> str | None:
    return iso(from_epoch_ms(milliseconds)) if milliseconds else None


def _object(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(found) if found is not None else None
