"""Bodies of the device routes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from karma.core.errors import ValidationFailed
from karma.core.ids import is_id
from karma.core.schemas import (
    COMPOSED,
    Body,
    FreeForm,
    Moment,
    Number,
    Version,
    Whole,
    json_of_at_most,
    judged,
    left_out,
    line,
)
from karma.core.wording import form
from karma.devices.bulk import DEFAULT_BULK_TTL_S, MAX_DEVICES
from karma.devices.command_fields import BulkParams, CommandName, Tag, Ttl
from karma.devices.domain import (
    DEFAULT_TTL_S,
    MAC,
    MAX_NAME_CHARS,
    MAX_OBJECT_BYTES,
    MAX_PARAMS_BYTES,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_WAIT_S,
    SERIAL,
    SERIAL_FORM,
    DeviceModel,
)
from karma.devices.provisioning import MAX_CSV_CHARS, MAX_SERIALS
from karma.devices.rotation import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, MIN_OVERLAP_S
from karma.devices.shadow import MAX_DESIRED_BYTES
from karma.identity.accounts import emails

_SERIAL = form(f"^{SERIAL.pattern}$", f"must be {SERIAL_FORM}")
_CSR = form(
    r"-----BEGIN (NEW )?CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+-----END (NEW )?CERTIFICATE REQUEST-----",
    "must be a certificate signing request in PEM",
)

_PEM = re.compile(_CSR)


def _mac(value: str) -> str:
    if not MAC.fullmatch(value):
        raise ValueError("must be six pairs of hexadecimal digits with : or - between them")
    return value.upper().replace("-", ":")


def _ip(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None


def _distinct(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _named_once(serials: list[str]) -> list[str]:
    seen: set[str] = set()
    for at, serial in enumerate(serials, start=1):
        if serial in seen:
            raise ValueError(f"the {at}th is there before: {serial}")
        seen.add(serial)
    return serials


def _block(csr: str) -> str:
    """Return the request alone: tools write text before and behind it, or a byte order mark."""
    found = _PEM.search(csr)
    return found[0] if found is not None else csr


Name = Annotated[str, line(MAX_NAME_CHARS)]
Tags = Annotated[
    list[Annotated[str, line(MAX_TAG_CHARS), COMPOSED]],
    Field(max_length=MAX_TAGS),
    AfterValidator(_distinct),
]
Object = Annotated[FreeForm, json_of_at_most(MAX_OBJECT_BYTES)]


Csr = Annotated[str, StringConstraints(min_length=1, max_length=8192, pattern=_CSR), AfterValidator(_block)]
"""Signing request in PEM; text before and behind it is left out, as AWS IoT does where a device asks by MQTT."""


class CreateDeviceRequest(Body):
    """A new device; its owner is the caller."""

    name: Name
    model: DeviceModel
    mac: Annotated[str, AfterValidator(_mac), Field(json_schema_extra={"pattern": f"^{MAC.pattern}$"})]
    serial_number: Annotated[str, StringConstraints(pattern=_SERIAL)]
    ip: Annotated[str, StringConstraints(max_length=45), AfterValidator(_ip)] | None = None
    firmware_version: Annotated[str, line(50, strips=False)] | None = None
    capabilities: Object = Field(default_factory=dict)
    hardware: Object = Field(default_factory=dict)
    network: Object = Field(default_factory=dict)
    location: Object | None = None
    tags: Tags = Field(default_factory=list)
    csr: Csr | None = None
    """Signing request in PEM; the private key stays on the device, and the answer holds none."""


class RotateCertificateBody(Body):
    """A second certificate for a device."""

    csr: Csr | None = None
    """Signing request in PEM; the private key stays on the device, and the answer holds none."""
    overlap_s: Annotated[Whole, Field(ge=MIN_OVERLAP_S, le=MAX_OVERLAP_S)] = DEFAULT_OVERLAP_S
    """Seconds for which both connect; the old one is removed when the new one connects, or when they are over."""


class OfferDeviceBody(Body):
    """An offer of a device to an account by its id, or to whoever proves an e-mail address."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    email: Annotated[str, StringConstraints(min_length=3, max_length=320), judged(emails.mailable)] | None = None
    """In place of `user_id`."""
    current_password: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Proof that it is you; not needed within ten minutes after logging in."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return that somebody must be named, and in one way only."""
        named = [name for name in ("user_id", "email") if given.get(name) is not None]
        if len(named) > 1:
            return [("email", "not together with user_id")]
        return () if named else [("user_id", "is required, or email")]


