"""Rollouts over DynamoDB; karma/firmware/items.py has their keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from karma.core.clock import iso
from karma.core.dynamo.access import delete, get, query, query_by_id, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_partitions, due_pk, due_sk, query_work
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.firmware.domain import FirmwareChanged, ReleaseState, Rollout, RolloutBatch, RolloutId
from karma.firmware.items import (
    BATCH,
    DUE,
    FirmwareItem,
    FirmwareRequestItem,
    FleetItem,
    ReleaseItem,
    RolloutBatchItem,
    RolloutItem,
    RolloutLookItem,
    batch_item,
    batch_key,
    batch_of,
    fleet_key,
    look_key,
    owner_pk,
    release_key,
    rollout_item,
    rollout_key,
    rollout_of,
    rollout_pk,
    targets_json,
)
from karma.firmware.ports import Fleet, RolloutLook
from karma.identity.transactional import require_account

_BATCHES: Final = 50


class RolloutRepository:
    """Rollouts, their batches, and what is to be looked after, over DynamoDB."""

    def fleet(self, user_id: UserId) -> Fleet:
        """See Rollouts; one Get."""
        item = get(FleetItem, fleet_key(user_id), consistent=True)
        if item is None:
            return Fleet(open=frozenset(), version=0)
        return Fleet(open=frozenset(RolloutId(each) for each in item.open or ()), version=int(item.version or 0))

    def get(self, user_id: UserId, rollout_id: RolloutId) -> Rollout | None:
        """See Rollouts; one Get."""
        item = get(RolloutItem, rollout_key(user_id, rollout_id), consistent=True)
        return rollout_of(item) if item else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> RolloutId | None:
        """See Rollouts; one Get."""
        made = noted(FirmwareRequestItem, request_key(owner_pk(user_id), request), request)
        return RolloutId(made) if made else None

    def create(
        self, rollout: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet, request: RepeatableRequest | None
    ) -> None:
        """See Rollouts; two checks, three items, one a batch, and one for a key: at most 26."""
        tx = Transaction()
        require_account(tx, rollout.user_id)
        if request is not None:
            record = FirmwareRequestItem(*request_key(owner_pk(rollout.user_id), request))
            note_request(tx, record, request, rollout.id)
        published = ReleaseItem.state == ReleaseState.PUBLISHED.value
        tx.check(ReleaseItem, release_key(rollout.user_id, rollout.release_id), published, on_fail=_fleet_changed())
        tx.put(rollout_item(rollout))
        for batch in batches:
            tx.put(batch_item(batch, created_at=rollout.created_at))
        same = FleetItem.version == fleet.version if fleet.version else FleetItem.pk.does_not_exist()
        actions = [FleetItem.open.add({rollout.id})]
        tx.upsert(FleetItem(*fleet_key(rollout.user_id)), actions, same, on_fail=_fleet_changed())
        _look(tx, rollout)
        tx.commit()

    def replace(self, old: Rollout, new: Rollout) -> None:
        """See Rollouts; two items, and one for the end of it."""
        tx = Transaction()
        item = rollout_item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        if new.is_finished:
            tx.update(FleetItem(*fleet_key(new.user_id)), [FleetItem.open.delete({new.id})])
        _look(tx, new)
        tx.commit()

    def retry(self, old: Rollout, new: Rollout, batches: Sequence[RolloutBatch], *, fleet: Fleet) -> None:
        """See Rollouts; two items, one a batch, and of a finished one a check and one more: at most 24."""
        tx = Transaction()
        if old.is_finished:
            published = ReleaseItem.state == ReleaseState.PUBLISHED.value
            tx.check(ReleaseItem, release_key(old.user_id, old.release_id), published, on_fail=_fleet_changed())
            actions = [FleetItem.open.add({old.id})]
            same = FleetItem.version == fleet.version
            tx.update(FleetItem(*fleet_key(old.user_id)), actions, same, on_fail=_fleet_changed())
        item = rollout_item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        for batch in batches:
            part = RolloutBatchItem(*batch_key(batch.rollout_id, batch.number))
            targets = [RolloutBatchItem.targets.set(targets_json(batch))]
            tx.update(part, targets, RolloutBatchItem.version == batch.version, on_fail=_changed(old))
        _look(tx, new)
        tx.commit()

    def batches(self, rollout_id: RolloutId) -> list[RolloutBatch]:
        """See Rollouts; one Query: batches of a thousand devices have a third of a megabyte."""
        page = query(
            FirmwareItem,
            rollout_pk(rollout_id),
            FirmwareItem.sk.startswith(BATCH),
            limit=_BATCHES,
            consistent=True,
        )
        return [batch_of(item) for item in page.items if isinstance(item, RolloutBatchItem)]

    def save(self, batch: RolloutBatch) -> RolloutBatch:
        """See Rollouts; one Update."""
        item = RolloutBatchItem(*batch_key(batch.rollout_id, batch.number))
        actions = [RolloutBatchItem.targets.set(targets_json(batch))]
        try:
            return batch_of(update(item, actions, RolloutBatchItem.version == batch.version))
        except ConditionFailed:
            raise FirmwareChanged(f"Batch {batch.number} was changed by another process; read it again") from None

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Rollout]:
        """See Rollouts; one Query a megabyte, eventually consistent."""
        return query_by_id(RolloutItem, rollout_key(user_id, ""), below, rollout_of, limit=limit)

    # Looks

    def due(self, *, before: datetime, limit: int) -> list[RolloutLook]:
        """See Looks; four Queries of the index."""
        found: list[RolloutLook] = []
        for partition in due_partitions(DUE):
            place = RolloutLookItem.gsi1sk < iso(before)
            found += query_work(RolloutLookItem, partition, place, _look_of, limit=limit).items
        return sorted(found, key=lambda look: look.due)[:limit]

    def take(self, look: RolloutLook, *, again_at: datetime) -> RolloutLook | None:
        """See Looks; one Update."""
        due = due_sk(again_at, look.rollout_id)
        item = RolloutLookItem(*look_key(look.rollout_id))
        try:
            update(item, [RolloutLookItem.gsi1sk.set(due)], RolloutLookItem.gsi1sk == look.due)
        except ConditionFailed:
            return None
        return look._replace(due=due)

    def end(self, look: RolloutLook) -> None:
        """See Looks; one Delete."""
        try:
            delete(RolloutLookItem(*look_key(look.rollout_id)), RolloutLookItem.gsi1sk == look.due)
        except ConditionFailed:
            return


def _look(tx: Transaction, rollout: Rollout) -> None:
    stamp = iso(rollout.updated_at)
    actions = [
        RolloutLookItem.user_id.set(rollout.user_id),
        RolloutLookItem.rollout_id.set(rollout.id),
        RolloutLookItem.created_at.set(stamp),
        RolloutLookItem.updated_at.set(stamp),
        RolloutLookItem.gsi1pk.set(due_pk(DUE, rollout.id)),
        RolloutLookItem.gsi1sk.set(due_sk(rollout.updated_at, rollout.id)),
    ]
    tx.upsert(RolloutLookItem(*look_key(rollout.id)), actions)


def _look_of(item: RolloutLookItem) -> RolloutLook:
    return RolloutLook(UserId(item.user_id), RolloutId(item.rollout_id), item.gsi1sk or "")


def _changed(rollout: Rollout) -> FirmwareChanged:
    return FirmwareChanged(f"Rollout {rollout.id} was changed by another request; read it again")


def _fleet_changed() -> FirmwareChanged:
    return FirmwareChanged("Releases or rollouts were changed by another request; try again")
