"""Items of provisioning by claim; access patterns are in docs/adr/0077-provisioning-by-claim.md.

devices    USER#<user>          PROVISIONING#<claim>     a claim                            gsi1 while something is due
           USER#<user>          COUNT#provisioning       number of the account's claims
           USER#<user>          REQUEST#<token>          claim made for an Idempotency-Key
           CERTIFICATE#<id>     META                     the claim of a certificate
           CERTIFICATE#<id>     REGISTERED               whom it was given to            gsi1 until a renewal is settled
           CLAIM#<claim>        LIST                     its serial numbers, which never change
           CLAIM#<claim>        SERIAL#<serial>          the device that one has become     gsi1 until it is settled
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import RequestAttributes
from karma.core.dynamo.work import due_sk
from karma.core.ids import DeviceId, UserId
from karma.devices.domain import DeviceModel
from karma.devices.provisioning import (
    CertificateTaken,
    ClaimState,
    LastRefusal,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
    RegisteredCertificate,
)
from karma.devices.repository.device_mapping import stored_tags
from karma.devices.repository.items import DevicesItem, owner_pk

if TYPE_CHECKING:
    from karma.core.dynamo.transaction import Transaction

DUE_PARTITION: Final = "SWEEP#PROVISIONING"
CLAIM_PREFIX: Final = "PROVISIONING#"
SERIAL_PREFIX: Final = "SERIAL#"
SETTLED_AFTER: Final = timedelta(minutes=5)
"""Time after which AWS IoT has made the thing, or never will: its hook may take 5 seconds."""
REGISTERED_KEPT: Final = timedelta(days=7)

DueWork = ProvisioningClaim | ProvisionedSerial | RegisteredCertificate


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


class RegisteredItem(DevicesItem, discriminator="registered_certificate"):
    """The serial number that a certificate was given to."""

    certificate_arn = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    device_id = UnicodeAttribute()


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


def registered_key(certificate_id: str) -> Key:
    """Return the key of whom a certificate was given to."""
    return Key(f"CERTIFICATE#{certificate_id}", "REGISTERED")


def give_certificate(tx: Transaction, given: RegisteredCertificate, *, now: datetime, due: datetime | None) -> None:
    """Add that a certificate is given to a serial number; otherwise the transaction fails with CertificateTaken.

    One item. It is kept for longer than AWS IoT lets anything be registered with the certificate, which is an hour.

    Args:
        tx: the transaction that lets the certificate speak.
        given: the certificate.
        now: the time.
        due: moment at which the sweep looks whether it speaks for the device; None: something else has it look.
    """
    stamp = iso(now)
    item = RegisteredItem(
        *registered_key(given.certificate_id),
        certificate_arn=given.certificate_arn,
        serial_number=given.serial_number,
        device_id=given.device_id,
        created_at=stamp,
        updated_at=stamp,
        expires_at=epoch_ms(now + REGISTERED_KEPT) // 1000,
    )
    if due is not None:
        item.gsi1pk, item.gsi1sk = DUE_PARTITION, due_sk(due, given.certificate_id)
    tx.put(item, on_fail=CertificateTaken())


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
        tags=stored_tags(item.tags),
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
    if isinstance(item, RegisteredItem):
        return RegisteredCertificate(
            certificate_arn=item.certificate_arn,
            serial_number=item.serial_number,
            device_id=DeviceId(item.device_id),
        )
    return provisioned_of(item) if isinstance(item, ProvisionedItem) else None
