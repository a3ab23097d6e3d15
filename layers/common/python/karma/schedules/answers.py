"""Answers of the schedule routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Any, TypedDict

from karma.core.addresses import shown_address
from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.schedules.domain import FireAction, Schedule


class FireErrorView(TypedDict):
    """Reason that no run began, or no command was sent."""

    code: str
    message: str


class LastFireView(TypedDict):
    """The latest fire of a schedule."""

    due_at: ShownMoment
    """Moment for which it was due; of several that were missed, the first."""
    fired_at: ShownMoment
    outcome: str
    """`started`, `skipped`, `failed` or `missed`."""
    error: FireErrorView | None


class FireCounts(TypedDict):
    """Fires by what became of them."""

    started: int
    skipped: int
    failed: int
    missed: int


class ScheduleView(TypedDict):
    """A schedule, without what it does."""

    id: str
    name: str
    cron: str | None
    time_zone: str
    at: ShownMoment | None
    end_at: ShownMoment | None
    overlap: str
    catch_up: str
    catch_up_window_s: int
    enabled: bool
    status: str
    """`active`, `paused` by its owner, `stopped` after ten failures in a row, or `ended`: no fire comes any more."""
    next_fire_at: ShownMoment | None
    last_fire: LastFireView | None
    action: str
    """`run` or `command`: what each fire does."""
    last_run_id: str | None
    last_bulk_id: str | None
    """The latest bulk command that it made; `GET /commands/bulk/{id}` shows what became of it."""
    fires: FireCounts
    failures_in_a_row: int
    skips_in_a_row: int
    resting: bool
    """So many fires in a row were skipped that it fires once an hour at most, until a run begins."""
    created_at: ShownMoment
    updated_at: ShownMoment
    version: int


class ScheduleDetails(ScheduleView):
    """A schedule."""

    run: dict[str, Any] | None
    """The run that begins at each fire, as `POST /runs` takes it; `agent_id` is the agent's id, and `webhook` is shown
    without its query, where a token may be. Null: it sends commands.
    """
    command: dict[str, Any] | None
    """The command that each fire sends, to the device `device_id` or to those with `tag`. Null: it begins runs."""


def schedule_view(schedule: Schedule) -> ScheduleView:
    """Shape a schedule for lists."""
    timing, last = schedule.timing, schedule.last_fire
    return {
        "id": schedule.id,
        "name": schedule.name,
        "cron": timing.cron,
        "time_zone": timing.time_zone,
        "at": iso(timing.at) if timing.at else None,
        "end_at": iso(timing.end_at) if timing.end_at else None,
        "overlap": schedule.overlap.value,
        "catch_up": schedule.catch_up.value,
        "catch_up_window_s": schedule.catch_up_window_s,
        "enabled": schedule.enabled,
        "status": schedule.status.value,
        "next_fire_at": iso(schedule.next_fire_at) if schedule.next_fire_at else None,
        "last_fire": None
        if last is None
        else {
            "due_at": iso(last.due_at),
            "fired_at": iso(last.fired_at),
            "outcome": last.outcome.value,
            "error": {"code": last.error.code, "message": last.error.message} if last.error else None,
        },
        "action": schedule.action.value,
        "last_run_id": schedule.last_run_id,
        "last_bulk_id": schedule.last_bulk_id,
        "fires": {
            "started": schedule.counts.started,
            "skipped": schedule.counts.skipped,
            "failed": schedule.counts.failed,
            "missed": schedule.counts.missed,
        },
        "failures_in_a_row": schedule.failures,
        "skips_in_a_row": schedule.skips,
        "resting": schedule.is_resting,
        "created_at": iso(schedule.created_at),
        "updated_at": iso(schedule.updated_at),
        "version": schedule.version,
    }


def schedule_details(schedule: Schedule) -> ScheduleDetails:
    """Shape a schedule with what it does."""
    if schedule.action is FireAction.COMMAND:
        return {**schedule_view(schedule), "run": None, "command": dict(schedule.command or {})}
    run = dict(schedule.run or {})
    if run.get("webhook"):
        run["webhook"] = shown_address(run["webhook"])
    return {**schedule_view(schedule), "run": run, "command": None}


class ScheduleData(TypedDict):
    """One schedule."""

    schedule: ScheduleDetails


class ScheduleListData(TypedDict):
    """A page of schedules."""

    schedules: list[ScheduleView]
    limit: int
    next_cursor: str | None
