"""Commands in DynamoDB: the record, and the device's queue of unfinished ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from pynamodb.expressions.update import Action

from karma.core.clock import from_epoch_ms, iso
from karma.core.dynamo.access import batch_get, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.newest import newest_kept
from karma.core.dynamo.requests import note_request, noted
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import RateLimited
from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.devices.domain import (
    COMMAND_RETENTION_S,
    FINAL_ANSWERS,
    MAX_COMMAND_UNITS,
    Command,
    CommandStatus,
    Device,
    LateResult,
    is_final,
    sources_of,
)
from karma.devices.ports import Join
from karma.devices.repository.hours import HOUR_S, Cost, take_in
from karma.devices.repository.items import (
    COMMAND_PREFIX,
    EXPIRY_SHARDS,
    PENDING_PREFIX,
    CommandItem,
    CommandRequestItem,
    PendingItem,
    children_pk,
    command_key,
    command_request_key,
    expiry_partition,
    pending_key,
)
from karma.devices.transactional import require_device


class Pending(Record, kw_only=True):
    """An unfinished command in its device's queue."""

    id: CommandId
    device_id: DeviceId
    user_id: UserId
    serial_number: str
    addressee: DeviceId | None = None
    """The id by which the device knows itself; None: `device_id`."""
    command: str
    params: Mapping[str, Any]
    serial: bool
    issued_ms: int
    expires_ms: int
    status: CommandStatus
    """`queued`: it must be published; after a publish that failed this is so though the record says `sent`."""
    published_ms: int = 0
    """Time in milliseconds at which its last publish began; 0: there was none."""
    publishes: int = 0
    """Number of publishes so far."""


