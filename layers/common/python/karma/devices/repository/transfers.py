"""Transfers of devices in DynamoDB; access patterns are in docs/adr/0071-device-transfer.md.

devices    DEV#<device>  TRANSFER             its offer                           gsi1: OFFERS#<user or digest>
           DEV#<device>  REFUSAL#<user>       who declined it, for as long        gsi1: OFFERS#<user>
           USER#<user>   TAKEN#<device>       the device that it became for who accepted it

Offer and refusals stand in the device's partition, and go with it: deleted, or another account's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pynamodb.attributes import UnicodeAttribute
from pynamodb.expressions.condition import Condition

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.billing.allowances import Metric, Reservation, given_back
from karma.billing.transactional import adjust_usage, reserve_usage
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import batch_get, delete, get, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict
from karma.core.ids import DeviceId, UserId
from karma.core.purge import PurgeAttempt
from karma.core.records import Record
from karma.devices.domain import CurrentDevice, Device, DeviceState
from karma.devices.repository.device_mapping import current_devices_of, device_item, device_of, latest_json, tombstone
from karma.devices.repository.devices import name_key, names_partition
from karma.devices.repository.items import (
    DeviceItem,
    DevicesItem,
    LatestItem,
    PresenceItem,
    UniqueSerial,
    children_pk,
    device_key,
    latest_key,
    owner_pk,
    presence_key,
    unique_serial_key,
)
from karma.devices.repository.rotations import RotationItem, rotation_key
from karma.devices.rotation import RotationStage
from karma.devices.transactional import require_device
from karma.devices.transfer import MAX_RECEIVED, OFFER_TTL, DeviceOffer, OfferDeclined, transfer_changed
from karma.identity.domain import Credential
from karma.identity.transactional import require_account, require_credential
from karma.mail.domain import Mail
from karma.mail.transactional import add_mail

_OFFER: Final = "OFFER#"
_REFUSAL: Final = "REFUSAL#"


class OfferItem(DevicesItem, discriminator="device_offer"):
    """The offer of a device; `created_at` is when the receiver was asked last."""

    device_id = UnicodeAttribute()
    offered_by = UnicodeAttribute()
    user_id = UnicodeAttribute(null=True)
    email = UnicodeAttribute(null=True)
    offered_at = UnicodeAttribute()
    valid_until = UnicodeAttribute()
    declined_at = UnicodeAttribute(null=True)


class RefusalItem(DevicesItem, discriminator="device_refusal"):
    """That somebody declined a device, until the offer's time is over."""

    valid_until = UnicodeAttribute()


class TakenItem(DevicesItem, discriminator="device_taken"):
    """The id of the device that a transferred one became."""

    device_id = UnicodeAttribute()
    valid_until = UnicodeAttribute()


class StoredDevice(Record):
    """A device with its newest facts and presence, and the versions in which they were read."""

    current: CurrentDevice
    row: int
    latest: int
    presence: int


def offer_key(device_id: DeviceId) -> Key:
    """Return the key of a device's offer."""
    return Key(children_pk(device_id), "TRANSFER")


def refusal_key(device_id: DeviceId, user_id: UserId) -> Key:
    """Return the key of somebody's refusal of a device."""
    return Key(children_pk(device_id), f"{_REFUSAL}{user_id}")


def taken_key(user_id: UserId, device_id: DeviceId) -> Key:
    """Return the key of what became of a device that somebody accepted."""
    return Key(owner_pk(user_id), f"TAKEN#{device_id}")


def offers_partition(receiver: str) -> str:
    """Return the partition of gsi1 with the offers to an account, or to the SHA-256 of an address."""
    return f"OFFERS#{receiver}"


