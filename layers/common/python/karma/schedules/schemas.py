"""Bodies of the schedule routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StrictBool

from karma.core.schemas import Body, Moment, Version, Whole, left_out, line
from karma.devices.bulk import DEFAULT_BULK_TTL_S
from karma.devices.command_fields import BulkParams, CommandName, Tag, Ttl
from karma.runs.run_body import RunBody
from karma.schedules.domain import (
    DEFAULT_WINDOW_S,
    MAX_NAME_CHARS,
    MAX_WINDOW_S,
    MIN_WINDOW_S,
    CatchUp,
    Overlap,
)
from karma.schedules.timing import MAX_CRON_CHARS, MAX_ZONE_CHARS

ScheduleName = Annotated[str, line(MAX_NAME_CHARS)]
Cron = Annotated[str, Field(min_length=1, max_length=MAX_CRON_CHARS)]
Zone = Annotated[str, Field(min_length=1, max_length=MAX_ZONE_CHARS)]
Window = Annotated[Whole, Field(ge=MIN_WINDOW_S, le=MAX_WINDOW_S)]


class ScheduledCommandBody(Body):
    """A command that each fire sends: to one device, or to those that have `tag` at that moment."""

    device_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Id or serial number of the device; instead of `tag`."""
    tag: Tag | None = None
    command: CommandName
    params: BulkParams | None = None
    ttl_s: Ttl = DEFAULT_BULK_TTL_S
    """Seconds from the fire until its commands end."""
    serial: StrictBool = False
    """True: to each device it is sent alone, after all before it have ended; later ones wait for its end."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rule on the devices, where it is broken."""
        if given.get("tag") is not None and given.get("device_id") is not None:
            return [("device_id", "must not be given beside tag")]
        if given.get("tag") is None and given.get("device_id") is None:
            return [("tag", "must be given, or device_id")]
        return []


def _across(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    broken = []
    if given.get("cron") is not None and given.get("at") is not None:
        broken.append(("at", "must not be given beside cron"))
    run = given.get("run")
    if isinstance(run, dict):
        broken += [(f"run.{field}", message) for field, message in RunBody.across(run)]
    command = given.get("command")
    if isinstance(command, dict):
        broken += [(f"command.{field}", message) for field, message in ScheduledCommandBody.across(command)]
    if run is not None and command is not None:
        broken.append(("command", "must not be given beside run"))
    return broken


class CreateScheduleBody(Body):
    """A new schedule of the caller's: it needs a name, a run or a command, and either `cron` or `at`."""

    name: ScheduleName
    cron: Cron | None = None
    """Five fields: minute, hour, day of the month, month, day of the week; instead of `at`."""
    time_zone: Zone = "UTC"
    """Time zone of `cron`, by its IANA name."""
    at: Moment | None = None
    """The only moment at which it fires; instead of `cron`."""
    end_at: Moment | None = None
    """Moment after which it does not fire; null: it goes on."""
    run: RunBody | None = None
    """Run that begins at each fire, as `POST /runs` takes it; without `thread_id` each has a thread of its own."""
    command: ScheduledCommandBody | None = None
    """Command that each fire sends; instead of `run`."""
    overlap: Overlap = Overlap.SKIP
    """Rule for a fire while the run, or command, before is active: nothing begins, it waits in the thread, or it
    begins.
    """
    catch_up: CatchUp = CatchUp.LATEST
    """Fires, of several that are due at once, that are caught up on: the latest, all (ten), or none but one on time."""
    catch_up_window_s: Window = DEFAULT_WINDOW_S
    """Seconds after which a late fire does nothing any more."""
    enabled: bool = Field(default=True, strict=True)
    """False: it is paused."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rules on `cron` and `at`, and on the run or command, where they are broken."""
        broken = _across(given)
        if given.get("cron") is None and given.get("at") is None:
            broken.append(("cron", "must be given, or at"))
        if given.get("run") is None and given.get("command") is None:
            broken.append(("run", "must be given, or command"))
        return broken


class ChangeScheduleBody(Body):
    """Changes of a schedule; a member that is left out stays as it is. `cron` takes the place of `at`, and `at` its."""

    name: ScheduleName = left_out()
    cron: Cron = left_out()
    time_zone: Zone = left_out()
    at: Moment = left_out()
    end_at: Moment | None = None
    """Null takes it away."""
    run: RunBody = left_out()
    """The whole of it."""
    command: ScheduledCommandBody = left_out()
    """The whole of it, of a schedule that sends commands."""
    overlap: Overlap = left_out()
    catch_up: CatchUp = left_out()
    catch_up_window_s: Window = left_out()
    enabled: Annotated[bool, Field(strict=True)] = left_out()
    """False pauses it; true goes on with the next fire, also after it was stopped."""
    version: Version | None = None

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rules on `cron` and `at`, and on the run or command, where they are broken."""
        return _across(given)

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"version"}}
        if "run" in given:
            given["run"] = asked_run(given["run"])
        if "command" in given:
            given["command"] = asked_command(given["command"])
        return given


def asked_run(body: RunBody) -> Mapping[str, Any]:
    """Return what a run is asked, as a schedule keeps it: by the names that `POST /runs` has."""
    return body.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def asked_command(body: ScheduledCommandBody) -> Mapping[str, Any]:
    """Return the command of a schedule as it is kept: by the names of the body, with what is left out filled in."""
    return body.model_dump(mode="json", exclude_none=True)
