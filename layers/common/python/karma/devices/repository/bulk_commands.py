"""Bulk commands in DynamoDB; access patterns are in docs/adr/0066-bulk-commands.md.

devices    USER#<user>   BULK#<bulk>                  a bulk command        gsi1 while parts of it are open: by due time
           USER#<user>   BULKPART#<bulk>#<number>     a part of it
           USER#<user>   REQUEST#<token>              bulk command made for an Idempotency-Key
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.clock import from_epoch_ms, iso
from karma.core.dynamo.access import get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.newest import newest_kept
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk, query_work
from karma.core.errors import AlreadyExists
from karma.core.ids import BulkId, CommandId, DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.bulk import (
    BulkCancelled,
    BulkCommand,
    BulkKey,
    BulkPart,
    BulkRefusal,
    PartKey,
    PartStage,
)
from karma.devices.domain import COMMAND_RETENTION_S
from karma.devices.ports import Join
from karma.devices.repository.items import DevicesItem, owner_pk
from karma.identity.transactional import require_account

BULK_PREFIX: Final = "BULK#"
DUE_PARTITION: Final = "SWEEP#BULKS"


class BulkCommandItem(DevicesItem, discriminator="bulk_command"):
    """A bulk command."""

    user_id = UnicodeAttribute()
    bulk_id = UnicodeAttribute()
    command = UnicodeAttribute()
    params = JSONAttribute(default=dict)
    serial = BooleanAttribute(default=False)
    tag = UnicodeAttribute(null=True)
    schedule_id = UnicodeAttribute(null=True)
    created_ms = NumberAttribute()
    expires_ms = NumberAttribute()
    total = NumberAttribute()
    open_parts = NumberAttribute()
    cancelled = BooleanAttribute(default=False)
    sent = NumberAttribute(default=0)
    refused = NumberAttribute(default=0)


class BulkPartItem(DevicesItem, discriminator="bulk_part"):
    """A part of a bulk command."""

    number = NumberAttribute()
    device_ids = JSONAttribute(default=list)
    stage = UnicodeAttribute()
    sent = JSONAttribute(default=dict)
    refused = JSONAttribute(default=dict)
    """`{device id: [code, message]}`."""


class BulkRequestItem(RequestAttributes, DevicesItem, discriminator="bulk_request"):
    """Record of the bulk command that a request with an Idempotency-Key made."""


def bulk_key(key: BulkKey) -> Key:
    """Return the key of a bulk command."""
    return Key(owner_pk(key.user_id), f"{BULK_PREFIX}{key.bulk_id}")


def part_key(key: PartKey) -> Key:
    """Return the key of a part."""
    return Key(owner_pk(key.bulk.user_id), f"BULKPART#{key.bulk.bulk_id}#{key.number:03d}")


class BulkCommandRepository:
    """Reads and conditional writes of bulk commands in one `devices` table."""

    def add(
        self,
        bulk: BulkCommand,
        parts: Sequence[BulkPart],
        *,
        due: datetime,
        request: RepeatableRequest | None = None,
        also: Join | None = None,
    ) -> None:
        """Write a bulk command, its parts and the record of `request`; `due` is when the sweep looks after it.

        What `also` writes is written with it, and a condition of it that does not hold refuses both.

        Raises:
            AlreadyExists: a request with this key made one within the last 25 hours; `made_by` names it. Or there is
                one with this id.
            AccountGone: the owner's account is deleted.
            AppError: what `also` refuses.
        """
        stamp, expires_at = iso(from_epoch_ms(bulk.created_ms)), bulk.expires_ms // 1000 + COMMAND_RETENTION_S
        tx = Transaction()
        require_account(tx, bulk.key.user_id)
        tx.put(_new_item(bulk, due), on_fail=AlreadyExists(f"Bulk command {bulk.key.bulk_id} exists"))
        for part in parts:
            tx.put(
                BulkPartItem(
                    *part_key(PartKey(bulk.key, part.number)),
                    number=part.number,
                    device_ids=list(part.device_ids),
                    stage=part.stage,
                    created_at=stamp,
                    updated_at=stamp,
                    expires_at=expires_at,
                )
            )
        if request is not None:
            record = BulkRequestItem(*request_key(owner_pk(bulk.key.user_id), request))
            note_request(tx, record, request, bulk.key.bulk_id)
        if also is not None:
            also(tx)
        tx.commit()

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> BulkId | None:
        """Return the id of the bulk command that a request made: one read; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """
        made = noted(BulkRequestItem, request_key(owner_pk(user_id), request), request)
        return BulkId(made) if made else None

    def get(self, key: BulkKey) -> BulkCommand | None:
        """Read a bulk command, strongly consistent: one read."""
        item = get(BulkCommandItem, bulk_key(key), consistent=True)
        return _bulk(item) if item is not None else None

    def page(
        self, user_id: UserId, *, limit: int, after: str = "", now_s: float = 0
    ) -> tuple[list[BulkCommand], str | None]:
        """Read an account's bulk commands, newest first, without those whose retention is over at `now_s`.

        Return also where the next page goes on, its `after`; None: nothing follows.
        """
        pk = owner_pk(user_id)
        found = newest_kept(BulkCommandItem, pk, limit=limit, prefix=BULK_PREFIX, after=after, now_s=now_s)
        return [_bulk(item) for item in found.items], found.below

    def parts(self, key: BulkKey, *, first: int = 0, limit: int) -> list[BulkPart]:
        """Read parts in their order from the `first` on, strongly consistent: one query."""
        start, last = part_key(PartKey(key, first)), part_key(PartKey(key, first + limit - 1))
        page = query(BulkPartItem, start.pk, BulkPartItem.sk.between(start.sk, last.sk), limit=limit, consistent=True)
        return [_part(item) for item in page.items]

    def finish_part(self, bulk: BulkCommand, part: BulkPart, *, at: datetime) -> bool:
        """Record what became of a part's devices, and count it; tell whether it is so.

        Return False when somebody else did, or the bulk command was cancelled meanwhile.

        Args:
            bulk: as it was read; decides what a part is brought to.
            part: with its new `sent` and `refused`, and the stage that it had.
            at: now.
        """
        tx = Transaction()
        tx.update(
            BulkPartItem(*part_key(PartKey(bulk.key, part.number))),
            [
                BulkPartItem.stage.set(bulk.wanted),
                BulkPartItem.sent.set(dict(part.sent)),
                BulkPartItem.refused.set({each: list(refusal) for each, refusal in part.refused.items()}),
                BulkPartItem.updated_at.set(iso(at)),
            ],
            BulkPartItem.stage == part.stage,
        )
        counts = part.stage is PartStage.OPEN
        tx.update(
            BulkCommandItem(*bulk_key(bulk.key)),
            [
                BulkCommandItem.open_parts.add(-1),
                BulkCommandItem.sent.add(len(part.sent) if counts else 0),
                BulkCommandItem.refused.add(len(part.refused) if counts else 0),
                BulkCommandItem.updated_at.set(iso(at)),
            ],
            BulkCommandItem.cancelled == bulk.cancelled,
        )
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def cancel(self, bulk: BulkCommand, *, at: datetime) -> bool:
        """Let no further command be sent, and all parts be cancelled; return False when it was cancelled before."""
        try:
            update(
                BulkCommandItem(*bulk_key(bulk.key)),
                [
                    BulkCommandItem.cancelled.set(True),
                    BulkCommandItem.open_parts.set(bulk.parts),
                    BulkCommandItem.updated_at.set(iso(at)),
                    BulkCommandItem.gsi1pk.set(DUE_PARTITION),
                    BulkCommandItem.gsi1sk.set(due_sk(at, bulk.key.bulk_id)),
                ],
                BulkCommandItem.cancelled == False,  # noqa: E712  a condition
            )
        except ConditionFailed:
            return False
        return True

    def due(self, *, before: datetime, limit: int) -> list[BulkKey]:
        """Read bulk commands whose parts are open, or were when they were last looked at, the longest due first."""
        return query_work(
            BulkCommandItem,
            DUE_PARTITION,
            BulkCommandItem.gsi1sk < iso(before),
            lambda item: BulkKey(UserId(item.user_id), BulkId(item.bulk_id)),
            limit=limit,
        ).items

    def put_off(self, key: BulkKey, *, until: datetime) -> None:
        """Let the sweep look after it again at `until`, if it still has to."""
        with contextlib.suppress(ConditionFailed):
            update(
                BulkCommandItem(*bulk_key(key)),
                [BulkCommandItem.gsi1sk.set(due_sk(until, key.bulk_id))],
                BulkCommandItem.gsi1pk == DUE_PARTITION,
            )

    def close(self, bulk: BulkCommand) -> None:
        """Let the sweep look no more after a bulk command, unless it has changed since it was read."""
        with contextlib.suppress(ConditionFailed):
            update(
                BulkCommandItem(*bulk_key(bulk.key)),
                [BulkCommandItem.gsi1pk.remove(), BulkCommandItem.gsi1sk.remove()],
                (BulkCommandItem.open_parts == bulk.open_parts) & (BulkCommandItem.cancelled == bulk.cancelled),
            )


def require_sending(tx: Transaction, key: BulkKey) -> None:
    """Add the condition that a bulk command is there and not cancelled, else the transaction fails: BulkCancelled."""
    tx.check(
        BulkCommandItem,
        bulk_key(key),
        BulkCommandItem.cancelled == False,  # noqa: E712  a condition
        on_fail=BulkCancelled(f"Bulk command {key.bulk_id} was cancelled"),
    )


def _new_item(bulk: BulkCommand, due: datetime) -> BulkCommandItem:
    stamp = iso(from_epoch_ms(bulk.created_ms))
    return BulkCommandItem(
        *bulk_key(bulk.key),
        user_id=bulk.key.user_id,
        bulk_id=bulk.key.bulk_id,
        command=bulk.command,
        params=dict(bulk.params),
        serial=bulk.serial,
        tag=bulk.tag,
        schedule_id=bulk.schedule_id,
        created_ms=bulk.created_ms,
        expires_ms=bulk.expires_ms,
        total=bulk.total,
        open_parts=bulk.open_parts,
        created_at=stamp,
        updated_at=stamp,
        expires_at=bulk.expires_ms // 1000 + COMMAND_RETENTION_S,
        gsi1pk=DUE_PARTITION,
        gsi1sk=due_sk(due, bulk.key.bulk_id),
    )


def _bulk(item: BulkCommandItem) -> BulkCommand:
    return BulkCommand(
        key=BulkKey(UserId(item.user_id), BulkId(item.bulk_id)),
        command=item.command,
        params=cast("dict[str, Any]", item.params or {}),
        serial=item.serial,
        tag=item.tag,
        schedule_id=item.schedule_id,
        created_ms=int(item.created_ms),
        expires_ms=int(item.expires_ms),
        total=int(item.total),
        open_parts=int(item.open_parts),
        cancelled=item.cancelled,
        sent=int(item.sent),
        refused=int(item.refused),
    )


def _part(item: BulkPartItem) -> BulkPart:
    sent = cast("Mapping[str, str]", item.sent or {})
    refused = cast("Mapping[str, Sequence[str]]", item.refused or {})
    return BulkPart(
        number=int(item.number),
        device_ids=tuple(DeviceId(each) for each in cast("list[str]", item.device_ids)),
        stage=PartStage(item.stage),
        sent={DeviceId(device): CommandId(command) for device, command in sent.items()},
        refused={DeviceId(device): BulkRefusal(*told) for device, told in refused.items()},
    )
