"""Rotations of certificates in DynamoDB; access patterns are in docs/adr/0069-certificate-rotation.md.

devices    DEV#<device>  ROTATION             the device's last rotation     gsi1 until it is over: by due time
           USER#<user>   REQUEST#<token>      certificate made for an Idempotency-Key

The row of the device shows the overlap, the unique item of its serial number says who may speak for it; both are
changed with the stage of the rotation, in one transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import from_epoch_ms, iso
from karma.core.dynamo.access import delete, get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk, query_work
from karma.core.errors import AlreadyCreated, Conflict, NotFound
from karma.core.ids import DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.credentials import Certificate
from karma.devices.domain import DeviceState
from karma.devices.provisioning import RegisteredCertificate
from karma.devices.repository.device_mapping import RENEWAL, SerialClaim
from karma.devices.repository.items import (
    DeviceItem,
    DevicesItem,
    UniqueSerial,
    children_pk,
    device_key,
    owner_pk,
    unique_serial_key,
)
from karma.devices.repository.provisioning_items import SETTLED_AFTER, give_certificate
from karma.devices.rotation import CertificateRotation, RotationOutcome, RotationStage
from karma.devices.transactional import require_device
from karma.identity.transactional import require_account_in_use

DUE_PARTITION: Final = "SWEEP#ROTATIONS"


class RotationItem(DevicesItem, discriminator="certificate_rotation"):
    """A device's last rotation."""

    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    serial_number = UnicodeAttribute()
    attempt = UnicodeAttribute()
    stage = UnicodeAttribute()
    began_ms = NumberAttribute()
    ends_ms = NumberAttribute()
    old_certificate_id = UnicodeAttribute()
    certificate_id = UnicodeAttribute(null=True)
    certificate_arn = UnicodeAttribute(null=True)
    outcome = UnicodeAttribute(null=True)
    renewal = BooleanAttribute(null=True)


class RotationRequestItem(RequestAttributes, DevicesItem, discriminator="rotation_request"):
    """Record of the certificate that a request with an Idempotency-Key made."""


def rotation_key(device_id: DeviceId) -> Key:
    """Return the key of a device's rotation."""
    return Key(children_pk(device_id), "ROTATION")


