"""Answers of the routes of alarm rules and alarms: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from karma.alarms.domain import Alarm, AlarmRule
from karma.alarms.engine import NEVER
from karma.core.clock import from_epoch_ms, iso
from karma.core.schemas import ShownMoment

if TYPE_CHECKING:
    from karma.alarms.trial import DeviceTrial


class SilenceView(TypedDict):
    """A time of the week in which nobody is told."""

    days: list[int]
    from_time: str
    to_time: str


class AlarmRunView(TypedDict):
    """A run of an agent that a rule begins for each of its alarms."""

    agent_id: str
    message: str


class AlarmRunRefusalView(TypedDict):
    """Reason for which an alarm began no run."""

    code: str
    """As `POST /runs` would have been answered, such as `QUOTA_EXCEEDED`; `TOO_MANY_ALARMS`: more than twenty of the
    rule in a minute.
    """
    message: str


class AlarmRuleView(TypedDict):
    """A rule."""

    id: str
    name: str
    device_id: str | None
    tag: str | None
    trigger: str
    metric: str | None
    low: float | None
    high: float | None
    margin: float
    for_s: int
    keep_s: int
    severity: str
    actions: list[str]
    run: AlarmRunView | None
    """Run of the action `run`."""
    silences: list[SilenceView]
    time_zone: str
    enabled: bool
    created_at: ShownMoment
    updated_at: ShownMoment
    version: int


class AlarmView(TypedDict):
    """A rule's condition on one device, from begin to end."""

    id: str
    device_id: str
    rule_id: str
    trigger: str
    metric: str | None
    severity: str
    state: str
    """`raised`, `acknowledged`, `cleared`, or `superseded`: its rule was changed, paused or deleted."""
    since: ShownMoment
    """Device's time of the first bad sample; of an absence, when it began."""
    raised_at: ShownMoment
    """Device's time of the sample that raised it."""
    value: float | None
    """Value that raised it; of an absence null."""
    recorded_at: ShownMoment
    """Moment at which the cloud knew."""
    acknowledged_at: ShownMoment | None
    acknowledged_by: str | None
    cleared_at: ShownMoment | None
    """Device's time of the sample that cleared it."""
    ended_at: ShownMoment | None
    run_id: str | None
    """Run that it began; null also until it has."""
    run_refusal: AlarmRunRefusalView | None
    """Reason for which it began none, though its rule says so."""


def rule_view(rule: AlarmRule) -> AlarmRuleView:
    """Shape a rule."""
    return {
        "id": rule.id,
        "name": rule.name,
        "device_id": rule.device_id,
        "tag": rule.tag,
        "trigger": rule.trigger.value,
        "metric": rule.metric,
        "low": rule.low,
        "high": rule.high,
        "margin": rule.margin,
        "for_s": rule.for_s,
        "keep_s": rule.keep_s,
        "severity": rule.severity.value,
        "actions": [each.value for each in rule.actions],
        "run": {"agent_id": rule.run.agent_id, "message": rule.run.message} if rule.run else None,
        "silences": [
            {"days": list(each.days), "from_time": _time(each.begins), "to_time": _time(each.ends)}
            for each in rule.silences
        ],
        "time_zone": rule.time_zone,
        "enabled": rule.enabled,
        "created_at": iso(rule.created_at),
        "updated_at": iso(rule.updated_at),
        "version": rule.version,
    }


def alarm_view(alarm: Alarm) -> AlarmView:
    """Shape an alarm."""
    return {
        "id": alarm.id,
        "device_id": alarm.device_id,
        "rule_id": alarm.rule_id,
        "trigger": alarm.trigger.value,
        "metric": alarm.metric,
        "severity": alarm.severity.value,
        "state": alarm.state.value,
        "since": iso(from_epoch_ms(alarm.since_ms)),
        "raised_at": iso(from_epoch_ms(alarm.raised_ms)),
        "value": alarm.value,
        "recorded_at": iso(alarm.recorded_at),
        "acknowledged_at": iso(alarm.acknowledged_at) if alarm.acknowledged_at else None,
        "acknowledged_by": alarm.acknowledged_by,
        "cleared_at": iso(from_epoch_ms(alarm.cleared_ms)) if alarm.cleared_ms else None,
        "ended_at": iso(alarm.ended_at) if alarm.ended_at else None,
        "run_id": alarm.run_id,
        "run_refusal": {"code": alarm.run_refusal.code, "message": alarm.run_refusal.message}
        if alarm.run_refusal
        else None,
    }


def _time(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


class TriedAlarmView(TypedDict):
    """An alarm that a rule had raised."""

    since: ShownMoment
    raised_at: ShownMoment
    cleared_at: ShownMoment | None
    """Null: it was open at the end."""
    value: float | None
    """Value that raised it; of an absence null."""


class DeviceTrialView(TypedDict):
    """A rule that was tried on one device."""

    device_id: str
    samples: int
    """Samples that were read: up to 100,000."""
    read_to: ShownMoment | None
    """Moment behind which nothing was read, since there are too many samples; null: all were."""
    raised: int
    """Alarms that the rule had raised."""
    alarms: list[TriedAlarmView]
    """The first hundred of them."""
    warnings: list[str]
    """`every_sample`: an alarm was open behind each of its last samples, of which there are 10 to 100; `flapping`: more
    than every tenth sample had raised one."""


class AlarmRuleTrialData(TypedDict):
    """`POST /alarm-rules/test`."""

    devices: list[DeviceTrialView]
    """None: no device has the tag."""


def trial_data(trials: Sequence[DeviceTrial]) -> AlarmRuleTrialData:
    """Shape what a rule had done."""
    return {
        "devices": [
            {
                "device_id": each.device_id,
                "samples": each.samples,
                "read_to": None if each.read_to_ms is None else iso(from_epoch_ms(each.read_to_ms)),
                "raised": each.raised,
                "alarms": [
                    {
                        "since": iso(from_epoch_ms(alarm.since)),
                        "raised_at": iso(from_epoch_ms(alarm.raised)),
                        "cleared_at": None if alarm.cleared == NEVER else iso(from_epoch_ms(alarm.cleared)),
                        "value": None if each.is_absence else alarm.value,
                    }
                    for alarm in each.alarms
                ],
                "warnings": sorted(each.warnings),
            }
            for each in trials
        ]
    }


class AlarmRuleData(TypedDict):
    """One rule."""

    alarm_rule: AlarmRuleView


class AlarmRuleListData(TypedDict):
    """A page of rules."""

    alarm_rules: list[AlarmRuleView]
    limit: int
    next_cursor: str | None


class AlarmData(TypedDict):
    """One alarm."""

    alarm: AlarmView


class AlarmListData(TypedDict):
    """A page of alarms."""

    alarms: list[AlarmView]
    limit: int
    next_cursor: str | None
