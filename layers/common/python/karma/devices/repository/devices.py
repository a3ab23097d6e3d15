"""Devices in DynamoDB: rows, unique serial numbers, newest facts, presence, tombstones.

One file of more than 450 lines, since all of its writes touch the same four items of a device and each relies on the
conditions of the others: whoever changes one reads them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from karma.billing.allowances import Metric, Reservation, given_back
from karma.billing.transactional import adjust_usage, reserve_usage
from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, get, put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import Work, query_work
from karma.core.errors import AlreadyExists, NotFound, StaleVersion
from karma.core.ids import DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.domain import (
    CurrentDevice,
    Device,
    DeviceState,
    Latest,
    PresenceEvent,
    PresenceState,
)
from karma.devices.ports import Watch
from karma.devices.repository.device_mapping import (
    GoneDevice,
    SerialClaim,
    claim_of,
    current_devices_of,
    device_item,
    device_of,
    latest_from,
    presence_from,
    tombstone,
    unfinished_of,
    unique_serial,
)
from karma.devices.repository.items import (
    DEVICE_PREFIX,
    SWEEP_PARTITION,
    DeviceCounter,
    DeviceItem,
    DeviceRequestItem,
    DevicesItem,
    LatestItem,
    PresenceItem,
    UniqueSerial,
    device_key,
    devices_counter_key,
    latest_key,
    owner_pk,
    presence_key,
    unique_serial_key,
)
from karma.identity.transactional import require_account

_ITEMS_A_DEVICE = 3
_NAME_KEY_CHARS = 200


class DeviceSlice(NamedTuple):
    """Devices in list order; `more`: others follow the last one."""

    devices: list[CurrentDevice]
    more: bool


class DeviceRepository:
    """Reads and conditional writes of one `devices` table."""

    # Reading

    def claim_of(self, serial_number: str, *, consistent: bool = False) -> SerialClaim | None:
        """Read the owner of a serial number: one read; None: it is free."""
        item = get(UniqueSerial, unique_serial_key(serial_number), consistent=consistent)
        return claim_of(item) if item is not None else None

    def row(self, user_id: UserId, device_id: DeviceId, *, consistent: bool = False) -> Device | None:
        """Read a device's row in any state: one read."""
        item = get(DeviceItem, device_key(user_id, device_id), consistent=consistent)
        return device_of(item) if item is not None else None

    def current(self, user_id: UserId, device_id: DeviceId, *, consistent: bool = False) -> CurrentDevice | None:
        """Read an active device with its newest facts and presence: one query of three items."""
        return self.versioned(user_id, device_id, consistent=consistent)[0]

    def versioned(
        self, user_id: UserId, device_id: DeviceId, *, consistent: bool = True
    ) -> tuple[CurrentDevice | None, int]:
        """Read an active device as `current` does, and the sum of its items' versions, which only ascends."""
        key = device_key(user_id, device_id)
        page = query(
            DevicesItem,
            key.pk,
            DevicesItem.sk.startswith(key.sk),
            limit=_ITEMS_A_DEVICE,
            consistent=consistent,
        )
        devices = [each for each in current_devices_of(page.items) if each.device.state is DeviceState.ACTIVE]
        return (devices[0], sum(int(item.version or 0) for item in page.items)) if devices else (None, 0)

    def among(self, user_id: UserId, ids: Sequence[DeviceId]) -> list[CurrentDevice]:
        """Read those of the devices that are active, in the order of their ids: one batch read a 33 of them."""
        return self.each_of([(user_id, each) for each in ids])

    def each_of(self, devices: Sequence[tuple[UserId, DeviceId]]) -> list[CurrentDevice]:
        """Read devices of several owners as `among` does."""
        keys = [key(*each) for each in devices for key in (device_key, latest_key, presence_key)]
        found = batch_get(DevicesItem, keys)
        there = current_devices_of([found[key] for key in keys if key in found])
        return [each for each in there if each.device.state is DeviceState.ACTIVE]

    def active_of(self, devices: Sequence[tuple[UserId, DeviceId]]) -> set[tuple[UserId, DeviceId]]:
        """Read which devices are there and their owners': one batch read a hundred of them, strongly consistent."""
        found = batch_get(DeviceItem, [device_key(*each) for each in devices], consistent=True)
        rows = {each: found.get(device_key(*each)) for each in devices}
        return {each for each, row in rows.items() if row is not None and row.state == DeviceState.ACTIVE}

    def by_age(self, user_id: UserId, *, newest_first: bool, limit: int, after: DeviceId | None = None) -> DeviceSlice:
        """Read active devices by creation: one query of 3N + 1 items, another only when some are being deleted."""
        pk = owner_pk(user_id)
        start = _start_after(user_id, after, newest_first=newest_first) if after is not None else None
        devices: list[CurrentDevice] = []
        while True:
            wanted = limit - len(devices)
            page = query(
                DevicesItem,
                pk,
                DevicesItem.sk.startswith(DEVICE_PREFIX),
                limit=_ITEMS_A_DEVICE * wanted + 1,
                forward=not newest_first,
                start=dict(start._asdict()) if start is not None else None,
            )
            full = page.items
            more = page.last is not None
            if more:
                full = full[: len(full) - len(full) % _ITEMS_A_DEVICE]
            found = current_devices_of(full)
            active = [each for each in found if each.device.state is DeviceState.ACTIVE]
            devices += active[:wanted]
            more = more or len(active) > wanted
            if not more or len(devices) == limit or not found:
                return DeviceSlice(devices, more)
            start = _start_after(user_id, found[-1].device.id, newest_first=newest_first)

    def by_name(
        self, user_id: UserId, *, descending: bool, limit: int, after: tuple[str, DeviceId] | None = None
    ) -> DeviceSlice:
        """Read active devices by name, regardless of case: one index query, then one batch read of their facts."""
        pk = names_partition(user_id)
        start = None
        if after is not None:
            key = device_key(user_id, after[1])
            start = {"pk": key.pk, "sk": key.sk, "gsi1pk": pk, "gsi1sk": name_key(after[0], after[1])}
        page = query(DeviceItem, pk, limit=limit + 1, forward=not descending, start=start, index=DeviceItem.gsi1)
        devices = [device_of(item) for item in page.items[:limit]]
        return DeviceSlice(self._with_facts(user_id, devices), len(page.items) > limit)

    def _with_facts(self, user_id: UserId, devices: Sequence[Device]) -> list[CurrentDevice]:
        keys = [key(user_id, device.id) for device in devices for key in (latest_key, presence_key)]
        found = batch_get(DevicesItem, keys) if keys else {}
        return [
            CurrentDevice(
                device,
                latest_from(found.get(latest_key(user_id, device.id))),
                presence_from(found.get(presence_key(user_id, device.id))),
            )
            for device in devices
        ]

    def count(self, user_id: UserId) -> int:
        """Read the number of active devices, as far as the stream was counted."""
        item = get(DeviceCounter, devices_counter_key(user_id))
        return int(item.value) if item is not None else 0

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> DeviceId | None:
        """Return the id of the device that a request created: one read; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """
        made = noted(DeviceRequestItem, request_key(owner_pk(user_id), request), request)
        return DeviceId(made) if made else None

    # Creating

    def claim(self, device: Device, *, reservation: Reservation, attempt: str, now: datetime) -> None:
        """Write a provisioning device: row, unique serial number, facts, presence and its reservation, all or none.

        Args:
            device: in state `provisioning`.
            reservation: of one device; released when the device is deleted.
            attempt: id of this creation; a later one takes it over by writing its own.
            now: moment from which the sweep counts the creation's age.

        Raises:
            AlreadyExists: the serial number is taken.
            QuotaExceeded: the owner's plan has no room for another device.
            AccountGone: the owner's account is deleted.
        """
        stamp = iso(now)
        tx = Transaction()
        require_account(tx, device.user_id)
        tx.put(unique_serial(device, attempt=attempt, now=stamp), on_fail=AlreadyExists(_taken(device)))
        tx.put(device_item(device, attempt=attempt))
        for kind, key in ((LatestItem, latest_key), (PresenceItem, presence_key)):
            pk, sk = key(device.user_id, device.id)
            tx.put(kind(pk, sk, created_at=stamp, updated_at=stamp))
        reserve_usage(tx, [reservation])
        tx.commit()

    def take_over(self, device: Device, *, attempt: str, now: datetime, idle_since: datetime | None = None) -> Device:
        """Continue an unfinished creation of the same owner and serial number with new fields.

        Args:
            device: with the new fields.
            attempt: id of this creation.
            now: moment from which the sweep counts the creation's age.
            idle_since: another attempt's creation only if it was begun before; None: whenever it was.

        Returns:
            The device with the id and creation time that it has had from the first attempt.

        Raises:
            AlreadyExists: the creation is finished, has another owner, or was taken over by another request meanwhile.
            AccountGone: the owner's account is deleted.
        """
        claim = get(UniqueSerial, unique_serial_key(device.serial_number), consistent=True)
        taken = AlreadyExists(_taken(device))
        if claim is None or claim.user_id != device.user_id or claim.state != DeviceState.PROVISIONING:
            raise taken
        if idle_since is not None and claim.attempt != attempt and (claim.gsi1sk or "") >= iso(idle_since):
            raise taken
        old = get(DeviceItem, device_key(device.user_id, DeviceId(claim.device_id)), consistent=True)
        if old is None:
            raise taken
        # The whole row is the new attempt's, so that no field can be forgotten; only what the first one fixed stays.
        began = device_of(old)
        mine = replace(device, id=began.id, created_at=began.created_at, updated_at=iso(now))
        item = device_item(mine, attempt=attempt)
        item.version = old.version
        claim.attempt, claim.gsi1sk = attempt, f"{iso(now)}#{device.serial_number}"
        tx = Transaction()
        require_account(tx, device.user_id)
        tx.put(claim, on_fail=taken)
        tx.put(item, on_fail=taken)
        tx.commit()
        return device_of(item)

    def activate(
        self,
        device: Device,
        *,
        attempt: str,
        certificate_id: str,
        now: datetime,
        request: RepeatableRequest | None = None,
    ) -> Device:
        """End a creation: the device is shown, its certificate may send for it, and `request` has its record.

        The record is not written before: a creation that is given up can be asked for again with the same key.

        Raises:
            ConditionFailed: another attempt has taken the creation over.
            AlreadyExists: a request with this key created a device within the last 25 hours; `made_by` names it.
            AccountGone: the owner's account is deleted.
        """
        stamp = iso(now)
        row = DeviceItem(*device_key(device.user_id, device.id))
        claim = UniqueSerial(*unique_serial_key(device.serial_number))
        mine = (DeviceItem.attempt == attempt) & (DeviceItem.state == DeviceState.PROVISIONING)
        tx = Transaction()
        require_account(tx, device.user_id)
        tx.update(
            row,
            [
                DeviceItem.state.set(DeviceState.ACTIVE),
                DeviceItem.attempt.remove(),
                *([] if certificate_id else [DeviceItem.bare.set(True)]),
                DeviceItem.updated_at.set(stamp),
                DeviceItem.gsi1pk.set(names_partition(device.user_id)),
                DeviceItem.gsi1sk.set(name_key(device.name, device.id)),
            ],
            mine,
        )
        tx.update(
            claim,
            [
                UniqueSerial.state.set(DeviceState.ACTIVE),
                UniqueSerial.attempt.remove(),
                *([UniqueSerial.certificate_ids.set({certificate_id})] if certificate_id else []),
                UniqueSerial.updated_at.set(stamp),
                UniqueSerial.gsi1pk.remove(),
                UniqueSerial.gsi1sk.remove(),
            ],
            (UniqueSerial.attempt == attempt) & (UniqueSerial.device_id == device.id),
        )
        if request is not None:
            note_request(tx, DeviceRequestItem(*request_key(owner_pk(device.user_id), request)), request, device.id)
        tx.commit()
        stored = self.row(device.user_id, device.id, consistent=True)
        if stored is None:
            raise ConditionFailed
        return stored

    def discard(self, device: Device, *, attempt: str | None) -> None:
        """Remove the items of `claim` and release the reservation, all or none, while the creation is unfinished.

        Without `attempt` it is removed whichever attempt it belongs to.

        Raises:
            ConditionFailed: the creation was finished or taken over.
        """
        unfinished = DeviceItem.state == DeviceState.PROVISIONING
        mine = unfinished if attempt is None else unfinished & (DeviceItem.attempt == attempt)
        claim_mine = (UniqueSerial.device_id == device.id) & (UniqueSerial.state == DeviceState.PROVISIONING)
        tx = self._remove_items(device, row=mine, claim=claim_mine)
        adjust_usage(tx, [given_back(device.user_id, Metric.DEVICES)])
        tx.commit()

    def _remove_items(self, device: Device, *, row: Any, claim: Any) -> Transaction:
        tx = Transaction()
        tx.delete(DeviceItem(*device_key(device.user_id, device.id)), row)
        tx.delete(UniqueSerial(*unique_serial_key(device.serial_number)), claim)
        tx.delete(LatestItem(*latest_key(device.user_id, device.id)))
        tx.delete(PresenceItem(*presence_key(device.user_id, device.id)))
        return tx

    # Changing and deleting

    def change(
        self, user_id: UserId, device_id: DeviceId, changes: Mapping[str, Any], *, version: int | None, now: datetime
    ) -> None:
        """Change name, tags or location of an active device.

        Raises:
            NotFound: there is no such active device.
            StaleVersion: `version` is not the stored one, or another request changed the device at the same time.
        """
        item = get(DeviceItem, device_key(user_id, device_id), consistent=True)
        if item is None or item.state != DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        stale = StaleVersion(f"Device {device_id} was changed by somebody else; read it again")
        if version is not None and version != item.version:
            raise stale
        for name, value in changes.items():
            setattr(item, name, value)
        item.gsi1sk = name_key(item.name, device_id)
        item.updated_at = iso(now)
        try:
            put(item)
        except ConditionFailed as exc:
            raise stale from exc

    def begin_delete(self, device: Device, *, version: int | None = None, now: datetime) -> None:
        """Mark row and serial number as being deleted, and release the device's reservation, all or none.

        From here on only the sweep sees the device.

        Raises:
            ConditionFailed: the device is not active, or its version is not `version`.
        """
        stamp = iso(now)
        tx = Transaction()
        condition = DeviceItem.state == DeviceState.ACTIVE
        if version is not None:
            condition &= DeviceItem.version == version
        tx.update(
            DeviceItem(*device_key(device.user_id, device.id)),
            [
                DeviceItem.state.set(DeviceState.DELETING),
                DeviceItem.updated_at.set(stamp),
                DeviceItem.gsi1pk.remove(),
                DeviceItem.gsi1sk.remove(),
            ],
            condition,
        )
        tx.update(
            UniqueSerial(*unique_serial_key(device.serial_number)),
            [
                UniqueSerial.state.set(DeviceState.DELETING),
                UniqueSerial.updated_at.set(stamp),
                UniqueSerial.gsi1pk.set(SWEEP_PARTITION),
                UniqueSerial.gsi1sk.set(f"{stamp}#{device.serial_number}"),
            ],
            UniqueSerial.device_id == device.id,
        )
        adjust_usage(tx, [given_back(device.user_id, Metric.DEVICES)])
        tx.commit()

    def finish_delete(self, device: Device, *, now: datetime) -> None:
        """Remove the rows, free the serial number, and write a tombstone by which the device's data is found."""
        deleting = DeviceItem.state == DeviceState.DELETING
        tx = self._remove_items(device, row=deleting, claim=UniqueSerial.device_id == device.id)
        tx.put(tombstone(device, now))
        tx.commit()

    def unfinished(self, *, before: datetime, limit: int) -> list[SerialClaim | GoneDevice]:
        """Read the creations and deletions that a sweep must finish, oldest first.

        Returns:
            Serial numbers of devices whose creation or deletion is unfinished, and deleted devices whose data is not
            removed.
        """
        old_enough = DevicesItem.gsi1sk < iso(before)
        work: Work[SerialClaim | GoneDevice] = query_work(
            DevicesItem, SWEEP_PARTITION, old_enough, unfinished_of, limit=limit
        )
        return work.items

    def rows(self, user_id: UserId, *, limit: int) -> list[Device]:
        """Read an owner's first devices in any state, strongly consistent."""
        page = query(
            DevicesItem,
            owner_pk(user_id),
            DevicesItem.sk.startswith(DEVICE_PREFIX),
            limit=_ITEMS_A_DEVICE * limit,
            consistent=True,
        )
        return [device_of(item) for item in page.items if isinstance(item, DeviceItem)]

    # What devices say

    def freshen_each(self, facts: Sequence[tuple[SerialClaim, Latest]], *, now: datetime) -> list[bool]:
        """Write values that are later than all that is known of their devices: one call for every 25.

        False says of the others, whatever they are, no more than that `merge_latest` is to merge them.
        """
        from karma.devices.repository.newest_facts import freshen_each  # local: few functions hear devices

        return freshen_each([(latest_key(each.user_id, each.device_id), said) for each, said in facts], now=now)

    def merge_latest(
        self,
        claim: SerialClaim,
        said: Latest,
        *,
        now: datetime,
        watch: Watch | None = None,
        tries: int = 6,
        is_tried: bool = False,
    ) -> bool:
        """Merge facts into the device's LATEST, by one write, behind a read unless they are values alone.

        What `watch` keeps beside them is stepped on in the same write, a transaction where it has something to tell.
        With `is_tried`, `freshen_each` was asked to write them, and did not.

        Returns:
            False: the device is deleted.

        Raises:
            ConditionFailed: another write was quicker at each of `tries` attempts.
        """
        from karma.devices.repository.newest_facts import merge_latest  # local: few functions hear devices

        key = latest_key(claim.user_id, claim.device_id)
        return merge_latest(key, said, now=now, watch=watch, tries=tries, is_tried=is_tried)

    def merge_presence(
        self, claim: SerialClaim, events: Iterable[PresenceEvent], *, now: datetime, tries: int = 6
    ) -> PresenceState | None:
        """Merge lifecycle events into the device's PRESENCE: one read and one write, repeated when another was quicker.

        Returns:
            The merged state; None: the device is deleted.

        Raises:
            ConditionFailed: another write was quicker at each of `tries` attempts.
        """
        events = tuple(events)
        key = presence_key(claim.user_id, claim.device_id)
        for left in reversed(range(tries)):
            item = get(PresenceItem, key, consistent=True)
            if item is None:
                return None
            old = presence_from(item)
            new = old.after(*events)
            if new == old:
                return old
            item.events = [list(event) for event in new.events]
            item.updated_at = iso(now)
            try:
                put(item)
                return new
            except ConditionFailed:
                if not left:
                    raise
        return None


def _start_after(user_id: UserId, device_id: DeviceId, *, newest_first: bool) -> Key:
    """Return the last key of a device in list order: its row when descending, its PRESENCE when ascending."""
    return device_key(user_id, device_id) if newest_first else presence_key(user_id, device_id)


def names_partition(user_id: UserId) -> str:
    """Return the partition of gsi1 with an owner's active devices by name."""
    return f"{owner_pk(user_id)}#NAMES"


def name_key(name: str, device_id: str) -> str:
    """Return a device's place among those of its owner by name, whatever the case."""
    return f"{name.casefold()[:_NAME_KEY_CHARS]}#{device_id}"


def _taken(device: Device) -> str:
    return f"A device with serial_number {device.serial_number} exists already"