class CommandRepository:
    """Reads and conditional writes of commands in one `devices` table."""

    def add(
        self,
        command: Command,
        device: Device,
        *,
        now: datetime,
        request: RepeatableRequest | None = None,
        also: Join | None = None,
    ) -> None:
        """Write a queued command, its entry in the device's queue and the record of `request`, if the device is active.

        `also` adds conditions of its sender; they come behind the record's: who repeats a request hears of its command.

        Raises:
            NotFound: the device is not active any more.
            AlreadyExists: a request with this key sent a command within the last 25 hours; `made_by` names it.
            RateLimited: the device has had `MAX_COMMAND_UNITS` of commands in this hour.
        """
        stamp = iso(now)
        tx = Transaction()
        require_device(tx, device.user_id, device.id)
        tx.put(_command_item(command, stamp))
        tx.put(_pending_item(command, device, stamp))
        if request is not None:
            key = command_request_key(device.user_id, device.id, request)
            note_request(tx, CommandRequestItem(*key), request, command.id)
        if also is not None:
            also(tx)
        hour, into_hour_s = divmod(int(now.timestamp()), HOUR_S)
        told = f"A device takes {MAX_COMMAND_UNITS} KB of commands an hour, each rounded up"
        full = RateLimited(told, retry_after_s=HOUR_S - into_hour_s)
        # Last: who repeats a request hears of the command that it has made.
        take_in(tx, device.id, Cost.COMMANDS, command.units, hour=hour, most=MAX_COMMAND_UNITS, on_fail=full)
        tx.commit()

    def made_by(self, device: Device, request: RepeatableRequest) -> CommandId | None:
        """Return the id of the command that a request sent to a device: one read; None: it sent none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that sent it asked for something else.
        """
        return self.made_by_request(device.user_id, device.id, request)

    def made_by_request(self, user_id: UserId, device_id: DeviceId, request: RepeatableRequest) -> CommandId | None:
        """Return what `made_by` does, also for a device that is deleted meanwhile."""
        made = noted(CommandRequestItem, command_request_key(user_id, device_id, request), request)
        return CommandId(made) if made else None

    def get(self, device_id: DeviceId, command_id: CommandId, *, consistent: bool = False) -> Command | None:
        """Read one command."""
        item = get(CommandItem, command_key(device_id, command_id), consistent=consistent)
        return command_of(item) if item is not None else None

    def several(self, ids: Sequence[tuple[DeviceId, CommandId]]) -> list[Command]:
        """Read commands of several devices, those that are there: one batch read a hundred."""
        found = batch_get(CommandItem, [command_key(*each) for each in ids]) if ids else {}
        return [command_of(item) for item in found.values()]

    def page(
        self, device_id: DeviceId, *, limit: int, after: str = "", now_s: float = 0
    ) -> tuple[list[Command], str | None]:
        """Read a device's commands, newest first, without those whose retention is over at `now_s`.

        Return also where the next page goes on, its `after`; None: nothing follows. A page may hold fewer than `limit`,
        even none, and be followed: one call reads at most five pages of the table.
        """
        pk = children_pk(device_id)
        found = newest_kept(CommandItem, pk, limit=limit, prefix=COMMAND_PREFIX, after=after, now_s=now_s)
        return [command_of(item) for item in found.items], found.below

    def pending(self, device_id: DeviceId, *, limit: int) -> list[Pending]:
        """Read a device's unfinished commands in the order in which they were given; strongly consistent."""
        page = query(
            PendingItem,
            children_pk(device_id),
            PendingItem.sk.startswith(PENDING_PREFIX),
            limit=limit,
            consistent=True,
        )
        return [_pending(item) for item in page.items]

    def overdue(self, shard: int, *, before: datetime, limit: int) -> list[Pending]:
        """Read unfinished commands that end before a moment, from one of `EXPIRY_SHARDS` index partitions."""
        partition = f"EXPIRING#{shard % EXPIRY_SHARDS}"
        return query_work(PendingItem, partition, PendingItem.gsi1sk < iso(before), _pending, limit=limit).items

    def begin_publish(self, entry: Pending, *, at: datetime) -> bool:
        """Record that a command is about to be published, as `sent`; tell whether it may be.

        Return False when it is not as `entry` says any more: it has ended, was acknowledged, or somebody else publishes
        it.

        Raises:
            NotFound: the device is not active any more.
        """
        now_ms = round(at.timestamp() * 1000)
        tx = Transaction()
        require_device(tx, entry.user_id, entry.device_id)
        item = PendingItem(*pending_key(entry.device_id, entry.id))
        unchanged = PendingItem.status == entry.status
        if entry.published_ms:
            unchanged &= PendingItem.published_ms == entry.published_ms
        tx.update(
            item,
            [
                PendingItem.status.set(CommandStatus.SENT),
                PendingItem.published_ms.set(now_ms),
                PendingItem.publishes.add(1),
            ],
            unchanged,
        )
        if entry.status is CommandStatus.QUEUED:
            tx.update(
                CommandItem(*command_key(entry.device_id, entry.id)),
                [
                    CommandItem.status.set(CommandStatus.SENT),
                    CommandItem.sent_ms.set(now_ms),
                    CommandItem.updated_at.set(iso(at)),
                ],
                CommandItem.status.is_in(CommandStatus.QUEUED, CommandStatus.SENT),
            )
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def publish_failed(self, entry: Pending) -> None:
        """Let a command be published again whose publish failed; its record stays `sent`: the device may have it."""
        with contextlib.suppress(ConditionFailed):
            update(
                PendingItem(*pending_key(entry.device_id, entry.id)),
                [PendingItem.status.set(CommandStatus.QUEUED)],
                PendingItem.status == CommandStatus.SENT,
            )

    def move(
        self,
        device_id: DeviceId,
        command_id: CommandId,
        to: CommandStatus,
        *,
        at: datetime,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        answered_ms: int = 0,
        only_from: CommandStatus | None = None,
    ) -> bool:
        """Move a command to a state, by the table of transitions; tell whether it moved.

        A final state takes it out of the device's queue in the same transaction. Return False when it does not exist,
        its state has no such step (a repeat, a late answer) or is not `only_from`, or `answered_ms`, the broker's time
        of the answer, is not before the command's end.
        """
        stamp, now_ms = iso(at), round(at.timestamp() * 1000)
        sources = sorted(sources_of(to) if only_from is None else sources_of(to) & {only_from})
        if not sources:
            return False
        actions: list[Action] = [CommandItem.status.set(to), CommandItem.updated_at.set(stamp)]
        if to is CommandStatus.SENT:
            actions.append(CommandItem.sent_ms.set(now_ms))
        elif to is CommandStatus.ACKNOWLEDGED:
            actions.append(CommandItem.acknowledged_ms.set(now_ms))
        else:
            actions.append(CommandItem.finished_ms.set(now_ms))
        for attribute, said in ((CommandItem.result, result), (CommandItem.error, error)):
            if said is not None:
                actions.append(attribute.set(dict(said)))
            elif to in FINAL_ANSWERS:
                # An acknowledgement may have said something; the final answer stands for itself.
                actions.append(attribute.remove())
        tx = Transaction()
        possible = CommandItem.status.is_in(*sources)
        if answered_ms:
            possible &= CommandItem.expires_ms > answered_ms
        tx.update(CommandItem(*command_key(device_id, command_id)), actions, possible)
        entry = PendingItem(*pending_key(device_id, command_id))
        if is_final(to):
            tx.delete(entry)
        else:
            tx.update(entry, [PendingItem.status.set(to)])
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def keep_late(self, device_id: DeviceId, command_id: CommandId, late: LateResult, *, at: datetime) -> bool:
        """Store the first late answer to a command that has ended; return False if it has one, or has not ended."""
        final = sorted(status for status in CommandStatus if is_final(status))
        kept = {
            "status": str(late.status),
            "result": late.result,
            "error": late.error,
            "received_ms": late.received_ms,
        }
        try:
            update(
                CommandItem(*command_key(device_id, command_id)),
                [CommandItem.late_result.set(kept), CommandItem.updated_at.set(iso(at))],
                CommandItem.status.is_in(*final) & CommandItem.late_result.does_not_exist(),
            )
        except ConditionFailed:
            return False
        return True


