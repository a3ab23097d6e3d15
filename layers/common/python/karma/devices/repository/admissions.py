"""Devices that the hook of fleet provisioning makes, each in one transaction with what its claim has used.

All conditions are in the transaction: the account is in use, the certificate was given to nobody, the claim is open,
its time is not over and its number not reached, the plan has room, the serial number is free, has no certificate yet,
or was never spoken by. So a hook that is called twice, late, or at once with another, makes one device.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pynamodb.expressions.condition import Condition

from karma.billing.allowances import Reservation
from karma.billing.transactional import reserve_usage
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import batch_get, get
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk
from karma.core.ids import UserId
from karma.core.records import Record
from karma.devices.domain import Device, DeviceState
from karma.devices.provisioning import (
    ClaimState,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
    RegisteredCertificate,
)
from karma.devices.repository.device_mapping import SerialClaim, claim_of, device_item, unique_serial
from karma.devices.repository.devices import name_key, names_partition
from karma.devices.repository.items import (
    DeviceItem,
    DevicesItem,
    LatestItem,
    PresenceItem,
    UniqueSerial,
    device_key,
    latest_key,
    presence_key,
    unique_serial_key,
)
from karma.devices.repository.provisioning_items import (
    DUE_PARTITION,
    SETTLED_AFTER,
    ClaimCertificateItem,
    ClaimItem,
    ProvisionedItem,
    SerialListItem,
    claim_certificate_key,
    claim_key,
    give_certificate,
    provisioned_key,
    provisioned_of,
    provisioning_claim_of,
    serial_list_key,
)
from karma.identity.transactional import require_account_in_use

if TYPE_CHECKING:
    from karma.devices.repository.transfers import StoredDevice


class Prospect(Record, kw_only=True):
    """All that decides whether a claim may make a device of a serial number, as one read found it."""

    claim: ProvisioningClaim
    is_listed: bool
    provisioned: ProvisionedSerial | None
    """Device that the serial number has become by this claim."""
    holder: SerialClaim | None
    """Whoever has the serial number."""


class AdmissionRepository:
    """Reads and transactions of the hook."""

    def find(self, certificate_id: str) -> tuple[UserId, ProvisioningClaimId] | None:
        """Read whose claim a certificate is, and which: one read, strongly consistent; None: it is none's."""
        item = get(ClaimCertificateItem, claim_certificate_key(certificate_id), consistent=True)
        return (UserId(item.user_id), ProvisioningClaimId(item.claim_id)) if item is not None else None

    def look(self, user_id: UserId, claim_id: ProvisioningClaimId, serial_number: str) -> Prospect | None:
        """Read what decides: one batch read of four items, strongly consistent; None: there is no such claim."""
        keys = (
            claim_key(user_id, claim_id),
            serial_list_key(claim_id),
            provisioned_key(claim_id, serial_number),
            unique_serial_key(serial_number),
        )
        found = batch_get(DevicesItem, keys, consistent=True)
        claim, listed, provisioned, holder = (found.get(key) for key in keys)
        if not isinstance(claim, ClaimItem):
            return None
        return Prospect(
            claim=provisioning_claim_of(claim),
            is_listed=isinstance(listed, SerialListItem) and serial_number in listed.serial_numbers,
            provisioned=provisioned_of(provisioned) if isinstance(provisioned, ProvisionedItem) else None,
            holder=claim_of(holder) if isinstance(holder, UniqueSerial) else None,
        )

    def create(self, new: ProvisionedSerial, device: Device, *, reservation: Reservation, now: datetime) -> None:
        """Make a device whose serial number is free; it is shown at once, with its certificate.

        Raises:
            CertificateTaken: the certificate was given to a device before.
            ConditionFailed: the serial number is taken, or the claim may make no more.
            QuotaExceeded: the owner's plan has no room for another device.
            AccountGone: the owner's account is deleted, or disabled.
        """
        stamp = iso(now)
        tx = self._used(new, device.user_id, now)
        unique = unique_serial(device, attempt="", now=stamp)
        unique.attempt, unique.gsi1pk, unique.gsi1sk = None, None, None
        unique.certificate_ids = {new.certificate_id}
        tx.put(unique)
        row = device_item(device, attempt="")
        row.attempt = None
        row.gsi1pk, row.gsi1sk = names_partition(device.user_id), name_key(device.name, device.id)
        tx.put(row)
        for kind, key in ((LatestItem, latest_key), (PresenceItem, presence_key)):
            tx.put(kind(*key(device.user_id, device.id), created_at=stamp, updated_at=stamp))
        reserve_usage(tx, [reservation])
        tx.commit()

    def adopt(self, new: ProvisionedSerial, holder: SerialClaim, *, now: datetime) -> None:
        """Give a device that was imported its first certificate.

        Raises:
            CertificateTaken: the certificate was given to a device before.
            ConditionFailed: it has one by now, or is gone, or the claim may make no more.
            AccountGone: the owner's account is deleted, or disabled.
        """
        stamp = iso(now)
        tx = self._used(new, holder.user_id, now)
        speaks = UniqueSerial.certificate_ids
        tx.update(
            UniqueSerial(*unique_serial_key(new.serial_number)),
            [speaks.set({new.certificate_id}), UniqueSerial.updated_at.set(stamp)],
            _holds(new) & speaks.does_not_exist(),
        )
        tx.update(
            DeviceItem(*device_key(holder.user_id, new.device_id)),
            [DeviceItem.bare.remove(), DeviceItem.updated_at.set(stamp)],
            DeviceItem.state == DeviceState.ACTIVE,
        )
        tx.commit()

    def replace(self, before: ProvisionedSerial, certificate_arn: str, silent: StoredDevice, *, now: datetime) -> None:
        """Give a device that nobody has heard another certificate in the place of the one that it has lost.

        The lost one counts no more from now on; the sweep removes it.

        Raises:
            CertificateTaken: the certificate was given to a device before.
            ConditionFailed: the device has spoken, its certificate was changed, or it is gone; or the claim is.
            AccountGone: the owner's account is deleted, or disabled.
        """
        stamp, device = iso(now), silent.current.device
        new_id = certificate_arn.rpartition("/")[2]
        tx = Transaction()
        require_account_in_use(tx, device.user_id)
        _give(tx, before, certificate_arn, now)
        tx.check(ClaimItem, claim_key(device.user_id, before.claim_id), _is_open(now))
        tx.check(LatestItem, latest_key(device.user_id, device.id), LatestItem.version == silent.latest)
        tx.check(PresenceItem, presence_key(device.user_id, device.id), PresenceItem.version == silent.presence)
        tx.update(
            ProvisionedItem(*provisioned_key(before.claim_id, before.serial_number)),
            [
                ProvisionedItem.certificate_arn.set(certificate_arn),
                ProvisionedItem.provisioned_ms.set(epoch_ms(now)),
                ProvisionedItem.replaced.set({*before.replaced, before.certificate_arn}),
                ProvisionedItem.updated_at.set(stamp),
                ProvisionedItem.gsi1pk.set(DUE_PARTITION),
                ProvisionedItem.gsi1sk.set(due_sk(now + SETTLED_AFTER, before.serial_number)),
            ],
            ProvisionedItem.version == before.version,
        )
        speaks = UniqueSerial.certificate_ids
        tx.update(
            UniqueSerial(*unique_serial_key(before.serial_number)),
            [speaks.set({new_id}), UniqueSerial.updated_at.set(stamp)],
            _holds(before) & (speaks == {before.certificate_id}),
        )
        tx.commit()

    def _used(self, new: ProvisionedSerial, user_id: UserId, now: datetime) -> Transaction:
        """Begin the transaction of a device that its claim has not made yet."""
        stamp = iso(now)
        tx = Transaction()
        require_account_in_use(tx, user_id)
        _give(tx, new, new.certificate_arn, now)
        tx.update(
            ClaimItem(*claim_key(user_id, new.claim_id)),
            [ClaimItem.used.add(1), ClaimItem.updated_at.set(stamp)],
            _is_open(now) & (ClaimItem.used < ClaimItem.max_devices),
        )
        tx.put(
            ProvisionedItem(
                *provisioned_key(new.claim_id, new.serial_number),
                claim_id=new.claim_id,
                serial_number=new.serial_number,
                device_id=new.device_id,
                certificate_arn=new.certificate_arn,
                provisioned_ms=new.provisioned_ms,
                created_at=stamp,
                updated_at=stamp,
                gsi1pk=DUE_PARTITION,
                gsi1sk=due_sk(now + SETTLED_AFTER, new.serial_number),
            )
        )
        return tx


def _give(tx: Transaction, to: ProvisionedSerial, certificate_arn: str, now: datetime) -> None:
    given = RegisteredCertificate(
        certificate_arn=certificate_arn, serial_number=to.serial_number, device_id=to.device_id
    )
    # What the serial number became has the sweep look.
    give_certificate(tx, given, now=now, due=None)


def _is_open(now: datetime) -> Condition:
    is_open: Condition = (ClaimItem.state == ClaimState.ACTIVE) & (ClaimItem.ends_ms > epoch_ms(now))
    return is_open


def _holds(serial: ProvisionedSerial) -> Condition:
    holds: Condition = (UniqueSerial.device_id == serial.device_id) & (UniqueSerial.state == DeviceState.ACTIVE)
    return holds
