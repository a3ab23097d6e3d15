"""Examples of the OpenAPI document for alarms: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RULE = "01994b9c-5a01-7c3d-8e4f-102132435465"
_ALARM = "01994b9c-6b12-7d4e-9f50-213243546576"
_RULES = ("AlarmRuleView", "CreateAlarmRuleBody", "ChangeAlarmRuleBody")
_JUDGING = (*_RULES, "TestAlarmRuleBody")
_SILENCES = ("SilenceView", "SilenceBody")


def _of(name: str, *models: str) -> tuple[str, ...]:
    return tuple(f"{model}.{name}" for model in models or _RULES)


FIELDS: Mapping[str, Any] = {
    "rule_id": _RULE,
    "alarm_id": _ALARM,
    "AlarmRuleView.id": _RULE,
    "AlarmView.id": _ALARM,
    **dict.fromkeys(_of("name"), "Too hot"),
    **dict.fromkeys(_of("device_id", *_JUDGING), None),
    **dict.fromkeys(_of("tag", *_JUDGING), "greenhouse"),
    **dict.fromkeys(_of("trigger", *_JUDGING, "AlarmView"), "above"),
    **dict.fromkeys(_of("metric", *_JUDGING, "AlarmView"), "temp_c"),
    **dict.fromkeys(_of("low", *_JUDGING), None),
    **dict.fromkeys(_of("high", *_JUDGING), 40.0),
    **dict.fromkeys(_of("margin", *_JUDGING), 1.0),
    **dict.fromkeys(_of("for_s", *_JUDGING), 60),
    **dict.fromkeys(_of("keep_s", *_JUDGING), 120),
    **dict.fromkeys(_of("time_zone"), "Europe/Berlin"),
    **dict.fromkeys(_of("severity", *_RULES, "AlarmView"), "warning"),
    **{name: ["notice", "run"] for name in _of("actions")},
    "AlarmRunView.message": "Find out why it is so hot, and switch the fan on.",
    "AlarmRunBody.message": "Find out why it is so hot, and switch the fan on.",
    "AlarmView.run_id": "01994b9c-7c23-7e5f-a061-324354657687",
    "AlarmView.run_refusal": None,
    "AlarmRunRefusalView.code": "QUOTA_EXCEEDED",
    "AlarmRunRefusalView.message": "The plan free has 200 runs a month",
    **{name: [1, 2, 3, 4, 5] for name in _of("days", *_SILENCES)},
    **dict.fromkeys(_of("from_time", *_SILENCES), "22:00"),
    **dict.fromkeys(_of("to_time", *_SILENCES), "06:00"),
    "AlarmView.state": "raised",
    "AlarmView.since": "2026-11-27T08:00:00.000Z",
    "AlarmView.raised_at": "2026-11-27T08:01:00.000Z",
    "AlarmView.recorded_at": "2026-11-27T08:01:00.412Z",
    "AlarmView.value": 41.2,
    "AlarmView.acknowledged_at": None,
    "AlarmView.acknowledged_by": None,
    "AlarmView.cleared_at": None,
    "AlarmView.ended_at": None,
    "TestAlarmRuleBody.begins_at": "2026-11-26T00:00:00.000Z",
    "TestAlarmRuleBody.ends_at": "2026-11-27T00:00:00.000Z",
    "DeviceTrialView.samples": 8640,
    "DeviceTrialView.read_to": None,
    "DeviceTrialView.raised": 1,
    "DeviceTrialView.warnings": [],
    "TriedAlarmView.since": "2026-11-26T08:00:00.000Z",
    "TriedAlarmView.raised_at": "2026-11-26T08:01:00.000Z",
    "TriedAlarmView.cleared_at": "2026-11-26T08:30:00.000Z",
    "TriedAlarmView.value": 41.2,
}
