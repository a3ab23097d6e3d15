"""The sweep of alarms: earlier revisions of rules, ends of silences, and devices that say nothing.

An account that has a rule about what is absent is looked at once a minute as a whole, whatever the number of its rules:
a page of a hundred devices is one Query.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from karma.alarms.domain import (
    MAX_RULES,
    Alarm,
    AlarmId,
    AlarmRule,
    AlarmRuleId,
    AlarmState,
    Trigger,
    raised_alarm,
)
from karma.alarms.items import DUE, AlarmsItem, ClosingItem, HeldItem, LookItem
from karma.alarms.repository.alarms import AlarmRepository, end
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import Clock, epoch_ms, iso
from karma.core.dynamo.access import delete, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.work import due_partitions, due_sk, query_work
from karma.core.ids import DeviceId, UserId
from karma.core.sweeping import sweep_each
from karma.devices.domain import CurrentDevice, is_connected

if TYPE_CHECKING:
    from karma.devices.repository.devices import DeviceRepository

EVERY: Final = timedelta(seconds=60)
_AT_ONCE: Final = 100
_PAGE: Final = 100
MAX_DEVICES: Final = 1_000
"""Devices of an account that are looked at, the newest ones."""


class AlarmSweep:
    """Does what is due for alarms."""

    def __init__(
        self, rules: AlarmRuleRepository, alarms: AlarmRepository, devices: DeviceRepository, clock: Clock
    ) -> None:
        self._rules = rules
        self._alarms = alarms
        self._devices = devices
        self._clock = clock

    def run(self) -> int:
        """Do what is due, a bounded number of things; return how many."""
        now, done = self._clock.now(), 0

        def deal_with(item: AlarmsItem) -> int:
            if isinstance(item, ClosingItem):
                return self._close(item, now)
            if isinstance(item, HeldItem):
                return self._release(item, now)
            return self._look(item, now) if isinstance(item, LookItem) else 0

        for partition in due_partitions(DUE):
            before = AlarmsItem.gsi1sk < iso(now)
            due = query_work(AlarmsItem, partition, before, lambda item: item, limit=_AT_ONCE).items
            done += sweep_each("alarms", due, deal_with, name=lambda item: item.pk, clock=self._clock)
        return done

    def _close(self, item: ClosingItem, now: datetime) -> bool:
        user_id, rule_id, below = UserId(item.user_id), AlarmRuleId(item.rule_id), int(item.below)
        if all(
            supersede(user_id, rule_id, below=below, now=now, limit=_AT_ONCE)
            for supersede in (self._alarms.supersede, self._alarms.supersede_unmarked)
        ):
            try:
                delete(item, ClosingItem.gsi1sk == item.gsi1sk)
            except ConditionFailed:
                return False  # the rule was changed again
        return True

    def _release(self, item: HeldItem, now: datetime) -> bool:
        """Have an alarm told that was raised in a silence, unless that goes on: the stream tells of what is written."""
        user_id, seen = UserId(item.user_id), HeldItem.gsi1sk == item.gsi1sk
        rule = self._rules.get(user_id, AlarmRuleId(item.rule_id))
        until = rule.silent_until(now) if rule is not None else None
        try:
            if until is not None:
                update(item, [HeldItem.gsi1sk.set(due_sk(until, item.alarm_id))], seen)
                return True
            if rule is not None:
                self._alarms.release(DeviceId(item.device_id), AlarmId(item.alarm_id), now=now)
            delete(item, seen)
        except ConditionFailed:
            return False  # another sweep was quicker
        return True

    def _look(self, item: LookItem, now: datetime) -> bool:
        user_id, seen = UserId(item.user_id), LookItem.gsi1sk == item.gsi1sk
        rules = [each for each in self._rules.page(user_id, below="", limit=MAX_RULES) if each.is_absence]
        try:
            if not any(rule.enabled for rule in rules):
                delete(item, seen)
                return True
            update(item, [LookItem.gsi1sk.set(due_sk(now + EVERY, "LOOK"))], seen)
        except ConditionFailed:
            return False  # another sweep looks
        found = self._alarms.page(user_id, is_open=True, device_id=None, below="", limit=MAX_DEVICES)
        open_ = {(alarm.rule_id, alarm.device_id, alarm.rule_revision): alarm for alarm in found}
        after = None
        for _ in range(MAX_DEVICES // _PAGE):
            page = self._devices.by_age(user_id, newest_first=True, limit=_PAGE, after=after)
            for device in page.devices:
                for rule in rules:
                    if rule.concerns(device.device.id, device.device.tags):
                        self._judge(rule, device, open_.get((rule.id, device.device.id, rule.revision)), now)
            if not page.more:
                break
            after = page.devices[-1].device.id
        return True

    def _judge(self, rule: AlarmRule, current: CurrentDevice, known: Alarm | None, now: datetime) -> None:
        heard = last_heard(rule, current)
        heard_ms = epoch_ms(now) if heard is None else max(heard, epoch_ms(rule.revised_at))
        raised_ms = heard_ms + rule.for_s * 1000
        is_absent = heard is not None and epoch_ms(now) >= raised_ms
        if is_absent and known is None:
            device_id = current.device.id
            alarm = raised_alarm(rule, device_id, since_ms=heard_ms, raised_ms=raised_ms, value=None, now=now)
            self._alarms.add([alarm])
        elif known is not None and not is_absent:
            end(known, AlarmState.CLEARED, cleared_ms=heard_ms, now=now)


def last_heard(rule: AlarmRule, current: CurrentDevice) -> int | None:
    """Return the time in milliseconds since which a device is silent, or away; 0: it always was; None: it is there."""
    if rule.trigger is Trigger.OFFLINE:
        if is_connected(current.presence, current.latest):
            return None
        return max(current.presence.changed_ms, current.latest.last_seen_ms, current.latest.ready_ms)
    if rule.metric is None:
        return current.latest.last_seen_ms
    reading = current.latest.readings.get(rule.metric_name)
    return reading.ts if reading is not None else 0
