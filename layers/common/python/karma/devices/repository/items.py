"""Keys and items of the `devices` and `telemetry` tables; access patterns are in docs/adr/0005-device-data.md.

devices    USER#<user>   DEVICE#<device>              the owner's description       gsi1 while active: by name
           USER#<user>   DEVICE#<device>#LATEST       newest facts of the device
           USER#<user>   DEVICE#<device>#PRESENCE     lifecycle events that may be true
           USER#<user>   COUNTER#devices              active devices, folded from the stream
           USER#<user>   REQUEST#<token>              device made for an Idempotency-Key
           USER#<user>   IDEMPOTENCY#<hash>           command made for an Idempotency-Key
           THING#<serial> META                        unique serial number, for ingest   gsi1 while unfinished: sweep
           DEV#<device>  CMD#<command>                a command
           DEV#<device>  PENDING#<command>            the same while unfinished      gsi1: by expiry
           DEV#<device>  TRANSFER, REFUSAL#<user>     its offer to another account (transfers.py)   gsi1: to whom
           USER#<user>   TAKEN#<device>               the device that a transferred one became
           DEV#<device>  ROTATION                     its last change of certificates (rotations.py)   gsi1: sweep
           DEV#<device>  SETTINGS#<change>            a change of its settings (settings_changes.py)
           DEV#<device>  DEAD#<ms>#<hash>             a message with refused parts
           DEV#<device>  DEADPAYLOAD#<ms>#<hash>      its whole payload, when that is long
           USER#<user>   GONE#<device>                a deleted device, until its data is gone  gsi1: sweep
telemetry  DEV#<device>#<yyyy-mm-dd>  <min ts ms>#<boot>#<seq>     one batch of samples

A device's three items sort next to each other, so a page of N devices is one query of 3N items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import Any, Final

from pynamodb.attributes import (
    Attribute,
    BinaryAttribute,
    BooleanAttribute,
    JSONAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
)
from pynamodb.constants import MAP

from karma.core.clock import from_epoch_ms
from karma.core.dynamo.counters import CounterAttributes, counter_key
from karma.core.dynamo.items import Gsi1, Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.requests import RepeatableRequest

DEVICE_PREFIX: Final = "DEVICE#"
COMMAND_PREFIX: Final = "CMD#"
PENDING_PREFIX: Final = "PENDING#"
DEAD_PREFIX: Final = "DEAD#"
DEAD_PAYLOAD_PREFIX: Final = "DEADPAYLOAD#"
HOUR_PREFIX: Final = "HOUR#"
GONE_PREFIX: Final = "GONE#"
COUNTER_NAME: Final = "devices"
EXPIRY_SHARDS: Final = 4
SWEEP_PARTITION: Final = "SWEEP#DEVICES"
NEVER: Final = Key("-", "-")


def owner_pk(user_id: UserId) -> str:
    """Return the partition of an owner's devices."""
    return f"USER#{user_id}"


def device_key(user_id: UserId, device_id: DeviceId) -> Key:
    """Return the key of a device's row."""
    return Key(owner_pk(user_id), f"{DEVICE_PREFIX}{device_id}")


def latest_key(user_id: UserId, device_id: DeviceId) -> Key:
    """Return the key of a device's newest facts."""
    return Key(owner_pk(user_id), f"{DEVICE_PREFIX}{device_id}#LATEST")


def presence_key(user_id: UserId, device_id: DeviceId) -> Key:
    """Return the key of the device's lifecycle events."""
    return Key(owner_pk(user_id), f"{DEVICE_PREFIX}{device_id}#PRESENCE")


def devices_counter_key(user_id: UserId) -> Key:
    """Return the key of the number of an owner's active devices."""
    return counter_key(owner_pk(user_id), COUNTER_NAME)


def command_request_key(user_id: UserId, device_id: DeviceId, request: RepeatableRequest) -> Key:
    """Return the key of the record of a request that sent a command; to another device it is another request."""
    # Older than karma.core.dynamo.requests.request_key, and kept: a command whose record is not found is sent again.
    digest = hashlib.sha256(f"commands:{device_id}\0{request.key.value}".encode()).hexdigest()[:32]
    return Key(owner_pk(user_id), f"IDEMPOTENCY#{digest}")


def unique_serial_key(serial_number: str) -> Key:
    """Return the key of the item that makes a serial number unique."""
    return Key(f"THING#{serial_number}", "META")


def children_pk(device_id: DeviceId) -> str:
    """Return the partition of a device's commands and dead letters."""
    return f"DEV#{device_id}"


def command_key(device_id: DeviceId, command_id: CommandId) -> Key:
    """Return the key of a command."""
    return Key(children_pk(device_id), f"{COMMAND_PREFIX}{command_id}")


