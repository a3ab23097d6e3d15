"""Provisioning by claim: the cast, the states, and which claim may make which device.

claim        what an account gives to its factory: a certificate that all devices of a batch carry, and the list of
             their serial numbers. It may ask for a certificate of a device's own, and nothing else.
hook         the function that AWS IoT asks before it ties such a certificate to a thing. It is the only one that makes
             devices by claims; AWS IoT makes the thing behind it.
provisioned  a serial number of the list that has become a device by its claim, once for ever: also when that device is
             deleted later, no other one is made of it.

claim        issuing -> active -> ended (its time is over) -> revoked -> (gone)
             issuing -> (gone): it failed, or whoever began it died      active -> revoked -> (gone)

A device that died before it had spoken comes again by its claim and gets another certificate in the place of the one
that it has lost. Once anything was heard of it, its serial number is its own: whoever has the claim's key, which each
device of the batch has, cannot take it over.

A certificate is given to one serial number, once: a device that asked for two devices by one certificate would leave
each of them with the other's end.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final, NewType

from karma.core.errors import Conflict
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.domain import DeviceModel

ProvisioningClaimId = NewType("ProvisioningClaimId", str)

MAX_CLAIMS: Final = 20
"""Claims of one account at one time."""
MAX_SERIALS: Final = 2_000
"""Serial numbers of one claim: they are one item, of 134 KB at the most, which each device costs a read of."""
MAX_CSV_CHARS: Final = 256 * 1024
DEFAULT_LIFE: Final = timedelta(days=90)
MAX_LIFE: Final = timedelta(days=366)
CLIENT_ID_PREFIX: Final = "claim:"
"""Client ids of a claim's connections begin so; no serial number has a colon, so none ends a device's connection."""
MAX_REPLACED: Final = 20
"""Lost certificates of a serial number that wait for their removal; with more the next one has to wait, for minutes."""


class ClaimState(StrEnum):
    """State of a claim."""

    ISSUING = "issuing"
    ACTIVE = "active"
    ENDED = "ended"
    REVOKED = "revoked"


class ClaimStatus(StrEnum):
    """State of a claim as its owner sees it."""

    ACTIVE = "active"
    EXHAUSTED = "exhausted"
    """It has made as many devices as it may; those that have not spoken yet may still come again."""
    EXPIRED = "expired"


class RefusalReason(StrEnum):
    """Reason for which the hook refuses a device; the device itself is told no reason by AWS IoT."""

    INVALID_PARAMETERS = "INVALID_PARAMETERS"
    UNKNOWN_CLAIM = "UNKNOWN_CLAIM"
    """No claim has this certificate: it was revoked."""
    EXPIRED = "EXPIRED"
    EXHAUSTED = "EXHAUSTED"
    NOT_LISTED = "NOT_LISTED"
    SERIAL_TAKEN = "SERIAL_TAKEN"
    """A device that this claim did not make has the serial number, and a certificate."""
    ALREADY_PROVISIONED = "ALREADY_PROVISIONED"
    """The device has spoken, or its certificate was changed by its owner, or it was deleted or given away."""
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CERTIFICATE_TAKEN = "CERTIFICATE_TAKEN"
    """The certificate speaks for another serial number, or was given to this one before: each device needs its own."""
    ACCOUNT_GONE = "ACCOUNT_GONE"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    BUSY = "BUSY"
    """Other requests were quicker, or too many of its certificates wait for their removal: it asks again in minutes."""


class TooManyClaims(Conflict):
    """The account has as many claims as it may."""

    code = "TOO_MANY_PROVISIONING_CLAIMS"

    def __init__(self) -> None:
        super().__init__(f"An account has at most {MAX_CLAIMS} provisioning claims; revoke one")


class CertificateTaken(Conflict):
    """The certificate was given to a serial number before; it is none's again."""

    def __init__(self) -> None:
        super().__init__("This certificate was given to a device before")


class LastRefusal(Record, kw_only=True):
    """The last refusal that was noted at a claim; of those within a minute only the first one is."""

    reason: str
    serial_number: str
    """As the device named it; "": it named none of the right form."""
    at_ms: int


class ProvisioningClaim(Record, kw_only=True):
    """A claim, without its list."""

    id: ProvisioningClaimId
    user_id: UserId
    name: str
    model: DeviceModel
    tags: tuple[str, ...]
    state: ClaimState
    max_devices: int
    listed: int
    """Number of serial numbers on its list."""
    used: int = 0
    """Number of devices that it has made."""
    created_ms: int
    ends_ms: int
    certificate_id: str = ""
    certificate_arn: str = ""
    refusal: LastRefusal | None = None

    def status(self, now_ms: int) -> ClaimStatus:
        """Return what its owner sees."""
        if now_ms >= self.ends_ms:
            return ClaimStatus.EXPIRED
        return ClaimStatus.EXHAUSTED if self.used >= self.max_devices else ClaimStatus.ACTIVE


class ProvisionedSerial(Record, kw_only=True):
    """A serial number that has become a device by its claim."""

    claim_id: ProvisioningClaimId
    serial_number: str
    device_id: DeviceId
    certificate_arn: str
    """The certificate that the hook allowed last."""
    provisioned_ms: int
    replaced: frozenset[str] = frozenset()
    """ARNs of certificates that it had before and that are to be removed."""
    version: int = 0

    @property
    def certificate_id(self) -> str:
        """Return the id of the certificate that the hook allowed last."""
        return self.certificate_arn.rpartition("/")[2]


class RegisteredCertificate(Record, kw_only=True):
    """A certificate that the hook has given to a serial number, which AWS IoT then ties to its thing."""

    certificate_arn: str
    serial_number: str
    device_id: DeviceId
    """Id by which the device and its thing are named."""

    @property
    def certificate_id(self) -> str:
        """Return the id of the certificate."""
        return self.certificate_arn.rpartition("/")[2]


class ListedSerial(Record, kw_only=True):
    """A serial number of a claim's list, with the device that it became."""

    serial_number: str
    provisioned: ProvisionedSerial | None


class AdmittedDevice(Record):
    """The device that the certificate is for."""

    serial_number: str
    device_id: DeviceId


class NotAdmitted(Exception):
    """The device gets no certificate of its own."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason)
        self.reason = reason


class AskAgain(NotAdmitted):
    """The device gets none at this moment, and may ask again in a while."""

    def __init__(self) -> None:
        super().__init__(RefusalReason.BUSY)
