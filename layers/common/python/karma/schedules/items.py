"""Items of schedules in the table `agents`, and what they mean; repository.py has the access patterns."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import orjson
from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.update import Action

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.dynamo.work import due_pk, due_sk
from karma.core.ids import ApiKeyId, BulkId, RunId, UserId
from karma.schedules.domain import (
    Author,
    CatchUp,
    Counts,
    FireAction,
    FireError,
    FireKey,
    FireOutcome,
    LastFire,
    Overlap,
    Schedule,
    ScheduleId,
)
from karma.schedules.ports import DueFire
from karma.schedules.timing import Timing

DUE: Final = "SCHEDULES"
"""Kind of what is due."""
SCHEDULE: Final = "SCHEDULE#"
_RUN: Final = "RUN#"
COUNT: Final = "COUNT"


def owner_pk(user_id: UserId) -> str:
    """Partition of a person's schedules."""
    return f"SCHEDULES#{user_id}"


def schedule_key(user_id: UserId, schedule_id: str) -> Key:
    """Key of a schedule."""
    return Key(owner_pk(user_id), f"{SCHEDULE}{schedule_id}")


def schedule_run_key(user_id: UserId, schedule_id: str) -> Key:
    """Key of what a schedule runs."""
    return Key(owner_pk(user_id), f"{_RUN}{schedule_id}")


class SchedulesItem(Item):
    """Base of what schedules keep in the table `agents`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class ScheduleItem(SchedulesItem, discriminator="schedule"):
    """A schedule, without its run."""

    schedule_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    cron = UnicodeAttribute(null=True)
    time_zone = UnicodeAttribute()
    at = UnicodeAttribute(null=True)
    end_at = UnicodeAttribute(null=True)
    overlap = UnicodeAttribute()
    catch_up = UnicodeAttribute()
    catch_up_window_s = NumberAttribute()
    enabled = BooleanAttribute()
    stopped = BooleanAttribute()
    api_key_id = UnicodeAttribute(null=True)
    next_fire_at = UnicodeAttribute(null=True)
    last_due_at = UnicodeAttribute(null=True)
    last_fired_at = UnicodeAttribute(null=True)
    last_outcome = UnicodeAttribute(null=True)
    last_error_code = UnicodeAttribute(null=True)
    last_error_message = UnicodeAttribute(null=True)
    action = UnicodeAttribute(null=True)
    """None: it begins runs."""
    last_run_id = UnicodeAttribute(null=True)
    last_bulk_id = UnicodeAttribute(null=True)
    open_run_id = UnicodeAttribute(null=True)
    """The last of `open_run_ids`: the one that releases before those watch."""
    open_run_ids = UnicodeAttribute(null=True)
    """JSON list."""
    started = NumberAttribute(default=0)
    skipped = NumberAttribute(default=0)
    failed = NumberAttribute(default=0)
    missed = NumberAttribute(default=0)
    failures = NumberAttribute(default=0)
    resumed_at = UnicodeAttribute(null=True)
    skips = NumberAttribute(null=True)
    skipped_since = UnicodeAttribute(null=True)
    revision = NumberAttribute()
    """The version that its owner sees: the item's own one counts fires, too."""
    run_revision = NumberAttribute()


class ScheduleRunItem(SchedulesItem, discriminator="schedule_run"):
    """The request for the runs of a schedule, or its command, as JSON."""

    body = UnicodeAttribute()
    revision = NumberAttribute()


class ScheduleCountItem(SchedulesItem, discriminator="schedule_count"):
    """The number of an account's schedules."""

    value = NumberAttribute(default=0)


class ScheduleRequestItem(RequestAttributes, SchedulesItem, discriminator="schedule_request"):
    """The schedule that a request with an Idempotency-Key has created."""


def due_of(item: ScheduleItem) -> DueFire | None:
    """Read the fire that a schedule waits for; None: it waits for none."""
    if not item.next_fire_at or not item.gsi1sk:
        return None
    key = FireKey(UserId(item.user_id), ScheduleId(item.schedule_id), parse_iso(item.next_fire_at))
    return DueFire(key, item.gsi1sk)


def run_json(schedule: Schedule) -> str:
    """Write what a schedule does."""
    return orjson.dumps(schedule.body).decode()


def schedule_run_item(schedule: Schedule) -> ScheduleRunItem:
    """Make the item of what a schedule runs."""
    key = schedule_run_key(schedule.user_id, schedule.id)
    return ScheduleRunItem(
        *key, body=run_json(schedule), revision=schedule.run_version, created_at=iso(schedule.created_at)
    )


def _set(attribute: UnicodeAttribute, value: str | None) -> Action:
    return attribute.remove() if value is None else attribute.set(value)


def _moment(value: datetime | None) -> str | None:
    return None if value is None else iso(value)


def _open_run_ids(item: ScheduleItem) -> tuple[RunId, ...]:
    """Return the runs that are watched; where a release before has written since, the one that it watches."""
    if not item.open_run_id:
        return ()
    listed = tuple(RunId(each) for each in orjson.loads(item.open_run_ids)) if item.open_run_ids else ()
    return listed if item.open_run_id in listed else (RunId(item.open_run_id),)