def pending_key(device_id: DeviceId, command_id: CommandId) -> Key:
    """Return the key of an unfinished command's entry in the device's queue."""
    return Key(children_pk(device_id), f"{PENDING_PREFIX}{command_id}")


def dead_letter_key(device_id: DeviceId, received_ms: int, digest: str) -> Key:
    """Return the key of a dead letter; the same message has the same key."""
    return Key(children_pk(device_id), f"{DEAD_PREFIX}{received_ms:013d}#{digest}")


def dead_payload_key(device_id: DeviceId, received_ms: int, digest: str) -> Key:
    """Return the key of the whole payload of a dead letter."""
    return Key(children_pk(device_id), f"{DEAD_PAYLOAD_PREFIX}{received_ms:013d}#{digest}")


def hour_key(device_id: DeviceId, hour: int) -> Key:
    """Return the key of a device's costs in an hour, counted from 1970."""
    return Key(children_pk(device_id), f"{HOUR_PREFIX}{hour:07d}")


def tombstone_key(user_id: UserId, device_id: DeviceId) -> Key:
    """Return the key of a deleted device's tombstone, kept until its data is removed."""
    return Key(owner_pk(user_id), f"{GONE_PREFIX}{device_id}")


def expiry_partition(device_id: DeviceId) -> str:
    """Return the partition of gsi1 with a device's unfinished commands by their end."""
    return f"EXPIRING#{int(device_id.replace('-', '')[-4:], 16) % EXPIRY_SHARDS}"


def telemetry_pk(device_id: DeviceId, day: str) -> str:
    """Return the partition of one device's batches of one UTC day, `yyyy-mm-dd`."""
    return f"DEV#{device_id}#{day}"


def telemetry_sk(min_ts: int, boot: str, seq: int) -> str:
    """Return the sort key of a batch: by its first sample, then the device's own numbering."""
    return f"{min_ts:013d}#{boot}#{seq:010d}"


def day_of(ts_ms: int) -> str:
    """Return the UTC day of a time in milliseconds, as `yyyy-mm-dd`."""
    return from_epoch_ms(ts_ms).date().isoformat()


def days_between(from_ms: int, to_ms: int) -> Iterator[str]:
    """Yield the UTC days that a range touches, in order."""
    first, last = from_epoch_ms(from_ms).toordinal(), from_epoch_ms(to_ms).toordinal()
    for day in range(first, last + 1):  # numbers, for the calendar has no day after its last
        yield date.fromordinal(day).isoformat()


class DevicesItem(Item):
    """Base of the items of the `devices` table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "devices"

    gsi1 = Gsi1()


class DeviceItem(DevicesItem, discriminator="device"):
    """A device's row."""

    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    model = UnicodeAttribute()
    mac = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    state = UnicodeAttribute()
    attempt = UnicodeAttribute(null=True)
    """Id of the creation that is under way; another attempt takes over by writing its own."""
    ip = UnicodeAttribute(null=True)
    firmware_version = UnicodeAttribute(null=True)
    capabilities = JSONAttribute(default=dict)
    hardware = JSONAttribute(default=dict)
    network = JSONAttribute(default=dict)
    location = JSONAttribute(null=True)
    tags = JSONAttribute(default=list)
    bare = BooleanAttribute(null=True)
    """True: it was imported, and has had no certificate yet."""
    first_id = UnicodeAttribute(null=True)
    """The id that it was made under, where another account had it before."""
    rotation = JSONAttribute(null=True)
    """While it has two certificates: id of the new one, and begin and end of that time in milliseconds."""


class _FreshAttribute(Attribute[dict[str, tuple[str, int]]]):
    """Values by metric, each as its JSON and its time, so that an update names one of them and compares its time."""

    attr_type = MAP

    def serialize(self, value: Any) -> dict[str, Any]:
        """Return DynamoDB's form of a map of lists."""
        return {name: {"L": [{"S": json}, {"N": str(ts)}]} for name, (json, ts) in value.items()}

    def deserialize(self, value: Any) -> dict[str, tuple[str, int]]:
        """Return what `serialize` wrote."""
        return {name: (pair["L"][0]["S"], int(pair["L"][1]["N"])) for name, pair in value.items()}


class LatestItem(DevicesItem, discriminator="device_latest"):
    """Newest facts of a device; in no index."""

    facts = JSONAttribute(default=dict)
    """All that was known when they were written whole."""
    fresh = _FreshAttribute(default=dict)
    """Newest values that came since; absent in items of an earlier release."""
    seen_ms = NumberAttribute(default=0)
    """Time of the last message; absent as `fresh` is."""
    beside = JSONAttribute(null=True)
    """State that another context keeps beside them (karma.devices.ports.Watcher)."""


