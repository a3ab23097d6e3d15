"""Items of alarms in the table `devices`, and what they mean; docs/adr/0062 has the access patterns.

| item | pk | sk | gsi1pk | gsi1sk |
|---|---|---|---|---|
| rule | ALARMS#<user> | RULE#<rule> | - | - |
| number of an account's rules | ALARMS#<user> | COUNT | - | - |
| rule made for an Idempotency-Key | ALARMS#<user> | REQUEST#<token> | - | - |
| what is to be superseded | ALARMS#<user> | CLOSING#<rule> | ALARMS#DUE#<part> | <when>#<rule> |
| the next look for what is absent | ALARMS#<user> | LOOK | ALARMS#DUE#<part> | <when>#LOOK |
| alarm | ALARMED#<device> | ALARM#<alarm> | ALARMS#<user> | OPEN#<alarm>, later PAST#<alarm> |
| mark of an alarm that is open | ALARMRULE#<user>#<rule> | OPEN#<alarm> | - | - |
| alarm that waits for the end of a silence | ALARMS#<user> | HELD#<alarm> | ALARMS#DUE#<part> | <when>#<alarm> |
| mails of an account in an hour | ALARMS#<user> | MAILS#<hour> | - | - |
| alarms of a rule in a minute | ALARMS#<user> | STORM#<rule>#<minute> | - | - |

Ids sort by time, so the lists by age are the order of the keys. The mark of an open alarm is written and removed in the
transactions that raise and end the alarm: it is the rule's way to its alarms among those of an account.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute

from karma.alarms.domain import (
    RETENTION,
    Alarm,
    AlarmAction,
    AlarmId,
    AlarmRule,
    AlarmRuleId,
    AlarmRun,
    AlarmRunRefusal,
    AlarmSeverity,
    AlarmState,
    Silence,
    Trigger,
)
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import ApiKeyId, DeviceId, RunId, UserId

DUE: Final = "ALARMS"
"""Kind of what is due."""
RULE: Final = "RULE#"
ALARM: Final = "ALARM#"
OPEN: Final = "OPEN#"
PAST: Final = "PAST#"


def owner_pk(user_id: UserId) -> str:
    """Return the partition of an account's rules, and of the index with its alarms."""
    return f"ALARMS#{user_id}"


def device_pk(device_id: DeviceId) -> str:
    """Return the partition of a device's alarms."""
    return f"ALARMED#{device_id}"


def rule_key(user_id: UserId, rule_id: str) -> Key:
    """Return the key of a rule."""
    return Key(owner_pk(user_id), f"{RULE}{rule_id}")


def count_key(user_id: UserId) -> Key:
    """Return the key of the number of an account's rules."""
    return Key(owner_pk(user_id), "COUNT")


def closing_key(user_id: UserId, rule_id: str) -> Key:
    """Return the key of the note that alarms of a rule are to be superseded."""
    return Key(owner_pk(user_id), f"CLOSING#{rule_id}")


def look_key(user_id: UserId) -> Key:
    """Return the key of the next look for what is absent."""
    return Key(owner_pk(user_id), "LOOK")


def alarm_key(device_id: DeviceId, alarm_id: str) -> Key:
    """Return the key of an alarm."""
    return Key(device_pk(device_id), f"{ALARM}{alarm_id}")


def mark_key(user_id: UserId, rule_id: str, alarm_id: str) -> Key:
    """Return the key of the mark of an alarm that is open."""
    return Key(f"ALARMRULE#{user_id}#{rule_id}", f"{OPEN}{alarm_id}")


def storm_key(user_id: UserId, rule_id: str, minute: int) -> Key:
    """Return the key of the alarms of a rule in a minute, counted from 1970."""
    return Key(owner_pk(user_id), f"STORM#{rule_id}#{minute}")


def held_key(user_id: UserId, alarm_id: str) -> Key:
    """Return the key of the note that an alarm waits for the end of a silence."""
    return Key(owner_pk(user_id), f"HELD#{alarm_id}")


def mails_key(user_id: UserId, hour: int) -> Key:
    """Return the key of the number of mails of an account in an hour, counted from 1970."""
    return Key(owner_pk(user_id), f"MAILS#{hour}")