def fire_actions(new: Schedule) -> list[Action]:
    """Return the changes of an item by a fire, after which its schedule is `new`."""
    last = new.last_fire
    waits = new.next_fire_at
    actions = [
        ScheduleItem.enabled.set(new.enabled),
        ScheduleItem.stopped.set(new.stopped),
        _set(ScheduleItem.next_fire_at, _moment(waits)),
        _set(ScheduleItem.gsi1pk, None if waits is None else due_pk(DUE, new.id)),
        _set(ScheduleItem.gsi1sk, None if waits is None else due_sk(waits, new.id)),
        _set(ScheduleItem.last_run_id, new.last_run_id),
        _set(ScheduleItem.last_bulk_id, new.last_bulk_id),
        _set(ScheduleItem.open_run_id, new.open_run_ids[-1] if new.open_run_ids else None),
        _set(ScheduleItem.open_run_ids, orjson.dumps(new.open_run_ids).decode() if new.open_run_ids else None),
        ScheduleItem.failures.set(new.failures),
        ScheduleItem.skips.set(new.skips),
        _set(ScheduleItem.skipped_since, _moment(new.skipped_since)),
        ScheduleItem.started.set(new.counts.started),
        ScheduleItem.skipped.set(new.counts.skipped),
        ScheduleItem.failed.set(new.counts.failed),
        ScheduleItem.missed.set(new.counts.missed),
    ]
    if last is not None:
        actions += [
            ScheduleItem.last_due_at.set(iso(last.due_at)),
            ScheduleItem.last_fired_at.set(iso(last.fired_at)),
            ScheduleItem.last_outcome.set(last.outcome.value),
            _set(ScheduleItem.last_error_code, last.error.code if last.error else None),
            _set(ScheduleItem.last_error_message, last.error.message if last.error else None),
        ]
    return actions


def schedule_actions(new: Schedule) -> list[Action]:
    """Return the changes of an item by which its schedule is `new`, without its run."""
    return [
        *fire_actions(new),
        ScheduleItem.name.set(new.name),
        _set(ScheduleItem.cron, new.timing.cron),
        ScheduleItem.time_zone.set(new.timing.time_zone),
        _set(ScheduleItem.at, _moment(new.timing.at)),
        _set(ScheduleItem.end_at, _moment(new.timing.end_at)),
        ScheduleItem.overlap.set(new.overlap.value),
        ScheduleItem.catch_up.set(new.catch_up.value),
        ScheduleItem.catch_up_window_s.set(new.catch_up_window_s),
        _set(ScheduleItem.api_key_id, new.author.api_key_id),
        _set(ScheduleItem.resumed_at, _moment(new.resumed_at)),
        ScheduleItem.updated_at.set(iso(new.updated_at)),
        ScheduleItem.revision.set(new.version),
        ScheduleItem.run_revision.set(new.run_version),
    ]


def schedule_item(new: Schedule) -> ScheduleItem:
    """Make the item of a new schedule."""
    waits = new.next_fire_at
    return ScheduleItem(
        *schedule_key(new.user_id, new.id),
        schedule_id=new.id,
        user_id=new.user_id,
        name=new.name,
        cron=new.timing.cron,
        time_zone=new.timing.time_zone,
        at=_moment(new.timing.at),
        end_at=_moment(new.timing.end_at),
        overlap=new.overlap.value,
        catch_up=new.catch_up.value,
        catch_up_window_s=new.catch_up_window_s,
        enabled=new.enabled,
        stopped=new.stopped,
        api_key_id=new.author.api_key_id,
        action=None if new.action is FireAction.RUN else new.action.value,
        next_fire_at=_moment(waits),
        gsi1pk=None if waits is None else due_pk(DUE, new.id),
        gsi1sk=None if waits is None else due_sk(waits, new.id),
        revision=new.version,
        run_revision=new.run_version,
        created_at=iso(new.created_at),
        updated_at=iso(new.updated_at),
    )


def schedule_of(item: ScheduleItem) -> Schedule:
    """Read a schedule without its run."""
    return Schedule(
        id=ScheduleId(item.schedule_id),
        user_id=UserId(item.user_id),
        name=item.name,
        timing=Timing(
            cron=item.cron,
            time_zone=item.time_zone,
            at=_read(item.at),
            end_at=_read(item.end_at),
        ),
        action=FireAction(item.action) if item.action else FireAction.RUN,
        run=None,
        overlap=Overlap(item.overlap),
        catch_up=CatchUp(item.catch_up),
        catch_up_window_s=int(item.catch_up_window_s),
        enabled=bool(item.enabled),
        author=Author(api_key_id=ApiKeyId(item.api_key_id) if item.api_key_id else None),
        next_fire_at=_read(item.next_fire_at),
        stopped=bool(item.stopped),
        last_fire=_last_fire(item),
        last_run_id=RunId(item.last_run_id) if item.last_run_id else None,
        last_bulk_id=BulkId(item.last_bulk_id) if item.last_bulk_id else None,
        open_run_ids=_open_run_ids(item),
        counts=Counts(
            started=int(item.started), skipped=int(item.skipped), failed=int(item.failed), missed=int(item.missed)
        ),
        failures=int(item.failures),
        resumed_at=_read(item.resumed_at),
        skips=int(item.skips or 0),
        skipped_since=_read(item.skipped_since),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.revision),
        run_version=int(item.run_revision),
    )


def _read(text: str | None) -> datetime | None:
    return parse_iso(text) if text else None


def _last_fire(item: ScheduleItem) -> LastFire | None:
    if not item.last_due_at or not item.last_fired_at or not item.last_outcome:
        return None
    error = None
    if item.last_error_code:
        error = FireError(code=item.last_error_code, message=item.last_error_message or "")
    return LastFire(
        due_at=parse_iso(item.last_due_at),
        fired_at=parse_iso(item.last_fired_at),
        outcome=FireOutcome(item.last_outcome),
        error=error,
    )
