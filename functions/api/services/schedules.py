"""Schedules."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from api.services import agents, billing, devices, webhooks
from api.services.process import clock

if TYPE_CHECKING:
    from karma.schedules.schemas import CreateScheduleBody
    from karma.schedules.service import NewSchedule, ScheduleService


@cache
def service() -> ScheduleService:
    """Create, show, change and delete schedules."""
    from karma.devices.lookup import SharedLookup
    from karma.schedules.commanding import addressed
    from karma.schedules.repository import ScheduleRepository
    from karma.schedules.service import ScheduleService

    return ScheduleService(
        ScheduleRepository(),
        clock(),
        agent_id_of=lambda ref: agents.catalogue().find(ref).id,
        device_id_of=partial(addressed, SharedLookup(devices.repository(), "control_devices")),
        require_receiver=lambda user_id, url: webhooks.service().require_receiver(user_id, url, field="run.webhook"),
        plan_of=lambda user_id: billing.subscriptions().plan(user_id),
    )


def wanted(body: CreateScheduleBody) -> NewSchedule:
    """Return the schedule that a body describes."""
    from karma.schedules.schemas import asked_command, asked_run
    from karma.schedules.service import NewCommandSchedule, NewSchedule
    from karma.schedules.timing import Timing

    given: dict[str, Any] = {
        "name": body.name,
        "timing": Timing(cron=body.cron, time_zone=body.time_zone, at=body.at, end_at=body.end_at),
        "run": asked_run(body.run) if body.run is not None else {},
        "overlap": body.overlap,
        "catch_up": body.catch_up,
        "catch_up_window_s": body.catch_up_window_s,
        "enabled": body.enabled,
    }
    if body.command is not None:
        return NewCommandSchedule(**given, command=asked_command(body.command))
    return NewSchedule(**given)
