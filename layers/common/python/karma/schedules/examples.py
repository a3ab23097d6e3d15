"""Examples of the OpenAPI document for schedules: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCHEDULE = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f70"
_RUN = "5f2b8c1d9e3a47068b1c2d3e4f5a6b7c"
_ASKED = {"message": "Which of my devices are offline?"}
_BODIES = ("ScheduleView", "ScheduleDetails", "CreateScheduleBody", "ChangeScheduleBody")


def _of(name: str, *models: str) -> tuple[str, ...]:
    return tuple(f"{model}.{name}" for model in models or _BODIES)


FIELDS: Mapping[str, Any] = {
    "schedule_id": _SCHEDULE,
    **dict.fromkeys(_of("id", "ScheduleView", "ScheduleDetails"), _SCHEDULE),
    **dict.fromkeys(_of("name"), "Every working day"),
    **dict.fromkeys(_of("cron"), "0 9 * * 1-5"),
    **dict.fromkeys(_of("time_zone"), "Europe/Berlin"),
    **dict.fromkeys(_of("at", "ScheduleView", "ScheduleDetails", "CreateScheduleBody"), None),
    "ChangeScheduleBody.at": "2027-01-04T08:00:00.000Z",
    **dict.fromkeys(_of("end_at"), "2027-12-31T23:00:00.000Z"),
    **dict.fromkeys(_of("run", "ScheduleDetails", "CreateScheduleBody", "ChangeScheduleBody"), _ASKED),
    **dict.fromkeys(_of("command", "ScheduleDetails", "CreateScheduleBody"), None),
    "ChangeScheduleBody.command": {"tag": "greenhouse", "command": "light", "params": {"on": True}},
    "ScheduledCommandBody.device_id": None,
    "ScheduledCommandBody.tag": "greenhouse",
    **dict.fromkeys(_of("overlap"), "skip"),
    **dict.fromkeys(_of("catch_up"), "latest"),
    **dict.fromkeys(_of("catch_up_window_s"), 3600),
    **dict.fromkeys(_of("status", "ScheduleView", "ScheduleDetails"), "active"),
    **dict.fromkeys(_of("next_fire_at", "ScheduleView", "ScheduleDetails"), "2026-11-30T08:00:00.000Z"),
    **dict.fromkeys(_of("action", "ScheduleView", "ScheduleDetails"), "run"),
    **dict.fromkeys(_of("last_bulk_id", "ScheduleView", "ScheduleDetails"), None),
    **dict.fromkeys(_of("last_run_id", "ScheduleView", "ScheduleDetails"), _RUN),
    **dict.fromkeys(_of("skips_in_a_row", "ScheduleView", "ScheduleDetails"), 0),
    **dict.fromkeys(_of("resting", "ScheduleView", "ScheduleDetails"), False),
    **dict.fromkeys(_of("failures_in_a_row", "ScheduleView", "ScheduleDetails"), 0),
    "LastFireView.due_at": "2026-11-27T08:00:00.000Z",
    "LastFireView.fired_at": "2026-11-27T08:00:00.412Z",
    "LastFireView.outcome": "started",
    "LastFireView.error": None,
    "FireErrorView.code": "QUOTA_EXCEEDED",
    "FireErrorView.message": "The plan's runs of this month are used up",
    "FireCounts.started": 41,
    "FireCounts.skipped": 1,
    "FireCounts.failed": 0,
    "FireCounts.missed": 0,
}