def command_of(item: CommandItem) -> Command:
    """Return a command as stored."""
    return Command(
        id=CommandId(item.command_id),
        device_id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        serial_number=item.serial_number,
        command=item.command,
        params=cast("dict[str, Any]", item.params or {}),
        status=CommandStatus(item.status),
        serial=item.serial,
        requested_by=item.requested_by or "",
        issued_ms=int(item.issued_ms),
        expires_ms=int(item.expires_ms),
        sent_ms=int(item.sent_ms),
        acknowledged_ms=int(item.acknowledged_ms),
        finished_ms=int(item.finished_ms),
        result=cast("dict[str, Any] | None", item.result),
        error=cast("dict[str, Any] | None", item.error),
        late_result=_late(item),
    )


def _late(item: CommandItem) -> LateResult | None:
    kept = cast("dict[str, Any] | None", item.late_result)
    if kept is None:
        return None
    return LateResult(
        status=CommandStatus(kept["status"]),
        result=kept["result"],
        error=kept["error"],
        received_ms=kept["received_ms"],
    )


def _pending(item: PendingItem) -> Pending:
    return Pending(
        id=CommandId(item.command_id),
        device_id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        serial_number=item.serial_number,
        addressee=DeviceId(item.addressee) if item.addressee else None,
        command=item.command,
        params=cast("dict[str, Any]", item.params or {}),
        serial=item.serial,
        issued_ms=int(item.issued_ms),
        expires_ms=int(item.expires_ms),
        status=CommandStatus(item.status),
        published_ms=int(item.published_ms),
        publishes=int(item.publishes),
    )


def _command_item(command: Command, stamp: str) -> CommandItem:
    pk, sk = command_key(command.device_id, command.id)
    return CommandItem(
        pk,
        sk,
        command_id=command.id,
        device_id=command.device_id,
        user_id=command.user_id,
        serial_number=command.serial_number,
        command=command.command,
        params=dict(command.params),
        status=command.status,
        serial=command.serial,
        requested_by=command.requested_by or None,
        issued_ms=command.issued_ms,
        expires_ms=command.expires_ms,
        created_at=stamp,
        updated_at=stamp,
        expires_at=command.expires_ms // 1000 + COMMAND_RETENTION_S,
    )


def _pending_item(command: Command, device: Device, stamp: str) -> PendingItem:
    pk, sk = pending_key(command.device_id, command.id)
    return PendingItem(
        pk,
        sk,
        command_id=command.id,
        device_id=command.device_id,
        user_id=command.user_id,
        serial_number=command.serial_number,
        addressee=device.first_id,
        command=command.command,
        params=dict(command.params),
        serial=command.serial,
        issued_ms=command.issued_ms,
        expires_ms=command.expires_ms,
        status=command.status,
        created_at=stamp,
        updated_at=stamp,
        gsi1pk=expiry_partition(command.device_id),
        gsi1sk=f"{iso(from_epoch_ms(command.expires_ms))}#{command.id}",
    )