class RotationRepository:
    """Reads and conditional writes of rotations in one `devices` table."""

    def get(self, device_id: DeviceId) -> CertificateRotation | None:
        """Read a device's last rotation, strongly consistent: one read; None: it has had none."""
        item = get(RotationItem, rotation_key(device_id), consistent=True)
        return rotation_of(item) if item is not None else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> str | None:
        """Return the certificate that a request made: one read; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """
        return noted(RotationRequestItem, request_key(owner_pk(user_id), request), request)

    def begin(self, new: CertificateRotation, *, due: datetime) -> CertificateRotation | None:
        """Write a rotation that begins, and return the unfinished beginning that it takes over.

        Raises:
            Conflict: another rotation of the device is under way.
            NotFound: there is no such active device.
        """
        busy = Conflict("Another rotation of this device's certificate is under way", code="ROTATION_UNDER_WAY")
        item = get(RotationItem, rotation_key(new.device_id), consistent=True)
        earlier = rotation_of(item) if item is not None else None
        if earlier is not None and earlier.stage not in (RotationStage.ISSUING, RotationStage.OVER):
            raise busy
        fresh = _new_item(new, due)
        if item is not None:
            fresh.version = item.version
            if item.stage == RotationStage.ISSUING:
                # Until another is made this is the one to be removed, by whoever goes on.
                fresh.certificate_id, fresh.certificate_arn = item.certificate_id, item.certificate_arn
        tx = Transaction()
        require_device(tx, new.user_id, new.device_id)
        tx.put(fresh, on_fail=busy)
        tx.commit()
        return earlier if earlier is not None and earlier.stage is RotationStage.ISSUING else None

    def renew(self, new: CertificateRotation, *, now: datetime, addressee: DeviceId | None = None) -> None:
        """Begin the overlap of a certificate that a device asked for itself; AWS IoT ties it to the thing behind it.

        Args:
            new: the rotation.
            now: the time.
            addressee: id by which the device and its thing are named, where it is another one than its row's.

        Raises:
            CertificateTaken: the certificate was given to a device before.
            ConditionFailed: another rotation is under way, or the device has another certificate or is gone.
            AccountGone: the owner's account is deleted, or disabled.
        """
        stamp = iso(now)
        item = get(RotationItem, rotation_key(new.device_id), consistent=True)
        if item is not None and item.stage != RotationStage.OVER:
            raise ConditionFailed
        fresh = _new_item(new, from_epoch_ms(new.ends_ms))
        fresh.certificate_id, fresh.certificate_arn, fresh.renewal = new.certificate_id, new.certificate_arn, True
        if item is not None:
            fresh.version = item.version
        tx = Transaction()
        require_account_in_use(tx, new.user_id)
        # A device that is deleted at this moment leaves no rotation, but AWS IoT may make its thing anew.
        given = RegisteredCertificate(
            certificate_arn=new.certificate_arn,
            serial_number=new.serial_number,
            device_id=addressee or new.device_id,
        )
        give_certificate(tx, given, now=now, due=now + SETTLED_AFTER)
        tx.put(fresh)
        tx.update(
            DeviceItem(*device_key(new.user_id, new.device_id)),
            [
                DeviceItem.rotation.set([new.certificate_id, new.began_ms, new.ends_ms, RENEWAL]),
                DeviceItem.updated_at.set(stamp),
            ],
            DeviceItem.state == DeviceState.ACTIVE,
        )
        speaks, old = UniqueSerial.certificate_ids, new.old_certificate_id
        tx.update(
            UniqueSerial(*unique_serial_key(new.serial_number)),
            [
                speaks.set({old, new.certificate_id}),
                UniqueSerial.next_certificate_id.set(new.certificate_id),
                UniqueSerial.updated_at.set(stamp),
            ],
            (UniqueSerial.device_id == new.device_id) & (speaks == {old}),
        )
        tx.commit()

    def note_certificate(self, rotation: CertificateRotation, certificate: Certificate) -> None:
        """Record which certificate is being made, before it is tied to the device.

        Raises:
            ConditionFailed: another request has taken the rotation over.
        """
        update(
            RotationItem(*rotation_key(rotation.device_id)),
            [RotationItem.certificate_id.set(certificate.id), RotationItem.certificate_arn.set(certificate.arn)],
            _mine(rotation, RotationStage.ISSUING),
        )

    def open(
        self,
        rotation: CertificateRotation,
        certificate: Certificate,
        *,
        now: datetime,
        request: RepeatableRequest | None = None,
    ) -> None:
        """Begin the overlap: both certificates may speak for the device, its row says so, and `request` has its record.

        The first certificate of an imported device has no other one beside it: with it the rotation is over.

        Raises:
            NotFound: the device is deleted.
            ConditionFailed: another request has taken the rotation over.
            AlreadyCreated: a request with this key made a certificate before.
        """
        stamp, old = iso(now), rotation.old_certificate_id
        tx = Transaction()
        tx.update(
            RotationItem(*rotation_key(rotation.device_id)),
            [RotationItem.updated_at.set(stamp), *_opened(rotation)],
            _mine(rotation, RotationStage.ISSUING),
        )
        overlap = [certificate.id, rotation.began_ms, rotation.ends_ms]
        tx.update(
            DeviceItem(*device_key(rotation.user_id, rotation.device_id)),
            [DeviceItem.rotation.set(overlap) if old else DeviceItem.bare.remove(), DeviceItem.updated_at.set(stamp)],
            DeviceItem.state == DeviceState.ACTIVE,
            on_fail=NotFound(f"Device {rotation.device_id} not found"),
        )
        speaks = UniqueSerial.certificate_ids
        tx.update(
            UniqueSerial(*unique_serial_key(rotation.serial_number)),
            [
                speaks.set({old, certificate.id} if old else {certificate.id}),
                *([UniqueSerial.next_certificate_id.set(certificate.id)] if old else []),
                UniqueSerial.updated_at.set(stamp),
            ],
            (UniqueSerial.device_id == rotation.device_id) & (speaks == {old} if old else speaks.does_not_exist()),
        )
        if request is not None:
            record = RotationRequestItem(*request_key(owner_pk(rotation.user_id), request))
            repeated = AlreadyCreated(
                "This request made a certificate before; it was shown once", details={"id": certificate.id}
            )
            note_request(tx, record, request, certificate.id, repeated=repeated)
        tx.commit()

    def end(
        self, claim: SerialClaim, *, removed: str, outcome: RotationOutcome, removed_ms: int, now: datetime
    ) -> bool:
        """End the overlap: `removed` counts no more for what the broker gets after `removed_ms`; the sweep removes it.

        Return False when it has ended otherwise, or the device is deleted.
        """
        stamp, new = iso(now), claim.next_certificate_id
        tx = Transaction()
        tx.update(
            RotationItem(*rotation_key(claim.device_id)),
            [
                RotationItem.stage.set(RotationStage.ENDING),
                RotationItem.outcome.set(outcome),
                RotationItem.updated_at.set(stamp),
                RotationItem.gsi1sk.set(due_sk(now, claim.device_id)),
            ],
            (RotationItem.stage == RotationStage.OVERLAP) & (RotationItem.certificate_id == new),
        )
        tx.update(
            DeviceItem(*device_key(claim.user_id, claim.device_id)),
            [DeviceItem.rotation.remove(), DeviceItem.updated_at.set(stamp)],
            DeviceItem.state == DeviceState.ACTIVE,
        )
        tx.update(
            UniqueSerial(*unique_serial_key(claim.serial_number)),
            [
                UniqueSerial.certificate_ids.set(set(claim.certificate_ids - {removed})),
                UniqueSerial.next_certificate_id.remove(),
                UniqueSerial.removed_certificate_id.set(removed),
                UniqueSerial.removed_ms.set(removed_ms),
                UniqueSerial.updated_at.set(stamp),
            ],
            (UniqueSerial.device_id == claim.device_id) & (UniqueSerial.next_certificate_id == new),
        )
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def finish(self, rotation: CertificateRotation, *, now: datetime) -> bool:
        """Record that the broker has removed the certificate; return False when that was recorded before."""
        try:
            update(
                RotationItem(*rotation_key(rotation.device_id)),
                [
                    RotationItem.stage.set(RotationStage.OVER),
                    RotationItem.updated_at.set(iso(now)),
                    RotationItem.gsi1pk.remove(),
                    RotationItem.gsi1sk.remove(),
                ],
                _mine(rotation, RotationStage.ENDING),
            )
        except ConditionFailed:
            return False
        return True

    def discard(self, rotation: CertificateRotation) -> bool:
        """Remove a rotation in the stage in which it was read; return False when it is in another by now."""
        try:
            delete(RotationItem(*rotation_key(rotation.device_id)), _mine(rotation, rotation.stage))
        except ConditionFailed:
            return False
        return True

    def due(self, *, before: datetime, limit: int) -> list[CertificateRotation]:
        """Read rotations that a sweep must go on with, the longest due first."""
        return query_work(
            RotationItem, DUE_PARTITION, RotationItem.gsi1sk < iso(before), rotation_of, limit=limit
        ).items


