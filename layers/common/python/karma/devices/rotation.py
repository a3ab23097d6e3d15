"""Rotation of a device's certificate: the stages, and what holds in each.

issuing -> overlap -> ending -> over        overlap: where a device asks for it itself (karma.devices.renewal)
                                            issuing -> (gone): it failed, or whoever began it died

issuing   a certificate is made and tied to the device; nobody has it yet. A later request of the owner takes it over.
overlap   the device may use both certificates, until the new one has connected or `ends_ms` is over.
ending    one of them counts no more for us; it is to be removed at the broker.
over      the device has one certificate; the item says how the last rotation went.

The unique item of the serial number (`SerialClaim`) is the truth about who may speak for a device: it is changed in the
transaction that changes the stage. A death in between leaves a stage that the sweep finds by its due time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.domain import CertificateOverlap

MIN_OVERLAP_S: Final = 60
MAX_OVERLAP_S: Final = 30 * 24 * 3600
DEFAULT_OVERLAP_S: Final = 7 * 24 * 3600
RENEWAL_OVERLAP_S: Final = 3600
"""Time in which a device that asked for a certificate by itself connects by it; after that the new one is removed."""
RENEWED_EVERY_S: Final = 24 * 3600
"""Time from one renewal of a device to its next, so that a device, or whoever has its key, makes one a day."""


class RotationStage(StrEnum):
    """Stage of a rotation."""

    ISSUING = "issuing"
    OVERLAP = "overlap"
    ENDING = "ending"
    OVER = "over"


class RotationOutcome(StrEnum):
    """The end of a rotation: which certificate went, and why."""

    CONNECTED = "connected"
    """The device has connected by the new certificate; the old one is removed."""
    ENDED = "ended"
    """The time was over, or the owner removed the old certificate, before the device had connected by the new one."""
    WITHDRAWN = "withdrawn"
    """The owner removed the new certificate."""


class CertificateRotation(Record, kw_only=True):
    """The last rotation of a device's certificate."""

    device_id: DeviceId
    user_id: UserId
    serial_number: str
    attempt: str
    """Id of the request that began it; another one takes it over by its own."""
    stage: RotationStage
    began_ms: int
    ends_ms: int
    old_certificate_id: str
    """The one that it replaces; "": it is the device's first."""
    certificate_id: str = ""
    certificate_arn: str = ""
    """ARN of the new certificate; "": none was made yet."""
    outcome: RotationOutcome | None = None
    is_renewal: bool = False
    """True: the device asked for it, and nobody wants the old one removed. If it does not connect, the new one goes."""

    @property
    def removed_arn(self) -> str:
        """Return the ARN of the certificate that its outcome removes."""
        if self.outcome is RotationOutcome.WITHDRAWN:
            return self.certificate_arn
        return f"{self.certificate_arn.rpartition('/')[0]}/{self.old_certificate_id}"


class DeviceCertificate(Record, kw_only=True):
    """A certificate by which a device may connect."""

    id: str
    is_new: bool
    ends_ms: int
    """Time at which it is removed if the device has not connected by the new one until then; 0: no end is set."""


def certificates_of(ids: frozenset[str], overlap: CertificateOverlap | None) -> list[DeviceCertificate]:
    """Return a device's certificates, the new one last; at the end of a renewal that goes, else the old one."""
    new = overlap.certificate_id if overlap is not None else ""
    ends_ms = overlap.ends_ms if overlap is not None else 0
    ends_new = overlap is not None and overlap.is_renewal
    return [
        DeviceCertificate(id=each, is_new=each == new, ends_ms=ends_ms if (each == new) is ends_new else 0)
        for each in sorted(ids, key=lambda each: (each == new, each))
    ]
