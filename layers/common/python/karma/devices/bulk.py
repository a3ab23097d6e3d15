"""Bulk commands: one command to many devices of an account, sent in the background (docs/adr/0066).

- **Bulk command**: what is sent, until when, and how far that has come. Its item is the truth.
- **Part**: up to `PART_DEVICES` of its devices, in the order in which they were named. Its item says whether it is
  open, and for each device the command that was sent, or why none was.
- **Lane**: every `LANES`th part. A message names a part; whoever has handled it sends the message of the lane's next.

        sending ──> sent         each part has been handled; what the devices do is told by their commands
              └───> cancelling ──> cancelled   no command is sent any more, and what still waited was cancelled

A command is sent at most once to a device, however often a part is handled: the record of its request names the bulk
command (`karma.core.requests`). Nothing is sent behind the end of the bulk command, which is the end of all of its
commands, nor later than `SENDS_FOR` after its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from karma.core.clock import from_epoch_ms
from karma.core.errors import Conflict, QuotaExceeded
from karma.core.ids import BulkId, CommandId, DeviceId, UserId
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, repeatable
from karma.devices.domain import COMMAND_RETENTION_S, Command

PART_DEVICES: Final = 20
LANES: Final = 4
"""Parts of a bulk command that are handled side by side, so that it leaves room for messages of devices."""
MAX_DEVICES: Final = 1_000
"""Devices of one bulk command in any plan."""
MAX_BULK_PARAMS_BYTES: Final = 4 * 1024
"""Largest params: they are stored and read with each device's command."""
DEFAULT_BULK_TTL_S: Final = 600
MAX_LOOKED_AT: Final = 5_000
"""Devices of an account that are looked at for those with a tag."""
SENDS_FOR: Final = timedelta(hours=24)
"""Time after which no command is sent any more: less than the record of a request is kept."""
GIVEN_UP_AFTER: Final = timedelta(hours=1)
"""Time after its end at which a bulk command is left as it is, whatever part could not be handled."""


class BulkStatus(StrEnum):
    """State of a bulk command; the devices' own answers are states of their commands."""

    SENDING = "sending"
    SENT = "sent"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class PartStage(StrEnum):
    """State of a part."""

    OPEN = "open"
    SENT = "sent"
    CANCELLED = "cancelled"


class BulkCancelled(Conflict):
    """The bulk command was cancelled: no command of it is sent any more."""


class BulkKey(NamedTuple):
    """Key of a bulk command."""

    user_id: UserId
    bulk_id: BulkId


class PartKey(NamedTuple):
    """Key of a part, as a message names it."""

    bulk: BulkKey
    number: int


class BulkRefusal(NamedTuple):
    """Reason for which a device was sent no command."""

    code: str
    message: str


class BulkPart(Record, kw_only=True):
    """Some of a bulk command's devices, and what became of them."""

    number: int
    device_ids: tuple[DeviceId, ...]
    stage: PartStage = PartStage.OPEN
    sent: Mapping[DeviceId, CommandId]
    """Command of each device that was sent one; empty while the part is open."""
    refused: Mapping[DeviceId, BulkRefusal]


class BulkCommand(Record, kw_only=True):
    """A command to many devices."""

    key: BulkKey
    command: str
    params: Mapping[str, Any]
    serial: bool
    schedule_id: str | None = None
    """Schedule whose fire made it; None: a request did."""
    tag: str | None
    """Tag that its devices had when it was made; None: they were named."""
    created_ms: int
    expires_ms: int
    """Milliseconds since 1970 at which it ends, and each of its commands."""
    total: int
    open_parts: int
    """Parts that are to be handled yet; while it is cancelled, to be cancelled."""
    cancelled: bool = False
    sent: int = 0
    """Devices that were sent a command."""
    refused: int = 0

    @property
    def parts(self) -> int:
        """Return the number of its parts."""
        return -(-self.total // PART_DEVICES)

    @property
    def status(self) -> BulkStatus:
        """Return its state."""
        if self.cancelled:
            return BulkStatus.CANCELLING if self.open_parts else BulkStatus.CANCELLED
        return BulkStatus.SENDING if self.open_parts else BulkStatus.SENT

    @property
    def wanted(self) -> PartStage:
        """Return the stage that its parts are brought to."""
        return PartStage.CANCELLED if self.cancelled else PartStage.SENT

    def is_ended(self, now: datetime) -> bool:
        """Tell whether its end is over, so that none of its commands may be carried out any more."""
        return now >= from_epoch_ms(self.expires_ms)

    def is_forgotten(self, now: datetime) -> bool:
        """Tell whether its retention is over, though the database may not have deleted it yet."""
        return now.timestamp() >= self.expires_ms // 1000 + COMMAND_RETENTION_S

    def may_send(self, now: datetime) -> bool:
        """Tell whether a command of it may still be sent."""
        return not self.is_ended(now) and now < from_epoch_ms(self.created_ms) + SENDS_FOR

    def is_given_up(self, now: datetime) -> bool:
        """Tell whether parts that are open now stay so."""
        return now >= from_epoch_ms(self.expires_ms) + GIVEN_UP_AFTER

    @property
    def request(self) -> RepeatableRequest:
        """Return the request whose record keeps a device from being sent the command twice."""
        key = IdempotencyKey(caller=self.key.user_id, route="bulk command", value=self.key.bulk_id)
        made = repeatable(key, self.key.bulk_id, at=from_epoch_ms(self.created_ms))
        assert made is not None  # noqa: S101  there is a key
        return made


class BulkLimit(Record):
    """Number of devices of a bulk command that a plan allows."""

    plan: str
    devices: int


class BulkResult(NamedTuple):
    """One device of a bulk command."""

    device_id: DeviceId
    command: Command | None
    """None: none was sent, or its device was deleted since."""
    refusal: BulkRefusal | None
    is_open: bool
    """Its part has not been handled."""


def parts_of(device_ids: Sequence[DeviceId]) -> list[BulkPart]:
    """Divide devices into parts."""
    starts = range(0, len(device_ids), PART_DEVICES)
    return [
        BulkPart(number=number, device_ids=tuple(device_ids[at : at + PART_DEVICES]), sent={}, refused={})
        for number, at in enumerate(starts)
    ]


def too_many(plan: str, allowed: int, requested: int) -> QuotaExceeded:
    """Return the refusal of a bulk command to more devices than the plan allows."""
    return QuotaExceeded(
        f"A bulk command of the plan {plan} has at most {allowed} devices; send it to fewer or choose a larger plan",
        details={
            "limit": "bulk_devices",
            "plan": plan,
            "allowed": allowed,
            "requested": requested,
            "resets_at": None,
        },
    )


def state_of(result: BulkResult) -> str:
    """Return what became of a device in a word: its command's status, or `waiting`, `refused` or `deleted`."""
    if result.refusal is not None:
        return "refused"
    if result.command is not None:
        return str(result.command.status)
    return "waiting" if result.is_open else "deleted"
