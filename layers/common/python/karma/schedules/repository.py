"""Schedules in the table `agents`, beside the runs that they begin.

| item | pk | sk | gsi1pk | gsi1sk |
|---|---|---|---|---|
| schedule | SCHEDULES#<user> | SCHEDULE#<schedule> | SCHEDULES#DUE#<part> | <when to look>#<schedule> |
| its run, or its command | SCHEDULES#<user> | RUN#<schedule> | - | - |
| number of an account's schedules | SCHEDULES#<user> | COUNT | - | - |
| schedule made for an Idempotency-Key | SCHEDULES#<user> | REQUEST#<token> | - | - |

A schedule is in the index while it waits for a fire. Its run stands apart, since each fire writes the schedule, index
and all, by the kilobyte. Ids sort by time, so the list by age is the order of the keys. What is due stands in four
partitions, since one takes a thousand writes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import orjson
from pynamodb.expressions.condition import Condition

from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, get, query, query_by_id, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import DueItems, due_partitions, due_sk, query_work
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.notices.domain import Notice
from karma.notices.transactional import add_notice
from karma.runs.ports import Also
from karma.schedules.domain import MAX_SCHEDULES, Census, Fired, Schedule, ScheduleChanged, ScheduleId, TooManySchedules
from karma.schedules.items import (
    COUNT,
    DUE,
    SCHEDULE,
    ScheduleCountItem,
    ScheduleItem,
    ScheduleRequestItem,
    ScheduleRunItem,
    SchedulesItem,
    due_of,
    fire_actions,
    owner_pk,
    run_json,
    schedule_actions,
    schedule_item,
    schedule_key,
    schedule_of,
    schedule_run_item,
    schedule_run_key,
)
from karma.schedules.ports import DueFire

_READS: Final = 3


class ScheduleRepository:
    """Schedules over DynamoDB."""

    name = "schedules"
    """Of its step in the deletion of an account."""

    def get(self, user_id: UserId, schedule_id: ScheduleId) -> Schedule | None:
        """See Schedules; one BatchGet, a second one while it is being changed."""
        head, run = schedule_key(user_id, schedule_id), schedule_run_key(user_id, schedule_id)
        for _ in range(_READS):
            found = batch_get(SchedulesItem, [head, run], consistent=True)
            item, body = found.get(head), found.get(run)
            if item is None and body is None:
                return None
            if (
                isinstance(item, ScheduleItem)
                and isinstance(body, ScheduleRunItem)
                and item.run_revision == body.revision
            ):
                schedule = schedule_of(item)
                return replace(schedule, **{schedule.action.value: orjson.loads(body.body)})
        raise ScheduleChanged(f"Schedule {schedule_id} is being changed by another request; read it again")

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ScheduleId | None:
        """See Schedules; one Get."""
        made = noted(ScheduleRequestItem, request_key(owner_pk(user_id), request), request)
        return ScheduleId(made) if made else None

    def census(self, user_id: UserId) -> Census:
        """See Schedules; one Get, and then one Query of at most 100 KB."""
        count = get(ScheduleCountItem, Key(owner_pk(user_id), COUNT), consistent=True)
        of_account = SchedulesItem.sk.startswith(SCHEDULE)
        page = query(SchedulesItem, owner_pk(user_id), of_account, limit=MAX_SCHEDULES, consistent=True)
        found = [item for item in page.items if isinstance(item, ScheduleItem)]
        active = sum(bool(item.next_fire_at) for item in found)
        return Census(total=len(found), active=active, version=int(count.version) if count else 0)

    def create(self, schedule: Schedule, *, request: RepeatableRequest | None, seen: Census | None = None) -> None:
        """See Schedules; a check and three items, and one for a key."""
        tx = Transaction()
        require_account(tx, schedule.user_id)
        if request is not None:
            item = ScheduleRequestItem(*request_key(owner_pk(schedule.user_id), request))
            note_request(tx, item, request, schedule.id)
        tx.put(schedule_item(schedule))
        tx.put(schedule_run_item(schedule))
        has_room = ScheduleCountItem.value.does_not_exist() | (ScheduleCountItem.value < MAX_SCHEDULES)
        if seen is None:
            tx.upsert(_count(schedule), [ScheduleCountItem.value.add(1)], has_room, on_fail=TooManySchedules())
        else:
            _require_census(tx, schedule, seen, added=1)
        tx.commit()

    def replace(self, old: Schedule, new: Schedule, *, seen: Census | None = None) -> None:
        """See Schedules; one item, one where the run is another, and one where it is woken."""
        tx = Transaction()
        if seen is not None:
            _require_census(tx, new, seen, added=0)
        tx.update(_named(old), schedule_actions(new), _is_as(old), on_fail=_changed(old))
        if new.run_version != old.run_version:
            actions = [ScheduleRunItem.body.set(run_json(new)), ScheduleRunItem.revision.set(new.run_version)]
            run = ScheduleRunItem(*schedule_run_key(old.user_id, old.id))
            tx.update(run, actions, ScheduleRunItem.revision == old.run_version, on_fail=_changed(old))
        tx.commit()

    def delete(self, schedule: Schedule) -> None:
        """See Schedules; three items."""
        tx = Transaction()
        tx.delete(_named(schedule), ScheduleItem.revision == schedule.version, on_fail=_changed(schedule))
        tx.delete(ScheduleRunItem(*schedule_run_key(schedule.user_id, schedule.id)), ScheduleRunItem.pk.exists())
        tx.update(_count(schedule), [ScheduleCountItem.value.add(-1)], ScheduleCountItem.value > 0)
        tx.commit()

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Schedule]:
        """See Schedules; one Query a megabyte, eventually consistent."""
        return query_by_id(ScheduleItem, schedule_key(user_id, ""), below, schedule_of, limit=limit)

    def due(self, before: datetime, *, limit: int) -> Sequence[DueFire]:
        """See Schedules; one Query of the index a part."""
        found: DueItems[DueFire] = DueItems()
        for partition in due_partitions(DUE):
            found.add(query_work(ScheduleItem, partition, SchedulesItem.gsi1sk < iso(before), due_of, limit=limit))
        return found

    def put_off(self, due: DueFire, *, until: datetime) -> bool:
        """See Schedules; one Update."""
        item = ScheduleItem(*schedule_key(due.key.user_id, due.key.schedule_id))
        later = ScheduleItem.gsi1sk.set(due_sk(until, due.key.schedule_id))
        seen = due.look_at or due_sk(due.key.due_at, due.key.schedule_id)
        try:
            update(item, [later], ScheduleItem.gsi1sk == seen)
        except ConditionFailed:
            return False
        return True

    def fired(self, fired: Fired) -> Also:
        """See Schedules; one item."""

        def join(tx: Transaction) -> None:
            _note(tx, fired)

        return join

    def settle(self, fired: Fired, *, notice: Notice | None) -> None:
        """See Schedules; one item, and one for a notice."""
        tx = Transaction()
        if notice is not None:
            require_account(tx, notice.user_id)
            add_notice(tx, notice)
        _note(tx, fired)
        tx.commit()

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's schedules; True when it is done.

        None is made behind it: a new one checks for the account. One that is removed fires no more.
        """
        return empty(SchedulesItem, owner_pk(purge.user_id), purge)


