"""Bodies of the device routes."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from karma.core.schemas import Body, Data, FreeForm, Number, Version, Whole, json_of_at_most, left_out
from karma.devices.domain import (
    COMMAND_NAME,
    DEFAULT_TTL_S,
    MAC,
    MAX_NAME_CHARS,
    MAX_OBJECT_BYTES,
    MAX_PARAMS_BYTES,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TTL_S,
    MAX_WAIT_S,
    MIN_TTL_S,
    SERIAL,
    CommandStatus,
    DeviceModel,
    DeviceStatus,
)
from karma.devices.telemetry import Resolution

_TEXT = r"^[^\x00-\x1f\x7f]*$"


def _mac(value: str) -> str:
    if not MAC.fullmatch(value):
        raise ValueError("six pairs of hexadecimal digits with : or - between them")
    return value.upper().replace("-", ":")


def _ip(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _distinct(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_CHARS, pattern=_TEXT)]
Tags = Annotated[
    list[
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TAG_CHARS, pattern=_TEXT)]
    ],
    Field(max_length=MAX_TAGS),
    AfterValidator(_distinct),
]
Object = Annotated[FreeForm, json_of_at_most(MAX_OBJECT_BYTES)]


class CreateDeviceRequest(Body):
    """A new device; its owner is the caller."""

    name: Name
    model: DeviceModel
    mac: Annotated[str, AfterValidator(_mac), Field(json_schema_extra={"pattern": f"^{MAC.pattern}$"})]
    serial_number: Annotated[str, StringConstraints(pattern=f"^{SERIAL.pattern}$")]
    ip: Annotated[str, StringConstraints(max_length=45), AfterValidator(_ip)] | None = None
    firmware_version: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=_TEXT)] | None = None
    capabilities: Object = Field(default_factory=dict)
    hardware: Object = Field(default_factory=dict)
    network: Object = Field(default_factory=dict)
    location: Object | None = None
    tags: Tags = Field(default_factory=list)
    csr: Annotated[str, StringConstraints(min_length=1, max_length=8192)] | None = None
    """PEM; the key stays on the device, and the answer holds none."""


class ChangeDeviceRequest(Body):
    """What an owner may change; `location` null removes it."""

    name: Name = left_out()
    tags: Tags = left_out()
    location: Object | None = None
    version: Version | None = None


class SendCommandRequest(Body):
    """A command to a device."""

    command: Annotated[str, StringConstraints(pattern=f"^{COMMAND_NAME.pattern}$")]
    params: Annotated[FreeForm, json_of_at_most(MAX_PARAMS_BYTES)] | None = None
    ttl_s: Annotated[Whole, Field(ge=MIN_TTL_S, le=MAX_TTL_S)] = DEFAULT_TTL_S
    wait_s: Annotated[Number, Field(ge=0, le=MAX_WAIT_S)] = 0
    """How long the answer may wait for the device's."""
    serial: StrictBool = False
    """Alone on its way: after all before it, before all after it."""


class ReadingOut(Data):
    """The newest value of a metric."""

    value: float
    ts: str


class DeviceOut(Data):
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
    capabilities: dict[str, Any]
    hardware: dict[str, Any]
    network: dict[str, Any]
    location: dict[str, Any] | None
    tags: list[str]
    latest: dict[str, ReadingOut]
    created_at: str
    updated_at: str
    version: int


class CredentialsOut(Data):
    """What the device connects with; shown once."""

    thing_name: str
    certificate_id: str
    certificate_pem: str
    private_key: str | None = None
    ca_pem: str
    mqtt_host: str
    mqtt_port: int
    basic_ingest_rule: str = Field(description="Telemetry may go to `$aws/rules/<this>/` and its topic: docs/mqtt.md")


class CreatedDeviceData(Data):
    """A new device and its credentials."""

    device: DeviceOut
    credentials: CredentialsOut


class DeviceData(Data):
    """One device."""

    device: DeviceOut


class DeviceListData(Data):
    """A page of devices; `page` and `page_size` unless a cursor or an offset was given."""

    devices: list[DeviceOut]
    total: int
    total_capped: bool
    limit: int
    next_cursor: str | None
    page: int | None = None
    page_size: int | None = None


class LatestData(Data):
    """What a device said last."""

    device_id: str
    status: DeviceStatus
    last_heartbeat: str | None
    latest: dict[str, ReadingOut]


class PointOut(Data):
    """A raw point has `value`; a bucket has the others. `metric` when none was asked for.

    A bucket begins at a full UTC hour or day. It is `partial` when the range, or what is kept, covers only a part of
    it, or when it is not over yet.
    """

    ts: str
    metric: str | None = None
    value: float | None = None
    count: int | None = None
    min: float | None = None
    max: float | None = None
    avg: float | None = None
    partial: bool | None = None


class TelemetryData(Data):
    """Points in time order."""

    points: list[PointOut]
    resolution: Resolution
    limit: int
    next_cursor: str | None


class LateResultOut(Data):
    """What the device said after the command had ended otherwise; it changes nothing else."""

    status: CommandStatus
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    received_at: str


class CommandOut(Data):
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
    late_result: LateResultOut | None
    issued_at: str
    expires_at: str
    sent_at: str | None
    acknowledged_at: str | None
    finished_at: str | None


class CommandData(Data):
    """One command."""

    command: CommandOut


class CommandListData(Data):
    """A page of commands, newest first."""

    commands: list[CommandOut]
    limit: int
    next_cursor: str | None


class RefusedOut(Data):
    """A part of a message that was not taken."""

    field: str
    reason: str


class DeadLetterOut(Data):
    """A message of the device of which something could not be taken; lists show the first 4 KB of its payload."""

    id: str
    reason: str
    """Of the first part that was refused."""
    field: str
    """That part, such as `samples[3].m["temp_c"]`; empty for the whole message."""
    refused: list[RefusedOut]
    """The first 20."""
    refused_count: int
    taken: bool
    """Whether the rest of the message was taken."""
    topic: str
    received_at: str
    size: int
    payload_base64: str
    truncated: bool


class DeadLetterData(Data):
    """One dead letter, with its whole payload."""

    dead_letter: DeadLetterOut


class DeadLetterListData(Data):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterOut]
    limit: int
    next_cursor: str | None