class ImportDevicesBody(Body):
    """A list of devices as CSV."""

    csv: Annotated[str, StringConstraints(min_length=1, max_length=256 * 1024)]
    """A header with the names of fields of `POST /devices`, then a row a device, 200 at the most."""
    all_or_nothing: StrictBool = True
    """False: a device is made of each row that can become one, and the answer tells of the others."""


class CreateProvisioningClaimBody(Body):
    """A claim for the devices of a list: `serial_numbers`, or `csv`."""

    name: Name
    model: DeviceModel
    tags: Tags = Field(default_factory=list)
    """Of the devices that it makes, as `model` is."""
    serial_numbers: (
        Annotated[
            list[Annotated[str, StringConstraints(pattern=_SERIAL)]],
            Field(min_length=1, max_length=MAX_SERIALS),
            AfterValidator(_named_once),
        ]
        | None
    ) = None
    """2,000 at the most, each once."""
    csv: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CSV_CHARS)] | None = None
    """In place of them: a CSV with the column `serial_number`, as many rows at the most."""
    max_devices: Annotated[Whole, Field(ge=1, le=MAX_SERIALS)] | None = None
    """Number of devices that it makes at the most; by default as many as it has serial numbers."""
    expires_at: Moment | None = None
    """By default 90 days from now; at most 366."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return that one list must be given."""
        lists = [name for name in ("serial_numbers", "csv") if given.get(name) is not None]
        if len(lists) > 1:
            return [("csv", "not together with serial_numbers")]
        return () if lists else [("serial_numbers", "is required, or csv")]


class ChangeDeviceRequest(Body):
    """Changes of a device by its owner; absent fields stay as they are, `location` null removes it."""

    name: Name = left_out()
    tags: Tags = left_out()
    location: Object | None = None
    version: Version | None = None


SettingsVersion = Annotated[Whole, Field(ge=0, examples=[3])]
"""Version of the settings that the caller read; 0: there were none."""


class ChangeSettingsBody(Body):
    """A merge patch of what is wanted of a device; null removes a setting."""

    desired: Annotated[FreeForm, json_of_at_most(MAX_DESIRED_BYTES)]
    version: SettingsVersion | None = None


class SendCommandRequest(Body):
    """A command to a device."""

    command: CommandName
    params: Annotated[FreeForm, json_of_at_most(MAX_PARAMS_BYTES)] | None = None
    ttl_s: Ttl = DEFAULT_TTL_S
    wait_s: Annotated[Number, Field(ge=0, le=MAX_WAIT_S)] = 0
    """Seconds for which the response may wait for the device's answer."""
    serial: StrictBool = False
    """True: sent alone, after all before it have ended; later ones wait for its end."""


def _device_id(value: str) -> str:
    if not is_id(value):
        raise ValidationFailed.of("", "must be the id of a device")
    return value


class SendBulkCommandBody(Body):
    """A command to many devices: those with `tag` at this moment, or those of `device_ids`."""

    tag: Tag | None = None
    device_ids: (
        Annotated[
            list[Annotated[str, Field(max_length=36), judged(_device_id)]], Field(min_length=1, max_length=MAX_DEVICES)
        ]
        | None
    ) = None
    command: CommandName
    params: BulkParams | None = None
    ttl_s: Ttl = DEFAULT_BULK_TTL_S
    """Seconds from now until all of its commands end; those that are sent later have less."""
    serial: StrictBool = False
    """True: to each device it is sent alone, after all before it have ended; later ones wait for its end."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rule on the devices, where it is broken."""
        if given.get("tag") is not None and given.get("device_ids") is not None:
            return [("device_ids", "must not be given beside tag")]
        if given.get("tag") is None and given.get("device_ids") is None:
            return [("tag", "must be given, or device_ids")]
        return []