class AlarmsItem(Item):
    """Base of what alarms keep in the table `devices`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "devices"


class AlarmRuleItem(AlarmsItem, discriminator="alarm_rule"):
    """A rule."""

    rule_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    device_id = UnicodeAttribute(null=True)
    tag = UnicodeAttribute(null=True)
    trigger = UnicodeAttribute()
    metric = UnicodeAttribute(null=True)
    bounds = JSONAttribute()
    """`[low, high, margin]`; JSON, since DynamoDB's numbers have 38 digits and floats more."""
    for_s = NumberAttribute()
    keep_s = NumberAttribute()
    severity = UnicodeAttribute()
    actions = JSONAttribute()
    run = JSONAttribute(null=True)
    """`[agent, message, API key]`."""
    silences = JSONAttribute()
    """`[[days, begins, ends], ...]`."""
    time_zone = UnicodeAttribute()
    enabled = BooleanAttribute()
    revision = NumberAttribute()
    revised_at = UnicodeAttribute()


class AlarmRuleCountItem(AlarmsItem, discriminator="alarm_rule_count"):
    """The number of an account's rules."""

    value = NumberAttribute(default=0)


class AlarmRuleRequestItem(RequestAttributes, AlarmsItem, discriminator="alarm_rule_request"):
    """The rule that a request with an Idempotency-Key has created."""


class ClosingItem(AlarmsItem, discriminator="alarm_closing"):
    """Alarms of a rule's earlier revisions are to be superseded."""

    user_id = UnicodeAttribute()
    rule_id = UnicodeAttribute()
    below = NumberAttribute()
    """Revisions before this one."""


class LookItem(AlarmsItem, discriminator="alarm_look"):
    """An account whose devices are looked at for what is absent."""

    user_id = UnicodeAttribute()


class HeldItem(AlarmsItem, discriminator="alarm_held"):
    """An alarm that was raised in a silence, and is looked at when that is over."""

    user_id = UnicodeAttribute()
    rule_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    alarm_id = UnicodeAttribute()


class AlarmMailsItem(AlarmsItem, discriminator="alarm_mails"):
    """Mails of an account in an hour."""

    told = NumberAttribute(default=0)


class AlarmItem(AlarmsItem, discriminator="alarm"):
    """An alarm."""

    alarm_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    rule_id = UnicodeAttribute()
    rule_revision = NumberAttribute()
    trigger = UnicodeAttribute()
    metric = UnicodeAttribute(null=True)
    severity = UnicodeAttribute()
    state = UnicodeAttribute()
    since_ms = NumberAttribute()
    raised_ms = NumberAttribute()
    value = JSONAttribute(null=True)
    recorded_at = UnicodeAttribute()
    acknowledged_at = UnicodeAttribute(null=True)
    acknowledged_by = UnicodeAttribute(null=True)
    cleared_ms = NumberAttribute(default=0)
    ended_at = UnicodeAttribute(null=True)
    released_at = UnicodeAttribute(null=True)
    run_id = UnicodeAttribute(null=True)
    run_refusal = JSONAttribute(null=True)
    """`[code, message]`."""


class OpenMarkItem(AlarmsItem, discriminator="alarm_open"):
    """The mark of an alarm that is open."""

    device_id = UnicodeAttribute()
    alarm_id = UnicodeAttribute()
    rule_revision = NumberAttribute()


class StormItem(AlarmsItem, discriminator="alarm_storm"):
    """Alarms of a rule in a minute of which somebody was told one by one."""

    alarms = UnicodeSetAttribute(null=True)
    told = NumberAttribute(default=0)


def rule_item(rule: AlarmRule) -> AlarmRuleItem:
    """Return the item of a rule."""
    return AlarmRuleItem(
        *rule_key(rule.user_id, rule.id),
        rule_id=rule.id,
        user_id=rule.user_id,
        name=rule.name,
        device_id=rule.device_id,
        tag=rule.tag,
        trigger=rule.trigger.value,
        metric=rule.metric,
        bounds=[rule.low, rule.high, rule.margin],
        for_s=rule.for_s,
        keep_s=rule.keep_s,
        severity=rule.severity.value,
        actions=[each.value for each in rule.actions],
        run=[rule.run.agent_id, rule.run.message, rule.run.api_key_id] if rule.run else None,
        silences=[[list(each.days), each.begins, each.ends] for each in rule.silences],
        time_zone=rule.time_zone,
        enabled=rule.enabled,
        revision=rule.revision,
        revised_at=iso(rule.revised_at),
        created_at=iso(rule.created_at),
        updated_at=iso(rule.updated_at),
    )


