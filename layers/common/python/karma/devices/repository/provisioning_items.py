"""Items of provisioning by claim; access patterns are in docs/adr/0077-provisioning-by-claim.md.

devices    USER#<user>          PROVISIONING#<claim>     a claim                            gsi1 while something is due
           USER#<user>          COUNT#provisioning       number of the account's claims
           USER#<user>          REQUEST#<token>          claim made for an Idempotency-Key
           CERTIFICATE#<id>     META                     the claim of a certificate
           CLAIM#<claim>        LIST                     its serial numbers, which never change
           CLAIM#<claim>        SERIAL#<serial>          the device that one has become     gsi1 until it is settled
"""

from __future__ import annotations

from typing import Any, Final, cast

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute

from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import DeviceId, UserId
from karma.devices.domain import DeviceModel
from karma.devices.provisioning import (
    ClaimState,
    LastRefusal,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
)
from karma.devices.repository.items import DevicesItem, owner_pk

DUE_PARTITION: Final = "SWEEP#PROVISIONING"
CLAIM_PREFIX: Final = "PROVISIONING#"
SERIAL_PREFIX: Final = "SERIAL#"


DueWork = ProvisioningClaim | ProvisionedSerial


class ClaimItem(DevicesItem, discriminator="provisioning_claim"):
    """A claim."""

    claim_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    model = UnicodeAttribute()
    tags = JSONAttribute(default=list)
    state = UnicodeAttribute()
    max_devices = NumberAttribute()
    listed = NumberAttribute()
    used = NumberAttribute(default=0)
    created_ms = NumberAttribute()
    ends_ms = NumberAttribute()
    certificate_id = UnicodeAttribute(null=True)
    certificate_arn = UnicodeAttribute(null=True)
    refusal = JSONAttribute(null=True)
    """The last refusal: reason, serial number, milliseconds."""


class ClaimCountItem(DevicesItem, discriminator="provisioning_claim_count"):
    """Number of an account's claims."""

    value = NumberAttribute(default=0)


class ClaimRequestItem(RequestAttributes, DevicesItem, discriminator="provisioning_claim_request"):
    """Record of the claim that a request with an Idempotency-Key made."""


class ClaimCertificateItem(DevicesItem, discriminator="provisioning_claim_certificate"):
    """The claim of a certificate."""

    user_id = UnicodeAttribute()
    claim_id = UnicodeAttribute()


class SerialListItem(DevicesItem, discriminator="provisioning_claim_list"):
    """The serial numbers of a claim."""

    serial_numbers = JSONAttribute(default=list)


class ProvisionedItem(DevicesItem, discriminator="provisioned_serial"):
    """A serial number of a claim that has become a device."""

    claim_id = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    device_id = UnicodeAttribute()
    certificate_arn = UnicodeAttribute()
    provisioned_ms = NumberAttribute()
    replaced = UnicodeSetAttribute(null=True)
    """ARNs of certificates to be removed."""


def claim_key(user_id: UserId, claim_id: str) -> Key:
    """Return the key of a claim."""
    return Key(owner_pk(user_id), f"{CLAIM_PREFIX}{claim_id}")


def claim_count_key(user_id: UserId) -> Key:
    """Return the key of the number of an account's claims."""
    return Key(owner_pk(user_id), "COUNT#provisioning")


def claim_certificate_key(certificate_id: str) -> Key:
    """Return the key of the claim of a certificate."""
    return Key(f"CERTIFICATE#{certificate_id}", "META")


def claim_pk(claim_id: ProvisioningClaimId) -> str:
    """Return the partition of a claim's list and of what became of it."""
    return f"CLAIM#{claim_id}"


def serial_list_key(claim_id: ProvisioningClaimId) -> Key:
    """Return the key of a claim's list."""
    return Key(claim_pk(claim_id), "LIST")


def provisioned_key(claim_id: ProvisioningClaimId, serial_number: str) -> Key:
    """Return the key of what a serial number has become by a claim."""
    return Key(claim_pk(claim_id), f"{SERIAL_PREFIX}{serial_number}")


def provisioning_claim_of(item: ClaimItem) -> ProvisioningClaim:
    """Return the claim of an item."""
    said = cast("list[Any] | None", item.refusal)
    return ProvisioningClaim(
        id=ProvisioningClaimId(item.claim_id),
        user_id=UserId(item.user_id),
        name=item.name,
        model=DeviceModel(item.model),
        tags=tuple(cast("list[str]", item.tags or [])),
        state=ClaimState(item.state),
        max_devices=int(item.max_devices),
        listed=int(item.listed),
        used=int(item.used),
        created_ms=int(item.created_ms),
        ends_ms=int(item.ends_ms),
        certificate_id=item.certificate_id or "",
        certificate_arn=item.certificate_arn or "",
        refusal=LastRefusal(reason=said[0], serial_number=said[1], at_ms=said[2]) if said else None,
    )


def provisioned_of(item: ProvisionedItem) -> ProvisionedSerial:
    """Return the serial number of an item."""
    return ProvisionedSerial(
        claim_id=ProvisioningClaimId(item.claim_id),
        serial_number=item.serial_number,
        device_id=DeviceId(item.device_id),
        certificate_arn=item.certificate_arn,
        provisioned_ms=int(item.provisioned_ms),
        replaced=frozenset(item.replaced or ()),
        version=int(item.version or 0),
    )


def due_of(item: DevicesItem) -> DueWork | None:
    """Return what an item of the sweep's list stands for."""
    if isinstance(item, ClaimItem):
        return provisioning_claim_of(item)
    return provisioned_of(item) if isinstance(item, ProvisionedItem) else None