def _require_census(tx: Transaction, schedule: Schedule, seen: Census, *, added: int) -> None:
    """Let a transaction fail where another request has made, woken or deleted a schedule since."""
    unchanged: Condition = ScheduleCountItem.version == seen.version
    if not seen.version:
        unchanged = ScheduleCountItem.pk.does_not_exist()
    tx.upsert(_count(schedule), [ScheduleCountItem.value.add(added)], unchanged, on_fail=_changed(schedule))


def _note(tx: Transaction, fired: Fired) -> None:
    seen, new = fired.seen, fired.applied()
    tx.update(_named(seen), fire_actions(new), _is_as(seen), on_fail=_changed(seen))


def _changed(schedule: Schedule) -> ScheduleChanged:
    return ScheduleChanged(f"Schedule {schedule.id} was changed by another request; read it again")


def _named(schedule: Schedule) -> ScheduleItem:
    return ScheduleItem(*schedule_key(schedule.user_id, schedule.id))


def _count(schedule: Schedule) -> ScheduleCountItem:
    return ScheduleCountItem(owner_pk(schedule.user_id), COUNT)


def _is_as(seen: Schedule) -> Condition:
    waits: Condition = (
        ScheduleItem.next_fire_at.does_not_exist()
        if seen.next_fire_at is None
        else ScheduleItem.next_fire_at == iso(seen.next_fire_at)
    )
    as_read: Condition = (ScheduleItem.revision == seen.version) & waits
    return as_read