def rule_of(item: AlarmRuleItem) -> AlarmRule:
    """Return the rule of an item."""
    low, high, margin = cast("list[Any]", item.bounds)
    return AlarmRule(
        id=AlarmRuleId(item.rule_id),
        user_id=UserId(item.user_id),
        name=item.name,
        device_id=DeviceId(item.device_id) if item.device_id else None,
        tag=_tag(item.tag),
        trigger=Trigger(item.trigger),
        metric=item.metric,
        low=low,
        high=high,
        margin=margin,
        for_s=int(item.for_s),
        keep_s=int(item.keep_s),
        severity=AlarmSeverity(item.severity),
        actions=tuple(AlarmAction(each) for each in cast("list[str]", item.actions)),
        run=_run_of(cast("list[Any] | None", item.run)),
        silences=tuple(
            Silence(days=tuple(days), begins=begins, ends=ends)
            for days, begins, ends in cast("list[Any]", item.silences)
        ),
        time_zone=item.time_zone,
        enabled=bool(item.enabled),
        revision=int(item.revision),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        revised_at=parse_iso(item.revised_at),
        version=int(item.version or 0),
    )


def _tag(stored: str | None) -> str | None:
    if stored is None or stored.isascii():
        return stored
    from karma.core.lines import composed  # local: no start needs it

    return composed(stored)


def _run_of(stored: list[Any] | None) -> AlarmRun | None:
    if stored is None:
        return None
    agent_id, message, api_key_id = stored
    return AlarmRun(agent_id=agent_id, message=message, api_key_id=ApiKeyId(api_key_id) if api_key_id else None)


def alarm_item(alarm: Alarm) -> AlarmItem:
    """Return the item of an alarm that is new."""
    return AlarmItem(
        *alarm_key(alarm.device_id, alarm.id),
        alarm_id=alarm.id,
        user_id=alarm.user_id,
        device_id=alarm.device_id,
        rule_id=alarm.rule_id,
        rule_revision=alarm.rule_revision,
        trigger=alarm.trigger.value,
        metric=alarm.metric,
        severity=alarm.severity.value,
        state=alarm.state.value,
        since_ms=alarm.since_ms,
        raised_ms=alarm.raised_ms,
        value=alarm.value,
        recorded_at=iso(alarm.recorded_at),
        cleared_ms=alarm.cleared_ms,
        ended_at=iso(alarm.ended_at) if alarm.ended_at else None,
        released_at=iso(alarm.released_at) if alarm.released_at else None,
        created_at=iso(alarm.recorded_at),
        updated_at=iso(alarm.recorded_at),
        expires_at=expiry(alarm.ended_at) if alarm.ended_at else None,
        gsi1pk=owner_pk(alarm.user_id),
        gsi1sk=f"{OPEN if alarm.is_open else PAST}{alarm.id}",
    )


def alarm_of(item: AlarmItem) -> Alarm:
    """Return the alarm of an item."""
    return Alarm(
        id=AlarmId(item.alarm_id),
        user_id=UserId(item.user_id),
        device_id=DeviceId(item.device_id),
        rule_id=AlarmRuleId(item.rule_id),
        rule_revision=int(item.rule_revision),
        trigger=Trigger(item.trigger),
        metric=item.metric,
        severity=AlarmSeverity(item.severity),
        state=AlarmState(item.state),
        since_ms=int(item.since_ms),
        raised_ms=int(item.raised_ms),
        value=cast("float | None", item.value),
        recorded_at=parse_iso(item.recorded_at),
        acknowledged_at=parse_iso(item.acknowledged_at) if item.acknowledged_at else None,
        acknowledged_by=UserId(item.acknowledged_by) if item.acknowledged_by else None,
        cleared_ms=int(item.cleared_ms),
        ended_at=parse_iso(item.ended_at) if item.ended_at else None,
        released_at=parse_iso(item.released_at) if item.released_at else None,
        run_id=RunId(item.run_id) if item.run_id else None,
        run_refusal=AlarmRunRefusal(*cast("list[str]", item.run_refusal)) if item.run_refusal else None,
    )


def alarm_in(image: Mapping[str, Any]) -> Alarm:
    """Return the alarm of an item as the stream of the table has it."""
    item: Item = Item.from_raw_data(dict(image))
    assert isinstance(item, AlarmItem)  # noqa: S101  for the types: whoever asks has looked
    return alarm_of(item)


def expiry(ended_at: datetime) -> int:
    """Return the moment, in seconds since 1970, at which an alarm may be deleted that ended at a moment."""
    return epoch_ms(ended_at + RETENTION) // 1000