def _opened(rotation: CertificateRotation) -> list[Action]:
    if rotation.old_certificate_id:
        due = due_sk(from_epoch_ms(rotation.ends_ms), rotation.device_id)
        return [RotationItem.stage.set(RotationStage.OVERLAP), RotationItem.gsi1sk.set(due)]
    return [RotationItem.stage.set(RotationStage.OVER), RotationItem.gsi1pk.remove(), RotationItem.gsi1sk.remove()]


def _mine(rotation: CertificateRotation, stage: RotationStage) -> Condition:
    mine: Condition = (RotationItem.attempt == rotation.attempt) & (RotationItem.stage == stage)
    return mine


def _new_item(rotation: CertificateRotation, due: datetime) -> RotationItem:
    stamp = iso(from_epoch_ms(rotation.began_ms))
    return RotationItem(
        *rotation_key(rotation.device_id),
        device_id=rotation.device_id,
        user_id=rotation.user_id,
        serial_number=rotation.serial_number,
        attempt=rotation.attempt,
        stage=rotation.stage,
        began_ms=rotation.began_ms,
        ends_ms=rotation.ends_ms,
        old_certificate_id=rotation.old_certificate_id,
        created_at=stamp,
        updated_at=stamp,
        gsi1pk=DUE_PARTITION,
        gsi1sk=due_sk(due, rotation.device_id),
    )


def rotation_of(item: RotationItem) -> CertificateRotation:
    """Return the rotation of an item."""
    return CertificateRotation(
        device_id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        serial_number=item.serial_number,
        attempt=item.attempt,
        stage=RotationStage(item.stage),
        began_ms=int(item.began_ms),
        ends_ms=int(item.ends_ms),
        old_certificate_id=item.old_certificate_id,
        certificate_id=item.certificate_id or "",
        certificate_arn=item.certificate_arn or "",
        outcome=RotationOutcome(item.outcome) if item.outcome else None,
        is_renewal=bool(item.renewal),
    )
