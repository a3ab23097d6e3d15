"""Alarms over DynamoDB; karma/alarms/items.py has their keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.alarms.domain import OPEN as OPEN_STATES
from karma.alarms.domain import Alarm, AlarmChanged, AlarmId, AlarmRule, AlarmRuleId, AlarmRunRefusal, AlarmState
from karma.alarms.items import (
    ALARM,
    OPEN,
    PAST,
    AlarmItem,
    AlarmsItem,
    OpenMarkItem,
    alarm_item,
    alarm_key,
    alarm_of,
    device_pk,
    expiry,
    mark_key,
    owner_pk,
)
from karma.core.clock import iso
from karma.core.dynamo.access import delete, get, query, query_up_to, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import DeviceId, RunId, UserId
from karma.identity.transactional import require_account

if TYPE_CHECKING:
    from karma.notices.domain import Notice

_AT_ONCE: Final = 100
"""Alarms of a device that are read for a page whose first ones were not all in the state that is asked for."""


class AlarmRepository:
    """Alarms over DynamoDB."""

    def find(self, user_id: UserId, alarm_id: AlarmId) -> Alarm | None:
        """See Alarms; one or two Queries of the index, and one Get."""
        for prefix in (OPEN, PAST):
            place = AlarmsItem.gsi1sk == f"{prefix}{alarm_id}"
            page = query(AlarmsItem, owner_pk(user_id), place, limit=1, index=AlarmsItem.gsi1)
            for found in page.items:
                item = get(AlarmItem, found.key, consistent=True)
                return alarm_of(item) if item else None
        return None

    def page(
        self, user_id: UserId, *, is_open: bool, device_id: DeviceId | None, below: str, limit: int
    ) -> list[Alarm]:
        """See Alarms; one Query a megabyte, of the index without a device; eventually consistent."""
        if device_id is not None:
            return self._of_device(user_id, device_id, is_open=is_open, below=below, limit=limit)
        prefix = OPEN if is_open else PAST
        found = query_up_to(
            limit + 1,
            AlarmsItem,
            owner_pk(user_id),
            # `below` itself is in between, too.
            AlarmsItem.gsi1sk.between(prefix, f"{prefix}{below or '~'}"),
            wanted=AlarmItem,
            read=alarm_of,
            forward=False,
            start=None,
            index=AlarmsItem.gsi1,
        )
        return [alarm for alarm in found if alarm.id != below][:limit]

    def _of_device(self, user_id: UserId, device_id: DeviceId, *, is_open: bool, below: str, limit: int) -> list[Alarm]:
        found: list[Alarm] = []
        start = alarm_key(device_id, below)._asdict() if below else None
        at_once = limit  # more of them once some were in the other state
        while len(found) < limit:
            page = query(
                AlarmsItem,
                device_pk(device_id),
                AlarmsItem.sk.startswith(ALARM),
                limit=at_once,
                forward=False,
                start=start,
            )
            alarms = [alarm_of(item) for item in page.items if isinstance(item, AlarmItem)]
            found += [each for each in alarms if each.user_id == user_id and each.is_open is is_open]
            start, at_once = page.last, max(limit, _AT_ONCE)
            if start is None:
                break
        return found[:limit]

    def acknowledge(self, alarm: Alarm, *, by: UserId, now: datetime) -> Alarm:
        """See Alarms; one Update."""
        actions = [
            AlarmItem.state.set(AlarmState.ACKNOWLEDGED.value),
            AlarmItem.acknowledged_at.set(iso(now)),
            AlarmItem.acknowledged_by.set(by),
            AlarmItem.updated_at.set(iso(now)),
        ]
        try:
            item = update(_named(alarm), actions, AlarmItem.state == AlarmState.RAISED.value)
        except ConditionFailed:
            raise AlarmChanged(f"Alarm {alarm.id} is not raised any more; read it again") from None
        return alarm_of(item)

    def supersede(self, user_id: UserId, rule_id: AlarmRuleId, *, below: int, now: datetime, limit: int) -> bool:
        """See Alarms; a Query for each hundred of the rule's open alarms, and a transaction of two items each."""
        least, start, ended = mark_key(user_id, rule_id, ""), None, 0
        while True:
            page = query(
                OpenMarkItem, least.pk, OpenMarkItem.sk.startswith(least.sk), limit=100, start=start, consistent=True
            )
            for mark in page.items:
                if int(mark.rule_revision) < below:
                    if ended == limit:
                        return False
                    ended += 1
                    alarm = AlarmItem(*alarm_key(DeviceId(mark.device_id), mark.alarm_id))
                    if not _end(alarm, mark, mark.alarm_id, AlarmState.SUPERSEDED, now=now):
                        delete(mark)  # by a release that knows no marks
            start = page.last
            if start is None:
                return True

    def supersede_unmarked(
        self, user_id: UserId, rule_id: AlarmRuleId, *, below: int, now: datetime, limit: int
    ) -> bool:
        """End open alarms as `supersede` does, also those that were raised before there were marks.

        A Query of the index for each hundred open alarms of the account, and a transaction of two items each.
        """
        start, ended = None, 0
        while True:
            page = query(
                AlarmsItem,
                owner_pk(user_id),
                AlarmsItem.gsi1sk.startswith(OPEN),
                limit=100,
                start=start,
                index=AlarmsItem.gsi1,
            )
            for item in page.items:
                if isinstance(item, AlarmItem) and item.rule_id == rule_id and int(item.rule_revision) < below:
                    if ended == limit:
                        return False
                    ended += 1
                    end(alarm_of(item), AlarmState.SUPERSEDED, now=now)
            start = page.last
            if start is None:
                return True

    def add(self, alarms: Sequence[Alarm]) -> None:
        """See Alarms; a transaction of two items each."""
        for alarm in alarms:
            tx = Transaction()
            join_new(tx, alarm)
            try:
                tx.commit()
            except ConditionFailed:
                continue

    def release(self, device_id: DeviceId, alarm_id: AlarmId, *, now: datetime) -> bool:
        """Note that the silence is over in which an alarm was raised, so that it is told; False: it is over, or told.

        One Update.
        """
        actions = [AlarmItem.released_at.set(iso(now)), AlarmItem.updated_at.set(iso(now))]
        try:
            update(
                AlarmItem(*alarm_key(device_id, alarm_id)),
                actions,
                _is_open() & AlarmItem.released_at.does_not_exist(),
            )
        except ConditionFailed:
            return False
        return True

    def stored(self, device_id: DeviceId, alarm_id: AlarmId) -> Alarm | None:
        """Read an alarm of a device, strongly consistent: one Get; None: it is gone."""
        item = get(AlarmItem, alarm_key(device_id, alarm_id), consistent=True)
        return alarm_of(item) if item else None

    def note_run(self, alarm: Alarm, run_id: RunId, *, now: datetime) -> bool:
        """Note the run that an alarm began: one Update; False: that, or why there is none, was noted before."""
        actions = [AlarmItem.run_id.set(run_id), AlarmItem.updated_at.set(iso(now))]
        try:
            update(_named(alarm), actions, _without_run())
        except ConditionFailed:
            return False
        return True

    def refuse_run(
        self, alarm: Alarm, refusal: AlarmRunRefusal, *, notice: Notice | None = None, now: datetime
    ) -> bool:
        """Note why an alarm began no run, with the notice of it; False: that, or a run, was noted before."""
        tx = Transaction()
        tx.update(
            _named(alarm),
            [AlarmItem.run_refusal.set([refusal.code, refusal.message]), AlarmItem.updated_at.set(iso(now))],
            _without_run(),
        )
        if notice is not None:
            # Late: ingest and sweeps, which write alarms, tell nobody.
            from karma.notices.transactional import add_notice

            require_account(tx, alarm.user_id)
            add_notice(tx, notice)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove what is kept of a deleted device; see karma.devices.ports.DataOfDevices."""
        page = query(AlarmsItem, device_pk(device_id), limit=limit)
        for item in page.items:
            if isinstance(item, AlarmItem) and AlarmState(item.state) in OPEN_STATES:
                delete(_mark(item.user_id, item.rule_id, item.alarm_id))
            delete(item)
        return len(page.items)


def end(alarm: Alarm, state: AlarmState, *, now: datetime, cleared_ms: int = 0) -> bool:
    """End an alarm that is open: one transaction of two items; False: it was not."""
    mark = _mark(alarm.user_id, alarm.rule_id, alarm.id)
    return _end(_named(alarm), mark, alarm.id, state, now=now, cleared_ms=cleared_ms)


def _end(
    item: AlarmItem, mark: OpenMarkItem, alarm_id: str, state: AlarmState, *, now: datetime, cleared_ms: int = 0
) -> bool:
    tx = Transaction()
    tx.update(item, end_actions(alarm_id, state, now=now, cleared_ms=cleared_ms), _is_open())
    tx.delete(mark)
    try:
        tx.commit()
    except ConditionFailed:
        return False
    return True


def join_end(
    tx: Transaction, rule: AlarmRule, device_id: DeviceId, alarm_id: AlarmId, *, cleared_ms: int, now: datetime
) -> None:
    """End an alarm, by a sample, with everything else of a transaction: two items.

    One that was superseded meanwhile gets the end as well: what reads its changes goes by the state before.
    """
    item = AlarmItem(*alarm_key(device_id, alarm_id))
    tx.update(item, end_actions(alarm_id, AlarmState.CLEARED, now=now, cleared_ms=cleared_ms))
    tx.delete(_mark(rule.user_id, rule.id, alarm_id))


def join_new(tx: Transaction, alarm: Alarm) -> None:
    """Store a new alarm with everything else of a transaction: two items while it is open."""
    tx.put(alarm_item(alarm))
    if alarm.is_open:
        stamp = iso(alarm.recorded_at)
        actions = [
            OpenMarkItem.device_id.set(alarm.device_id),
            OpenMarkItem.alarm_id.set(alarm.id),
            OpenMarkItem.rule_revision.set(alarm.rule_revision),
            OpenMarkItem.created_at.set(stamp),
            OpenMarkItem.updated_at.set(stamp),
        ]
        tx.upsert(_mark(alarm.user_id, alarm.rule_id, alarm.id), actions)


def end_actions(alarm_id: str, state: AlarmState, *, now: datetime, cleared_ms: int) -> list[Action]:
    """Return the changes of the item of an alarm that is over."""
    return [
        AlarmItem.state.set(state.value),
        AlarmItem.cleared_ms.set(cleared_ms),
        AlarmItem.ended_at.set(iso(now)),
        AlarmItem.updated_at.set(iso(now)),
        AlarmItem.expires_at.set(expiry(now)),
        AlarmItem.gsi1sk.set(f"{PAST}{alarm_id}"),
    ]


def _mark(user_id: str, rule_id: str, alarm_id: str) -> OpenMarkItem:
    return OpenMarkItem(*mark_key(UserId(user_id), rule_id, alarm_id))


def _named(alarm: Alarm) -> AlarmItem:
    return AlarmItem(*alarm_key(alarm.device_id, alarm.id))


def _without_run() -> Condition:
    without: Condition = (
        AlarmItem.pk.exists() & AlarmItem.run_id.does_not_exist() & AlarmItem.run_refusal.does_not_exist()
    )
    return without


def _is_open() -> Condition:
    is_open: Condition = AlarmItem.state.is_in(*sorted(state.value for state in OPEN_STATES))
    return is_open
