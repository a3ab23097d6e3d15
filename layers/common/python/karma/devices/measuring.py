"""Telemetry of a batch of messages: read message by message, stored together.

measured = [measuring.read(message, device), ...]    # judged, and counted among the device's hour
measuring.store_new(measured)                        # one call for all whose keys are free
measuring.take(measured[0])                          # by itself: what is not stored yet, and why it cannot be
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from karma.core.dynamo.statements import WriteOutcome
from karma.core.observability import count
from karma.devices.allowance import HourlyAllowance, units_of
from karma.devices.domain import Latest
from karma.devices.hearing import DeviceMessage, HeardFacts, Rejected, Said
from karma.devices.payloads import Refused, Unreadable
from karma.devices.repository.telemetry import OwnedBatch, TelemetryRepository
from karma.devices.samples import Batch, Telemetry, read_telemetry


@dataclass
class Measured:
    """A message of telemetry between its reading and its storing, which all of a batch share."""

    message: DeviceMessage
    device: HeardFacts
    read: Telemetry
    units: int
    """Write units that it took of the device's hour."""
    outcomes: dict[int, WriteOutcome] = field(default_factory=dict)
    """Outcomes of its parts, an hour each, that were to be stored with others', by their first moments."""


class Measuring:
    """Reads and stores the telemetry of a batch."""

    def __init__(self, telemetry: TelemetryRepository, allowance: HourlyAllowance) -> None:
        self._telemetry = telemetry
        self._allowance = allowance

    def read(self, message: DeviceMessage, device: HeardFacts) -> Measured:
        """Return what a message has measured, once the device's hour has room for it."""
        since_ms = device.claim.since_ms
        read = read_telemetry(message.payload, received_ms=message.received_ms, since_ms=since_ms)
        if read.is_cut:
            count("IngestRejected", reason="BEFORE_TRANSFER")
            if not read.batches:
                raise Rejected("BEFORE_TRANSFER")
        units = units_of(read.batches)
        if not self._allowance.take_units(device.claim.device_id, units, received_ms=message.received_ms):
            raise Unreadable("TOO_FAST", "samples", [Refused("samples", "TOO_FAST"), *read.refused])
        return Measured(message, device, read, units)

    def store_new(self, measured: Sequence[Measured]) -> None:
        """Store the batches of all messages at once; where there is one alone, its own step does."""
        batches = [(each, batch) for each in measured for batch in each.read.batches]
        if len(batches) < 2:
            return
        owned = [OwnedBatch(each.device.claim.device_id, batch, each.device.claim.user_id) for each, batch in batches]
        for (each, batch), outcome in zip(batches, self._telemetry.store_new(owned), strict=True):
            each.outcomes[batch.min_ts] = outcome

    def take(self, each: Measured) -> Said:
        """Store those batches of a message that are not yet, and return what of it counts."""
        message, device = each.message, each.device
        latest, refused = Latest(), list(each.read.refused)
        try:
            stored = [self._store(each, batch) for batch in each.read.batches]
        except Exception:
            self._allowance.give_back(each.device.claim.device_id, each.units, received_ms=message.received_ms)
            raise
        for batch, is_stored in zip(each.read.batches, stored, strict=True):
            if is_stored:
                latest = latest.merge(Latest(readings=batch.newest, last_seen_ms=message.received_ms))
                device.stored.append(batch)
            else:
                refused.append(Refused("samples", "ALTERED"))
        if latest == Latest():
            raise Unreadable(refused[-1].reason, refused[-1].field, refused)
        return latest, refused

    def _store(self, each: Measured, batch: Batch) -> bool:
        claim = each.device.claim
        match each.outcomes.get(batch.min_ts, WriteOutcome.UNKNOWN):
            case WriteOutcome.DONE:
                return True
            case WriteOutcome.REFUSED:
                return self._telemetry.holds(claim.device_id, batch)
            case WriteOutcome.UNKNOWN:
                return self._telemetry.store(claim.device_id, batch, owner=claim.user_id)
