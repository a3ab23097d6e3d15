"""Devices that ask something of another context by MQTT: who speaks, how often they may, and what nobody can read."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.ids import DeviceId, UserId
from karma.core.observability import count
from karma.core.records import Record
from karma.devices.allowance import HourlyAllowance, hour_of
from karma.devices.domain import DeviceState
from karma.devices.payloads import Refused
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.showing import shown_to_owner


class HeardDevice(Record):
    """A device that has sent a message."""

    thing: str
    user_id: UserId
    device_id: DeviceId
    since_ms: int = 0
    """Time in milliseconds at which it became its owner's; 0: it is its first."""


class Unheard(Exception):
    """The message is of no device that may speak: it is dropped, without an answer; `reason` is a word for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Speaking:
    """Knows devices by the certificates of their messages, and counts what they ask."""

    def __init__(
        self, devices: DeviceRepository, dead_letters: DeadLetterRepository, allowance: HourlyAllowance
    ) -> None:
        self._devices = devices
        self._dead_letters = dead_letters
        self._allowance = allowance

    def speaker(self, thing: str, certificate_id: str, *, received_ms: int) -> HeardDevice:
        """Return the device of a message: one strongly consistent read.

        Args:
            thing: as the topic names it.
            certificate_id: of the connection, as the broker says.
            received_ms: moment at which the broker had the message.

        Raises:
            Unheard: there is no such device, the certificate is another's, or the device has changed hands since.
        """
        claim = self._devices.claim_of(thing, consistent=True)
        if claim is None or claim.state is not DeviceState.ACTIVE:
            raise Unheard("UNKNOWN_DEVICE")
        if not claim.takes(certificate_id, received_ms=received_ms):
            raise Unheard("CERTIFICATE")
        if received_ms < claim.since_ms:
            raise Unheard("BEFORE_TRANSFER")
        return HeardDevice(thing, claim.user_id, claim.device_id, claim.since_ms)

    def may_ask(self, speaker: HeardDevice, units: int, *, received_ms: int) -> bool:
        """Tell whether a device may have so many more asks for its files, or links; one write."""
        return self._allowance.take_file_units(speaker.device_id, units, received_ms=received_ms)

    def may_be_told(self, speaker: HeardDevice, *, received_ms: int) -> bool:
        """Tell whether a device is told that it asks too often: so that a flood of asks is no flood of answers."""
        return self._allowance.take_file_refusal(speaker.device_id, received_ms=received_ms)

    def keep(
        self,
        speaker: HeardDevice,
        refused: Sequence[Refused],
        *,
        topic: str,
        payload: bytes,
        received_ms: int,
        taken: bool = False,
    ) -> None:
        """Keep a message with refused parts as a dead letter of the device's owner, or count it in the hour's.

        `taken`: the rest is answered.

        What an owner may not read, since it may be of the one before, is not kept with it.
        """
        if self._allowance.take_letter(speaker.device_id, received_ms=received_ms):
            self._dead_letters.store(
                speaker.device_id,
                **shown_to_owner(payload, refused, topic=topic, since_ms=speaker.since_ms)._asdict(),
                topic=topic,
                received_ms=received_ms,
                taken=taken,
            )
            return
        self._dead_letters.sum_up(speaker.device_id, hour=hour_of(received_ms), more=1)
        count("DeadLetterNotKept")
