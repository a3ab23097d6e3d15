"""In-memory stand-ins for the stores of alarms. They pass the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.alarms.domain import (
    MAX_RULES,
    Alarm,
    AlarmChanged,
    AlarmId,
    AlarmRule,
    AlarmRuleChanged,
    AlarmRuleId,
    AlarmState,
    TooManyAlarmRules,
)
from karma.core.ids import DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import AccountGone
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryAlarmRules:
    """Rules in dictionaries."""

    rules: dict[AlarmRuleId, AlarmRule] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, rule_id: AlarmRuleId) -> AlarmRule | None:
        rule = self.rules.get(rule_id)
        return rule if rule is not None and rule.user_id == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AlarmRuleId | None:
        made = self.requests.noted(user_id, request)
        return AlarmRuleId(made) if made else None

    def create(self, rule: AlarmRule, *, request: RepeatableRequest | None, most: int = MAX_RULES) -> None:
        if rule.user_id in self.deleted_accounts:
            raise AccountGone(rule.user_id)
        self.requests.require_new(rule.user_id, request)
        if sum(each.user_id == rule.user_id for each in self.rules.values()) >= most:
            raise TooManyAlarmRules
        self.requests.note(rule.user_id, request, rule.id)
        self.rules[rule.id] = rule

    def replace(self, old: AlarmRule, new: AlarmRule) -> None:
        self._require(old)
        self.rules[new.id] = new

    def delete(self, rule: AlarmRule, *, now: datetime) -> None:
        self._require(rule)
        del self.rules[rule.id]

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[AlarmRule]:
        mine = [rule for rule in self.rules.values() if rule.user_id == user_id and (not below or rule.id < below)]
        return sorted(mine, key=lambda rule: rule.id, reverse=True)[:limit]

    def _require(self, seen: AlarmRule) -> None:
        stored = self.rules.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise AlarmRuleChanged(f"Alarm rule {seen.id} was changed by another request; read it again")


@dataclass
class MemoryAlarms:
    """Alarms in a dictionary."""

    alarms: dict[AlarmId, Alarm] = field(default_factory=dict)

    def find(self, user_id: UserId, alarm_id: AlarmId) -> Alarm | None:
        alarm = self.alarms.get(alarm_id)
        return alarm if alarm is not None and alarm.user_id == user_id else None

    def page(
        self, user_id: UserId, *, is_open: bool, device_id: DeviceId | None, below: str, limit: int
    ) -> list[Alarm]:
        mine = [
            alarm
            for alarm in self.alarms.values()
            if alarm.user_id == user_id
            and alarm.is_open is is_open
            and (device_id is None or alarm.device_id == device_id)
            and (not below or alarm.id < below)
        ]
        return sorted(mine, key=lambda alarm: alarm.id, reverse=True)[:limit]

    def acknowledge(self, alarm: Alarm, *, by: UserId, now: datetime) -> Alarm:
        stored = self.alarms.get(alarm.id)
        if stored is None or stored.state is not AlarmState.RAISED:
            raise AlarmChanged(f"Alarm {alarm.id} is not raised any more; read it again")
        self.alarms[alarm.id] = replace(stored, state=AlarmState.ACKNOWLEDGED, acknowledged_at=now, acknowledged_by=by)
        return self.alarms[alarm.id]

    def supersede(self, user_id: UserId, rule_id: AlarmRuleId, *, below: int, now: datetime, limit: int) -> bool:
        ended = 0
        for alarm in list(self.alarms.values()):
            if (alarm.user_id, alarm.rule_id, alarm.is_open) != (
                user_id,
                rule_id,
                True,
            ) or alarm.rule_revision >= below:
                continue
            if ended == limit:
                return False
            ended += 1
            self.alarms[alarm.id] = replace(alarm, state=AlarmState.SUPERSEDED, ended_at=now)
        return True

    def add(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            self.alarms.setdefault(alarm.id, alarm)

    def release(self, device_id: DeviceId, alarm_id: AlarmId, *, now: datetime) -> bool:
        stored = self.alarms.get(alarm_id)
        if stored is None or not stored.is_open or stored.released_at is not None:
            return False
        self.alarms[alarm_id] = replace(stored, released_at=now)
        return True

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        found = [alarm.id for alarm in self.alarms.values() if alarm.device_id == device_id][:limit]
        for each in found:
            del self.alarms[each]
        return len(found)