class TransferRepository:
    """Offers of devices, and the transaction that moves one."""

    name = "device_offers"

    # Reading

    def offer(self, device_id: DeviceId) -> DeviceOffer | None:
        """Read a device's offer, strongly consistent: one read; None: there is none."""
        item = get(OfferItem, offer_key(device_id), consistent=True)
        return offer_of(item) if item is not None else None

    def offers_to(self, receivers: Sequence[str]) -> list[DeviceOffer]:
        """Read the newest offers to an account, by its id and the digest of its address: one Query of the index each.

        At most `MAX_RECEIVED` of each, newest first; also those that are over.
        """
        found: list[DeviceOffer] = []
        for receiver in receivers:
            mine = OfferItem.gsi1sk.startswith(_OFFER)
            pk = offers_partition(receiver)
            page = query(OfferItem, pk, mine, limit=MAX_RECEIVED, forward=False, index=DevicesItem.gsi1)
            found += [offer_of(item) for item in page.items]
        return sorted(found, key=lambda each: each.offered_at, reverse=True)[:MAX_RECEIVED]

    def offered(self, offers: Sequence[DeviceOffer]) -> dict[DeviceId, Device]:
        """Read the devices of offers that are active and still their givers': one batch read."""
        keys = [device_key(each.offered_by, each.device_id) for each in offers]
        found = [device_of(item) for item in batch_get(DeviceItem, keys).values()] if keys else []
        return {each.id: each for each in found if each.state is DeviceState.ACTIVE}

    def refused_until(self, device_id: DeviceId, user_id: UserId) -> datetime | None:
        """Read until when somebody is not asked for a device again: one read; None: they did not decline it."""
        item = get(RefusalItem, refusal_key(device_id, user_id), consistent=True)
        return parse_iso(item.valid_until) if item is not None else None

    def taken(self, user_id: UserId, device_id: DeviceId, *, now: datetime) -> DeviceId | None:
        """Read what a device became that somebody accepted within `OFFER_TTL`: one read; None: they did not."""
        item = get(TakenItem, taken_key(user_id, device_id), consistent=True)
        return DeviceId(item.device_id) if item is not None and item.valid_until > iso(now) else None

    def stored(self, user_id: UserId, device_id: DeviceId) -> StoredDevice | None:
        """Read an active device and the versions of its items, strongly consistent: one batch read."""
        keys = [key(user_id, device_id) for key in (device_key, latest_key, presence_key)]
        found = batch_get(DevicesItem, keys, consistent=True)
        items = [found[key] for key in keys if key in found]
        devices = [each for each in current_devices_of(items) if each.device.state is DeviceState.ACTIVE]
        if not devices or len(items) < len(keys):
            return None
        row, latest, presence = (int(item.version or 0) for item in items)
        return StoredDevice(devices[0], row, latest, presence)

    # Offering and answering

    def put_offer(
        self,
        offer: DeviceOffer,
        *,
        made_with: Credential | None,
        known: UserId | None,
        entries: Sequence[AuditEntry],
        mails: Sequence[Mail],
    ) -> None:
        """Store an offer in the place of an earlier one, with what tells of it, unless its receiver declined before.

        `known` is the account that is asked, by its id or by the address that it has proven; `made_with` the session
        that offers.

        Raises:
            NotFound: the device is not active, or another account's by now.
            OfferDeclined: the receiver declined this device before.
            SessionOver: the session was ended.
            AccountGone: the receiver's account is deleted.
        """
        tx, at, item = Transaction(), iso(offer.offered_at), OfferItem
        require_device(tx, offer.offered_by, offer.device_id)
        if made_with is None:
            require_account(tx, offer.offered_by)
        else:
            require_credential(tx, made_with, now=offer.offered_at)
        if offer.user_id is not None:
            require_account(tx, offer.user_id)
        if known is not None:
            key, over = refusal_key(offer.device_id, known), RefusalItem.valid_until <= at
            tx.check(RefusalItem, key, RefusalItem.pk.does_not_exist() | over, on_fail=declined_before())
        tx.upsert(
            item(*offer_key(offer.device_id)),
            [
                item.device_id.set(offer.device_id),
                item.offered_by.set(offer.offered_by),
                item.user_id.set(offer.user_id) if offer.user_id else item.user_id.remove(),
                item.email.set(offer.email) if offer.email else item.email.remove(),
                item.offered_at.set(at),
                item.valid_until.set(iso(offer.expires_at)),
                item.declined_at.remove(),
                item.created_at.set(at),
                item.updated_at.set(at),
                item.expires_at.set(_deletion(offer.expires_at)),
                item.gsi1pk.set(offers_partition(offer.receiver)),
                item.gsi1sk.set(f"{_OFFER}{at}#{offer.device_id}"),
            ],
        )
        for entry in entries:
            add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        tx.commit()

    def withdraw(self, offer: DeviceOffer) -> bool:
        """Remove an offer that is as it was read; return False when it is gone, answered or another one by now."""
        try:
            delete(OfferItem(*offer_key(offer.device_id)), _as_read(offer))
        except ConditionFailed:
            return False
        return True

    def decline(self, offer: DeviceOffer, *, by: UserId, at: datetime, entry: AuditEntry) -> bool:
        """Record that somebody declined an offer, and their refusal; False: the offer is not as it was read."""
        tx, stamp = Transaction(), iso(at)
        tx.update(
            OfferItem(*offer_key(offer.device_id)),
            [OfferItem.declined_at.set(stamp), OfferItem.updated_at.set(stamp)],
            _as_read(offer) & OfferItem.declined_at.does_not_exist(),
        )
        tx.upsert(
            RefusalItem(*refusal_key(offer.device_id, by)),
            [
                RefusalItem.valid_until.set(iso(offer.expires_at)),
                RefusalItem.created_at.set(stamp),
                RefusalItem.updated_at.set(stamp),
                RefusalItem.expires_at.set(_deletion(offer.expires_at)),
                RefusalItem.gsi1pk.set(offers_partition(by)),
                RefusalItem.gsi1sk.set(f"{_REFUSAL}{offer.device_id}"),
            ],
        )
        add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def move(
        self,
        offer: DeviceOffer,
        before: StoredDevice,
        after: CurrentDevice,
        *,
        reservation: Reservation,
        entries: Sequence[AuditEntry],
        now: datetime,
    ) -> None:
        """Make a device its receiver's and use up the offer, all or none.

        The giver's device is gone with it, as one that was deleted; what is left of its data goes by its tombstone.

        Raises:
            TransferChanged: offer or device are not as they were read.
            Conflict: ROTATION_UNDER_WAY, the device's certificate is being changed.
            QuotaExceeded: the receiver's plan has no room for another device.
            AccountGone: one of the accounts is deleted.
        """
        device, mine = before.current.device, after.device
        tx, stamp = Transaction(), iso(now)
        require_account(tx, device.user_id)
        require_account(tx, mine.user_id)
        busy = Conflict(
            "The device's certificate is being changed; accept when that is over", code="ROTATION_UNDER_WAY"
        )
        at_rest = RotationItem.pk.does_not_exist() | (RotationItem.stage == RotationStage.OVER)
        tx.check(RotationItem, rotation_key(device.id), at_rest, on_fail=busy)
        _remove(tx, before)
        open_ = _as_read(offer) & OfferItem.declined_at.does_not_exist() & (OfferItem.valid_until > stamp)
        tx.delete(OfferItem(*offer_key(device.id)), open_, on_fail=transfer_changed())
        _put(tx, after, stamp)
        tx.put(tombstone(device, now))
        _put_taken(tx, device.id, mine, now)
        tx.update(
            UniqueSerial(*unique_serial_key(device.serial_number)),
            [
                UniqueSerial.user_id.set(mine.user_id),
                UniqueSerial.device_id.set(mine.id),
                UniqueSerial.since_ms.set(epoch_ms(now)),
                UniqueSerial.updated_at.set(stamp),
            ],
            (UniqueSerial.device_id == device.id) & (UniqueSerial.state == DeviceState.ACTIVE),
            on_fail=transfer_changed(),
        )
        adjust_usage(tx, [given_back(device.user_id, Metric.DEVICES)])
        reserve_usage(tx, [reservation])
        for entry in entries:
            add_audit_entry(tx, entry)
        tx.commit()

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove the offers to a deleted account and its refusals; False when the time was over before the end.

        Offers that it made are removed with its devices.
        """
        return empty(DevicesItem, offers_partition(purge.user_id), purge, index=DevicesItem.gsi1)


def declined_before() -> OfferDeclined:
    """Return the error of an offer to somebody who declined the device."""
    return OfferDeclined("They declined; ask again when that offer is over")


def _as_read(offer: DeviceOffer) -> Condition:
    same: Condition = (OfferItem.offered_at == iso(offer.offered_at)) & (
        OfferItem.gsi1pk == offers_partition(offer.receiver)
    )
    return same


def _remove(tx: Transaction, before: StoredDevice) -> None:
    device = before.current.device
    active = (DeviceItem.state == DeviceState.ACTIVE) & (DeviceItem.version == before.row)
    tx.delete(DeviceItem(*device_key(device.user_id, device.id)), active, on_fail=transfer_changed())
    told = LatestItem.version == before.latest
    tx.delete(LatestItem(*latest_key(device.user_id, device.id)), told, on_fail=transfer_changed())
    seen = PresenceItem.version == before.presence
    tx.delete(PresenceItem(*presence_key(device.user_id, device.id)), seen, on_fail=transfer_changed())


def _put(tx: Transaction, after: CurrentDevice, stamp: str) -> None:
    device = after.device
    row = device_item(device, attempt="")
    row.attempt, row.first_id = None, device.first_id
    row.bare = True if device.is_bare else None
    row.gsi1pk, row.gsi1sk = names_partition(device.user_id), name_key(device.name, device.id)
    tx.put(row)
    latest = LatestItem(*latest_key(device.user_id, device.id), created_at=stamp, updated_at=stamp)
    latest.facts, latest.seen_ms = latest_json(after.latest), after.latest.last_seen_ms
    tx.put(latest)
    presence = PresenceItem(*presence_key(device.user_id, device.id), created_at=stamp, updated_at=stamp)
    presence.events = [list(event) for event in after.presence.events]
    tx.put(presence)


def _put_taken(tx: Transaction, device_id: DeviceId, mine: Device, now: datetime) -> None:
    until = now + OFFER_TTL
    taken = TakenItem(*taken_key(mine.user_id, device_id), device_id=mine.id, valid_until=iso(until))
    taken.created_at, taken.updated_at, taken.expires_at = iso(now), iso(now), _deletion(until)
    tx.put(taken)


def _deletion(moment: datetime) -> int:
    return epoch_ms(moment) // 1000


def offer_of(item: OfferItem) -> DeviceOffer:
    """Return an offer as stored."""
    return DeviceOffer(
        device_id=DeviceId(item.device_id),
        offered_by=UserId(item.offered_by),
        user_id=UserId(item.user_id) if item.user_id else None,
        email=item.email,
        offered_at=parse_iso(item.offered_at),
        expires_at=parse_iso(item.valid_until),
        declined=item.declined_at is not None,
    )
