"""Bodies of the schedule routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from karma.core.schemas import Body, Moment, Version, Whole, left_out, line
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


def _across(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    broken = []
    if given.get("cron") is not None and given.get("at") is not None:
        broken.append(("at", "must not be given beside cron"))
    run = given.get("run")
    if isinstance(run, dict):
        broken += [(f"run.{field}", message) for field, message in RunBody.across(run)]
    return broken


class CreateScheduleBody(Body):
    """A new schedule of the caller's: it needs a name, a run, and either `cron` or `at`."""

    name: ScheduleName
    cron: Cron | None = None
    """Five fields: minute, hour, day of the month, month, day of the week; instead of `at`."""
    time_zone: Zone = "UTC"
    """Time zone of `cron`, by its IANA name."""
    at: Moment | None = None
    """The only moment at which it fires; instead of `cron`."""
    end_at: Moment | None = None
    """Moment after which it does not fire; null: it goes on."""
    run: RunBody
    """Run that begins at each fire, as `POST /runs` takes it; without `thread_id` each has a thread of its own."""
    overlap: Overlap = Overlap.SKIP
    """Rule for a fire while the run before is active: no run begins, it waits in the thread, or it begins."""
    catch_up: CatchUp = CatchUp.LATEST
    """Fires that begin a run although they are more than five minutes late: none, the latest, or all (ten)."""
    catch_up_window_s: Window = DEFAULT_WINDOW_S
    """Seconds after which a late fire begins no run any more."""
    enabled: bool = Field(default=True, strict=True)
    """False: it is paused."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rules on `cron` and `at`, and on the run, where they are broken."""
        broken = _across(given)
        if given.get("cron") is None and given.get("at") is None:
            broken.append(("cron", "must be given, or at"))
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
    overlap: Overlap = left_out()
    catch_up: CatchUp = left_out()
    catch_up_window_s: Window = left_out()
    enabled: Annotated[bool, Field(strict=True)] = left_out()
    """False pauses it; true goes on with the next fire, also after it was stopped."""
    version: Version | None = None

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rules on `cron` and `at`, and on the run, where they are broken."""
        return _across(given)

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"version"}}
        if "run" in given:
            given["run"] = asked_run(given["run"])
        return given


def asked_run(body: RunBody) -> Mapping[str, Any]:
    """Return what a run is asked, as a schedule keeps it: by the names that `POST /runs` has."""
    return body.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
