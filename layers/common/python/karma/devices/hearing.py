"""Cast of ingest: a message, and what a batch of them has said of a device until it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from karma.core.records import Record
from karma.devices.domain import Latest, PresenceEvent
from karma.devices.payloads import Refused
from karma.devices.repository.device_mapping import SerialClaim
from karma.devices.samples import Batch


class Rejected(Exception):
    """The message belongs to no device: it is dropped, and counted by reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DeviceMessage(Record):
    """A message that a rule forwarded."""

    id: str
    """Id of the delivery, reported back when it must come again."""
    topic: str
    certificate_id: str
    """Certificate of the publisher; "": a lifecycle event, which has none."""
    payload: bytes
    received_ms: int
    repeated: bool = False
    """It was delivered before; that delivery may have died between a record and what it announced."""


@dataclass
class HeardFacts:
    """Facts of one device from a batch."""

    claim: SerialClaim
    latest: Latest = field(default_factory=Latest)
    stored: list[Batch] = field(default_factory=list)
    events: list[PresenceEvent] = field(default_factory=list)
    told_by: list[str] = field(default_factory=list)
    ready_by: list[str] = field(default_factory=list)
    nudged_by: list[str] = field(default_factory=list)
    repeated: bool = False
    ready_ms: int = 0
    too_fast: bool = False
    """It has used up its hour."""
    answers: set[str] = field(default_factory=set)
    """Ids of answers to commands of the device's owner."""
    unkept: dict[int, list[str]] = field(default_factory=dict)
    """Ids of messages with refused parts that have no dead letter of their own, by hour."""
    is_tried: bool = False
    """Whether it was among the devices whose newest values were written together."""
    is_fresh: bool = False
    """Whether `latest` was written with those of others."""


Said = tuple[Latest | None, Sequence[Refused]]
"""Facts of a message that count, None where nothing does, and its parts that are refused."""
