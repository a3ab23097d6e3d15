"""Use cases of alarm rules: create, list, read, change, delete; and of alarms: list, read, acknowledge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

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
    revised,
)
from karma.alarms.ports import AlarmRules, Alarms
from karma.alarms.schemas import require_whole
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, QuotaExceeded, StaleVersion, StorageThrottled, ValidationFailed
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable

if TYPE_CHECKING:
    from karma.billing.plans import Plan

_MET = (StorageThrottled, AlarmRuleChanged)
"""Another write came first: it is made again on what is stored now."""
_AT_ONCE: Final = 100
"""Alarms that a request ends by itself when it changes their rule; a sweep ends the others."""


class AlarmRulePage(Record, kw_only=True):
    """A page of rules, newest first."""

    rules: tuple[AlarmRule, ...]
    next_below: AlarmRuleId | None
    """Ids of the next page are below this one; None at the end."""


class AlarmPage(Record, kw_only=True):
    """A page of alarms, newest first."""

    alarms: tuple[Alarm, ...]
    next_below: AlarmId | None
    """Ids of the next page are below this one; None at the end."""


class AlarmRuleService:
    """Use cases of rules. Each raises NotFound for a rule of another account."""

    def __init__(
        self,
        rules: AlarmRules,
        alarms: Alarms,
        clock: Clock,
        *,
        require_device: Callable[[UserId, str], DeviceId],
        plan_of: Callable[[UserId], Plan],
    ) -> None:
        """Make the service.

        `require_device` raises NotFound for a device that the account does not have; `plan_of` reads the plan whose
        limits hold for an account now.
        """
        self._rules = rules
        self._alarms = alarms
        self._clock = clock
        self._require_device = require_device
        self._plan_of = plan_of

    def get(self, user_id: UserId, rule_id: str) -> AlarmRule:
        """Read one rule.

        Raises:
            NotFound: absent or deleted.
        """
        rule = self._rules.get(user_id, AlarmRuleId(rule_id)) if is_id(rule_id) else None
        if rule is None:
            raise NotFound(f"Alarm rule {rule_id} not found")
        return rule

    def page(self, user_id: UserId, *, below: str, limit: int) -> AlarmRulePage:
        """Return a page by age, from below an id on; "" is the newest."""
        # One more than shown tells whether another page follows.
        found = self._rules.page(user_id, below=below, limit=limit + 1)
        shown = found[:limit]
        return AlarmRulePage(rules=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def create(
        self, user_id: UserId, fields: Mapping[str, Any], *, idempotency_key: IdempotencyKey | None = None
    ) -> AlarmRule:
        """Store a new rule; a repeat with the same `idempotency_key` returns the one that the first made.

        Raises:
            ValidationFailed: what the rule says does not go together, or the device is none of the account's.
            TooManyAlarmRules: the account has as many as one may have.
            QuotaExceeded: the plan has no room for another one.
            Gone: the one that the first made was deleted meanwhile.
            IdempotencyKeyReused: the first asked for another rule.
            AccountGone: the account is deleted.
        """
        now = self._clock.now()
        rule = AlarmRule(
            **fields,
            id=AlarmRuleId(new_id()),
            user_id=user_id,
            created_at=now,
            updated_at=now,
            revised_at=now,
            version=1,
        )
        request = repeatable(idempotency_key, dict(fields), at=now)
        if request is not None and (made := self._rules.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)  # before its device is judged, which may be gone by now
        self._judge(rule)
        plan = self._plan_of(user_id)
        allowed = plan.limits.alarm_rules
        try:
            self._rules.create(rule, request=request, most=MAX_RULES if allowed is None else min(allowed, MAX_RULES))
        except TooManyAlarmRules:
            if allowed is None or allowed >= MAX_RULES:
                raise
            raise _beyond(plan, allowed) from None
        except AlreadyExists:  # by the same request, sent twice at once
            return self._earlier(user_id, self._rules.made_by(user_id, request) if request else None)
        count("AlarmRuleCreated")
        logger.info("alarm_rule.created", alarm_rule_id=rule.id)
        return rule

    def described(self, user_id: UserId, fields: Mapping[str, Any]) -> AlarmRule:
        """Return the rule that fields describe, which is not stored, as `create` judges it.

        Raises:
            ValidationFailed: as `create`.
        """
        now = self._clock.now()
        rule = AlarmRule(
            **fields,
            id=AlarmRuleId(new_id()),
            user_id=user_id,
            name="",
            created_at=now,
            updated_at=now,
            revised_at=now,
            version=1,
        )
        self._judge(rule)
        return rule

    def change(
        self,
        user_id: UserId,
        rule_id: str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
        permit: Callable[[AlarmRule], None] = lambda _: None,
    ) -> AlarmRule:
        """Change a rule; the same again changes nothing. Where it judges otherwise, its open alarms are superseded.

        `permit` is given the rule before it is changed, and raises where this caller may not change it.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            ValidationFailed: as `create`.
        """

        def once() -> AlarmRule:
            old = self._of_version(user_id, rule_id, version)
            new = revised(old, changes, at=self._clock.now())
            if new == old:
                return old
            permit(old)
            self._judge(new)
            self._rules.replace(old, new)
            if new.revision != old.revision:
                self._supersede(old, below=new.revision)
            return new

        return repeat(once, on=_MET)

    def delete(self, user_id: UserId, rule_id: str, *, version: int | None = None) -> None:
        """Delete a rule; its open alarms are superseded.

        Raises:
            NotFound, StaleVersion: as `change`.
        """

        def once() -> None:
            rule = self._of_version(user_id, rule_id, version)
            self._rules.delete(rule, now=self._clock.now())
            count("AlarmRuleDeleted")
            logger.info("alarm_rule.deleted", alarm_rule_id=rule.id)
            self._supersede(rule, below=rule.version + 1)

        repeat(once, on=_MET)

    def _judge(self, rule: AlarmRule) -> None:
        require_whole(rule)
        if rule.device_id is not None:
            try:
                self._require_device(rule.user_id, rule.device_id)
            except NotFound:
                raise ValidationFailed.of("device_id", "must be the id of a device of yours") from None

    def _supersede(self, rule: AlarmRule, *, below: int) -> None:
        self._alarms.supersede(rule.user_id, rule.id, below=below, now=self._clock.now(), limit=_AT_ONCE)

    def _earlier(self, user_id: UserId, made: AlarmRuleId | None) -> AlarmRule:
        stored = self._rules.get(user_id, made) if made else None
        if stored is None:
            raise no_longer(made)
        return stored

    def _of_version(self, user_id: UserId, rule_id: str, version: int | None) -> AlarmRule:
        rule = self.get(user_id, rule_id)
        if version is not None and rule.version != version:
            raise StaleVersion(f"Alarm rule {rule.id} has version {rule.version}")
        return rule


def _beyond(plan: Plan, allowed: int) -> QuotaExceeded:
    """Return the refusal of one rule more than a plan has."""
    return QuotaExceeded(
        f"The plan {plan.name.value} has {allowed} alarm rules; delete one or choose a larger plan",
        details={
            "limit": "alarm_rules",
            "plan": plan.name.value,
            "allowed": allowed,
            "requested": 1,
            "resets_at": None,
        },
    )


class AlarmService:
    """Use cases of alarms. Each raises NotFound for an alarm of another account."""

    def __init__(self, alarms: Alarms, clock: Clock) -> None:
        self._alarms = alarms
        self._clock = clock

    def get(self, user_id: UserId, alarm_id: str, *, device_id: str | None = None) -> Alarm:
        """Read one alarm; with `device_id`, of that device.

        Raises:
            NotFound: absent, or forgotten; or another device's.
        """
        alarm = self._alarms.find(user_id, AlarmId(alarm_id)) if is_id(alarm_id) else None
        if alarm is None or device_id not in (None, alarm.device_id):
            raise NotFound(f"Alarm {alarm_id} not found")
        return alarm

    def page(self, user_id: UserId, *, is_open: bool, device_id: str | None, below: str, limit: int) -> AlarmPage:
        """Return a page of alarms that are open, or over, from below an id on; "" is the newest."""
        if device_id is not None and not is_id(device_id):
            return AlarmPage(alarms=(), next_below=None)
        device = DeviceId(device_id) if device_id is not None else None
        found = self._alarms.page(user_id, is_open=is_open, device_id=device, below=below, limit=limit + 1)
        shown = found[:limit]
        return AlarmPage(alarms=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def acknowledge(self, user_id: UserId, alarm_id: str) -> Alarm:
        """Note that somebody has seen an alarm; a repeat, or one that is over, changes nothing.

        Raises:
            NotFound: as `get`.
        """

        def once() -> Alarm:
            alarm = self.get(user_id, alarm_id)
            if alarm.state is not AlarmState.RAISED:
                return alarm
            return self._alarms.acknowledge(alarm, by=user_id, now=self._clock.now())

        return repeat(once, on=(StorageThrottled, AlarmChanged))