class PresenceItem(DevicesItem, discriminator="device_presence"):
    """Lifecycle events that may still decide; in no index."""

    events = JSONAttribute(default=list)


class DeviceCounter(CounterAttributes, DevicesItem, discriminator="device_counter"):
    """Number of an owner's active devices."""


class UniqueSerial(DevicesItem, discriminator="thing"):
    """A unique serial number with its owner."""

    serial_number = UnicodeAttribute()
    user_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    state = UnicodeAttribute()
    attempt = UnicodeAttribute(null=True)
    certificate_ids = UnicodeSetAttribute(null=True)
    next_certificate_id = UnicodeAttribute(null=True)
    """The one of them that has not connected yet."""
    removed_certificate_id = UnicodeAttribute(null=True)
    """The one that counted last before; it still counts for what the broker had until `removed_ms`."""
    removed_ms = NumberAttribute(null=True)
    since_ms = NumberAttribute(null=True)
    """Moment at which another account gave it to its owner."""


class DeviceRequestItem(RequestAttributes, DevicesItem, discriminator="device_request"):
    """Record of the device that a request with an Idempotency-Key created."""


class CommandRequestItem(RequestAttributes, DevicesItem, discriminator="idempotency"):
    """Record of the command that a request with an Idempotency-Key sent."""


class CommandItem(DevicesItem, discriminator="command"):
    """A command."""

    command_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    command = UnicodeAttribute()
    params = JSONAttribute(default=dict)
    status = UnicodeAttribute()
    serial = BooleanAttribute(default=False)
    requested_by = UnicodeAttribute(null=True)
    issued_ms = NumberAttribute()
    expires_ms = NumberAttribute()
    sent_ms = NumberAttribute(default=0)
    acknowledged_ms = NumberAttribute(default=0)
    finished_ms = NumberAttribute(default=0)
    result = JSONAttribute(null=True)
    error = JSONAttribute(null=True)
    late_result = JSONAttribute(null=True)
    """The first final answer that came after the end: status, result, error, received_ms."""


class PendingItem(DevicesItem, discriminator="pending_command"):
    """An unfinished command in its device's queue, with all that publishing it needs."""

    command_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    addressee = UnicodeAttribute(null=True)
    """The id by which the device knows itself; null: `device_id`."""
    command = UnicodeAttribute()
    params = JSONAttribute(default=dict)
    serial = BooleanAttribute(default=False)
    issued_ms = NumberAttribute()
    expires_ms = NumberAttribute()
    status = UnicodeAttribute()
    """`queued`: it must be published. So it is again after a publish that failed, while the record says `sent`."""
    published_ms = NumberAttribute(default=0)
    """Time in milliseconds at which its last publish began; 0: there was none."""
    publishes = NumberAttribute(default=0)
    """Number of publishes so far."""


class DeadLetterItem(DevicesItem, discriminator="dead_letter"):
    """A message of the device with refused parts."""

    reason = UnicodeAttribute()
    """Reason of the first refused part."""
    refused = JSONAttribute(null=True)
    """`[[field, reason], ...]`, the first 20."""
    refused_count = NumberAttribute(default=1)
    taken = BooleanAttribute(default=False)
    topic = UnicodeAttribute()
    received_ms = NumberAttribute()
    size = NumberAttribute()
    payload = BinaryAttribute(legacy_encoding=False)
    """First 4 KB of the message."""
    is_withheld = BooleanAttribute(null=True)


class DeadPayloadItem(DevicesItem, discriminator="dead_payload"):
    """Whole payload of a dead letter that is longer than 4 KB; MQTT's limit is 128 KB."""

    payload = BinaryAttribute(legacy_encoding=False)


class HourItem(DevicesItem, discriminator="device_hour"):
    """Costs of a device in an hour (allowance.py)."""

    letters = NumberAttribute(default=0)
    units = NumberAttribute(default=0)
    words = NumberAttribute(default=0)
    answers = NumberAttribute(default=0)
    commands = NumberAttribute(default=0)
    files = NumberAttribute(default=0)
    reports = NumberAttribute(default=0)
    file_refusals = NumberAttribute(default=0)


class TombstoneItem(DevicesItem, discriminator="device_tombstone"):
    """A deleted device whose data is not removed yet."""

    user_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    deleted_ms = NumberAttribute()


class TelemetryItem(Item):
    """Base of the items of the `telemetry` table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "telemetry"


class BatchItem(TelemetryItem, discriminator="telemetry"):
    """One batch of samples as the device sent it."""

    samples = BinaryAttribute(legacy_encoding=False)
    """JSON `[[ts, {metric: value}], ...]` by time."""
    digest = UnicodeAttribute()
    max_ts = NumberAttribute()
    owner = UnicodeAttribute(null=True)
    """Account that had the device."""
