"""Provisioning claims in DynamoDB: made, read, revoked, removed; provisioning_items.py has their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from karma.core.clock import epoch_ms, from_epoch_ms, iso
from karma.core.dynamo.access import batch_get, delete, get, query, query_by_id, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import Work, due_sk, query_work
from karma.core.errors import AlreadyCreated
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.devices.credentials import Certificate
from karma.devices.provisioning import (
    MAX_CLAIMS,
    ClaimState,
    LastRefusal,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
    RegisteredCertificate,
    TooManyClaims,
)
from karma.devices.repository.items import DevicesItem, owner_pk
from karma.devices.repository.provisioning_items import (
    CLAIM_PREFIX,
    DUE_PARTITION,
    ClaimCertificateItem,
    ClaimCountItem,
    ClaimItem,
    ClaimRequestItem,
    DueWork,
    ProvisionedItem,
    RegisteredItem,
    SerialListItem,
    claim_certificate_key,
    claim_count_key,
    claim_key,
    claim_pk,
    due_of,
    provisioned_key,
    provisioned_of,
    provisioning_claim_of,
    registered_key,
    serial_list_key,
)
from karma.identity.transactional import require_account

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry

_PAGE: Final = 100


class ProvisioningClaimRepository:
    """Reads and conditional writes of claims in one `devices` table."""

    # Reading

    def get(self, user_id: UserId, claim_id: str) -> ProvisioningClaim | None:
        """Read a claim in any state, strongly consistent: one read."""
        item = get(ClaimItem, claim_key(user_id, claim_id), consistent=True)
        return provisioning_claim_of(item) if item is not None else None

    def of_account(self, user_id: UserId, *, limit: int = _PAGE) -> list[ProvisioningClaim]:
        """Read an account's claims in any state, newest first: one query."""
        return query_by_id(ClaimItem, claim_key(user_id, ""), "", provisioning_claim_of, limit=limit)

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ProvisioningClaimId | None:
        """Return the claim that a request made: one read; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """
        made = noted(ClaimRequestItem, request_key(owner_pk(user_id), request), request)
        return ProvisioningClaimId(made) if made else None

    def serials(self, claim_id: ProvisioningClaimId) -> Sequence[str]:
        """Read a claim's list in its order, strongly consistent: one read of up to 134 KB."""
        item = get(SerialListItem, serial_list_key(claim_id), consistent=True)
        return [str(each) for each in item.serial_numbers] if item is not None else []

    def provisioned(self, claim_id: ProvisioningClaimId, serials: Sequence[str]) -> Mapping[str, ProvisionedSerial]:
        """Read which of up to 100 serial numbers have become devices: one batch read."""
        found = batch_get(ProvisionedItem, [provisioned_key(claim_id, each) for each in serials])
        return {item.serial_number: provisioned_of(item) for item in found.values()}

    # Making

    def begin(self, claim: ProvisioningClaim, serials: Sequence[str], *, due: datetime, most: int = MAX_CLAIMS) -> None:
        """Write a claim that has no certificate yet, with its list; the sweep removes it at `due`.

        Raises:
            TooManyClaims: the account has `most` of them.
            AccountGone: the account is deleted.
        """
        stamp = iso(from_epoch_ms(claim.created_ms))
        tx = Transaction()
        require_account(tx, claim.user_id)
        tx.put(
            ClaimItem(
                *claim_key(claim.user_id, claim.id),
                claim_id=claim.id,
                user_id=claim.user_id,
                name=claim.name,
                model=claim.model,
                tags=list(claim.tags),
                state=ClaimState.ISSUING,
                max_devices=claim.max_devices,
                listed=claim.listed,
                created_ms=claim.created_ms,
                ends_ms=claim.ends_ms,
                created_at=stamp,
                updated_at=stamp,
                gsi1pk=DUE_PARTITION,
                gsi1sk=due_sk(due, claim.id),
            )
        )
        listed = SerialListItem(*serial_list_key(claim.id), created_at=stamp, updated_at=stamp)
        listed.serial_numbers = list(serials)
        tx.put(listed)
        has_room = ClaimCountItem.value.does_not_exist() | (ClaimCountItem.value < most)
        tx.upsert(_count(claim), [ClaimCountItem.value.add(1)], has_room, on_fail=TooManyClaims())
        tx.commit()

    def note_certificate(self, claim: ProvisioningClaim, certificate: Certificate) -> None:
        """Record which certificate is being made, before anybody may connect by it.

        Raises:
            ConditionFailed: the sweep, or the deletion of the account, has removed the claim.
        """
        update(
            _item(claim),
            [ClaimItem.certificate_id.set(certificate.id), ClaimItem.certificate_arn.set(certificate.arn)],
            ClaimItem.state == ClaimState.ISSUING,
        )

    def open(
        self,
        claim: ProvisioningClaim,
        certificate: Certificate,
        *,
        now: datetime,
        entry: AuditEntry,
        request: RepeatableRequest | None = None,
    ) -> None:
        """Let a claim make devices: it is found by its certificate, and `request` has its record.

        Raises:
            ConditionFailed: the sweep, or the deletion of the account, has removed the claim.
            AlreadyCreated: a request with this key made a claim before.
        """
        from karma.audit.transactional import add_audit_entry  # local: the hook and the sweep do without

        stamp = iso(now)
        tx = Transaction()
        tx.update(
            _item(claim),
            [
                ClaimItem.state.set(ClaimState.ACTIVE),
                ClaimItem.updated_at.set(stamp),
                ClaimItem.gsi1sk.set(due_sk(from_epoch_ms(claim.ends_ms), claim.id)),
            ],
            ClaimItem.state == ClaimState.ISSUING,
        )
        tx.put(
            ClaimCertificateItem(
                *claim_certificate_key(certificate.id),
                user_id=claim.user_id,
                claim_id=claim.id,
                created_at=stamp,
                updated_at=stamp,
            )
        )
        if request is not None:
            record = ClaimRequestItem(*request_key(owner_pk(claim.user_id), request))
            repeated = AlreadyCreated("This request made a claim before; its key was shown once")
            note_request(tx, record, request, claim.id, repeated=repeated)
        add_audit_entry(tx, entry)
        tx.commit()

    def discard(self, claim: ProvisioningClaim) -> bool:
        """Remove a claim that nobody has got, with its list; return False when it is open or gone."""
        tx = Transaction()
        tx.delete(_item(claim), ClaimItem.state == ClaimState.ISSUING)
        tx.delete(SerialListItem(*serial_list_key(claim.id)))
        tx.update(_count(claim), [ClaimCountItem.value.add(-1)], ClaimCountItem.value > 0)
        return _committed(tx)

    # Ending

    def end(self, claim: ProvisioningClaim, *, now: datetime) -> bool:
        """Record that the broker has removed the certificate of a claim whose time is over; False: it was before."""
        actions = [
            ClaimItem.state.set(ClaimState.ENDED),
            ClaimItem.updated_at.set(iso(now)),
            ClaimItem.gsi1pk.remove(),
            ClaimItem.gsi1sk.remove(),
        ]
        try:
            update(_item(claim), actions, (ClaimItem.state == ClaimState.ACTIVE) & (ClaimItem.ends_ms <= epoch_ms(now)))
        except ConditionFailed:
            return False
        return True

    def revoke(self, claim: ProvisioningClaim, *, now: datetime, entry: AuditEntry) -> bool:
        """End a claim for good: no device is made by it from now on; False: somebody else was quicker."""
        from karma.audit.transactional import add_audit_entry  # local, as above

        tx = Transaction()
        tx.update(
            _item(claim),
            [
                ClaimItem.state.set(ClaimState.REVOKED),
                ClaimItem.updated_at.set(iso(now)),
                ClaimItem.gsi1pk.set(DUE_PARTITION),
                ClaimItem.gsi1sk.set(due_sk(now, claim.id)),
            ],
            ClaimItem.state.is_in(ClaimState.ACTIVE, ClaimState.ENDED),
        )
        tx.delete(ClaimCertificateItem(*claim_certificate_key(claim.certificate_id)))
        tx.update(_count(claim), [ClaimCountItem.value.add(-1)], ClaimCountItem.value > 0)
        add_audit_entry(tx, entry)
        return _committed(tx)

    def remove(self, claim: ProvisioningClaim, *, limit: int) -> int:
        """Remove up to `limit` items of a claim that was revoked, itself last; those that are not settled stay.

        Returns:
            Number of removed items.
        """
        page = query(DevicesItem, claim_pk(claim.id), limit=limit, consistent=True)
        removed = 0
        for item in page.items:
            if isinstance(item, ProvisionedItem) and item.gsi1pk:
                continue
            delete(item)
            removed += 1
        if not removed and not page.items:
            delete(_item(claim), ClaimItem.state == ClaimState.REVOKED)
            return 1
        return removed

    def note_refusal(self, claim: ProvisioningClaim, refusal: LastRefusal) -> None:
        """Record a refusal at its claim, unless that has changed since it was read: one write."""
        before = claim.refusal
        said = [refusal.reason, refusal.serial_number, refusal.at_ms]
        was = [before.reason, before.serial_number, before.at_ms] if before is not None else None
        same = ClaimItem.refusal == was if was is not None else ClaimItem.refusal.does_not_exist()
        try:
            update(_item(claim), [ClaimItem.refusal.set(said)], ClaimItem.pk.exists() & same)
        except ConditionFailed:
            return

    # For the sweep and the deletion of accounts

    def due(self, *, before: datetime, limit: int) -> list[DueWork]:
        """Read claims and serial numbers that a sweep must go on with, the longest due first."""
        before_now = DevicesItem.gsi1sk < iso(before)
        work: Work[DueWork] = query_work(DevicesItem, DUE_PARTITION, before_now, due_of, limit=limit)
        return work.items

    def settle(self, serial: ProvisionedSerial, *, now: datetime) -> bool:
        """Record that what a serial number had before is removed; False: it has changed since it was read."""
        actions = [
            ProvisionedItem.replaced.remove(),
            ProvisionedItem.updated_at.set(iso(now)),
            ProvisionedItem.gsi1pk.remove(),
            ProvisionedItem.gsi1sk.remove(),
        ]
        key = provisioned_key(serial.claim_id, serial.serial_number)
        try:
            update(ProvisionedItem(*key), actions, ProvisionedItem.version == serial.version)
        except ConditionFailed:
            return False
        return True

    def settle_certificate(self, given: RegisteredCertificate) -> bool:
        """Record that a certificate was looked at behind its registration; False: it was before."""
        item = RegisteredItem(*registered_key(given.certificate_id))
        try:
            update(
                item, [RegisteredItem.gsi1pk.remove(), RegisteredItem.gsi1sk.remove()], RegisteredItem.gsi1pk.exists()
            )
        except ConditionFailed:
            return False
        return True

    def empty_claim(self, claim: ProvisioningClaim, purge: PurgeAttempt) -> bool:
        """Remove all items of a claim of a deleted account, itself last; False when the time was over before."""
        if claim.certificate_id:
            delete(ClaimCertificateItem(*claim_certificate_key(claim.certificate_id)))
        if not empty(DevicesItem, claim_pk(claim.id), purge):
            return False
        delete(_item(claim))
        return True

    def left(self, user_id: UserId, *, limit: int = _PAGE) -> list[ProvisioningClaim]:
        """Read an account's first claims in any state, strongly consistent: one query."""
        at = DevicesItem.sk.startswith(CLAIM_PREFIX)
        found = query(DevicesItem, owner_pk(user_id), at, limit=limit, consistent=True).items
        return [provisioning_claim_of(item) for item in found if isinstance(item, ClaimItem)]


def _item(claim: ProvisioningClaim) -> ClaimItem:
    return ClaimItem(*claim_key(claim.user_id, claim.id))


def _count(claim: ProvisioningClaim) -> ClaimCountItem:
    return ClaimCountItem(*claim_count_key(claim.user_id))


def _committed(tx: Transaction) -> bool:
    try:
        tx.commit()
    except ConditionFailed:
        return False
    return True
